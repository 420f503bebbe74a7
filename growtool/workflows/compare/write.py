"""The documents in the folder of a comparison: tables, every evaluation, curves, and a page with all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from growtool.checkpoint.folder import json_text
from growtool.checkpoint.staging import write_text
from growtool.library import library_of
from growtool.report.chart import Chart, can_draw_png, to_svg, write_png
from growtool.report.page import TableText, html_page
from growtool.workflows.compare.compare import Comparison
from growtool.workflows.compare.costs import crossing_sentences, fit_sentences, savings_rows, savings_table, sentences
from growtool.workflows.compare.notes import notes
from growtool.workflows.compare.table import SHOWN, charts, csv_text, evaluations, rows, table
from growtool.workflows.compare.variant import names_of


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Return the whole question and all results as plain data."""
    study = comparison.study
    return {
        "growtool": version("growtool"),
        "versions": {name: version(name) for name in ("torch", *library_of(study.source.spec).packages)},
        "checkpoint": {"name": study.source.label, "architecture": study.source.spec.architecture},
        "source_training_macs": comparison.source_macs,
        "budgets": [str(budget) for budget in study.budgets],
        "scratch_budgets": [str(budget) for budget in study.scratch_budgets],
        "batch_size": comparison.batch_size,
        "seeds": study.seeds,
        "rates": list(study.rates),
        "options": dict(study.options),
        "variants": {variant.name: dict(variant.options) for variant in study.variants},
        "plans": {
            name: loaded.plan.model_dump(mode="json")
            for name, loaded in zip(names_of([loaded.path for loaded in study.plans]), study.plans, strict=True)
        },
        "arms": rows(comparison),
        **comparison.costs.to_json(),
        "evaluations": evaluations(comparison),
    }


def write(comparison: Comparison) -> None:
    """Write the documents of a comparison into its folder, replacing earlier ones; a PNG if matplotlib is installed."""
    study = comparison.study
    title = f"Growing {study.source.label}"
    tables, drawn = _tables(comparison), charts(comparison)
    said = [*notes(comparison), *sentences(comparison.costs), *fit_sentences(comparison.costs)]
    texts = {
        "table.md": f"# {title}\n\n" + "\n\n".join([*said, *(text.to_markdown() for text in tables)]),
        "table.csv": csv_text(rows(comparison)),
        "savings.csv": csv_text(savings_rows(comparison.costs)),
        "evaluations.csv": csv_text(evaluations(comparison)),
        "results.json": json_text(to_json(comparison)),
        "index.html": _page(title, comparison, drawn),
    }
    for name, text in texts.items():
        write_text(study.output / name, text)
    curves = study.output / "curves.png"
    if can_draw_png():
        write_png(drawn, curves)
    else:
        curves.unlink(missing_ok=True)  # an earlier call may have drawn other arms


def _page(title: str, comparison: Comparison, drawn: Sequence[Chart]) -> str:
    """Return the page: crossings, charts and savings first, then the columns of the arms that fit."""
    arms, *savings = _tables(comparison)
    lead = crossing_sentences(comparison.costs)
    others = [sentence for sentence in sentences(comparison.costs) if sentence not in lead]
    return html_page(
        title,
        lead=lead,
        figures=list(map(to_svg, drawn)),
        tables=[*savings, replace(arms.only(*SHOWN), title="Every arm and length")],
        notes=[*others, *notes(comparison), *fit_sentences(comparison.costs)],
    )


def _tables(comparison: Comparison) -> list[TableText]:
    """Return the table of the arms, and that of the savings if any is known."""
    savings = savings_table(comparison.costs)
    return [table(comparison), *([savings] if savings.rows else [])]
