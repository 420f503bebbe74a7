"""Ratios set anew where a constructor rounds: 8/3 of 1024 channels are 2730, and of 2048 channels 5461, not 5460."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from growtool.library.building import Shapes
from growtool.library.values import Value, times
from growtool.recipe.target.trials import Trials
from growtool.trace import groups_on

_NEAR = 0.02  # relative: how far rounding may have moved a number of channels, or by one for each part of an axis
_SIZES = 3  # sizes that are off, of which ratios are tried that mend them

_Uneven = Mapping[tuple[str, int], tuple[int, int, int]]
"""Tensor and dimension -> its channels in the source, how many the factor makes of them, how many the target has."""


def even_ratios(
    args: Mapping[str, Value], ratios: Mapping[str, float], factor: float, trials: Trials
) -> tuple[dict[str, Value], list[str]]:
    """The ratios at which the factor makes whole multiples of channels, and a sentence on each.

    Args:
        args: those that the target has otherwise than the source.
        ratios: arguments that are fractions and that it has from the source.
        factor: how much wider the target is.
        trials: builds models.
    """
    new, said = dict[str, Value](), list[str]()
    shapes = trials.built(args) if ratios else None
    uneven = {} if shapes is None else _uneven(shapes, factor, trials)
    for name, ratio in ratios.items():
        for old, wanted, found in sorted(set(uneven.values()))[:_SIZES]:
            evened = {**new, name: ratio * wanted / found}
            then = trials.built({**args, **evened})
            if then is None or shapes is None or not _differing(shapes, then) <= uneven.keys():
                continue
            left = _uneven(then, factor, trials)
            if len(left) < len(uneven):
                new, shapes, uneven = evened, then, left
                said.append(
                    f"width: {name} {ratio:g} becomes {ratio * wanted / found:g}, so that {old} channels become "
                    f"{wanted}, not {found}"
                )
                break
    return new, said


def _uneven(shapes: Shapes, factor: float, trials: Trials) -> _Uneven:
    """Where channels are nearly, and not quite, so many times as many as in the source."""
    found = {}
    for name, before in trials.shapes.items():
        axes = trials.trace.tensors[name]
        for dim, (axis, old, new) in enumerate(zip(axes, before, shapes.get(name, ()), strict=False)):
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
