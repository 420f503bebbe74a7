"""Ratios set anew where a constructor rounds: 8/3 of 1024 channels are 2730, and of 2048 channels 5461, not 5460."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from growtool.library.building import Shapes
from growtool.library.values import Value, times
from growtool.recipe.target.trials import Trials
from growtool.trace.axes import may_grow

_NEAR = 0.02  # relative: how far rounding may have moved a number of channels, or by one for each part of an axis
_SIZES = 3  # sizes that are off for each of which a ratio is tried that would mend it

_Uneven = Mapping[tuple[str, int], tuple[int, int, int]]
"""Tensor and dimension -> its channels in the source, how many the factor makes of them, how many the target has."""


def even_ratios(
    args: Mapping[str, Value], ratios: Mapping[str, float], factor: float, trials: Trials
) -> tuple[dict[str, Value], list[str]]:
    """Return other values for ratios, at which the factor makes the channels that it should, and a sentence on each.

    Ratios that mend nothing, or that change any size that is not off, stay and are left out.

    Args:
        args: the target's arguments that differ from the source's.
        ratios: arguments that are fractions, and that the target has from the source.
        factor: how much wider the target is.
        trials: builds models.
    """
    new, said = dict[str, Value](), list[str]()
    shapes = trials.built(args) if ratios else None
    uneven = {} if shapes is None else _uneven(shapes, factor, trials)
    for name, ratio in ratios.items():
        for old, wanted, rounded in sorted(set(uneven.values()))[:_SIZES]:
            evened = {**new, name: ratio * wanted / rounded}
            shapes_evened = trials.built({**args, **evened})
            if shapes_evened is None or shapes is None or not _differing(shapes, shapes_evened) <= uneven.keys():
                continue
            still_uneven = _uneven(shapes_evened, factor, trials)
            if len(still_uneven) < len(uneven):
                new, shapes, uneven = evened, shapes_evened, still_uneven
                said.append(
                    f"width: {name} {ratio:g} becomes {ratio * wanted / rounded:g}, so that {old} channels become "
                    f"{wanted}, not {rounded}"
                )
                break
    return new, said


def _uneven(shapes: Shapes, factor: float, trials: Trials) -> _Uneven:
    """Return the dimensions whose channels are nearly, but not quite, `factor` times as many as in the source."""
    uneven = {}
    for name, before in trials.shapes.items():
        axes = trials.trace.tensors[name]
        for dim, (axis, old, new) in enumerate(zip(axes, before, shapes.get(name, ()), strict=False)):
            wanted = times(old, factor)
            if not isinstance(wanted, int) or new in (old, wanted) or not may_grow(axis):
                continue
            if abs(new - wanted) <= max(len(axis), _NEAR * wanted):
                uneven[name, dim] = (old, wanted, new)
    return uneven


def _differing(shapes: Shapes, others: Shapes) -> set[tuple[str, int]]:
    """Return the dimensions whose sizes differ between two models; (name, 0) for tensors that only one has."""
    found = {(name, 0) for name in shapes.keys() ^ others.keys()}
    for name in shapes.keys() & others.keys():
        sizes = itertools.zip_longest(shapes[name], others[name])
        found |= {(name, dim) for dim, (one, other) in enumerate(sizes) if one != other}
    return found
