"""A checkpoint part by part: its blocks and the widths in them, and what growth made of its source.

What belongs together is told by the trace, what growth did by `growth.json`; no name of an architecture counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from growtool.errors import format_names
from growtool.trace import NamedGroup, Trace, channels_of, within
from growtool.trace.reading.words import Blocks

Fate = Literal["copied", "mixed", "new", "zero"]
"""What growth made of numbers: the source's as they are, made of the source's, none of the source's, zeros."""

_FATES: Mapping[str, Fate] = {
    "copied": "copied", "grown": "mixed", "cancelling": "mixed", "initial": "new", "implied": "new", "zero": "zero",
}  # fmt: skip
_HELD: Mapping[str | None, Fate] = {"silent": "zero", "mean": "mixed", "open": "new", None: "new"}
_SHOWN = 3  # names of a line of small parts


@dataclass(frozen=True, slots=True)
class Width:
    """Sets of channels that are alike.

    Attributes:
        what: as a user calls them.
        before, after: the size of each.
        copies: channels of each that copy one of the others.
        held: what those that copy none hold.
        sets: how many.
    """

    what: str
    before: int
    after: int
    copies: int
    held: Fate
    sets: int

    @property
    def blank(self) -> int:
        """Channels of each that are neither the source's nor copies."""
        return self.after - self.before - self.copies


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a sequence.

    Attributes:
        path: of the module.
        source: of the block of the source that it was made of; None where it was made of none, or nothing grew.
        new: whether growth added it.
        weights: numbers of its parameters by what growth made of them.
    """

    path: str
    source: str | None
    new: bool
    weights: Mapping[Fate, int]


@dataclass(frozen=True)
class Section:
    """A part of a model: the blocks of one sequence, or modules between such.

    Attributes:
        names: of the sequence, or of the modules.
        widths: the sets of channels that are written there.
        blocks: in their order; empty for modules, and for a block alone.
        weights: numbers of all its parameters by what growth made of them.
    """

    names: tuple[str, ...]
    widths: tuple[Width, ...] = ()
    blocks: tuple[Block, ...] = ()
    weights: Mapping[Fate, int] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        """In words."""
        return format_names(list(self.names), _SHOWN)


def sections(trace: Trace, parameters: Mapping[str, int], report: Mapping[str, Any] | None) -> list[Section]:
    """The parts of a model in their order; modules that follow each other and have no widths are one.

    Args:
        trace: of the model.
        parameters: how many numbers each has, by name; one that the model holds under several names once.
        report: what `growth.json` says of the last step of growth; None where nothing grew.
    """
    places, words = Blocks(trace), channels_of(trace)
    tensors: Mapping[str, Any] = report["tensors"] if report else {}
    inside: dict[str, dict[str, list[str]]] = {}
    for name in parameters:
        section, block = places.section_of(name)
        inside.setdefault(section, {}).setdefault(block, []).append(name)
    widths: dict[str, Counter[Width]] = {section: Counter() for section in inside}
    for group in trace.groups:
        if group.fixed is None and any(member.tensor in parameters for member in group.members):
            section, _ = places.section_of(_first(group, words[group.group].where[0], parameters))
            widths[section][_width(group, words[group.group].what, report)] += 1
    parts = []
    for section, blocks in inside.items():
        found = [_block(path, names, parameters, tensors) for path, names in blocks.items() if path]
        alone = len(found) == 1 and not found[0].new
        parts.append(
            Section(
                (found[0].path if alone else section,),
                tuple(replace(width, sets=count) for width, count in widths[section].items()),
                () if alone else tuple(found),
                _weights((name for names in blocks.values() for name in names), parameters, tensors),
            )
        )
    return _joined(parts)


def _first(group: NamedGroup, place: str, parameters: Mapping[str, int]) -> str:
    """The first parameter that writes a set of channels at the place that it is told to be."""
    found = [member for member in group.members if member.tensor in parameters]
    order = {member.tensor: (not within(member.tensor, place), member.role == "consumer") for member in found}
    return min(order, key=lambda name: order[name])


def _width(group: NamedGroup, what: str, report: Mapping[str, Any] | None) -> Width:
    change = (report["channels"] if report else {}).get(group.name)
    if change is None:
        tensors: Mapping[str, Any] = report["tensors"] if report else {}
        fates = {_FATES[tensors[member.tensor]["how"]] for member in group.members if member.tensor in tensors}
        anew = "new" in fates and fates <= {"new", "zero"}  # a block that starts as its library initialises it
        return Width(what, 0 if anew else group.size, group.size, 0, "new", 1)
    return Width(what, change["before"], group.size, change["copies"], _HELD[change["holds"]], 1)


def _block(path: str, names: list[str], parameters: Mapping[str, int], tensors: Mapping[str, Any]) -> Block:
    origins = [(tensors[name]["source"], name.removeprefix(path)) for name in names if tensors]
    found = (origin.removesuffix(rest) for origin, rest in origins if origin)
    new = any(tensors[name]["new"] for name in names if tensors)
    return Block(path, next(found, None), new, _weights(names, parameters, tensors))


def _weights(names: Iterable[str], parameters: Mapping[str, int], tensors: Mapping[str, Any]) -> Mapping[Fate, int]:
    counts: Counter[Fate] = Counter()
    for name in names:
        counts[_FATES[tensors[name]["how"]] if tensors else "copied"] += parameters[name]
    return counts


def _joined(parts: list[Section]) -> list[Section]:
    joined: list[Section] = []
    for part in parts:
        before = joined[-1] if joined else None
        if before and not (before.blocks or before.widths or part.blocks or part.widths):
            joined[-1] = Section(before.names + part.names, weights=Counter(before.weights) + Counter(part.weights))
        else:
            joined.append(part)
    return joined
