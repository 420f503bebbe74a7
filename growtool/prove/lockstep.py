"""Source and target in lockstep: which operation of one comes from which of the other, and whether it is the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from growtool.algebra.rewrite import RescaledNorm
from growtool.trace import Trace, places
from growtool.trace.steps import Step

Entry = tuple[object, ...]  # of a module's signature: an operation with its numbers, or the call of a module
Place = tuple[str, int]  # a module of the source, and which of its entries that count


@dataclass(frozen=True)
class Places:
    """Where the operations of a pass stand in their modules, counted so that both models agree.

    Attributes:
        trace: of the model.
        source_path: path of a module -> that of its counterpart in the source.
        uncalled: whether calls of a module do not count, as the other model has none.
        dropped: module -> entries of its signature that do nothing, and do not count.
    """

    trace: Trace
    source_path: Callable[[str], str]
    uncalled: Callable[[str], bool]
    dropped: Mapping[str, Collection[int]] = field(default_factory=dict)

    def entries(self, module: str) -> Iterator[tuple[int, Entry]]:
        """The entries of a signature that count, each with its number among all."""
        dropped, new = self.dropped.get(module, ()), self.uncalled(module)  # whatever a new module calls is new as well
        for number, entry in enumerate(self.trace.signatures.get(module, ())):
            if number not in dropped and (new or entry[0] != "call" or not self.uncalled(str(entry[1]))):
                yield number, entry

    def of(self, step: Step) -> Place | None:
        """The place of an operation; None for one without an entry."""
        if step.entry is None:
            return None
        return self.source_path(step.module), sum(number < step.entry for number, _ in self.entries(step.module))


@dataclass(frozen=True)
class Lockstep:
    """Both passes side by side.

    Attributes:
        source, target: both traces.
        source_path: path of a module of the target -> that of its counterpart.
        skip: whether a module of the target has none, though it may be a copy.
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
    def before(self) -> Places:
        """The places of the source."""
        return Places(self.source, lambda path: path, self.replaced.__contains__)

    @cached_property
    def now(self) -> Places:
        """The places of the target."""
        return Places(self.target, self.source_path, self.skip, self.dropped)

    @cached_property
    def _steps(self) -> dict[Place | None, Step]:
        return {self.before.of(step): step for step in self.source.forward.raw if step.entry is not None}

    def counterpart(self, step: Step) -> tuple[Step, Entry] | None:
        """The source's operation at the place of one of the target, with its entry; None where there is none."""
        found = self._steps.get(self.now.of(step))
        if found is None or found.entry is None or found.name != step.name:
            return None
        return found, self.source.signatures[found.module][found.entry]

    def told_eps(self, norm: RescaledNorm) -> Iterator[tuple[int, Entry]]:
        """Entries of a norm that differ in its eps alone, which has to fall with the variance; and the source's."""
        for (number, entry), (_, old) in zip(
            self.now.entries(norm.module), self.before.entries(self.source_path(norm.module)), strict=False
        ):
            if entry != old and _differs_in_eps(old, entry, norm.s):
                yield number, old

    def differences(self, stands_for: Mapping[str, Mapping[int, Entry]]) -> list[str]:
        """Modules of the target that do not run the operations of their counterpart in the source.

        Args:
            stands_for: module of the target -> number of an entry -> the source's entry that it stands for, since
                weights make up for the difference.
        """
        found: dict[str, list[str]] = {}
        for path in self.target.signatures.keys() | self.source.signatures.keys():
            if self.skip(path):
                continue
            old = tuple(entry for _, entry in self.before.entries(self.source_path(path)))
            same = stands_for.get(path, {})
            new = tuple(
                same[number] if number in same else self._seen_from_source(entry)
                for number, entry in self.now.entries(path)
            )
            if old != new:
                found.setdefault(self._difference(path, old, new), []).append(path)
        ordered = sorted(found.items(), key=lambda item: item[1][0])
        return [f"{places(sorted(paths))}: {reason}" for reason, paths in ordered]

    def _seen_from_source(self, entry: Entry) -> Entry:
        """An entry with the module that it calls under its name in the source."""
        return ("call", self.source_path(str(entry[1]))) if entry[0] == "call" else entry

    def _difference(self, path: str, old: Sequence[Entry], new: Sequence[Entry]) -> str:
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
    """Whether both are one operation of a norm, and all that differs is an eps that fell by `share`."""
    *rest, before = old
    *others, now = new
    return (
        rest == others
        and isinstance(before, float)
        and isinstance(now, float)
        and math.isclose(now, before * share, rel_tol=1e-5)
    )


def _shown(entry: Entry) -> str:
    name, *scalars = entry
    return f"{name}({', '.join(map(str, scalars))})" if scalars else str(name)
