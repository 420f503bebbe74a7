"""New blocks that pass on what they receive: which can, and which channels they carry (Net2DeeperNet)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from growtool.coupling import Atom, Axis, Coupling, Growth, PairedAxis, Unchanged, atoms, within
from growtool.coupling.axis import axis_size
from growtool.coupling.ops import RUNNING_NORMS

_INSTEAD = "use zero_out where the block has a residual connection, else stack or interleave (lossy)"
Paired = Mapping[str, tuple[PairedAxis, ...]]


def obstacle(path: str, modules: Sequence[str], target: Coupling, model: nn.Module) -> str | None:
    """Why the block cannot pass on what it receives, and what to do; None if it can.

    It can if it is convolutions, BatchNorm and the idempotent activation that its input came out of, one after the
    other, and each convolution keeps the number of places.

    Args:
        path: a block of the target.
        modules: the paths of the modules that it is.
        target: the target's coupling.
        model: the target without weights.
    """
    if path in target.exits:
        return "net2deeper is for networks without residual connections, and the block has one; use zero_out"
    received = target.received.get(path)
    for inner, entries in target.signatures.items():
        if not any(within(inner, module) for module in modules):
            continue
        for name, *numbers in entries:
            by_batch = name in RUNNING_NORMS and True in numbers
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
    """Whether a convolution has an odd kernel, stride 1, as much padding as that takes, and one or every group."""
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
    blocks: Mapping[str, Sequence[str]], paired: Paired, target: Coupling
) -> tuple[Paired, dict[Atom, Atom], list[str]]:
    """The layouts of the tensors of blocks that pass on what they receive, as if the source had such blocks.

    Args:
        blocks: path of a block -> the paths of the modules that it is.
        paired: the layouts of all other tensors.
        target: the target's coupling.

    Returns:
        The layouts; the target's atoms that stand for the same channels of the source, each with one that stands for
        all of them; a line for each block whose input and output are not the same channels of the source.
    """
    origins = {g.target: g.source for axes in paired.values() for axis in axes for g in axis.growths()}
    found: dict[str, tuple[PairedAxis, ...]] = {}
    same: dict[Atom, Atom] = {}
    problems = []
    for path, modules in blocks.items():
        within = tuple(f"{module}." for module in modules)
        own = {name: axes for name, axes in target.tensors.items() if name.startswith(within)}
        carried = dict.fromkeys(atom for axes in own.values() for axis in axes for atom in _channels(axis))
        known = {origins[atom] for atom in carried if atom in origins}
        if len(known) != 1 or None in known:
            problems.append(f"{path}: net2deeper needs blocks that write the channels they read; {_INSTEAD}")
            continue
        (origin,) = known
        origins |= dict.fromkeys(carried, origin)  # the next new block may lie between two new ones
        alike = {same.get(atom, atom) for atom in carried}
        first = next(iter(carried))
        same = {atom: first if other in alike else other for atom, other in same.items()} | dict.fromkeys(
            carried, first
        )
        found |= {name: tuple(_layout(axis, origin) for axis in axes) for name, axes in own.items()}
    return found, {atom: first for atom, first in same.items() if atom is not first}, problems


def _channels(axis: Axis) -> list[Atom]:
    return [atom for atom in atoms(axis) if atom.fixed is None]


def _layout(axis: Axis, origin: Atom | None) -> PairedAxis:
    channels = _channels(axis)
    return PairedAxis(((Growth(origin, channels[0]) if channels else Unchanged(axis_size(axis)),),))
