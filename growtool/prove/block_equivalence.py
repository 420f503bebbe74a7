"""Whether the target, with its new blocks closed, runs the source's operations on the source's values.

Both passes are numbered value by value (`prove.value_numbering`). A closed block returns what it received, or zeros
that a sum drops. Every other operation of the target has to be the one at the same place of the same module in the
source, to read the same values, and to run over as many positions, but for channels that grow. Operations that lead to
no output do not count.

Which operations those are, with which numbers, is compared elsewhere, by the same places
(`prove.lockstep.Lockstep.differences`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from growtool.prove.numbers import Closed, Renormed, Values
from growtool.prove.value_numbering import ValueNumbering
from growtool.trace import Trace


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of comparing two passes.

    Attributes:
        difference: where the target computes something else, and what; None if nowhere.
        dropped: module path -> entries of its signature in the target that fall away with the closed blocks.
        needed: paths of the closed modules whose zeros some sum drops.
    """

    difference: str | None
    dropped: Mapping[str, frozenset[int]]
    needed: frozenset[str]


def compare_passes(
    source: Trace,
    target: Trace,
    closed: Iterable[Closed],
    source_path: Callable[[str], str],
    skip: Callable[[str], bool],
    replaced: Collection[str] = (),
    renormed: Renormed | None = None,
) -> Comparison:
    """Number the values of both passes and compare them.

    Args:
        source, target: both traces.
        closed: runs of the target to leave out.
        source_path: path of a module or tensor of the target -> that of its counterpart.
        skip: whether a module or tensor of the target has no counterpart.
        replaced: modules of the source that do nothing and have a counterpart that is left out.
        renormed: norms of the target that norm what has been normalised already.
    """
    values = Values()
    first_name = {name: names[0] for names in source.forward.stored.values() for name in names}

    def source_tensor(names: tuple[str, ...]) -> object | None:
        """Return the source's tensor that one of the target is made from, or None if there is none, or several."""
        found = {first_name.get(source_path(name)) for name in names if not skip(name)}
        return found.pop() if len(found) == 1 else None

    def unchanged(path: str) -> str:
        return path

    before = ValueNumbering(source, values, unchanged, (), lambda path: path in replaced, lambda names: names[0])
    expected = before.run()
    known = {value for value, _ in before.produced}
    runs = sorted(closed, key=lambda run: run.first)

    def numbering(dropped: dict[str, set[int]]) -> ValueNumbering:
        norms = renormed or Renormed()
        return ValueNumbering(target, values, source_path, runs, skip, source_tensor, norms, dropped=dropped)

    after = numbering(defaultdict(set))
    outputs = after.run()
    idle = after.idle()
    if idle:  # without these entries other operations stand at other places, so number all values anew
        after = numbering(idle)
        outputs = after.run()
    found = _other_sizes(before, after) if outputs == expected else _first_difference(after, known)
    difference = None
    if found is not None:
        where, what = found
        condition = "with the new blocks closed, " if any(run.path not in replaced for run in runs) else ""
        difference = f"{where or 'the model itself'}: {condition}{what}"
    return Comparison(
        difference, {path: frozenset(entries) for path, entries in after.dropped.items()}, frozenset(after.needed)
    )


def _first_difference(after: ValueNumbering, known: Collection[int]) -> tuple[str, str]:
    """Return the module and a description of the first operation that an output needs and the source does not have."""
    reached = after.reached()
    for value, step in after.produced:
        if value in reached and value not in known:
            return step.module, f"{step.name} reads other values than in the source"
    return "", "the output is another of the model's values than in the source"


def _other_sizes(before: ValueNumbering, after: ValueNumbering) -> tuple[str, str] | None:
    """Return the module and a description of the first operation with other sizes than in the source, or None.

    Sizes of axes with channels that may grow do not count.
    """
    # `reversed`, so that the first operation with a value stands for all of them
    by_value = dict(reversed(before.executed))
    # preferred, as layers that compute equal values (zeros, say) may differ in sizes
    by_module = {(value, step.module): step for value, step in reversed(before.executed)}
    for value, step in after.executed:
        counterpart = by_module.get((value, after.source_path(step.module)), by_value.get(value))
        if counterpart is None:
            continue
        for number, old_number in zip(step.ins, counterpart.ins, strict=True):
            sizes, expected = after.sizes(number), before.sizes(old_number)
            pairs = zip(sizes, expected, strict=False)
            if len(sizes) != len(expected) or any(new != old and not grows for (new, grows), (old, _) in pairs):
                old_shape, new_shape = (" x ".join(str(size) for size, _ in of) for of in (expected, sizes))
                return step.module, f"{step.name} runs over {old_shape} in the source, over {new_shape} in the target"
    return None
