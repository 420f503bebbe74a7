"""Channels in a user's words: heads, head size, hidden units, the residual stream, and the blocks they are in.

What they are is told by the trace: a product of two activations sums over the channels of a head, a set that one block
alone holds is hidden there, a residual connection passes a stream on. No name of an architecture counts.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from growtool.trace.axes import Axis, ChannelGroup, Segment, axis_size, groups_on
from growtool.trace.pairing.stretches import sequences
from growtool.trace.reading.factors import sums_of_activations
from growtool.trace.reading.place_names import places
from growtool.trace.result import Member, NamedGroup, Trace
from growtool.trace.table.kinds import Kind

_UNNUMBERED = re.compile(r"\.?\d+$")
_SOFTMAX = (Kind.SOFTMAX, Kind.LOG_SOFTMAX, Kind.ATTENTION)


@dataclass(frozen=True, slots=True)
class Channels:
    """A set of channels as a user calls it.

    Attributes:
        what: `heads`, `head size`, `hidden units of mlp`, `residual stream`, ...
        where: paths of the blocks that hold it, or of the modules where no block does.
    """

    what: str
    where: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.what} ({places(self.where)})"


@lru_cache(maxsize=4)  # every reason and message names some
def channels_of(trace: Trace) -> Mapping[ChannelGroup, Channels]:
    """Every width group of a model in words."""
    blocks = Blocks(trace)
    heads = _heads(trace)
    closing = {name for params in trace.exits.values() for name in params}
    return {group.group: _channels(group, trace, heads, blocks, closing) for group in trace.groups}


def told(found: Iterable[Channels]) -> str:
    """Several sets of channels, those of one kind with all their places: `heads (blocks 0-3)`."""
    where: dict[str, list[str]] = defaultdict(list)
    for channels in found:
        where[channels.what] += channels.where
    return ", ".join(f"{what} ({places(paths)})" for what, paths in where.items())


class Blocks:
    """Which block a tensor is in: one of a sequence, or of a sequence within a stage."""

    def __init__(self, trace: Trace) -> None:
        found = sequences(trace.tensors).values()
        self._paths = {
            f"{sequence.prefix}{index}": sequence.prefix.endswith(".")
            for sequence in found
            for index in sequence.indices
        }
        self._homes = {home for name in trace.tensors if (home := self.of(name))}

    def of(self, name: str) -> str:
        """Path of the innermost block that holds it, empty without one."""
        parts = name.split(".")
        outer = [path for n in range(1, len(parts)) if (path := ".".join(parts[:n])) in self._paths]
        if len(outer) > 1 and self._paths[outer[0]] and not self._paths[outer[1]]:
            outer = outer[:1]  # `blocks.0` holds layers with numbers in their names
        return outer[:2][-1] if outer else ""

    def section_of(self, name: str) -> tuple[str, str]:
        """The part of the model that a tensor is in, and its block there; the block is empty outside sequences.

        A part is all blocks of one sequence (`stages.1.blocks`), or a module between (`stages.1.downsample`, `head`).
        """
        block = self.of(name)
        if block and not self._holds_blocks(block):
            return _UNNUMBERED.sub("", block), block
        parts = name.split(".")
        prefixes = (".".join(parts[:n]) for n in range(1, len(parts)))
        return next((path for path in prefixes if path not in self._homes and not self._holds_blocks(path)), name), ""

    def _holds_blocks(self, module: str) -> bool:
        return any(path.startswith(f"{module}.") for path in self._homes)


def _channels(
    group: NamedGroup, trace: Trace, heads: dict[ChannelGroup, str], blocks: Blocks, closing: set[str]
) -> Channels:
    homes = list(dict.fromkeys(blocks.of(member.tensor) for member in group.members))
    writers = [member for member in group.members if member.role == "producer"]
    inside = _innermost(dict.fromkeys(blocks.of(member.tensor) for member in writers or group.members))
    where = tuple(inside) or tuple(dict.fromkeys(_module(member.tensor) for member in writers or group.members))
    if group.group in heads:
        return Channels(heads[group.group], where)
    if homes == inside and len(homes) == 1:
        part = _common([_module(member.tensor).removeprefix(homes[0]) for member in group.members])
        return Channels(_hidden(group.members, trace) + (f" of {part}" if part else ""), where)
    if any(member.tensor in closing and member.role != "consumer" for member in group.members):
        return Channels("residual stream", where)
    return Channels("channels", where)


def _hidden(members: Sequence[Member], trace: Trace) -> str:
    """Units of a layer without places, channels of one with kernels."""
    kernels = [axis_size(axis) for member in members for axis in trace.tensors[member.tensor][2:]]
    return "hidden channels" if any(size > 1 for size in kernels) else "hidden units"


def _innermost(homes: Iterable[str]) -> list[str]:
    """The blocks, without those that hold another of them."""
    found = [home for home in homes if home]
    return [home for home in found if not any(other.startswith(f"{home}.") for other in found)]


def _module(tensor: str) -> str:
    return tensor.rpartition(".")[0] or tensor


def _common(paths: Sequence[str]) -> str:
    """The module that holds them all, relative to their block."""
    steps = zip(*(path.split(".")[1:] for path in paths), strict=False)
    shared = []
    for step in steps:
        if len(set(step)) > 1:
            break
        shared.append(step[0])
    return ".".join(shared)


def _heads(trace: Trace) -> dict[ChannelGroup, str]:
    """The factors of axes that are products: heads and their size, groups and theirs."""
    sums = list(sums_of_activations(trace.forward))
    attending = {step.module for step, _ in sums if step.op.kind in _SOFTMAX}
    products = [(step.module, axis) for step, axis in sums if step.op.kind not in (Kind.SOFTMAX, Kind.LOG_SOFTMAX)]
    joint = {group for _, axis in products for group in groups_on(axis)}
    attended = {group for module, axis in products if module in attending for group in groups_on(axis)}
    found: dict[ChannelGroup, str] = {}
    nested = list(_products(trace))
    for outer, inner in nested:
        if inner in joint:
            found[inner] = "head size"
            found[outer] = "heads"
    for outer, inner in nested:
        if inner not in found:
            of_heads = found.get(outer) == "heads"
            found.setdefault(outer, "groups")
            found[inner] = "head size of values" if of_heads else "channels of each group"
    for group in attended:
        found.setdefault(group, "head size")
    return found


def _products(trace: Trace) -> Iterator[tuple[ChannelGroup, ChannelGroup]]:
    """Two sets of channels that may grow of which one axis is the product, the outer one first."""
    for axes in trace.tensors.values():
        for axis in axes:
            for segment in axis:
                yield from _pairs(segment)


def _pairs(segment: Segment) -> Iterator[tuple[ChannelGroup, ChannelGroup]]:
    free = [list(_free(factor)) for factor in segment]
    parts = [factor for factor in free if factor]
    for outer, inner in pairwise(parts):
        if len(outer) == 1:
            yield from ((outer[0], group) for group in inner)


def _free(factor: ChannelGroup | Axis) -> Iterator[ChannelGroup]:
    axis = ((factor,),) if isinstance(factor, ChannelGroup) else factor
    return (group for group in dict.fromkeys(groups_on(axis)) if group.fixed is None)
