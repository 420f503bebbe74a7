"""How the blocks that growth adds are closed, tensor by tensor: by zeros, or by weights that cancel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from growtool.errors import PlanError, format_names
from growtool.operators.depth.cancel_out import Cancellation, pairs
from growtool.plan.depth import CancelOut, Depth
from growtool.recipe.blocks.closing import BlockClosing, block_closing_of
from growtool.recipe.matching import Matching
from growtool.trace import Axis, ChannelGroup, Params, Trace, groups_on, positions
from growtool.trace.reading.place_names import grouped
from growtool.trace.steps import Ref
from growtool.trace.table.kinds import Kind, is_linear_per_channel

Positions = tuple[int, Tensor]  # a dimension, and int64 positions along it


@dataclass(frozen=True)
class BlockInit:
    """What becomes of the tensors of new blocks after they have grown, all by the target's names.

    Attributes:
        zero: tensors that become zero.
        paired: tensor of hidden units that are to be alike in pairs -> each dimension that carries such units, with the
            position that each of its positions is a copy of.
        cancelling: tensor -> where it has opposite weights for the two units of each pair.
        identity_layers: tensors of layers that pass on what they receive, identity shortcuts included.
        counts_as: channel group of the target that a passing layer writes -> the group of the same channels that it
            reads.
        closing: what closes the blocks, and what that leaves of the rest of the model.
    """

    zero: frozenset[str]
    paired: Mapping[str, tuple[Positions, ...]]
    cancelling: Mapping[str, Cancellation]
    identity_layers: frozenset[str]
    counts_as: Mapping[ChannelGroup, ChannelGroup]
    closing: BlockClosing

    @property
    def closed(self) -> frozenset[str]:
        """The tensors that close a block."""
        return self.zero | self.cancelling.keys()


def block_init_of(depth: Depth | None, matching: Matching) -> BlockInit:
    """Decide how every new block that is no running copy is closed.

    Args:
        depth: the plan's.
        matching: source and target side by side, and how each new block is to start.

    Raises:
        PlanError: a block cannot start so, with the reason; all blocks together.
    """
    zero: set[str] = set()
    paired: dict[str, tuple[Positions, ...]] = {}
    cancelling: dict[str, Cancellation] = {}
    problems = list[tuple[str, str]]()
    gain = depth.gain if isinstance(depth, CancelOut) else 1.0
    target, closing = matching.target.trace, block_closing_of(matching)
    for path, start in matching.blocks.starts():
        try:
            if start == "cancel_out":
                ends, folded, opposite = _cancelling(path, closing.zero[path], target, gain)
                zero |= ends
                paired |= {name: folds for name, folds in folded.items() if name not in closing.identity_layers}
                cancelling |= opposite
            elif start == "zero_out":
                zero |= closing.zero[path]
        except _CannotStartError as why:
            problems.append((path, str(why)))
    if problems:
        raise PlanError(grouped(problems))
    shortcuts = {name for bridge in matching.bridges for name in bridge.tensors}
    passing = set(filter(matching.blocks.passes_on, target.tensors))
    return BlockInit(
        zero=frozenset(zero),
        paired=paired,
        cancelling=cancelling,
        identity_layers=closing.identity_layers | shortcuts | passing,
        counts_as=_counts_as(closing.identity_layers, target),
        closing=closing,
    )


def _counts_as(identity_layers: Params, target: Trace) -> dict[ChannelGroup, ChannelGroup]:
    """Return channel group that a passing matrix writes -> the one that it reads: they are the same channels.

    Matrices with rows or columns of several groups, or of none, are left out.
    """
    counts_as = {}
    for name in identity_layers:
        factors = [[factor for segment in axis for factor in segment] for axis in target.tensors[name][:2]]
        if len(factors) != 2 or any(len(of_axis) != 1 for of_axis in factors):
            continue
        (written,), (read,) = factors
        if isinstance(written, ChannelGroup) and isinstance(read, ChannelGroup) and written.size == read.size > 1:
            counts_as[written] = read
    return {written: read for written, read in counts_as.items() if written is not read}


class _CannotStartError(Exception):
    """Why a block cannot start as the plan says, and what to do instead."""


def _cancelling(
    path: str, exits: Params, target: Trace, gain: float
) -> tuple[set[str], dict[str, tuple[Positions, ...]], dict[str, Cancellation]]:
    """Return what is zero, what is alike in pairs and what cancels in a block that starts with `cancel_out`.

    Args:
        path: of the block.
        exits: parameters that close it when they are zero.
        target: the target's trace.
        gain: see `Cancellation`.

    Raises:
        _CannotStartError: no branch ends in a matrix over units of its own.
    """
    # Where LayerScale ends a branch, the layer before it cancels, and the scale stays: a scale of zero would leave all
    # other weights of the branch without gradient.
    ends = {name for end in exits for name in target.scaled.get(end, (end,))}
    zero: set[str] = set()
    hidden: dict[ChannelGroup, tuple[Tensor, Tensor]] = {}
    opposite: dict[str, Cancellation] = {}
    for name in sorted(ends):
        found = _paired_units(name, path, target) if _is_read_as_it_is(name, target) else None
        if found is None:
            zero.add(name)
            continue
        dim, group = found
        hidden.setdefault(group, pairs(group.size))
        partner = positions(target.tensors[name][dim], {group: hidden[group][1]})
        opposite[name] = Cancellation(dim, partner, gain)
    if not opposite:
        named = format_names(sorted(end.removeprefix(f"{path}.") for end in ends))
        raise _CannotStartError(
            f"cancel_out needs a branch that ends in a matrix over units of its own, found {named} (a norm, or no "
            "units to pair); use zero_out, which is what LEMON does there"
        )
    paired = {
        name: folds
        for name in target.tensors_in(path)
        if name not in ends and (folds := _folds(target.tensors[name], hidden))
    }
    return zero, paired, opposite


def _is_read_as_it_is(name: str, target: Trace) -> bool:
    """Return whether a parameter is read after linear operations alone, so that opposite weights stay opposite.

    A weight that is standardised first does not stay so.
    """
    made_of = target.forward.made_of
    for step in target.forward.steps:
        operands = [number for number in step.ins if name in made_of.get(number, ())]
        if operands and name in made_of.get(step.outs[0], ()):
            scaled = step.op.kind is Kind.MULTIPLY and operands == [step.ins[0]] and isinstance(step.args[0], Ref)
            if not (scaled or step.op.kind is Kind.ADD or is_linear_per_channel(step)):
                return False
    return True


def _folds(axes: Iterable[Axis], hidden: Mapping[ChannelGroup, tuple[Tensor, Tensor]]) -> tuple[Positions, ...]:
    """Return the dimensions that carry paired units, with the position that each of their positions is a copy of.

    Args:
        axes: of a tensor.
        hidden: paired units -> what `pairs` returns for them.
    """
    sources = {group: source for group, (source, _) in hidden.items()}
    return tuple(
        (dim, positions(axis, sources))
        for dim, axis in enumerate(axes)
        if any(group in sources for group in groups_on(axis))
    )


def _paired_units(name: str, path: str, target: Trace) -> tuple[int, ChannelGroup] | None:
    """Return the dimension of a matrix that a sum runs over, and the outermost channels on it that only the block has.

    None if there are no such channels.
    """
    for dim, axis in enumerate(target.tensors[name]):
        for group in dict.fromkeys(groups_on(axis)):
            if (
                (group, name, dim) in target.consumers
                and group.fixed is None
                and all(other.startswith(f"{path}.") for other in _carriers(group, target))
            ):
                return dim, group
    return None


def _carriers(group: ChannelGroup, target: Trace) -> list[str]:
    return [name for name, axes in target.tensors.items() if any(group in groups_on(axis) for axis in axes)]
