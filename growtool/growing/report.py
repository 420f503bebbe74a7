"""The documents of a grown folder: report, lineage, picture and model card.

They hold no dates, so that equal inputs give equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch

from growtool.algebra.axis_map import AxisMap
from growtool.checkpoint import ModelSpec
from growtool.checkpoint.beside import PICTURE
from growtool.checkpoint.folder import json_text
from growtool.growing.optimizer import GrownState, rate_factors
from growtool.growing.proof import Proof
from growtool.growing.summary import Summary
from growtool.plan import LoadedPlan
from growtool.recipe import Recipe, TensorRecipe, WidthChange
from growtool.report import units
from growtool.report.card import model_card
from growtool.report.inspect import read_lineage
from growtool.report.page import TableText, html_page
from growtool.report.picture import of_growth, to_svg
from growtool.report.trained import BEFORE, recorded_macs


def target_with_lineage(recipe: Recipe, loaded: LoadedPlan, **verified: str) -> ModelSpec:
    """Return the target's spec with the growths it came from, oldest first, as `lineage` under the key `growtool`.

    The source is hashed for it. `verified` is the result of the proof in words, once it is known.
    """
    steps = [*read_lineage(recipe.source), {**_step(recipe, loaded), **verified}]
    return replace(recipe.target, extra={**recipe.target.extra, "growtool": {"lineage": steps}})


def _step(recipe: Recipe, loaded: LoadedPlan) -> dict[str, Any]:
    """Return the entry of the lineage for this growth."""
    plan, origin, cost = recipe.plan, recipe.source.origin, recorded_macs(recipe.source)
    step: dict[str, Any] = {
        "source": recipe.source.label,
        **({"source_repository": origin.repository, "source_commit": origin.commit} if origin else {}),
        "source_architecture": recipe.source.spec.architecture,
        "source_sha256": recipe.source.sha256(),
        **({} if cost is None else {BEFORE: cost}),
        "plan_sha256": loaded.sha256,
        "seed": plan.seed,
        "growtool": version("growtool"),
        "promise": str(recipe.promise),
    }
    for axis, section, used in (
        ("width", plan.width, bool(recipe.widths)),
        ("depth", plan.depth, bool(recipe.blocks.new)),
    ):
        if section is not None and used:
            step[axis] = section.model_dump(mode="json")
    return step


def report_text(
    recipe: Recipe,
    loaded: LoadedPlan,
    known: Mapping[str, Any],
    proof: Proof | None,
    spec: ModelSpec,
    carried: GrownState | None = None,
) -> str:
    """Return the text of `growth.json`: plan, hashes, versions, promise, proof, and where every tensor comes from.

    Args:
        recipe: the recipe that was carried out.
        loaded: the plan as read.
        known: the part that `known_before` returned.
        proof: what running source and target showed; None if they were not run.
        spec: the target's spec with its lineage.
        carried: the grown state of the optimizer.
    """
    report = {
        "growtool": version("growtool"),
        "versions": {name: version(name) for name in ("torch", *recipe.library.packages, "safetensors")},
        "lineage": spec.extra["growtool"]["lineage"],
        "plan": {
            "sha256": loaded.sha256,
            "resolved": recipe.plan.model_dump(mode="json"),
        },
        "verified": proof.to_json() if proof else None,
        "optimizer": carried.to_json() if carried else None,
        **known,
    }
    return json_text(report)


def known_before(recipe: Recipe, summary: Summary) -> dict[str, Any]:
    """Return the part of `growth.json` that is known before the growth is carried out."""
    return {
        "source": {
            "name": recipe.source.label,
            **(recipe.source.origin.to_json() if recipe.source.origin else {}),
            "architecture": recipe.source.spec.architecture,
            **({"changed_while_loading": list(recipe.source.changes)} if recipe.source.changes else {}),
        },
        "target": {
            "architecture": recipe.target.architecture,
            "model_args": dict(recipe.target.model_args),
            "needs": recipe.needed_import,
        },
        **summary.to_json(),
        "channels": {change.group: _channels(change) for change in recipe.widths},
        "tensors": {name: _provenance(tensor) for name, tensor in recipe.tensors.items()},
    }


def picture(recipe: Recipe, known: Mapping[str, Any]) -> str:
    """Return `growth.svg`, a picture of the target's blocks and widths and of what growing made of the source.

    Args:
        recipe: the recipe.
        known: the result of `known_before`.
    """
    return to_svg(of_growth(known, recipe.matching.target.trace, recipe.models[1], "the recipe"))


def page(recipe: Recipe, loaded: LoadedPlan, summary: Summary, drawn: str, measured: str) -> str:
    """Return the page that `growtool grow --report` writes.

    Args:
        recipe: the recipe.
        loaded: the plan as read.
        summary: the recipe in figures.
        drawn: the result of `picture`.
        measured: the result of the proof in words, or why there is none.
    """
    lines = TableText(("what growing does",), tuple((line,) for line in summary.growth()))
    return html_page(
        f"{recipe.source.label} → {recipe.target.architecture}",
        lead=[f"Promised: {recipe.promise}", f"Measured: {measured}"],
        tables=[TableText(("", "before", "after"), sizes(summary)), lines],
        figures=[drawn],
        code=loaded.text,
    )


def sizes(summary: Summary) -> tuple[tuple[str, str, str], ...]:
    """Return the rows of a table of sizes: label, source, target."""
    before, after = summary.before, summary.after
    return (
        ("parameters", f"{before.parameters:,}", f"{after.parameters:,}"),
        ("MACs", units.count(before.macs), units.count(after.macs)),
        ("weights file", units.size(before.bytes), units.size(after.bytes)),
    )


def _channels(change: WidthChange) -> dict[str, Any]:
    """Return the entry of a channel group that grows: how many are copies, and what the others hold."""
    return {"before": change.before, "after": change.after, "copies": change.copies, "holds": change.holds}


def _provenance(tensor: TensorRecipe) -> dict[str, Any]:
    """Return the entry of a tensor: its source, how it was made, and which of its positions are new."""
    entry: dict[str, Any] = {
        "source": tensor.source,
        "how": _how(tensor),
        "new": tensor.new,
        "shape": list(tensor.info.shape),
    }
    factors = rate_factors(tensor)
    if factors is not None:
        entry["lr_factors"] = factors
    slices = [_new_ranges(axis) for axis in tensor.maps]
    return entry | {"new_slices": slices} if any(slices) else entry


def _how(tensor: TensorRecipe) -> str:
    if tensor.zero:
        return "zero"
    if tensor.cancelling is not None:
        return "cancelling"
    if tensor.initial:
        return "initial"
    if tensor.source is None:
        return "implied"
    return "copied" if tensor.is_copy else "grown"


def _new_ranges(axis: AxisMap) -> list[list[int]]:
    """Return the new positions of a dimension as ranges [start, stop): all copies but the first, and all blanks."""
    new = (axis.replica > 0) | axis.blank
    padded = torch.nn.functional.pad(new.int(), (1, 1))  # zeros at both ends, so that every range has two edges
    edges = padded.diff().nonzero().flatten().tolist()
    return [list(pair) for pair in zip(edges[::2], edges[1::2], strict=True)]


def card_text(recipe: Recipe, loaded: LoadedPlan, summary: Summary, proof: Proof | None) -> str:
    """Return the text of `README.md`, the model card."""
    return model_card(
        source=recipe.source.label,
        origin=recipe.source.origin,
        target=recipe.target,
        promise=str(recipe.promise),
        measured=str(proof) if proof else None,
        rows=sizes(summary),
        plan_text=loaded.text,
        growth=summary.growth(),
        license=recipe.target.settings.get("license"),
        in_templates=bool(recipe.in_templates),
        new_blocks=bool(recipe.blocks.new),
        picture=PICTURE,
    )
