"""A checkpoint as a list of parts, with their blocks, their widths, and what growth made of the source.

The trace tells which tensors and channels belong together, and `growth.json` what growth did. No name of an
architecture counts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from growtool.errors import format_names
from growtool.trace import NamedGroup, Trace, channels_of, within
from growtool.trace.reading.words import Blocks

Fate = Literal["copied", "mixed", "new", "zero"]
"""What a weight is made of: `copied` from the source as it is, `mixed` from numbers of the source, `new`, or `zero`."""

# The fate of a tensor by `how` it was made, as `growth.json` says.
_FATES: Mapping[str, Fate] = {
    "copied": "copied", "grown": "mixed", "cancelling": "mixed", "initial": "new", "implied": "new", "zero": "zero",
}  # fmt: skip
# The fate of blank channels by what they hold, as `growth.json` says.
_HELD: Mapping[str | None, Fate] = {"silent": "zero", "mean": "mixed", "open": "new", None: "new"}
_SHOWN = 3  # names of a line of small parts


@dataclass(frozen=True, slots=True)
class Width:
    """Sets of channels of one kind that grew alike.

    Attributes:
        what: kind of the channels in a user's words, such as `heads`.
        before, after: size of each set.
        copies: new channels of each set that copy another one.
        held: what the other new channels hold.
        sets: how many sets there are.
    """

    what: str
    before: int
    after: int
    copies: int
    held: Fate
    sets: int

    @property
    def blank(self) -> int:
        """Channels of each set that are neither the source's nor copies."""
        return self.after - self.before - self.copies


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a sequence.

    Attributes:
        path: path of the module.
        source: path of the block of the source that it was made of; None if it was made of none, or nothing grew.
        new: whether growth added it.
        weights: fate -> how many numbers of its parameters have it.
    """

    path: str
    source: str | None
    new: bool
    weights: Mapping[Fate, int]


@dataclass(frozen=True)
class Section:
    """A part of a model: the blocks of one sequence, or modules between such.

    Attributes:
        names: name of the sequence, or names of the modules.
        widths: the sets of channels that belong here; a set that several parts share belongs to one of them.
        blocks: the blocks in their order; empty for modules, and for a sequence of one old block.
        weights: fate -> how many numbers of all its parameters have it.
    """

    names: tuple[str, ...]
    widths: tuple[Width, ...] = ()
    blocks: tuple[Block, ...] = ()
    weights: Mapping[Fate, int] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        """The names in words, the first few of them."""
        return format_names(list(self.names), _SHOWN)


def sections(trace: Trace, parameters: Mapping[str, int], report: Mapping[str, Any] | None) -> list[Section]:
    """Return the parts of a model in their order; modules that follow each other and have no widths are one part.

    Args:
        trace: trace of the model.
        parameters: parameter -> how many numbers it has; one that the model holds under several names is there once.
        report: content of `growth.json`; None if the model did not grow.
    """
    places = Blocks(trace)
    tensors: Mapping[str, Any] = report["tensors"] if report else {}
    inside: dict[str, dict[str, list[str]]] = {}  # section -> path of a block, "" outside of blocks -> parameters
    for name in parameters:
        section, block = places.section_of(name)
        inside.setdefault(section, {}).setdefault(block, []).append(name)
    widths = _widths(trace, places, parameters, report)
    parts = []
    for section, names_by_block in inside.items():
        blocks = [_block(path, names, parameters, tensors) for path, names in names_by_block.items() if path]
        is_module = len(blocks) == 1 and not blocks[0].new  # a sequence of one block is drawn as a module
        parts.append(
            Section(
                (blocks[0].path if is_module else section,),
                tuple(replace(width, sets=count) for width, count in widths[section].items()),
                () if is_module else tuple(blocks),
                _weights((name for names in names_by_block.values() for name in names), parameters, tensors),
            )
        )
    return _joined(parts)


def _widths(
    trace: Trace, places: Blocks, parameters: Mapping[str, int], report: Mapping[str, Any] | None
) -> Mapping[str, Counter[Width]]:
    """Return section -> its widths, and how many sets of channels are alike, for all channels that may grow."""
    words = channels_of(trace)
    widths: dict[str, Counter[Width]] = defaultdict(Counter)
    for group in trace.groups:
        if group.fixed is None and any(member.tensor in parameters for member in group.members):
            channels = words[group.group]
            section, _ = places.section_of(_representative(group, channels.where[0], parameters))
            widths[section][_width(group, channels.what, report)] += 1
    return widths


def _representative(group: NamedGroup, place: str, parameters: Mapping[str, int]) -> str:
    """Return the parameter that stands for a group: one inside the module `place`, and not a consumer, if possible."""
    members = [member for member in group.members if member.tensor in parameters]
    order = {member.tensor: (not within(member.tensor, place), member.role == "consumer") for member in members}
    return min(order, key=lambda name: order[name])


def _width(group: NamedGroup, what: str, report: Mapping[str, Any] | None) -> Width:
    """Return one set of channels, and how it grew."""
    change = (report["channels"] if report else {}).get(group.name)
    if change is None:
        tensors: Mapping[str, Any] = report["tensors"] if report else {}
        fates = {_FATES[tensors[member.tensor]["how"]] for member in group.members if member.tensor in tensors}
        is_new = "new" in fates and fates <= {"new", "zero"}  # in a block that starts as its library initialises it
        return Width(what, 0 if is_new else group.size, group.size, 0, "new", 1)
    return Width(what, change["before"], group.size, change["copies"], _HELD[change["holds"]], 1)


def _block(path: str, names: list[str], parameters: Mapping[str, int], tensors: Mapping[str, Any]) -> Block:
    """Return a block with the parameters `names`; `tensors` is empty if the model did not grow."""
    entries = {name: tensors[name] for name in names} if tensors else {}
    # `blocks.1.norm.weight` from `blocks.0.norm.weight`: the block came from `blocks.0`
    origins = (
        entry["source"].removesuffix(name.removeprefix(path)) for name, entry in entries.items() if entry["source"]
    )
    is_new = any(entry["new"] for entry in entries.values())
    return Block(path, next(origins, None), is_new, _weights(names, parameters, tensors))


def _weights(names: Iterable[str], parameters: Mapping[str, int], tensors: Mapping[str, Any]) -> Mapping[Fate, int]:
    counts: Counter[Fate] = Counter()
    for name in names:
        counts[_FATES[tensors[name]["how"]] if tensors else "copied"] += parameters[name]
    return counts


def _joined(parts: list[Section]) -> list[Section]:
    """Return the parts with neighbours joined that have neither blocks nor widths."""
    joined: list[Section] = []
    for part in parts:
        last = joined[-1] if joined else None
        if last and not (last.blocks or last.widths or part.blocks or part.widths):
            joined[-1] = Section(last.names + part.names, weights=Counter(last.weights) + Counter(part.weights))
        else:
            joined.append(part)
    return joined
