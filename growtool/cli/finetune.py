"""`growtool finetune`: train a checkpoint further on a folder of images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from growtool.cli.console import console, emit_json
from growtool.cli.opening import PluginOption
from growtool.finetune.config import DEFAULT_EMA_DECAY, DEFAULT_EPOCHS, RunConfig

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from growtool.finetune.records import EpochRecord, Progress, StepRecord
    from growtool.finetune.run import RunResult

_DEFAULT = RunConfig(checkpoint=Path(), data=Path(), output=Path())
_LENGTH, _OPTIMIZER, _IMAGES, _SPEED, _OUTPUT = "Length", "Optimizer", "Images and labels", "Speed", "Output"


class Train(StrEnum):
    """What `--train` accepts."""

    all = "all"
    new = "new"


class Schedule(StrEnum):
    """What `--sched` accepts."""

    cosine = "cosine"
    wsd = "wsd"
    constant = "constant"
    none = "none"


class CropMode(StrEnum):
    """What `--train-crop-mode` accepts."""

    rrc = "rrc"
    rkrc = "rkrc"
    rkrr = "rkrr"


class AmpDtype(StrEnum):
    """What `--amp-dtype` accepts."""

    bfloat16 = "bfloat16"
    float16 = "float16"


def finetune(
    checkpoint: Annotated[
        Path, typer.Argument(help="A timm folder, as `growtool grow` writes it, or a .safetensors file.")
    ],
    data: Annotated[Path, typer.Option(help="Folder with train/CLASS/*.jpg and validation/CLASS/*.jpg (val/, test/).")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder of the run.", show_default="NAME-finetuned", rich_help_panel=_OUTPUT
        ),
    ] = None,
    train: Annotated[
        Train, typer.Option(help="Train all parameters, or only those of blocks that growth added.")
    ] = Train.all,
    epochs: Annotated[
        int | None,
        typer.Option(show_default=str(DEFAULT_EPOCHS), help="Passes over the images.", rich_help_panel=_LENGTH),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Updates, in place of --epochs.", rich_help_panel=_LENGTH)] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", "-b", help="Images of one update.", rich_help_panel=_LENGTH)
    ] = _DEFAULT.batch_size,
    opt: Annotated[
        str, typer.Option(help="One of timm's optimizers: adamw, sgd, lamb, muon, ...", rich_help_panel=_OPTIMIZER)
    ] = _DEFAULT.opt,
    lr: Annotated[float, typer.Option(help="Learning rate after warm-up.", rich_help_panel=_OPTIMIZER)] = _DEFAULT.lr,
    weight_decay: Annotated[
        float, typer.Option(help="Not for biases and norms.", rich_help_panel=_OPTIMIZER)
    ] = _DEFAULT.weight_decay,
    sched: Annotated[
        Schedule, typer.Option(help="Course of the learning rate, update by update.", rich_help_panel=_OPTIMIZER)
    ] = Schedule.cosine,
    warmup_epochs: Annotated[
        float | None, typer.Option(help="Linear warm-up; fractions are fine.", rich_help_panel=_OPTIMIZER)
    ] = None,
    warmup_steps: Annotated[
        int | None, typer.Option(help="In updates, in place of --warmup-epochs.", rich_help_panel=_OPTIMIZER)
    ] = None,
    model_ema: Annotated[
        bool,
        typer.Option(
            "--model-ema", help="Average the weights; evaluate and save the average.", rich_help_panel=_OPTIMIZER
        ),
    ] = False,
    model_ema_decay: Annotated[
        float | None,
        typer.Option(
            show_default=str(DEFAULT_EMA_DECAY),
            help="Decay of the average after its warm-up.",
            rich_help_panel=_OPTIMIZER,
        ),
    ] = None,
    train_crop_mode: Annotated[
        CropMode, typer.Option(help="timm's random crops; rkrr suits images of few pixels.", rich_help_panel=_IMAGES)
    ] = CropMode.rrc,
    scale: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="LOW HIGH",
            show_default="0.08 1; 0.8 1 for rkrc, rkrr",
            help="Part of the image a crop takes.",
            rich_help_panel=_IMAGES,
        ),
    ] = None,
    hflip: Annotated[
        float, typer.Option(help="Probability of a mirror image.", rich_help_panel=_IMAGES)
    ] = _DEFAULT.hflip,
    color_jitter: Annotated[
        float, typer.Option(help="Strength; without effect under --aa.", rich_help_panel=_IMAGES)
    ] = _DEFAULT.color_jitter,
    aa: Annotated[
        str | None, typer.Option(help="Auto-augment policy, e.g. rand-m9-mstd0.5.", rich_help_panel=_IMAGES)
    ] = None,
    reprob: Annotated[
        float, typer.Option(help="Probability of random erasing.", rich_help_panel=_IMAGES)
    ] = _DEFAULT.reprob,
    no_aug: Annotated[
        bool, typer.Option("--no-aug", help="Train on the images as evaluation sees them.", rich_help_panel=_IMAGES)
    ] = False,
    mixup: Annotated[float, typer.Option(help="Mixup alpha.", rich_help_panel=_IMAGES)] = _DEFAULT.mixup,
    cutmix: Annotated[float, typer.Option(help="CutMix alpha.", rich_help_panel=_IMAGES)] = _DEFAULT.cutmix,
    smoothing: Annotated[float, typer.Option(help="Label smoothing.", rich_help_panel=_IMAGES)] = _DEFAULT.smoothing,
    amp: Annotated[bool, typer.Option("--amp", help="Mixed precision.", rich_help_panel=_SPEED)] = False,
    amp_dtype: Annotated[
        AmpDtype | None, typer.Option(show_default="bfloat16", help="Type for --amp.", rich_help_panel=_SPEED)
    ] = None,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Channels-last memory layout.", rich_help_panel=_SPEED)
    ] = False,
    torchcompile: Annotated[
        str | None,
        typer.Option(metavar="BACKEND", help="torch.compile backend, e.g. inductor.", rich_help_panel=_SPEED),
    ] = None,
    workers: Annotated[
        int, typer.Option(show_default="up to 4", help="Processes that read images.", rich_help_panel=_SPEED)
    ] = _DEFAULT.workers,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=_SPEED)] = _DEFAULT.device,
    seed: Annotated[int, typer.Option(help="Decides order, augmentation and dropout.")] = _DEFAULT.seed,
    log_interval: Annotated[
        int, typer.Option(help="Updates between lines of metrics.jsonl.", rich_help_panel=_OUTPUT)
    ] = _DEFAULT.log_interval,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier run.", rich_help_panel=_OUTPUT)] = False,
    plugin: PluginOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON document on stdout.", rich_help_panel=_OUTPUT)
    ] = False,
) -> None:
    """Train a checkpoint further on a folder of images, with timm's data pipeline, optimizers and losses.

    The run's folder gets the timm folders best/ and last/, metrics.jsonl and config.yaml.

    Equal seeds give equal losses on CPU, whatever --workers says.

    --train new leaves all but the blocks that growth added as it is, running statistics included.
    """
    config = RunConfig(
        checkpoint=checkpoint,
        data=data,
        output=output or Path(f"{_stem(checkpoint)}-finetuned"),
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        train=train.value,
        opt=opt,
        lr=lr,
        weight_decay=weight_decay,
        sched=sched.value,
        warmup_epochs=warmup_epochs,
        warmup_steps=warmup_steps,
        train_crop_mode=train_crop_mode.value,
        scale=scale,
        hflip=hflip,
        color_jitter=color_jitter,
        aa=aa,
        reprob=reprob,
        no_aug=no_aug,
        mixup=mixup,
        cutmix=cutmix,
        smoothing=smoothing,
        amp=amp,
        amp_dtype=amp_dtype.value if amp_dtype else None,
        channels_last=channels_last,
        torchcompile=torchcompile,
        model_ema=model_ema,
        model_ema_decay=model_ema_decay,
        seed=seed,
        workers=workers,
        device=device,
        log_interval=log_interval,
        force=force,
    )
    from growtool.finetune.run import finetune as run

    with _shown_progress() as progress:
        result = run(config, progress)
    if as_json:
        emit_json(result.as_dict())
    else:
        _show(result)


def _stem(checkpoint: Path) -> str:
    path = Path(str(checkpoint).removeprefix("local-dir:")).resolve()
    return path.stem if path.suffix == ".safetensors" else path.name


@contextmanager
def _shown_progress() -> Iterator[Progress | None]:
    """A bar with loss, rate, speed and time left on a terminal, nothing in a pipe."""
    if not console().is_terminal:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(), transient=True) as bar:
        yield _BarProgress(bar)


class _BarProgress:
    """Draws a run as it goes on; see `growtool.finetune.records.Progress`."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._epochs = 0
        self._task: TaskID = bar.add_task("reading", total=None, figures="")

    def started(self, *, steps: int, epochs: int, images: int) -> None:
        self._epochs = epochs
        self._bar.update(self._task, total=steps, description="training", figures=f"{images:,} images")

    def advanced(self, step: int) -> None:
        self._bar.update(self._task, completed=step)

    def logged(self, record: StepRecord) -> None:
        figures = f"loss {record.loss:.3f}  lr {record.lr:.2g}  {record.images_per_second:,.0f} images/s"
        self._bar.update(self._task, description=f"epoch {record.epoch}/{self._epochs}", figures=figures)

    def evaluated(self, record: EpochRecord) -> None:
        loss = f"loss {record.train_loss:.3f}  " if record.train_loss is not None else ""
        name = f"epoch {record.epoch}" if record.epoch else "before"
        best = "  [green]best[/]" if record.best else ""
        self._bar.console.print(f"{name:>9}  {loss}top-1 {record.top1:.2f} %  top-5 {record.top5:.2f} %{best}")


def _show(result: RunResult) -> None:
    from rich.text import Text

    from growtool.finetune.run import load_line

    initial, final, best = result.initial, result.final, result.best
    say = console().print
    say(
        f"{result.steps:,} updates in {result.seconds:.0f} s; "
        f"{result.trained_parameters:,} of {result.parameters:,} parameters trained"
    )
    say(f"top-1 {final.top1:.2f} % after epoch {best.epoch}, {initial.top1:.2f} % before ({final.count:,} images)")
    say(Text(f"best: {load_line(str(result.output / 'best'))}"), soft_wrap=True)
    say(Text(f"last: {load_line(str(result.output / 'last'))}"), soft_wrap=True)
