"""Whether a deeper model, with its new blocks closed, runs the source's operations on the source's values.

Both passes are followed value by value. A closed block hands on what it received, or zeros, which a sum drops; every
other operation of the target has to be the one at the same place of the same module in the source, and to read what
that one reads. What leads to no output does not count. Which operations those are, with which numbers, is compared
elsewhere (`algebra.promise.different_operations`), by the same places.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from growtool.algebra.followed_pass import Closed, FollowedPass, Values
from growtool.coupling import Coupling


@dataclass(frozen=True, slots=True)
class Comparison:
    """Attributes:

    difference: where the target computes something else, None if nowhere.
    dropped: module path -> entries of its signature in the target that fall away with the zeros.
    needed: paths of the closed modules whose zeros some sum drops.
    """

    difference: str | None
    dropped: Mapping[str, frozenset[int]]
    needed: frozenset[str]


def compare_passes(
    source: Coupling,
    target: Coupling,
    closed: Iterable[Closed],
    source_path: Callable[[str], str],
    skip: Callable[[str], bool],
    replaced: Collection[str] = (),
) -> Comparison:
    """Follow both passes.

    Args:
        source, target: both couplings.
        closed: runs of the target to leave out.
        source_path: path of a module or tensor of the target -> that of its counterpart.
        skip: whether a module or tensor of the target has no counterpart.
        replaced: modules of the source that do nothing and have a counterpart that is left out.
    """
    values = Values()
    first = {name: names[0] for names in source.forward.stored.values() for name in names}

    def name(names: tuple[str, ...]) -> object | None:
        found = {first.get(source_path(n)) for n in names if not skip(n)}
        return found.pop() if len(found) == 1 else None

    def unchanged(path: str) -> str:
        return path

    before = FollowedPass(source, values, unchanged, (), lambda path: path in replaced, lambda names: names[0])
    expected = before.run()
    known = {value for value, _ in before.made}
    runs = sorted(closed, key=lambda run: run.first)
    after = FollowedPass(target, values, source_path, runs, skip, name)
    found = after.run()
    idle = after.idle()
    if idle:
        after = FollowedPass(target, values, source_path, runs, skip, name, dropped=idle)
        found = after.run()
    difference = None if found == expected else _first_difference(after, known)
    return Comparison(
        difference, {path: frozenset(entries) for path, entries in after.dropped.items()}, frozenset(after.needed)
    )


def _first_difference(after: FollowedPass, known: Collection[int]) -> str:
    """The first operation of the target that has no counterpart in the source and that an output is made of."""
    reached = after.reached()
    for value, step in after.made:
        if value in reached and value not in known:
            where = step.module or "the model itself"
            return f"{where}: with the new blocks closed, {step.name} reads other values than in the source"
    return "with the new blocks closed, the model returns another of its values than the source"
