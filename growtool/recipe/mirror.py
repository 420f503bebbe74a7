"""The mirror image of a checkpoint: a network that sees an image as the checkpoint sees the mirrored image.

It holds the same numbers in another order. Kernels turn around, and so does everything that belongs to a column of the
image: tables of positions, of relative positions, and layers over positions. If training mirrored its images at random,
it is another network with the same accuracy, at no cost; `two_source` of both averages over an image and its mirror
image in one pass.

Not every network has a mirror image. Kernels of 3 in strides of 2 over an even number of columns reach beyond the left
edge and not beyond the right one, so they cut up a mirrored image differently. So the order that the trace proposes is
tried before it is used.

Axes: N positions, H and W rows and columns of the image or of a grid of positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from growtool.checkpoint import Checkpoint
from growtool.errors import PlanError
from growtool.operators.base import generator_for
from growtool.recipe.traced_model import TracedModel
from growtool.trace import KERNEL_POSITION, LOOKED_UP, SPATIAL_POSITION, Axis, groups_on
from growtool.trace.axes import axis_size
from growtool.verify import TOLERANCES, Comparison, StreamedModel

Order = tuple[int, Tensor]  # a dimension, and int64 the old position of each new one along it
_NO_TABLE = "tells left from right by other means than tables of positions that growtool knows"


@dataclass(frozen=True)
class Mirrored(Checkpoint):
    """A checkpoint whose tensors are read in the order of its mirror image.

    Attributes:
        orders: tensor -> each dimension whose entries change their order, with that order.
    """

    orders: Mapping[str, tuple[Order, ...]] = field(default_factory=dict)

    def read(self, name: str) -> Tensor:
        """Return the values of a tensor of the mirror image, in the type of the file."""
        value = self._unordered(name)
        for dim, order in self.orders.get(name, ()):
            value = value.index_select(dim, order)
        return value

    def _unordered(self, name: str) -> Tensor:
        return super().read(name)

    @property
    def name(self) -> str:
        """The checkpoint's name in messages, as its mirror image."""
        return f"the mirror image of {super().name}"

    @property
    def label(self) -> str:
        """The checkpoint's short name without folders, as its mirror image."""
        return f"the mirror image of {super().label}"


@dataclass(frozen=True)
class _Drawn(Mirrored):
    """A mirror image with random numbers in place of the file's.

    Attributes:
        buffers: tensors of whole numbers, which no training changes, as the model holds them.
    """

    buffers: Mapping[str, Tensor] = field(default_factory=dict)

    def _unordered(self, name: str) -> Tensor:
        info = self.tensors[name]
        if not info.is_float:
            return self.buffers[name]
        drawn = torch.rand(info.shape, generator=generator_for(0, name)) - 0.5  # of variance 1/12
        if len(info.shape) > 1:  # a variance of 1 / inputs, so that activations keep their size through the layers
            return drawn * math.sqrt(12 * info.shape[0] / max(info.numel, 1))
        return 1 + drawn  # above zero, as a running variance has to be


def mirror_image(checkpoint: Checkpoint, traced: TracedModel) -> Mirrored:
    """Return the mirror image of a checkpoint.

    Whether another order mirrors the network is tried with random numbers in place of its weights, on a random image in
    float64; no weight is read.

    Args:
        checkpoint: is mirrored.
        traced: its model.

    Raises:
        PlanError: reordering weights does not mirror the network.
    """
    if [len(size) for size in traced.input_sizes.values()] != [3]:
        raise PlanError(
            f"second: {checkpoint.name} takes no images, and so has no mirror image; name another checkpoint"
        )
    own = {f.name: getattr(checkpoint, f.name) for f in fields(Checkpoint)}
    image = Mirrored(**own, orders=_orders(traced))
    drawn = partial(_Drawn, **own, buffers=dict(traced.model.named_buffers()))
    plain, mirrored = (StreamedModel(drawn(orders=orders), torch.float64) for orders in ({}, image.orders))
    (x_BCHW,) = traced.library.inputs(traced.model, 1, seed=0).tensors.values()
    pairs = zip(plain.outputs(x_BCHW.flip(3)), mirrored.outputs(x_BCHW), strict=True)
    comparisons = [Comparison.of(a, b, decide=False) for a, b in pairs]
    if not all(comparison.within(TOLERANCES["F64"]) for comparison in comparisons):
        apart = max(comparison.relative_difference for comparison in comparisons)
        raise PlanError(
            f"second: {checkpoint.name} has no mirror image: with weights in mirrored order the outputs of its model "
            f"differ by {apart:.1e} from those on mirrored images, expected none, {_reason(plain, mirrored, x_BCHW)}; "
            "name another checkpoint"
        )
    return image


def _orders(traced: TracedModel) -> dict[str, tuple[Order, ...]]:
    """Return the order of every tensor that the trace says to be about columns of the image."""
    found, ((_, *image),) = {}, traced.input_sizes.values()
    for name, axes in traced.trace.tensors.items():
        spatial = [dim for dim, axis in enumerate(axes) if _fixed_as(axis, SPATIAL_POSITION)]
        orders: list[Order] = []
        if len(axes) == 4 and _fixed_as(axes[3], KERNEL_POSITION):
            orders = [(3, _reversed(axes[3]))]
        elif len(axes) > 2 and len(spatial) == 2:  # rows and columns of a table of positions
            orders = [(spatial[1], _reversed(axes[spatial[1]]))]
        else:
            orders = [(dim, _mirrored_positions(axes[dim], image)) for dim in spatial]
            looked_up = [dim for dim, axis in enumerate(axes) if _fixed_as(axis, LOOKED_UP)]
            module = traced.model.get_submodule(name.rpartition(".")[0])
            orders += [(dim, _mirrored_table(module, axis_size(axes[dim]), image)) for dim in looked_up]
        if orders:
            found[name] = tuple(orders)
    return found


def _fixed_as(axis: Axis, why: str) -> bool:
    return any(group.fixed == why for group in groups_on(axis))


def _reversed(axis: Axis) -> Tensor:
    return torch.arange(axis_size(axis)).flip(0)


def _mirrored_positions(axis: Axis, image: Sequence[int]) -> Tensor:
    """Return the order [N] of an axis of positions; segments before the last (class tokens, say) stay."""
    before = axis_size(axis[:-1])
    return torch.cat([torch.arange(before), before + _mirrored_grid(axis_size(axis[-1:]), image)])


def _mirrored_grid(count: int, image: Sequence[int]) -> Tensor:
    """Return the mirrored order [N] of positions: a grid, row by row, behind tokens that have no place in the image.

    Args:
        count: N.
        image: its rows and columns; the grid is as large as N allows, in the same proportions.
    """
    common = math.gcd(*image)
    rows, columns = (side // common for side in image)
    scale = math.isqrt(count // (rows * columns))
    grid = torch.arange(rows * columns * scale**2).reshape(rows * scale, columns * scale)
    before = count - grid.numel()
    return torch.cat([torch.arange(before), before + grid.flip(1).flatten()])


def _mirrored_table(module: nn.Module, count: int, image: Sequence[int]) -> Tensor:
    """Return the mirrored order of a table that a module looks up for pairs of positions.

    Args:
        module: holds the table, and an index [N, N] into it as a buffer (relative positions of Swin and BEiT).
        count: entries of the table.
        image: rows and columns of the image.
    """
    order = torch.arange(count)
    for index in module.buffers(recurse=False):
        if not index.is_floating_point() and index.ndim == 2 and 0 <= int(index.min()) <= int(index.max()) < count:
            rows, columns = (_mirrored_grid(n, image) for n in index.shape)
            order[index.flatten()] = index[rows][:, columns].flatten()
    return order


def _reason(plain: StreamedModel, mirrored: StreamedModel, x_BCHW: Tensor) -> str:
    """Return a clause on why the networks differ, by the first convolution that does not return the mirrored values."""
    of_plain, of_mirrored = _convolved(plain, x_BCHW.flip(3)), _convolved(mirrored, x_BCHW)
    for path, (columns, out) in of_plain.items():
        if Comparison.of(out.flip(3), of_mirrored[path][1], decide=False).relative_difference > TOLERANCES["F64"]:
            layer: Any = plain.model.get_submodule(path)
            kernel, stride, dilation = (setting[1] for setting in (layer.kernel_size, layer.stride, layer.dilation))
            # columns from the first that a kernel covers to the last; as much has to stick out on either side
            covered = (out.shape[3] - 1) * stride + dilation * (kernel - 1) + 1
            if (covered - columns) % 2:
                return (
                    f"since {path}, kernel {kernel} in strides of {stride} over {columns} columns, cuts an image from "
                    "the right otherwise than from the left"
                )
            return f"since something before {path} {_NO_TABLE}"
    return f"since something in it {_NO_TABLE}"


def _convolved(model: StreamedModel, x_BCHW: Tensor) -> dict[str, tuple[int, Tensor]]:
    """Return path of a convolution -> over how many columns it ran first and what it returned then, in order."""
    seen: dict[str, tuple[int, Tensor]] = {}
    paths = {layer: path for path, layer in model.model.named_modules() if isinstance(layer, nn.Conv2d)}

    def note(module: Any, args: tuple[Tensor, ...], out: Tensor) -> None:
        seen.setdefault(paths[module], (args[0].shape[3], out))

    handles = [layer.register_forward_hook(note) for layer in paths]
    model.outputs(x_BCHW)
    for handle in handles:
        handle.remove()
    return seen
