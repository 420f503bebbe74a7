"""`growtool compare`: which way of growing pays, on the user's own images."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from growtool.cli.command import from_settings
from growtool.cli.console import emit_json, note, results, say
from growtool.cli.opening import CheckpointArgument, PluginOption
from growtool.cli.tables import show_figures
from growtool.errors import PlanError

if TYPE_CHECKING:
    from growtool.workflows.compare.compare import Comparison


_WIDE = 110  # columns of a terminal that has room for more than the outcome
_OUTCOME = ("arm", "start %", "end %", "updates", "total MACs")
_IN_FILES = frozenset({"promise", "parameters", "MACs", "seeds", "training MACs", "seconds"})  # shown in files alone


class Baseline(StrEnum):
    """What `--baseline` accepts; an enum, as typer takes no list of literals."""

    scratch = "scratch"
    source = "source"
    none = "none"


@from_settings("data")
def compare(
    checkpoint: CheckpointArgument,
    plan: Annotated[list[Path], typer.Option("--plan", metavar="FILE", help="A growth plan; repeatable.")],
    budget: Annotated[
        list[str],
        typer.Option(
            metavar="AMOUNT",
            help="Training of each arm: 3epochs, 500steps or 2.5e15macs; repeatable, each length a run of its own.",
        ),
    ],
    data: Path | None = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the comparison.", show_default="NAME-compared"),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs per arm and length; growth and training are drawn anew.")] = 1,
    baseline: Annotated[
        list[Baseline] | None,
        typer.Option(
            show_default="scratch",
            help="Train the targets from scratch too; the source as it is; or nothing besides the plans. Repeatable.",
        ),
    ] = None,
    scratch_budget: Annotated[
        list[str] | None,
        typer.Option(metavar="AMOUNT", help="A further length for training from scratch alone; repeatable."),
    ] = None,
    source_epochs: Annotated[
        float | None,
        typer.Option(
            min=0,
            show_default="what its records tell",
            help="Passes over these images that the source was trained for; costs then include them.",
        ),
    ] = None,
    source_macs: Annotated[
        float | None,
        typer.Option(min=0, show_default="what its records tell", help="What that has cost in MACs, instead: 13.2e12."),
    ] = None,
    lr: Annotated[
        list[float] | None,
        typer.Option(help="Learning rate; repeat it to let each arm choose the best one with its first seed."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Options of `growtool finetune` in YAML, the same for all arms.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One such option, e.g. opt=sgd; repeatable."),
    ] = None,
    variant: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Such options in YAML on top: every plan trains with them, too, as the arm PLAN+FILE; repeatable.",
        ),
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at once.", show_default="one for each --device")] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="A torch device to run on; repeat it to share the runs out.")
    ] = None,
    plugin: PluginOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as one JSON document on stdout.")] = False,
) -> None:
    """Grow a checkpoint by several plans, train each alike, and compare with training the target from scratch.

    What growing saves is read at equal accuracy, source included, so give several lengths: scratch at least until it
    has the accuracy that is wanted. Four lengths of each are enough for a fit, which says where the curves cross.

    The folder gets table.md, table.csv, savings.csv, results.json, evaluations.csv, index.html and, where matplotlib
    is installed, curves.png; they are about the arms of the last command.

    The same command run again skips what is done and resumes what was cut short, with other plans beside, too. A run
    that fails is named, and the others go on; the exit code is then 1.
    """
    from growtool.finetune.options.merging import merge, read_config, read_words
    from growtool.plan import load_plan
    from growtool.workflows.compare.budget import Budget
    from growtool.workflows.compare.variant import read_variants

    # mistakes in files and options are told before torch is imported
    plans = [load_plan(path) for path in plan]
    given = {"data": str(data)} if data else {}
    options = merge(read_config(config) if config else {}, read_words(set_ or ()), given)
    budgets = tuple(Budget.parse(text, "--budget") for text in budget)
    scratch_budgets = tuple(Budget.parse(text, "--scratch-budget") for text in scratch_budget or ())
    variants = read_variants(variant or ())
    baselines = _baselines(baseline or [Baseline.scratch])
    from growtool.growing.source import open_planned
    from growtool.workflows.compare.compare import compare as run
    from growtool.workflows.compare.study import Study
    from growtool.workflows.compare.write import to_json, write

    source = open_planned(checkpoint, [loaded.plan for loaded in plans])
    study = Study(
        source=source,
        plans=plans,
        options=options,
        output=output or Path(f"{source.label}-compared"),
        budgets=budgets,
        scratch_budgets=scratch_budgets,
        variants=variants,
        seeds=seeds,
        rates=tuple(dict.fromkeys(lr or ())),
        baselines=baselines,
        source_epochs=source_epochs,
        source_macs=source_macs,
        plugins=tuple(plugin or ()),
        jobs=jobs or max(1, len(device or ())),
        devices=tuple(device or ()),
    )
    try:
        comparison = run(study, note)
    except (KeyboardInterrupt, SystemExit):
        note(f"stopped; continue with\n{shlex.join(['growtool', *sys.argv[1:]])}")
        raise
    write(comparison)
    if as_json:
        emit_json(to_json(comparison))
    else:
        _show(comparison)
    if comparison.failed:
        raise typer.Exit(1)


def _baselines(asked: Sequence[Baseline]) -> frozenset[str]:
    """Return the names of the baselines, without `none`; raise PlanError if `none` is not alone."""
    named = frozenset(map(str, asked))
    if "none" in named and len(named) > 1:
        raise PlanError(f"--baseline: found {', '.join(sorted(named))}, expected none alone; drop it or the others")
    return named - {"none"}


def _show(comparison: Comparison) -> None:
    from growtool.report.chart import can_draw_png
    from growtool.workflows.compare.costs import savings_table, sentences
    from growtool.workflows.compare.notes import cost_notes
    from growtool.workflows.compare.table import table

    whole = table(comparison)
    # what fits a terminal; the files have everything
    titles = _OUTCOME if results().width < _WIDE else [title for title in whole.header if title not in _IN_FILES]
    show_figures(whole.only(*titles))
    savings = savings_table(comparison.costs)
    if savings.rows:
        show_figures(savings)
    for sentence in sentences(comparison.costs):
        say(escape(sentence))
    for remark in cost_notes(comparison):
        note(remark)
    for failed in comparison.failed:
        say(f"[red]failed[/]: {escape(f'{failed.trial.name}: {failed.reason}')}")
    has_png = can_draw_png()
    files = "index.html, table.md, results.json" + (", curves.png" if has_png else "")
    say(f"written: {escape(str(comparison.study.output))}/{files}")
    if not has_png:
        note("curves.png needs matplotlib: pip install 'growtool[plot]', and the same command draws it")
