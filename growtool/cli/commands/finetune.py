"""`growtool finetune`: train a checkpoint further."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from growtool.cli.command import from_settings, show_all_options
from growtool.cli.console import emit_json, say
from growtool.cli.opening import PluginOption, load_plugins
from growtool.cli.training import is_main, shown_progress

if TYPE_CHECKING:
    from growtool.finetune.epoch_loop import RunResult

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="RUN.yaml", help="Options in YAML; flags win.", show_default=False),
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other option by name; repeatable.", show_default=False),
]
HelpAllOption = Annotated[
    bool, typer.Option("--help-all", callback=show_all_options, is_eager=True, help="Show the rarer options, too.")
]


@from_settings()
def finetune(
    ctx: typer.Context,
    config: ConfigOption = None,
    settings: SettingsOption = None,
    plugin: PluginOption = None,
    help_all: HelpAllOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")] = False,
    **options: Any,
) -> None:
    """Train a checkpoint further, with timm's data pipeline, optimizers and losses.

    The run's folder gets the timm folders best/ and last/, metrics, and checkpoints/ to resume from, exactly.

    Several processes: torchrun --nproc-per-node N -m growtool finetune ...
    """
    from growtool.finetune.options.merging import continued, make_config, read_config, read_words

    flags = _given(ctx, options) | ({"plugins": tuple(plugin)} if plugin else {})
    layers = [read_config(config) if config else {}, read_words(settings or ()), flags]
    chosen = make_config(continued(*layers), *layers)
    # a mistake in the file or the options is told before torch is imported
    load_plugins([path for path in chosen.plugins if path not in (plugin or ())])
    from growtool.finetune.run import finetune as run

    with shown_progress() as progress:
        result = run(chosen, progress)
    if not is_main():
        return
    if as_json:
        emit_json(result.as_dict())
    else:
        _show(result)


def _given(ctx: typer.Context, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that stand on the command line, without those at their defaults: a file may set these."""
    sources = {name: ctx.get_parameter_source(name) for name in options}
    return {name: options[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def _show(result: RunResult) -> None:
    from rich.text import Text

    from growtool.checkpoint.folder import loading_line
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
