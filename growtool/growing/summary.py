"""A recipe in figures and sentences, as a dry run shows them and the report keeps them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from growtool.calibration import tracking_norms
from growtool.checkpoint import TensorInfo, coefficients_of
from growtool.errors import format_names
from growtool.growing.execute import largest_bytes
from growtool.recipe import Recipe
from growtool.recipe.symmetry import stay_alike
from growtool.recipe.traced_model import TracedModel
from growtool.recipe.widths.changes import AlikeChanges, alike
from growtool.report.macs import traced_macs
from growtool.trace import places


@dataclass(frozen=True, slots=True)
class Size:
    """One model in figures: parameters, bytes of its weights, MACs for one input (FLOPs are twice the MACs)."""

    parameters: int
    bytes: int
    macs: int


@dataclass(frozen=True, slots=True)
class GrownFeatures:
    """A dimension that grows, of a tensor that a model without a head returns.

    Attributes:
        output: the number of the returned tensor, from 0.
        dimension: the number of its dimension; 0 counts the inputs.
        before: the size in the source.
        copies_of: for each position in the target, the position in the source that it equals; None for a blank one.
    """

    output: int
    dimension: int
    before: int
    copies_of: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """A recipe in figures and sentences.

    Attributes:
        before: the source.
        after: the target.
        promise: `exact`, `exact up to eps` or `lossy`.
        reasons: why the promise is not `exact`.
        second: the checkpoint that grows beside the source; None if there is none.
        widths: the channel groups that grow; groups that grow alike have one entry.
        features: the dimensions that grow, of the tensors that a model without a head returns.
        new_blocks: paths of the blocks that growth adds.
        initial_blocks: paths of the new blocks that start as the library initialises them.
        copied, grown, zeroed: number of tensors by how they are made.
        largest_bytes: bytes of the largest tensor as it is worked on; about two of that size are in memory at once.
        whole_models: whether whole models are held in memory, for images or for initial values.
        idle: sections of the plan that have nothing to do, a sentence each.
        advice: what the result needs before it is used, a sentence each.
        templated: which tensors are written as templates and coefficients, and which become dense, a sentence each.
    """

    before: Size
    after: Size
    promise: str
    reasons: tuple[str, ...]
    second: str | None
    widths: tuple[AlikeChanges, ...]
    features: tuple[GrownFeatures, ...]
    new_blocks: tuple[str, ...]
    initial_blocks: tuple[str, ...]
    copied: int
    grown: int
    zeroed: int
    largest_bytes: int
    whole_models: bool
    idle: tuple[str, ...]
    advice: tuple[str, ...]
    templated: tuple[str, ...]

    def growth(self) -> list[str]:
        """Return a sentence for each thing that growing does."""
        lines = [*self.idle, *([f"beside it grows {self.second}"] if self.second else [])]
        lines += [str(change) for change in self.widths]
        lines += [
            f"features {f.before} -> {len(f.copies_of)}: which of the source's each copies is told by `features` in "
            "growth.json"
            for f in self.features
        ]
        if self.new_blocks:
            count = len(self.new_blocks)
            lines.append(f"{count} new block{'s' if count > 1 else ''}: {places(self.new_blocks, None)}")
        if self.initial_blocks:
            which = "all of them" if self.initial_blocks == self.new_blocks else places(self.initial_blocks, None)
            lines.append(f"with initial values: {which}")
        lines = lines or ["nothing grows: the target is as large as the source"]
        return [*lines, *self.templated, *self.advice]

    def to_json(self) -> dict[str, Any]:
        """Return the summary as plain data, for `growth.json`."""
        return {
            "before": _size_json(self.before),
            "after": _size_json(self.after),
            "promise": {"kind": self.promise, "reasons": list(self.reasons)},
            "second": self.second,
            "widths": [asdict(change) for change in self.widths],
            "features": [asdict(feature) for feature in self.features],
            "new_blocks": list(self.new_blocks),
            "initial_blocks": list(self.initial_blocks),
            "largest_bytes": self.largest_bytes,
            "whole_models": self.whole_models,
            "advice": list(self.advice),
            "template_form": list(self.templated),
        }


def summarise(recipe: Recipe) -> Summary:
    """Return a recipe in figures; no weight is read."""
    tensors = recipe.tensors.values()
    copied, zeroed = sum(t.is_copy for t in tensors), sum(t.zero for t in tensors)
    return Summary(
        before=_size(recipe.matching.source, recipe.source.stored.values()),
        after=_size(recipe.matching.target, recipe.infos.values()),
        promise=recipe.promise.kind,
        reasons=recipe.promise.reasons,
        second=recipe.second.label if recipe.second else None,
        widths=alike(recipe.widths),
        features=tuple(_features(recipe)),
        new_blocks=tuple(recipe.blocks.new),
        initial_blocks=tuple(recipe.blocks.initial),
        copied=copied,
        zeroed=zeroed,
        grown=len(recipe.tensors) - copied - zeroed,
        largest_bytes=largest_bytes(recipe),
        whole_models=bool(recipe.plan.recalibrate or recipe.plan.seeing or recipe.blocks.initial),
        idle=tuple(_idle(recipe)),
        advice=tuple(_advice(recipe)),
        templated=tuple(_templated(recipe)),
    )


def _features(recipe: Recipe) -> Iterable[GrownFeatures]:
    """Yield the dimensions of the returned tensors that grow; models with a head return logits, which do not."""
    for output, maps in enumerate(recipe.outputs):
        for dimension, axis in enumerate(maps, 1):
            if not axis.is_identity:
                copies = (None if new else i for i, new in zip(axis.index.tolist(), axis.blank.tolist(), strict=True))
                yield GrownFeatures(output, dimension, axis.size, tuple(copies))


def _idle(recipe: Recipe) -> Iterable[str]:
    """Yield a sentence for each section of the plan that has nothing to do."""
    if not recipe.widths and not recipe.blocks.new:
        yield "nothing grows: the target is as wide and as deep as the source"
    if recipe.plan.width == recipe.plan.depth:  # an operator of the whole target stands under both keys
        return
    if recipe.plan.width is not None and not recipe.widths:
        yield "`width` has nothing to do: the target is no wider"
    if recipe.plan.depth is not None and not recipe.blocks.new:
        yield "`depth` has nothing to do: the target is no deeper"


def _advice(recipe: Recipe) -> Iterable[str]:
    """Yield a sentence for each thing that the user should know of the result."""
    if alike := stay_alike(recipe):
        yield alike
    read = recipe.matching.target.trace.forward.read
    if unread := [t.name for t in recipe.tensors.values() if t.grows and t.name not in read]:
        yield f"not read by the forward pass, so grown without a promise: {format_names(unread)}"
    norms = len(tracking_norms(recipe.models[1]))
    if not norms or recipe.plan.recalibrate:
        return
    remedy = "recalibrate them with `recalibrate: true` and `data: {path: ...}`, or in fine-tuning (--recalibrate)"
    if recipe.promise.kind == "lossy":
        yield f"running statistics: {norms} BatchNorm layers keep those of the source, which no longer fit; {remedy}"
    elif any(t.new and t.implied is not None and t.name.endswith("running_var") for t in recipe.tensors.values()):
        yield f"running statistics: the new BatchNorm layers have none of the data yet; before training {remedy}"


def _templated(recipe: Recipe) -> Iterable[str]:
    """Yield a sentence each for the tensors that are written in template form, and for those that become dense."""
    if recipe.form is None:
        return
    kept, banks = recipe.in_templates, len(recipe.form.form.banks)
    if kept:
        dense = sum(recipe.tensors[name].info.numel for name in kept)
        coefficients = sum(recipe.form.infos[coefficients_of(name)].numel for name in kept)
        yield (
            f"{len(kept)} tensors in template form, {banks} bank{'s' if banks > 1 else ''}: {coefficients:,} "
            f"coefficients for {dense:,} numbers"
        )
    for why, names in recipe.form.become_dense.items():
        yield f"{len(names)} tensors become dense: {why} ({format_names(names)})"


def _size(traced: TracedModel, infos: Iterable[TensorInfo]) -> Size:
    parameters = sum(parameter.numel() for parameter in traced.model.parameters())
    return Size(parameters, sum(info.nbytes for info in infos), traced_macs(traced.trace).total)


def _size_json(size: Size) -> dict[str, int]:
    return {"parameters": size.parameters, "bytes": size.bytes, "macs": size.macs, "flops": 2 * size.macs}
