"""The documents in the folder of a comparison: a table, every evaluation, curves, and a page with all of it."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from growtool.checkpoint.folder import json_text, write_text
from growtool.library import library_of
from growtool.report import units
from growtool.report.chart import can_draw_png, write_png
from growtool.report.page import html_page
from growtool.workflows.compare.compare import Comparison
from growtool.workflows.compare.table import charts, csv_text, evaluations, rows, table
from growtool.workflows.compare.variant import names_of


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Everything that was asked and found, as plain data."""
    study = comparison.study
    return {
        "growtool": version("growtool"),
        "versions": {name: version(name) for name in ("torch", *library_of(study.source.spec).packages)},
        "checkpoint": {"name": study.source.label, "architecture": study.source.spec.architecture},
        "source_training_macs": comparison.source_macs,
        "budget": str(study.budget),
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
        "evaluations": evaluations(comparison),
    }


def write(comparison: Comparison) -> None:
    """Write, or write anew, the documents of the comparison into its folder; PNG where matplotlib is installed."""
    study = comparison.study
    title = f"Growing {study.source.label}"
    found, drawn = table(comparison), charts(comparison)
    texts = {
        "table.md": f"# {title}\n\n" + "\n\n".join([*notes(comparison), found.to_markdown()]),
        "table.csv": csv_text(rows(comparison)),
        "evaluations.csv": csv_text(evaluations(comparison)),
        "results.json": json_text(to_json(comparison)),
        "index.html": html_page(title, notes=notes(comparison), table=found, charts=drawn),
    }
    for name, text in texts.items():
        write_text(study.output / name, text)
    curves = study.output / "curves.png"
    if can_draw_png():
        write_png(drawn, curves)
    else:
        curves.unlink(missing_ok=True)  # of an earlier call, with other arms


def notes(comparison: Comparison) -> list[str]:
    """What a reader has to know to read the table."""
    study = comparison.study
    said = [
        f"Every arm, but for those called longer, trains for {study.budget} with the same options, data order and "
        f"augmentation per seed ({study.seeds} seed{'s' if study.seeds > 1 else ''}); accuracies are top-1 in percent "
        "on the validation images, mean ± standard deviation over seeds, at the last evaluation within each part of "
        "the budget. Training counts three forward passes an image; seconds are those of training and evaluation, "
        "beside whatever else ran.",
    ]
    said += [
        f"Arms with +{variant.name} train with "
        + ", ".join(f"{key}: {value}" for key, value in variant.options.items())
        + " on top."
        for variant in study.variants
    ]
    if len(study.rates) == 1:
        said.append(f"Learning rate: {study.rates[0]:g} for every arm.")
    elif study.rates:
        rates = ", ".join(f"{rate:g}" for rate in study.rates)
        said.append(
            f"Learning rates: each arm tried {rates} with seed 0 over the whole budget and kept the one with the best "
            "final accuracy, so its accuracy of seed 0 is chosen on the validation images."
        )
    if "scratch" in study.baselines and comparison.source_macs:
        said.append(
            "The arms named scratch-longer train from scratch for the budget and for what training the source has "
            f"cost, {units.count(comparison.source_macs)} MACs; a plan's second source is not among them."
        )
    elif "scratch" in study.baselines and comparison.source_macs is None:
        said.append(
            "What training the source has cost is not known (--source-epochs says it), so no arm accounts for it."
        )
    if "source" in study.baselines:
        said.append(
            "The arm source trains the source on as it is, for as many updates; source-longer, where there is one, for "
            "as many MACs as the most costly plan."
        )
    said += [f"Failed: {failed.trial.name}: {failed.reason}" for failed in comparison.failed]
    return said
