"""New blocks that pass on what they receive: which ones can, and which channels they carry (Net2DeeperNet)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from growtool.trace import Axis, ChannelGroup, PairedAxis, Trace, Unchanged, groups_on, within
from growtool.trace.axes import axis_size, may_grow
from growtool.trace.pairing.pair import as_paired, count_as_one
from growtool.trace.table.ops import RUNNING_NORMS

_INSTEAD = "use zero_out where the block has a residual connection, else stack or interleave (lossy)"
Paired = Mapping[str, tuple[PairedAxis, ...]]


def why_not_identity(path: str, modules: Sequence[str], target: Trace, model: nn.Module) -> str | None:
    """Return why a block cannot pass on what it receives, with what to do instead, or None if it can.

    It can if it is a chain of convolutions, BatchNorm and the idempotent activation that its input came out of, and if
    each convolution keeps the number of places.

    Args:
        path: a block of the target.
        modules: the paths of the modules that the block consists of.
        target: the target's trace.
        model: the target without weights.
    """
    if path in target.exits:
        return "net2deeper is for networks without residual connections, and the block has one; use zero_out"
    received = target.received_activation.get(path)
    for inner, entries in target.signatures.items():
        if not any(within(inner, module) for module in modules):
            continue
        for name, *numbers in entries:
            by_batch = name in RUNNING_NORMS and True in numbers  # the flag `training`
            if (name in ("call", *RUNNING_NORMS) and not by_batch) or f"{name}{tuple(numbers)}" == received:
                continue
            what = f"{name}({', '.join(map(str, numbers))})"
            if name != "convolution":
                return (
                    "net2deeper needs blocks of convolutions, BatchNorm with running statistics and the idempotent "
                    f"activation (ReLU, ReLU6) that the input came out of, found {what} after {received or 'none'}; "
                    f"{_INSTEAD}"
                )
            if not _keeps_places(model.get_submodule(inner)):
                return f"net2deeper needs convolutions that keep the number of places, found {what}; {_INSTEAD}"
    return None


def _keeps_places(module: nn.Module) -> bool:
    """Return whether a convolution keeps the number of places and can be the identity.

    It then has an odd kernel, stride 1, as much padding as that takes, and one group or one for each channel.
    """
    return (
        isinstance(module, nn.Conv1d | nn.Conv2d)
        and not isinstance(module.padding, str)
        and set(module.stride) == {1}
        and module.groups in (1, module.in_channels)
        and all(
            size % 2 and 2 * padding == step * (size - 1)
            for size, padding, step in zip(module.kernel_size, module.padding, module.dilation, strict=True)
        )
    )


def paired_identities(
    blocks: Mapping[str, Sequence[str]], paired: Paired, target: Trace
) -> tuple[Paired, dict[ChannelGroup, ChannelGroup], list[str]]:
    """Return the layouts of the tensors of blocks that pass on what they receive, as if the source had such blocks.

    Args:
        blocks: path of a block -> the paths of the modules that it consists of.
        paired: the layouts of all other tensors.
        target: the target's trace.

    Returns:
        The layouts; channel group of the target -> the one that it counts as, for groups that stand for the same
        channels of the source; a line for each block whose input and output are not the same channels of the source.
    """
    origins = {g.target: g.source for axes in paired.values() for axis in axes for g in axis.growths()}
    layouts: dict[str, tuple[PairedAxis, ...]] = {}
    counts_as: dict[ChannelGroup, ChannelGroup] = {}
    problems = []
    for path, modules in blocks.items():
        prefixes = tuple(f"{module}." for module in modules)
        tensors = {name: axes for name, axes in target.tensors.items() if name.startswith(prefixes)}
        groups = (group for axes in tensors.values() for axis in axes for group in groups_on(axis))
        carried = dict.fromkeys(group for group in groups if group.fixed is None)
        known = {origins[group] for group in carried if group in origins}
        origin = known.pop() if len(known) == 1 else None
        if origin is None:
            problems.append(f"{path}: net2deeper needs blocks that write the channels they read; {_INSTEAD}")
            continue
        origins |= dict.fromkeys(carried, origin)  # the next new block may lie between two new ones
        first, *others = carried
        for other in others:
            count_as_one(first, other, counts_as)
        layouts |= {name: identity_layout(axes, dict.fromkeys(carried, origin)) for name, axes in tensors.items()}
    return layouts, counts_as, problems


def identity_layout(axes: Iterable[Axis], origins: Mapping[ChannelGroup, ChannelGroup]) -> tuple[PairedAxis, ...]:
    """Return the layout of a tensor of a layer that passes on what it receives, as if the source had such a layer.

    Args:
        axes: of the tensor in the target.
        origins: channel group of the target -> that of the source.
    """
    return tuple(
        as_paired(axis, origins) if may_grow(axis) else PairedAxis(((Unchanged(axis_size(axis)),),)) for axis in axes
    )
