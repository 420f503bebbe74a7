"""The difference of two checkpoints' outputs on the same inputs: of logits, or of features if there is no head."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from growtool.checkpoint import Checkpoint, dtype_name
from growtool.library import Inputs
from growtool.verify.pair import require_comparable, require_same_shapes
from growtool.verify.stream import CPU, Outputs, StreamedModel, outputs_of

TOLERANCES = {"F64": 1e-10, "F32": 1e-5, "F16": 5e-3, "BF16": 5e-2}
"""Element type by safetensors' name, of stored weights or of the arithmetic -> the largest relative difference."""
Align = Callable[[Outputs, Outputs], tuple[Outputs, Outputs]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The logits a of a source against the logits b of a target on the same inputs, or features likewise.

    Attributes:
        relative_difference: max|a - b| / max|a| over all inputs and classes; 0 if both are zero, nan or inf if either
            model's logits are not finite.
        max_abs: max|a - b|.
        scale: max|a|.
        argmax_agreement: share of the decisions that both take alike, 0 to 1; where either has a nan among its logits
            they do not agree. None for features, which decide nothing.
        count: number of inputs.
        dtype: the type of the arithmetic, `float32` or `float64`.
    """

    relative_difference: float
    max_abs: float
    scale: float
    argmax_agreement: float | None
    count: int
    dtype: str

    def within(self, tolerance: float) -> bool:
        """Return whether the relative difference is at most `tolerance`; False if it is nan."""
        return self.relative_difference <= tolerance

    @classmethod
    def merge(cls, parts: Sequence[Comparison]) -> Comparison:
        """Return the comparison over the inputs of all parts together."""
        # torch's max, unlike Python's, keeps a nan
        max_abs, scale = (
            torch.tensor([(part.max_abs, part.scale) for part in parts], dtype=torch.float64).amax(0).tolist()
        )
        count = sum(part.count for part in parts)
        shares = [(part.argmax_agreement, part.count) for part in parts]
        alike = sum(share * n for share, n in shares if share is not None) / count
        decided = all(share is not None for share, _ in shares)
        return cls(_ratio(max_abs, scale), max_abs, scale, alike if decided else None, count, parts[0].dtype)

    @classmethod
    def of(cls, a: Tensor, b: Tensor, *, decide: bool = True) -> Comparison:
        """Return the comparison of logits [inputs, ..., classes], or without `decide` of features [inputs, ...]."""
        max_abs, scale = (a - b).abs().max().item(), a.abs().max().item()
        return cls(
            relative_difference=_ratio(max_abs, scale),
            max_abs=max_abs,
            scale=scale,
            argmax_agreement=_decided_alike(a, b) if decide else None,
            count=len(a),
            dtype=str(a.dtype).removeprefix("torch."),
        )


def default_tolerance(source: Checkpoint, target: Checkpoint, dtype: torch.dtype) -> float:
    """Return how far rounding may move the logits of equal functions, as a relative difference.

    The coarsest type counts, among those that both files store and that of the arithmetic.
    """
    stored = {info.dtype for checkpoint in (source, target) for info in checkpoint.tensors.values()}
    return max(TOLERANCES.get(name, 0.0) for name in stored | {dtype_name(dtype)})


def compare(
    source: Checkpoint,
    target: Checkpoint,
    inputs: Inputs | Tensor,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
) -> Comparison:
    """Run both checkpoints on the same inputs and compare their outputs.

    This takes memory for the activations and the weights of one operation, whatever the size of the files; twice that
    where both run at a time (see `outputs_of`).

    Args:
        source: the checkpoint to compare with.
        target: the checkpoint to compare.
        inputs: as their library makes them; a tensor for models that take one.
        dtype: the type of the arithmetic.
        device: computes the outputs, which are compared on the CPU.

    Raises:
        CheckpointError: the weights of a checkpoint are not those of its architecture.
        PlanError: the two cannot be compared (see `require_comparable`), or return tensors of different shapes.

    Returns:
        The comparison; if the models return several tensors, that of the two furthest apart.
    """
    return compare_each(source, target, inputs, [({}, {})], dtype=dtype, device=device)[0]


def compare_each(
    source: Checkpoint,
    target: Checkpoint,
    inputs: Inputs | Tensor,
    eps: Sequence[tuple[Mapping[str, float], Mapping[str, float]]],
    *,
    dtype: torch.dtype = torch.float32,
    second: Checkpoint | None = None,
    align: Align | None = None,
    device: torch.device = CPU,
) -> list[Comparison]:
    """Compare both checkpoints once for each pair of eps; the source runs once for each eps of its own.

    The other arguments and the errors are those of `compare`.

    Args:
        eps: for each comparison, norms of the source and of the target, by path, with an eps in place of their own.
        second: a checkpoint whose outputs are averaged with the source's.
        align: takes the outputs of both and returns the parts that have to agree; None: all of them.

    Returns:
        One comparison for each pair of eps.
    """
    before = {_key(own): StreamedModel(source, dtype, eps=own, device=device) for own, _ in eps}
    after = [StreamedModel(target, dtype, eps=its, device=device) for _, its in eps]
    first = next(iter(before.values()))
    require_comparable(first, after[0])
    others = [StreamedModel(second, dtype, device=device)] if second is not None else []
    outputs = outputs_of([*before.values(), *after, *others], inputs)
    beside = outputs.pop() if others else None
    expected = {key: a if beside is None else _mean(a, beside) for key, a in zip(before, outputs, strict=False)}
    pairs = [(expected[_key(own)], b) for (own, _), b in zip(eps, outputs[len(before) :], strict=True)]
    aligned = [align(a, b) if align is not None else (a, b) for a, b in pairs]
    return [_furthest(source, target, *pair, classify=first.classes > 0) for pair in aligned]


def _mean(a: Outputs, b: Outputs) -> Outputs:
    return tuple((x + y) / 2 for x, y in zip(a, b, strict=True))


def _key(eps: Mapping[str, float]) -> frozenset[tuple[str, float]]:
    return frozenset(eps.items())


def _furthest(source: Checkpoint, target: Checkpoint, a: Outputs, b: Outputs, *, classify: bool) -> Comparison:
    """Return the comparison of the two tensors that are furthest apart."""
    require_same_shapes(source, target, a, b)
    decide = classify and len(a) == 1
    comparisons = [Comparison.of(x, y, decide=decide) for x, y in zip(a, b, strict=True)]
    # `max` cannot order by a nan; it counts as further apart than any number
    return max(comparisons, key=lambda c: math.inf if math.isnan(c.relative_difference) else c.relative_difference)


def _decided_alike(a: Tensor, b: Tensor) -> float:
    """Return the share of decisions that are equal, those with a nan among the logits not being so."""
    undecided = (a.isnan() | b.isnan()).any(-1)
    return ((a.argmax(-1) == b.argmax(-1)) & ~undecided).double().mean().item()


def _ratio(difference: float, scale: float) -> float:
    if scale:
        return difference / scale
    return math.inf if difference else difference
