"""Channels in a user's words: heads, head size, hidden units, the residual stream, and the blocks that hold them.

The trace tells what they are, and no name of an architecture does. The channels of a head are summed over in a product
of two activations. Hidden channels are in a single block. The residual stream is written by the last layers of residual
branches.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, takewhile

from growtool.trace.axes import ChannelGroup, axis_size, groups_on
from growtool.trace.pairing.stretches import sequences
from growtool.trace.reading.factors import sums_of_activations
from growtool.trace.reading.place_names import places
from growtool.trace.result import Member, NamedGroup, Trace
from growtool.trace.table.kinds import Kind

_UNNUMBERED = re.compile(r"\.?\d+$")
_SOFTMAX = (Kind.SOFTMAX, Kind.LOG_SOFTMAX, Kind.ATTENTION)


@dataclass(frozen=True, slots=True)
class Channels:
    """A channel group as a user calls it.

    Attributes:
        what: `heads`, `head size`, `hidden units of mlp`, `residual stream`, ...
        where: paths of the blocks that hold the channels; of modules, if no block does.
    """

    what: str
    where: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.what} ({places(self.where)})"


@lru_cache(maxsize=4)  # traces: a source and a target, and some more; every reason and message asks
def channels_of(trace: Trace) -> Mapping[ChannelGroup, Channels]:
    """Return every channel group of a model in words."""
    blocks = Blocks(trace)
    heads = _heads(trace)
    closing = {name for params in trace.exits.values() for name in params}
    return {group.group: _channels(group, trace, heads, blocks, closing) for group in trace.groups}


def in_words(found: Iterable[Channels]) -> str:
    """Return channels as text, with the places of each kind put together: `heads (blocks 0-3)`."""
    where: dict[str, list[str]] = defaultdict(list)
    for channels in found:
        where[channels.what] += channels.where
    return ", ".join(f"{what} ({places(paths)})" for what, paths in where.items())


class Blocks:
    """The blocks of a model: those of a sequence, or of the sequences within its stages."""

    def __init__(self, trace: Trace) -> None:
        self._paths = {  # path of a block -> whether its number stands alone: `blocks.0` rather than `layer1`
            f"{sequence.prefix}{index}": sequence.prefix.endswith(".")
            for sequence in sequences(trace.tensors).values()
            for index in sequence.indices
        }
        self._homes = {home for name in trace.tensors if (home := self.of(name))}

    def of(self, name: str) -> str:
        """Return the path of the block that holds a tensor, the inner one within a stage; empty if no block does."""
        parts = name.split(".")
        holding = [path for n in range(1, len(parts)) if (path := ".".join(parts[:n])) in self._paths]
        if len(holding) > 1 and self._paths[holding[0]] and not self._paths[holding[1]]:
            holding = holding[:1]  # `blocks.0` holds layers with numbers in their names
        return holding[:2][-1] if holding else ""

    def section_of(self, name: str) -> tuple[str, str]:
        """Return the section of the model that a tensor is in, and its block; the block is empty outside sequences.

        A section is all blocks of one sequence (`stages.1.blocks`), or a module beside them (`stages.1.downsample`,
        `head`).
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
    """Return a channel group in words.

    Args:
        group: the channels.
        trace: of the model.
        heads: words for channel groups that are factors of a product.
        blocks: the blocks of the model.
        closing: parameters that close residual blocks.
    """
    homes = list(dict.fromkeys(blocks.of(member.tensor) for member in group.members))
    writers = [member for member in group.members if member.role == "producer"] or group.members
    written_in = _innermost(dict.fromkeys(blocks.of(member.tensor) for member in writers))
    where = tuple(written_in) or tuple(dict.fromkeys(_module(member.tensor) for member in writers))
    if group.group in heads:
        return Channels(heads[group.group], where)
    if homes == written_in and len(homes) == 1:
        part = _common([_module(member.tensor).removeprefix(homes[0]) for member in group.members])
        return Channels(_hidden(group.members, trace) + (f" of {part}" if part else ""), where)
    if any(member.tensor in closing and member.role != "consumer" for member in group.members):
        return Channels("residual stream", where)
    return Channels("channels", where)


def _hidden(members: Sequence[Member], trace: Trace) -> str:
    """Return `hidden channels` if a kernel larger than 1 carries them, else `hidden units`."""
    kernels = [axis_size(axis) for member in members for axis in trace.tensors[member.tensor][2:]]
    return "hidden channels" if any(size > 1 for size in kernels) else "hidden units"


def _innermost(homes: Iterable[str]) -> list[str]:
    """Return the blocks without those that hold another of them; the empty path is left out."""
    blocks = [home for home in homes if home]
    return [block for block in blocks if not any(other.startswith(f"{block}.") for other in blocks)]


def _module(tensor: str) -> str:
    return tensor.rpartition(".")[0] or tensor


def _common(paths: Sequence[str]) -> str:
    """Return the module that holds all of the paths, each relative to its block and beginning with a dot."""
    levels = zip(*(path.split(".")[1:] for path in paths), strict=False)
    return ".".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels))


def _heads(trace: Trace) -> dict[ChannelGroup, str]:
    """Return words for channel groups that are factors of an axis: heads and head size, groups and their channels."""
    sums = list(sums_of_activations(trace.forward))
    attending = {step.module for step, _ in sums if step.op.kind in _SOFTMAX}
    products = [(step.module, axis) for step, axis in sums if step.op.kind not in (Kind.SOFTMAX, Kind.LOG_SOFTMAX)]
    summed = {group for _, axis in products for group in groups_on(axis)}
    attended = {group for module, axis in products if module in attending for group in groups_on(axis)}
    words: dict[ChannelGroup, str] = {}
    nested = list(_products(trace))
    for outer, inner in nested:
        if inner in summed:
            words[inner] = "head size"
            words[outer] = "heads"
    for outer, inner in nested:
        if inner not in words:
            of_heads = words.get(outer) == "heads"
            words.setdefault(outer, "groups")
            # queries and keys are summed over, values are not, and may be of another size (LeViT)
            words[inner] = "head size of values" if of_heads else "channels of each group"
    for group in attended:  # with a single head, an axis is no product
        words.setdefault(group, "head size")
    return words


def _products(trace: Trace) -> Iterator[tuple[ChannelGroup, ChannelGroup]]:
    """Yield adjacent factors of the axes of all tensors that may both grow, the outer factor first."""
    segments = (segment for axes in trace.tensors.values() for axis in axes for segment in axis)
    for segment in segments:
        groups = [dict.fromkeys(groups_on(((factor,),))) for factor in segment]
        free = [[group for group in of_factor if group.fixed is None] for of_factor in groups]
        for outer, inner in pairwise(filter(None, free)):
            if len(outer) == 1:
                yield from ((outer[0], group) for group in inner)
