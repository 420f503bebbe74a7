"""`growtool finetune`: train a checkpoint further."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from growtool.cli.command import show_all_options
from growtool.cli.console import emit_json, say
from growtool.cli.opening import PluginOption, load_plugins
from growtool.cli.training import shown_progress
from growtool.finetune.choices import AmpDtype, CropMode, Engine, Nonfinite, Schedule
from growtool.finetune.config import DEFAULT_EMA_DECAY, DEFAULT_EPOCHS, DEFAULT_KD_WEIGHT, RunConfig

if TYPE_CHECKING:
    from growtool.finetune.run import RunResult

DEFAULTS = RunConfig(checkpoint=Path(), data=Path(), output=Path())
_WHAT, _LENGTH, _OPTIMIZER = "What trains", "Length", "Optimizer"
_IMAGES, _SPEED, _OUTPUT = "Images and labels", "Speed and memory", "Output"
_NOT_OPTIONS = {"config", "settings", "plugin", "as_json", "help_all"}


def finetune(
    ctx: typer.Context,
    checkpoint: Annotated[
        Path | None,
        typer.Argument(metavar="CHECKPOINT", help="A timm folder or a .safetensors file.", show_default=False),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="train/CLASS/* and validation/CLASS/* (val/, test/), tar or parquet files.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="RUN.yaml", help="Options in YAML; flags win.", show_default=False),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other option by name; repeatable.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="RUN", help="Folder of the run.", show_default="NAME-finetuned"),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="auto|PATH",
            help="Go on with the run in --output.",
            show_default=False,
        ),
    ] = None,
    num_classes: Annotated[
        int | None,
        typer.Option(metavar="N", help="Put a fresh head for N classes on it.", show_default=False),
    ] = DEFAULTS.num_classes,
    train: Annotated[
        str,
        typer.Option(
            metavar="WHAT",
            help="all, new (what growth made), coefficients, templates, or names: 'layer4.*,fc.*'.",
        ),
    ] = DEFAULTS.train,
    freeze_epochs: Annotated[
        int, typer.Option(help="After so many epochs of --train everything trains.", hidden=True, rich_help_panel=_WHAT)
    ] = DEFAULTS.freeze_epochs,
    lora_rank: Annotated[
        int,
        typer.Option(help="Train low-rank adapters (LoRA-GA), merged on saving.", hidden=True, rich_help_panel=_WHAT),
    ] = DEFAULTS.lora_rank,
    kd_teacher: Annotated[
        Path | None,
        typer.Option(metavar="TEACHER", help="Learn from this checkpoint too.", show_default=False),
    ] = None,
    kd_weight: Annotated[
        float | None,
        typer.Option(
            show_default=str(DEFAULT_KD_WEIGHT),
            help="Its part in the loss at first; it falls to 0.",
            hidden=True,
            rich_help_panel=_WHAT,
        ),
    ] = None,
    recalibrate: Annotated[
        int, typer.Option(help="Images for BatchNorm's statistics before training.", hidden=True, rich_help_panel=_WHAT)
    ] = DEFAULTS.recalibrate,
    carry_optimizer: Annotated[
        bool,
        typer.Option(
            "--carry-optimizer",
            help="Start from the optimizer state of CHECKPOINT.",
            hidden=True,
            rich_help_panel=_WHAT,
        ),
    ] = False,
    lr_factors: Annotated[
        bool,
        typer.Option(
            "--lr-factors", help="Scale rates as the report of growth says.", hidden=True, rich_help_panel=_WHAT
        ),
    ] = False,
    epochs: Annotated[
        int | None,
        typer.Option(metavar="N", show_default=str(DEFAULT_EPOCHS), help="Passes over the images."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Updates, in place of --epochs.", show_default=False)
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", "-b", metavar="N", help="Images of one update.")
    ] = DEFAULTS.batch_size,
    opt: Annotated[
        str,
        typer.Option(metavar="NAME", help="An optimizer of timm, or swan."),
    ] = DEFAULTS.opt,
    lr: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            show_default="1e-4; SGD: 0.03, without BatchNorm 0.01",
            help="Learning rate after warm-up.",
        ),
    ] = None,
    weight_decay: Annotated[
        float | None,
        typer.Option(
            show_default="0.05; SGD: 5e-4", help="Not for biases and norms.", hidden=True, rich_help_panel=_OPTIMIZER
        ),
    ] = None,
    layer_decay: Annotated[
        float | None,
        typer.Option(
            help="Factor of the rate from layer to layer.", show_default=False, hidden=True, rich_help_panel=_OPTIMIZER
        ),
    ] = None,
    clip_grad: Annotated[
        float | None,
        typer.Option(
            show_default="1 for transformers",
            help="Limit of the gradient's norm; 0: none.",
            hidden=True,
            rich_help_panel=_OPTIMIZER,
        ),
    ] = None,
    sched: Annotated[
        Schedule,
        typer.Option(help="Course of the learning rate, update by update.", hidden=True, rich_help_panel=_OPTIMIZER),
    ] = Schedule.cosine,
    warmup_epochs: Annotated[
        float | None,
        typer.Option(metavar="N", show_default="a tenth of the run, at most 5", help="Linear warm-up; fractions too."),
    ] = None,
    warmup_steps: Annotated[
        int | None,
        typer.Option(
            help="In updates, in place of --warmup-epochs.", show_default=False, hidden=True, rich_help_panel=_OPTIMIZER
        ),
    ] = None,
    model_ema: Annotated[
        bool,
        typer.Option(
            "--model-ema", help="Evaluate and save an average of the weights.", hidden=True, rich_help_panel=_OPTIMIZER
        ),
    ] = False,
    model_ema_decay: Annotated[
        float | None,
        typer.Option(
            show_default=str(DEFAULT_EMA_DECAY),
            help="Decay of the average after its warm-up.",
            hidden=True,
            rich_help_panel=_OPTIMIZER,
        ),
    ] = None,
    dataset: Annotated[
        str,
        typer.Option(
            help="A dataset of timm, e.g. torch/cifar10; --data is its root.", hidden=True, rich_help_panel=_IMAGES
        ),
    ] = DEFAULTS.dataset,
    train_crop_mode: Annotated[
        CropMode | None,
        typer.Option(
            show_default="rkrr below 96 pixels, else rrc",
            help="timm's random crops: mild (rkrc, rkrr) or zooming (rrc).",
            hidden=True,
            rich_help_panel=_IMAGES,
        ),
    ] = None,
    scale: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="LOW HIGH",
            show_default="0.08 1; 0.8 1 for rkrc, rkrr",
            help="Part of the image a crop takes.",
            hidden=True,
            rich_help_panel=_IMAGES,
        ),
    ] = None,
    aa: Annotated[
        str | None,
        typer.Option(
            help="Auto-augment policy, e.g. rand-m9-mstd0.5.", show_default=False, hidden=True, rich_help_panel=_IMAGES
        ),
    ] = None,
    reprob: Annotated[
        float, typer.Option(help="Probability of random erasing.", hidden=True, rich_help_panel=_IMAGES)
    ] = DEFAULTS.reprob,
    no_aug: Annotated[
        bool,
        typer.Option(
            "--no-aug", help="Train on the images as evaluation sees them.", hidden=True, rich_help_panel=_IMAGES
        ),
    ] = False,
    mixup: Annotated[float, typer.Option(help="Mixup alpha.", hidden=True, rich_help_panel=_IMAGES)] = DEFAULTS.mixup,
    cutmix: Annotated[
        float, typer.Option(help="CutMix alpha.", hidden=True, rich_help_panel=_IMAGES)
    ] = DEFAULTS.cutmix,
    smoothing: Annotated[
        float, typer.Option(help="Label smoothing.", hidden=True, rich_help_panel=_IMAGES)
    ] = DEFAULTS.smoothing,
    amp: Annotated[bool, typer.Option("--amp", help="Mixed precision.")] = False,
    amp_dtype: Annotated[
        AmpDtype | None,
        typer.Option(show_default="bfloat16", help="Type for --amp.", hidden=True, rich_help_panel=_SPEED),
    ] = None,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Channels-last memory layout.", hidden=True, rich_help_panel=_SPEED)
    ] = False,
    tf32: Annotated[
        bool, typer.Option(" /--no-tf32", help="On CUDA: full float32 products.", hidden=True, rich_help_panel=_SPEED)
    ] = True,
    torchcompile: Annotated[
        str | None,
        typer.Option(
            metavar="BACKEND",
            help="torch.compile backend, e.g. inductor.",
            show_default=False,
            hidden=True,
            rich_help_panel=_SPEED,
        ),
    ] = None,
    grad_accum_steps: Annotated[
        int,
        typer.Option(
            help="Parts an update's images pass through in; saves memory.", hidden=True, rich_help_panel=_SPEED
        ),
    ] = DEFAULTS.grad_accum_steps,
    engine: Annotated[
        Engine,
        typer.Option(help="Under torchrun: copies of the model, or shards.", hidden=True, rich_help_panel=_SPEED),
    ] = Engine.ddp,
    workers: Annotated[
        int,
        typer.Option(
            show_default="cores, up to 16", help="Processes that read images.", hidden=True, rich_help_panel=_SPEED
        ),
    ] = DEFAULTS.workers,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:N.")] = DEFAULTS.device,
    seed: Annotated[int, typer.Option(metavar="N", help="Decides order, augmentation, dropout.")] = DEFAULTS.seed,
    nonfinite: Annotated[
        Nonfinite,
        typer.Option(
            help="What a loss that is nan or inf does to the run or the update.", hidden=True, rich_help_panel=_LENGTH
        ),
    ] = Nonfinite.stop,
    log_interval: Annotated[
        int, typer.Option(help="Updates between lines of metrics.jsonl.", hidden=True, rich_help_panel=_OUTPUT)
    ] = DEFAULTS.log_interval,
    log: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Track the run in tensorboard, wandb or trackio, too; repeatable.",
            show_default=False,
            hidden=True,
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    recovery_interval: Annotated[
        int, typer.Option(help="Updates between checkpoints within an epoch.", hidden=True, rich_help_panel=_OUTPUT)
    ] = DEFAULTS.recovery_interval,
    checkpoint_hist: Annotated[
        int, typer.Option(help="Checkpoints to keep.", hidden=True, rich_help_panel=_OUTPUT)
    ] = DEFAULTS.checkpoint_hist,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier run.")] = False,
    plugin: PluginOption = None,
    help_all: Annotated[
        bool,
        typer.Option("--help-all", callback=show_all_options, is_eager=True, help="Show the rarer options, too."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")] = False,
) -> None:
    """Train a checkpoint further, with timm's data pipeline, optimizers and losses.

    The run's folder gets the timm folders best/ and last/, metrics, and checkpoints/ to resume from, exactly.

    Several processes: torchrun --nproc-per-node N -m growtool finetune ...
    """
    from growtool.finetune.options import continued, make_config, read_config, read_words

    flags = given_flags(ctx) | ({"plugins": tuple(plugin)} if plugin else {})
    layers = [read_config(config) if config else {}, read_words(settings or ()), flags]
    chosen = make_config(continued(*layers), *layers)
    # a mistake in the file or the options is told before torch is imported
    load_plugins([path for path in chosen.plugins if path not in (plugin or ())])
    from growtool.finetune.distributed import World
    from growtool.finetune.run import finetune as run

    with shown_progress() as progress:
        result = run(chosen, progress)
    if not World.from_environment().is_main:
        return
    if as_json:
        emit_json(result.as_dict())
    else:
        _show(result)


def given_flags(ctx: typer.Context) -> dict[str, Any]:
    """The options that stand on the command line, by name; defaults are left to the configuration."""
    flags = {}
    for name, value in ctx.params.items():
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and name not in _NOT_OPTIONS:
            flags[name] = tuple(value) if isinstance(value, list) else getattr(value, "value", value)
    return flags


def _show(result: RunResult) -> None:
    from rich.text import Text

    from growtool.checkpoint.loading import loading_line
    from growtool.report import units

    initial, final, best = result.initial, result.final, result.best
    say(
        f"{result.steps:,} updates in {result.seconds:.0f} s, {units.count(result.macs)} MACs; "
        f"{result.trained_parameters:,} of {result.parameters:,} parameters trained"
    )
    if result.skipped:
        say(f"[yellow]{result.skipped} updates left out[/]: their loss or gradients were not finite")
    if result.unreadable:
        say(f"[yellow]{len(result.unreadable)} images could not be read[/]; metrics.jsonl names them")
    say(f"top-1 {final.top1:.2f} % after epoch {best.epoch}, {initial.top1:.2f} % before ({final.count:,} images)")
    if result.shortfall is not None:
        say(Text(str(result.shortfall)))
    say(Text(f"best: {loading_line(result.output / 'best')}"))
    say(Text(f"last: {loading_line(result.output / 'last')}"))
