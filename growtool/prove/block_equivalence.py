"""Whether the target, with its new blocks closed, runs the source's operations on the source's values.

Both passes are followed value by value. A closed block hands on what it received, or zeros, which a sum drops; every
other operation of the target has to be the one at the same place of the same module in the source, to read what
that one reads, and to run over as many positions but for channels that grow. What leads to no output does not count.
Which operations those are, with which numbers, is compared elsewhere (`prove.operations.different_operations`), by
the same places.
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
    """What a comparison of two passes found.

    Attributes:
        difference: where the target computes something else, None if nowhere.
        dropped: module path -> entries of its signature in the target that fall away with the zeros.
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
    """Follow both passes.

    Args:
        source, target: both traces.
        closed: runs of the target to leave out.
        source_path: path of a module or tensor of the target -> that of its counterpart.
        skip: whether a module or tensor of the target has no counterpart.
        replaced: modules of the source that do nothing and have a counterpart that is left out.
        renormed: norms of the target that are taken for one.
    """
    values = Values()
    first = {name: names[0] for names in source.forward.stored.values() for name in names}

    def name(names: tuple[str, ...]) -> object | None:
        found = {first.get(source_path(n)) for n in names if not skip(n)}
        return found.pop() if len(found) == 1 else None

    def unchanged(path: str) -> str:
        return path

    before = ValueNumbering(source, values, unchanged, (), lambda path: path in replaced, lambda names: names[0])
    expected = before.run()
    known = {value for value, _ in before.made}
    runs = sorted(closed, key=lambda run: run.first)

    def following(dropped: dict[str, set[int]]) -> ValueNumbering:
        normed = renormed or Renormed()
        return ValueNumbering(target, values, source_path, runs, skip, name, normed, dropped=dropped)

    after = following(defaultdict(set))
    found = after.run()
    idle = after.idle()
    if idle:
        after = following(idle)
        found = after.run()
    other = _other_sizes(before, after) if found == expected else _first_difference(after, known)
    difference = None
    if other is not None:
        where, what = other
        given = "with the new blocks closed, " if any(run.path not in replaced for run in runs) else ""
        difference = f"{where or 'the model itself'}: {given}{what}"
    return Comparison(
        difference, {path: frozenset(entries) for path, entries in after.dropped.items()}, frozenset(after.needed)
    )


def _first_difference(after: ValueNumbering, known: Collection[int]) -> tuple[str, str]:
    """Where the target first has an operation without counterpart that an output is made of, and what it does."""
    reached = after.reached()
    for value, step in after.made:
        if value in reached and value not in known:
            return step.module, f"{step.name} reads other values than in the source"
    return "", "the output is another of the model's values than in the source"


def _other_sizes(before: ValueNumbering, after: ValueNumbering) -> tuple[str, str] | None:
    """Where the target first has sizes that are not the source's, nor those of channels that grow; None if nowhere."""
    counterparts = dict(reversed(before.ran))
    there = {(value, step.module): step for value, step in reversed(before.ran)}  # zeros of two layers are one value
    for value, new in after.ran:
        old = there.get((value, after.source_path(new.module)), counterparts.get(value))
        if old is None:
            continue
        for mine, its in zip(new.ins, old.ins, strict=True):
            sizes, expected = after.sizes(mine), before.sizes(its)
            both = zip(sizes, expected, strict=False)
            if len(sizes) != len(expected) or any(a != b and not grows for (a, grows), (b, _) in both):
                shown = (" x ".join(str(size) for size, _ in of) for of in (expected, sizes))
                return new.module, "{} runs over {} in the source, over {} in the target".format(new.name, *shown)
    return None
