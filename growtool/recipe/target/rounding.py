"""Ratios set anew where a constructor rounds: 8/3 of 1024 channels are 2730, and of 2048 channels 5461, not 5460."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from torch import nn

from growtool.errors import CheckpointError
from growtool.library import ModelSpec, build, library_of
from growtool.library.building import Shapes, shapes_of
from growtool.library.values import times
from growtool.trace import Trace, groups_on

_NEAR = 0.02  # relative: how far rounding may have moved a number of channels, or by one for each part of an axis
_SIZES = 3  # sizes that are off, of which ratios are tried that mend them

_Uneven = Mapping[tuple[str, int], tuple[int, int, int]]
"""Tensor and dimension -> its channels in the source, how many the factor makes of them, how many the target has."""


def even_ratios(
    spec: ModelSpec, base: ModelSpec, factor: float, model: nn.Module, trace: Trace
) -> tuple[ModelSpec, tuple[str, ...]]:
    """The target with ratios at which the factor makes whole multiples of channels, and a sentence on each.

    Args:
        spec: the target, `base` with larger arguments.
        base: the source.
        factor: how much wider the target is.
        model: the skeleton of the source.
        trace: its trace.
    """
    said: list[str] = []
    ratios = dict(_ratios(spec, base, model))
    shapes = _shapes(spec) if ratios else None
    uneven = {} if shapes is None else _uneven(shapes, factor, shapes_of(model), trace)
    for name, ratio in ratios.items():
        for old, wanted, found in sorted(set(uneven.values()))[:_SIZES]:
            evened = spec.with_args(**{name: ratio * wanted / found})
            then = _shapes(evened)
            if then is None or shapes is None or not _differing(shapes, then) <= uneven.keys():
                continue
            left = _uneven(then, factor, shapes_of(model), trace)
            if len(left) < len(uneven):
                spec, shapes, uneven = evened, then, left
                said.append(
                    f"width: {name} {ratio:g} becomes {ratio * wanted / found:g}, so that {old} channels become "
                    f"{wanted}, not {found}"
                )
                break
    return spec, tuple(said)


def _ratios(spec: ModelSpec, base: ModelSpec, model: nn.Module) -> Iterator[tuple[str, float]]:
    """The arguments that are fractions and that the target has from the source."""
    for name, value in library_of(base).numbers(base, model).items():
        kept = spec.model_args.get(name, value) == value
        if kept and isinstance(value, float) and not value.is_integer():
            yield name, value


def _shapes(spec: ModelSpec) -> Shapes | None:
    try:
        return shapes_of(build(spec))
    except CheckpointError:
        return None


def _uneven(shapes: Shapes, factor: float, source: Shapes, trace: Trace) -> _Uneven:
    """Where channels are nearly, and not quite, so many times as many as in the source."""
    found = {}
    for name, before in source.items():
        for dim, (axis, old, new) in enumerate(zip(trace.tensors[name], before, shapes.get(name, ()), strict=False)):
            wanted = times(old, factor)
            if not isinstance(wanted, int) or new in (old, wanted) or all(g.fixed is not None for g in groups_on(axis)):
                continue
            if abs(new - wanted) <= max(len(axis), _NEAR * wanted):
                found[name, dim] = (old, wanted, new)
    return found


def _differing(shapes: Shapes, others: Shapes) -> set[tuple[str, int]]:
    """Tensor and dimension of what two models have in other sizes, or one alone has."""
    found = {(name, 0) for name in shapes.keys() ^ others.keys()}
    for name in shapes.keys() & others.keys():
        sizes = itertools.zip_longest(shapes[name], others[name])
        found |= {(name, dim) for dim, (one, other) in enumerate(sizes) if one != other}
    return found
