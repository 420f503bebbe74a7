"""Source and target in lockstep: which operation of the source one of the target stands for, and whether they agree.

Operations are held against each other by their places: the module, and the position among the module's entries that
count. Entries are those of the trace's signatures: operations with their numbers, and calls of modules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from growtool.algebra.rewrite import RescaledNorm
from growtool.trace import Trace, places
from growtool.trace.steps import Step

Entry = tuple[object, ...]  # of a module's signature: an operation with its numbers, or the call of a module
Place = tuple[str, int]  # a module of the source, and the position among its entries that count


@dataclass(frozen=True)
class Places:
    """The places of the operations of one pass, counted so that both models agree.

    Attributes:
        trace: of the model.
        source_path: path of a module -> that of its counterpart in the source.
        uncalled: whether calls of a module do not count, as the other model has no such module.
        dropped: module -> entries of its signature that do nothing, and do not count.
    """

    trace: Trace
    source_path: Callable[[str], str]
    uncalled: Callable[[str], bool]
    dropped: Mapping[str, Collection[int]] = field(default_factory=dict)

    def entries(self, module: str) -> Iterator[tuple[int, Entry]]:
        """Yield the entries of a module's signature that count, each with its number among all its entries."""
        # Whatever a new module calls is new as well, and counts there: only its own call does not.
        dropped, new = self.dropped.get(module, ()), self.uncalled(module)
        for number, entry in enumerate(self.trace.signatures.get(module, ())):
            if number not in dropped and (new or entry[0] != "call" or not self.uncalled(str(entry[1]))):
                yield number, entry

    def of(self, step: Step) -> Place | None:
        """Return the place of an operation, or None if it has no entry."""
        if step.entry is None:
            return None
        return self.source_path(step.module), sum(number < step.entry for number, _ in self.entries(step.module))


@dataclass(frozen=True)
class Lockstep:
    """Both passes side by side.

    Attributes:
        source, target: both traces.
        source_path: path of a module of the target -> that of its counterpart, or of the one it is a copy of.
        skip: whether a module of the target has no counterpart, though it may be a copy.
        dropped: module of the target -> entries of its signature that do nothing once new blocks are closed.
        replaced: modules of the source that do nothing and have an identity shortcut for a counterpart.
    """

    source: Trace
    target: Trace
    source_path: Callable[[str], str]
    skip: Callable[[str], bool]
    dropped: Mapping[str, Collection[int]] = field(default_factory=dict)
    replaced: Collection[str] = ()

    @cached_property
    def source_places(self) -> Places:
        """The places of the source's operations."""
        return Places(self.source, lambda path: path, self.replaced.__contains__)

    @cached_property
    def target_places(self) -> Places:
        """The places of the target's operations."""
        return Places(self.target, self.source_path, self.skip, self.dropped)

    @cached_property
    def _source_steps(self) -> dict[Place | None, Step]:
        return {self.source_places.of(step): step for step in self.source.forward.raw if step.entry is not None}

    def counterpart(self, step: Step) -> tuple[Step, Entry] | None:
        """Return the source's operation at the place of one of the target, with its entry, or None if there is none."""
        found = self._source_steps.get(self.target_places.of(step))
        if found is None or found.entry is None or found.name != step.name:
            return None
        return found, self.source.signatures[found.module][found.entry]

    def told_eps(self, norm: RescaledNorm) -> Iterator[tuple[int, Entry]]:
        """Yield the entries of a norm that differ in their eps alone, as the norm needs: number, and source's entry."""
        new_entries = self.target_places.entries(norm.module)
        old_entries = self.source_places.entries(self.source_path(norm.module))
        for (number, new), (_, old) in zip(new_entries, old_entries, strict=False):
            if new != old and _differs_in_eps(old, new, norm.s):
                yield number, old

    def differences(self, stands_for: Mapping[str, Mapping[int, Entry]]) -> list[str]:
        """Return a sentence for each difference between modules of the target and their counterparts in the source.

        Args:
            stands_for: module of the target -> number of an entry -> the source's entry that it stands for, since
                weights make up for the difference.
        """
        found: dict[str, list[str]] = {}
        for path in self.target.signatures.keys() | self.source.signatures.keys():
            if self.skip(path):
                continue
            old = tuple(entry for _, entry in self.source_places.entries(self.source_path(path)))
            made_up_for = stands_for.get(path, {})
            new = tuple(
                made_up_for[number] if number in made_up_for else self._seen_from_source(entry)
                for number, entry in self.target_places.entries(path)
            )
            if old != new:
                found.setdefault(self._difference(path, old, new), []).append(path)
        ordered = sorted(found.items(), key=lambda item: item[1][0])
        return [f"{places(sorted(paths))}: {reason}" for reason, paths in ordered]

    def _seen_from_source(self, entry: Entry) -> Entry:
        """Return an entry of the target, with the path in the source of the module that it calls."""
        return ("call", self.source_path(str(entry[1]))) if entry[0] == "call" else entry

    def _difference(self, path: str, old: Sequence[Entry], new: Sequence[Entry]) -> str:
        """Return what a module of the target does differently, given its counterpart's entries and its own."""
        origin = self.source_path(path)
        if origin in self.source.exits and path not in self.target.exits:
            return "the source has a skip connection here, the target has none"
        if path in self.target.exits and origin not in self.source.exits:
            return "the target has a skip connection here, the source has none"
        for a, b in zip(old, new, strict=False):
            if a != b:
                return f"the source computes {_shown(a)}, the target {_shown(b)}"
        extra, owner = (old[len(new)], "source") if len(old) > len(new) else (new[len(old)], "target")
        return f"only the {owner} computes {_shown(extra)}"


def _differs_in_eps(old: Entry, new: Entry, share: float) -> bool:
    """Return whether both are one operation of a norm, with an eps (the last number) that fell by `share` alone."""
    *old_rest, old_eps = old
    *new_rest, new_eps = new
    return (
        old_rest == new_rest
        and isinstance(old_eps, float)
        and isinstance(new_eps, float)
        and math.isclose(new_eps, old_eps * share, rel_tol=1e-5)
    )


def _shown(entry: Entry) -> str:
    name, *scalars = entry
    return f"{name}({', '.join(map(str, scalars))})" if scalars else str(name)
