"""Whether source and target run the same operations, module by module."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from growtool.trace import Trace, places
from growtool.trace.steps import Step

Entry = tuple[object, ...]  # of a module's signature: an operation with its numbers, or the call of a module


@dataclass
class Excused:
    """What may differ between the operations of source and target, since the weights make up for it.

    Attributes:
        stands_for: module of the target -> place of an entry of its signature -> the source's entry that it stands for.
        dropped: module of the target -> places of entries that do nothing once new blocks are closed.
        replaced: modules of the source that do nothing and have an identity shortcut for a counterpart.
    """

    stands_for: dict[str, dict[int, Entry]] = field(default_factory=dict)
    dropped: Mapping[str, Collection[int]] = field(default_factory=dict)
    replaced: Collection[str] = ()

    def eps(self, path: str, share: float, before: Sequence[Entry], now: Sequence[Entry]) -> None:
        """The eps of a norm may have fallen by `share`; `before` and `now` are the entries of source and target."""
        for place, entry in enumerate(now):
            standing = next((old for old in before if _differs_in_eps(old, entry, share)), None)
            if entry not in before and standing is not None:
                self.stands_for.setdefault(path, {})[place] = standing


@dataclass
class Counterparts:
    """The operation of the source that one of the target comes from: the one at the same place of the same module.

    Attributes:
        source, target: both traces.
        source_path: path of a module of the target -> that of its counterpart.
        skip: paths of the target that have none, though they may be copies.
        dropped, replaced: as in `Excused`.
    """

    source: Trace
    target: Trace
    source_path: Callable[[str], str]
    skip: Callable[[str], bool]
    dropped: Mapping[str, Collection[int]] = field(default_factory=dict)
    replaced: Collection[str] = ()
    _places: dict[str, dict[int, int]] = field(default_factory=dict)

    @cached_property
    def _steps(self) -> dict[tuple[str, int], Step]:
        return {(step.module, step.entry): step for step in self.source.forward.raw if step.entry is not None}

    def __call__(self, step: Step) -> tuple[Step, Entry] | None:
        """The operation with its entry in the signature; None where the modules do not run in step."""
        if step.module not in self._places:
            self._places[step.module] = self._aligned(step.module)
        place, origin = self._places[step.module].get(step.entry or 0), self.source_path(step.module)
        if step.entry is None or place is None or (origin, place) not in self._steps:
            return None
        return self._steps[origin, place], self.source.signatures[origin][place]

    def _aligned(self, path: str) -> dict[int, int]:
        """Places in a signature of the target, each with that in the source; none where they are not as many."""
        skip = (lambda _: False) if self.skip(path) else self.skip  # what a new block calls is new, and a copy
        new = _own_entries(self.target.signatures.get(path, ()), skip, self.dropped.get(path, ()))
        old = _own_entries(self.source.signatures.get(self.source_path(path), ()), self.replaced.__contains__)
        return {a: b for (a, _), (b, _) in zip(new, old, strict=True)} if len(new) == len(old) else {}


def different_operations(
    source: Trace, target: Trace, source_path: Callable[[str], str], skip: Callable[[str], bool], excused: Excused
) -> list[str]:
    """Modules of the target that do not run the operations of their counterpart in the source.

    Args:
        source: the source's trace.
        target: the target's.
        source_path: path of a module of the target -> that of its counterpart.
        skip: paths of the target to leave out.
        excused: what may differ.
    """
    found: dict[str, list[str]] = {}
    for path in target.signatures.keys() | source.signatures.keys():
        if skip(path):
            continue
        before = _own_entries(source.signatures.get(source_path(path), ()), excused.replaced.__contains__)
        now = _own_entries(target.signatures.get(path, ()), skip, excused.dropped.get(path, ()))
        old, same = tuple(entry for _, entry in before), excused.stands_for.get(path, {})
        new = tuple(same[place] if place in same else _seen_from_source(entry, source_path) for place, entry in now)
        if old != new:
            reason = _difference(path, source_path(path), source, target, old, new)
            found.setdefault(reason, []).append(path)
    return [
        f"{places(sorted(paths))}: {reason}" for reason, paths in sorted(found.items(), key=lambda item: item[1][0])
    ]


def _own_entries(
    signature: Sequence[Entry], uncalled: Callable[[str], bool], dropped: Collection[int] = ()
) -> list[tuple[int, Entry]]:
    """The entries that count, each with its place: no dropped ones, and no calls of modules that are `uncalled`."""
    return [
        (place, entry)
        for place, entry in enumerate(signature)
        if place not in dropped and not (entry[0] == "call" and uncalled(str(entry[1])))
    ]


def _seen_from_source(entry: Entry, source_path: Callable[[str], str]) -> Entry:
    """An entry with the module that it calls under its name in the source."""
    return ("call", source_path(str(entry[1]))) if entry[0] == "call" else entry


def _differs_in_eps(old: Entry, new: Entry, share: float) -> bool:
    """Whether both are the same operation of a norm, and the one difference is an eps that fell by `share`."""
    *rest, before = old
    *others, now = new
    return (
        rest == others
        and isinstance(before, float)
        and isinstance(now, float)
        and math.isclose(now, before * share, rel_tol=1e-5)
    )


def _difference(
    path: str,
    origin: str,
    source: Trace,
    target: Trace,
    old: Sequence[Entry],
    new: Sequence[Entry],
) -> str:
    if origin in source.exits and path not in target.exits:
        return "the source has a skip connection here, the target has none"
    if path in target.exits and origin not in source.exits:
        return "the target has a skip connection here, the source has none"
    for a, b in zip(old, new, strict=False):
        if a != b:
            return f"the source computes {_shown(a)}, the target {_shown(b)}"
    extra, owner = (old[len(new)], "source") if len(old) > len(new) else (new[len(old)], "target")
    return f"only the {owner} computes {_shown(extra)}"


def _shown(entry: Entry) -> str:
    name, *scalars = entry
    return f"{name}({', '.join(map(str, scalars))})" if scalars else str(name)
