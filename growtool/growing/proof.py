"""The proof: a written checkpoint is run beside its source, and their outputs are held against the promise.

If they differ by more than the tolerance, three causes are told apart: the type of the file is too coarse for the
source's numbers (`_too_coarse`), the network amplifies the rounding of sound numbers (`_amplified`), or growtool has a
bug.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from growtool.algebra.threads import single_threaded
from growtool.checkpoint import Checkpoint, InMemory, is_finite
from growtool.errors import CheckpointError, PlanError, format_names
from growtool.finetune.parallel.device import in_use
from growtool.growing.execute import WIDER, grown_tensors
from growtool.library import Inputs
from growtool.recipe import Recipe
from growtool.verify import CPU, TOLERANCES, Comparison, Outputs, compare, compare_each, random_inputs
from growtool.verify.stream import StreamedModel

_NUDGE = 2.0**-48  # relative, of an input: 16 times the rounding of float64
_BLOWN_UP = 2.0**-28  # relative, of the outputs: such a nudge moves no sound model as far in float64


@dataclass(frozen=True, slots=True)
class Proof:
    """The result of running source and target on the same inputs.

    Attributes:
        comparison: the outputs of source and target on random inputs.
        tolerance: the largest relative difference that an exact growth may show.
        holds: whether the promise holds; a lossy growth promises nothing, so that it always does.
        with_eps: the comparison with the eps that makes the target exact; None unless the promise is `exact up to eps`.
        inputs: what the models take, in words.
    """

    comparison: Comparison
    tolerance: float
    holds: bool
    with_eps: Comparison | None = None
    inputs: str = "images"

    def __str__(self) -> str:
        c = self.comparison
        same = None if c.argmax_agreement is None else f"same decision on {c.argmax_agreement:.0%}"
        return (
            f"{'logits' if same else 'features'} differ by {c.relative_difference:.2e} (relative, {c.dtype}) on "
            f"{c.count} random {self.inputs}"
            + (f", {same}" if same else "")
            + (f"; by {self.with_eps.relative_difference:.2e} with eps adjusted" if self.with_eps else "")
        )

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain data."""
        c = self.comparison
        return {
            "relative_difference": c.relative_difference,
            "max_abs": c.max_abs,
            "argmax_agreement": c.argmax_agreement,
            "inputs": c.count,
            "arithmetic": c.dtype,
            "tolerance": self.tolerance,
            "holds": self.holds,
            **({"relative_difference_with_eps": self.with_eps.relative_difference} if self.with_eps else {}),
        }


@single_threaded()
def prove(recipe: Recipe, written: Checkpoint, device: torch.device = CPU) -> Proof | None:
    """Run source and target on random inputs, and check that the promise holds; None if the plan switched that off.

    The arithmetic is float32 (float64 for float64 checkpoints). If the difference exceeds the tolerance, as rounding
    alone makes it in very deep models, float64 decides. Each model runs on one thread, so that the figures do not
    depend on the machine's cores; source and target run at the same time. On a CUDA device there is no TF32.

    Args:
        recipe: the recipe that was carried out.
        written: the checkpoint that was written.
        device: the device that runs both models.

    Raises:
        CheckpointError: the source's own outputs are not finite, or the plan promised the same function and the written
            model computes another one.
        PlanError: it computes another one because the type of the file is too coarse for the source's numbers, or
            because the network amplifies rounding.
    """
    if recipe.plan.verify is None:
        return None
    types = {info.dtype for info in written.tensors.values() if info.is_float}
    tolerance = recipe.plan.verify.tolerance or max(TOLERANCES.get(name, 0.0) for name in types)
    count, seed = recipe.plan.verify.inputs, recipe.plan.seed
    # Numbers that float32 holds, so that arithmetic in float64 gets the same inputs.
    inputs = random_inputs(recipe.source.spec, recipe.models[0], count, seed).to(torch.float32)
    first = torch.float64 if "F64" in types else torch.float32
    with in_use(device, tf32=False):
        plain, decisive = _compared(recipe, written, inputs, first, device)
        if recipe.promise.kind != "lossy" and not decisive.within(tolerance) and first != torch.float64:
            plain, decisive = _compared(recipe, written, inputs, torch.float64, device)
    if not math.isfinite(plain.scale):
        raise CheckpointError(_not_finite(recipe))
    holds = recipe.promise.kind == "lossy" or decisive.within(tolerance)
    proof = Proof(plain, tolerance, holds, None if decisive is plain else decisive, recipe.library.words.many)
    if not holds:
        if coarse := _too_coarse(recipe, inputs, tolerance) or _amplified(recipe, inputs, tolerance):
            raise PlanError(f"verification failed: {proof}, expected at most {tolerance:g}: {coarse}")
        raise CheckpointError(
            f"verification failed: {proof}, expected at most {tolerance:g}: the plan promised the same function. "
            "Nothing was written. If the model amplifies rounding, allow more with `verify: {tolerance: ...}`; else "
            "this is a bug of growtool, please report it with the plan and the architecture"
        )
    return proof


@dataclass(frozen=True)
class _Rounded(Checkpoint):
    """A checkpoint with its numbers rounded to another type, in their own type."""

    rounded_to: torch.dtype = torch.float32

    def read(self, name: str) -> torch.Tensor:
        tensor = super().read(name)
        return tensor.to(self.rounded_to).to(tensor.dtype) if tensor.is_floating_point() else tensor


def _too_coarse(recipe: Recipe, inputs: Inputs, tolerance: float) -> str | None:
    """Return why the file's type is to blame, if the source rounded to it is another function already; else None."""
    name = recipe.plan.output.dtype
    if name == "same":
        return None
    dtype, source = getattr(torch, name), recipe.source
    rounded = _Rounded(**{f.name: getattr(source, f.name) for f in fields(Checkpoint)}, rounded_to=dtype)
    alone = compare(source, rounded, inputs, dtype=torch.float64)
    if alone.within(tolerance):
        return None
    smallest = torch.finfo(dtype).smallest_normal
    below = [(size, tensor) for tensor in source.tensors if 0 < (size := _smallest(source.read(tensor))) < smallest]
    wider = " or ".join(wide for wide in ("bfloat16", "float32", "float64") if wide != name)
    told = (
        f"{min(below)[1]} holds {min(below)[0]:.6g}, below {smallest:.6g}, the smallest number that {name} holds with "
        "all its digits; "
        if below
        else ""
    )
    return (
        f"the source alone, rounded to {name}, differs by {alone.relative_difference:.2e} already. {told}nothing was "
        f"written; {wider} may hold it: {WIDER}, or allow more with `verify: {{tolerance: ...}}`"
    )


def _amplified(recipe: Recipe, inputs: Inputs, tolerance: float) -> str | None:
    """Return why rounding is to blame, if the same growth keeps the function in float64, or is all rounding; else None.

    For that the target is made anew in memory, with numbers in float64.
    """
    if recipe.measured:  # images have decided some numbers, and making the target anew would leave these out
        return None
    tensors = {
        name: replace(tensor, info=replace(tensor.info, dtype="F64")) if tensor.info.is_float else tensor
        for name, tensor in recipe.tensors.items()
    }
    wide = replace(recipe, tensors=tensors, form=None)
    target = InMemory(Path("grown in float64"), recipe.target, wide.infos, {}, state=grown_tensors(wide))
    _, decisive = _compared(wide, target, inputs, torch.float64, CPU)
    if not decisive.within(tolerance):
        return _all_rounding(target, inputs.to(torch.float64), decisive)
    return (
        f"with numbers in float64 the same growth differs by {decisive.relative_difference:.2e}: what rounding leaves "
        "between the copies grows from layer to layer. Nothing was written; take a smaller factor, "
        f"{WIDER.replace('...', 'float64')}, or allow more with `verify: {{tolerance: ...}}`"
    )


def _all_rounding(target: Checkpoint, inputs: Inputs, found: Comparison) -> str | None:
    """Return why rounding is to blame, if almost equal inputs move the grown model as far as it is off; else None."""
    model = StreamedModel(target, torch.float64)
    a, b = (model.outputs(x) for x in (inputs, inputs.scaled(1 + _NUDGE)))
    moved = max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))
    if found.relative_difference < _BLOWN_UP or not moved >= found.max_abs / 100:  # `not >=`: a nan is no rounding
        return None
    return (
        f"inputs that differ by {_NUDGE:.0e} move the grown model as far, even with numbers in float64: what rounding "
        "leaves between the copies grows from layer to layer. Nothing was written; take a smaller gain or factor"
    )


def _smallest(tensor: torch.Tensor) -> float:
    """Return the smallest absolute value of a tensor that is not zero; 0 if there is none."""
    absolute = tensor[tensor != 0].abs() if tensor.is_floating_point() else tensor.new_empty(0)
    return float(absolute.min()) if absolute.numel() else 0.0


def _not_finite(recipe: Recipe) -> list[str]:
    """Return what is wrong with sources whose outputs are nan or infinite; name their tensors that are so."""
    problems = []
    for source in filter(None, (recipe.source, recipe.second)):
        names = [
            name for name, info in source.tensors.items() if info.is_float and not is_finite(source.read(name)).all()
        ]
        if names:
            problems.append(
                f"{source.name}: found numbers that are not finite in {format_names(names)}, expected a model that "
                "computes something; nothing was written, name a checkpoint from before it diverged"
            )
    inputs = recipe.library.words.many
    return problems or [
        f"{recipe.source.name}: its outputs on random {inputs} are not finite, expected numbers to compare; nothing "
        f"was written. If the model is sound on its own {inputs}, grow it with `verify: false`"
    ]


def _compared(
    recipe: Recipe, written: Checkpoint, inputs: Inputs, dtype: torch.dtype, device: torch.device
) -> tuple[Comparison, Comparison]:
    """Compare source and target as they stand, and as the promise is about them, which is with other eps if it says so.

    Returns:
        Both comparisons; one object twice unless the promise is `exact up to eps`.
    """
    comparisons = compare_each(
        recipe.source,
        written,
        inputs,
        [({}, {}), (recipe.source_eps, recipe.eps)] if recipe.promise.kind == "exact up to eps" else [({}, {})],
        dtype=dtype,
        second=recipe.second,
        align=partial(aligned, recipe),
        device=device,
    )
    return comparisons[0], comparisons[-1]


def aligned(recipe: Recipe, a: Outputs, b: Outputs) -> tuple[Outputs, Outputs]:
    """Return the outputs of source and target channel by channel, where features grow.

    Each copied channel of the target stands beside the source's channel that it copies. Blank channels are left out.
    """
    before, after = [], []
    for x, y, maps in zip(a, b, recipe.outputs, strict=True):
        for dim, axis in enumerate(maps, 1):
            if not axis.is_identity:
                x, y = x.index_select(dim, axis.index[axis.kept]), y.index_select(dim, axis.kept)
        before.append(x)
        after.append(y)
    return tuple(before), tuple(after)
