"""Numbers inside constructor arguments that may be doubled together, in finer and finer selections.

A configuration that says channels layer by layer holds a path of many numbers. All that widens a model is doubled at
once, as far as it agrees (`Closure`): whole arguments, single numbers, or numbers that are equal.
"""

from __future__ import annotations

from collections.abc import Mapping

from growtool.library.building import Shapes
from growtool.library.paths import is_path
from growtool.library.values import Value, leaves
from growtool.recipe.target.closure import Closure
from growtool.recipe.target.trials import Trials

Selection = Mapping[str, frozenset[int]]  # argument -> places of numbers in it, counted through `leaves`
Key = str | tuple[str, int]  # an argument; a path and a place in it; or "" and the value that several numbers share


def by_argument(widening: Mapping[str, Value]) -> dict[Key, Selection]:
    """Return each argument with all of its numbers."""
    return {name: {name: frozenset(range(len(leaves(value))))} for name, value in widening.items()}


def by_place(widening: Mapping[str, Value]) -> dict[Key, Selection]:
    """Return each number of each path on its own, beside the other arguments; nothing if there are no paths."""
    paths = [name for name in widening if is_path(name)]
    whole = {name: selection for name, selection in by_argument(widening).items() if paths and name not in paths}
    return whole | {
        (name, at): {name: frozenset({at})}
        for name in paths
        for at, number in enumerate(leaves(widening[name]))
        if not isinstance(number, str) and number
    }


def by_value(widening: Mapping[str, Value]) -> dict[Key, Selection]:
    """Return the equal numbers of all paths together: layers of the same width, none of which can grow alone."""
    found: dict[Key, Selection] = {}
    for key, selection in by_place(widening).items():
        if isinstance(key, str):
            found[key] = selection
            continue
        name, at = key
        number = leaves(widening[name])[at]
        if isinstance(number, int):
            equal = found.get(("", number), {})
            found["", number] = {**equal, name: equal.get(name, frozenset()) | {at}}
    return found


def agreeing(trials: Trials, selections: Mapping[Key, Selection]) -> dict[str, frozenset[int]]:
    """Return the places of each argument that may be doubled together.

    Args:
        trials: builds models.
        selections: what is doubled as one; those that do not grow the model alone are left out.
    """
    alone: dict[Key, Shapes] = {}
    for key, selection in selections.items():
        shapes = trials.built({name: trials.twice_at(name, places) for name, places in selection.items()})
        if shapes is not None and _only_grows(trials, shapes):
            alone[key] = shapes
    closure = Closure(trials.shapes, trials.trace.tensors, alone)
    chosen: dict[str, frozenset[int]] = {}
    for key in closure.nearest(closure.agreeing(alone), kind=_kind):
        for name, places in selections[key].items():
            chosen[name] = chosen.get(name, frozenset()) | places
    return chosen


def _only_grows(trials: Trials, shapes: Shapes) -> bool:
    """Return whether the same tensors are there, some larger and none smaller: a doubled stride grows none."""
    before = trials.shapes
    return (
        shapes != before
        and trials.keeps_tensors(shapes)
        and all(new >= old for name, shape in before.items() for old, new in zip(shape, shapes[name], strict=True))
    )


def _kind(key: Key) -> Key:
    """Return what a key is dropped together with: the path of a place, else the key itself."""
    return key[0] or key if isinstance(key, tuple) else key
