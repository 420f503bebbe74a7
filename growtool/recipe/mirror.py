"""The mirror image of a checkpoint: the same numbers in another order, so that it sees an image as the checkpoint sees
the mirrored image.

Kernels turn around, and so does everything that belongs to a column of the image: tables of positions, of relative
positions, and layers over positions. It is another network with the same accuracy, at no cost, where training mirrored
its images at random; `two_source` of both averages over an image and its mirror image in one pass.

Not every network has one. Kernels of 3 in strides of 2 over an even number of columns reach beyond the left edge and
not beyond the right one, so they cut up a mirrored image differently. What the trace proposes is therefore tried.

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

Order = tuple[int, Tensor]
_NO_TABLE = "tells left from right by other means than tables of positions that growtool knows"


@dataclass(frozen=True)
class Mirrored(Checkpoint):
    """A checkpoint whose tensors are read in the order of its mirror image.

    Attributes:
        orders: tensor -> dimensions and the order of their entries, int64.
    """

    orders: Mapping[str, tuple[Order, ...]] = field(default_factory=dict)

    def read(self, name: str) -> Tensor:
        """The values of a tensor of the mirror image, in its type."""
        value = self._unordered(name)
        for dim, order in self.orders.get(name, ()):
            value = value.index_select(dim, order)
        return value

    def _unordered(self, name: str) -> Tensor:
        return super().read(name)

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return f"the mirror image of {super().name}"

    @property
    def label(self) -> str:
        """A short name without the path of this machine."""
        return f"the mirror image of {super().label}"


@dataclass(frozen=True)
class _Drawn(Mirrored):
    """The same with random numbers in place of the file's; what no training changes is as the model has it."""

    buffers: Mapping[str, Tensor] = field(default_factory=dict)

    def _unordered(self, name: str) -> Tensor:
        info = self.tensors[name]
        if not info.is_float:
            return self.buffers[name]
        drawn = torch.rand(info.shape, generator=generator_for(0, name)) - 0.5
        if len(info.shape) > 1:  # a matrix or kernel keeps the size of what it maps
            return drawn * math.sqrt(12 * info.shape[0] / max(info.numel, 1))
        return 1 + drawn  # also a variance, which is above zero


def mirror_image(checkpoint: Checkpoint, traced: TracedModel) -> Mirrored:
    """The mirror image of a checkpoint.

    That reordering mirrors the network is proven with random numbers in place of its weights, on a random image in
    float64; no weight is read.

    Args:
        checkpoint: what is mirrored.
        traced: its model.

    Raises:
        PlanError: reordering weights does not mirror the network.
    """
    if [len(size) for size in traced.input_sizes.values()] != [3]:
        raise PlanError(
            f"second: {checkpoint.name} takes no images, and so has no mirror image; name another checkpoint"
        )
    held = {f.name: getattr(checkpoint, f.name) for f in fields(Checkpoint)}
    image = Mirrored(**held, orders=_orders(traced))
    drawn = partial(_Drawn, **held, buffers=dict(traced.model.named_buffers()))
    ours, theirs = (StreamedModel(drawn(orders=orders), torch.float64) for orders in ({}, image.orders))
    (x_BCHW,) = traced.library.inputs(traced.model, 1, seed=0).tensors.values()
    pairs = zip(ours.outputs(x_BCHW.flip(3)), theirs.outputs(x_BCHW), strict=True)
    found = [Comparison.of(a, b, decide=False) for a, b in pairs]
    if not all(comparison.within(TOLERANCES["F64"]) for comparison in found):
        apart = max(comparison.relative_difference for comparison in found)
        raise PlanError(
            f"second: {checkpoint.name} has no mirror image: with weights in mirrored order the outputs of its model "
            f"differ by {apart:.1e} from those on mirrored images, expected none, {_reason(ours, theirs, x_BCHW)}; "
            "name another checkpoint"
        )
    return image


def _orders(traced: TracedModel) -> dict[str, tuple[Order, ...]]:
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
    """Order of what an axis carries: where the trace tells them apart, tokens before the grid stay."""
    before = axis_size(axis[:-1])
    return torch.cat([torch.arange(before), before + _mirrored_grid(axis_size(axis[-1:]), image)])


def _mirrored_grid(count: int, image: Sequence[int]) -> Tensor:
    """Order [N] of positions: a grid of the image's proportions, row by row, behind tokens that have no place."""
    common = math.gcd(*image)
    rows, columns = (side // common for side in image)
    scale = math.isqrt(count // (rows * columns))
    grid = torch.arange(rows * columns * scale**2).reshape(rows * scale, columns * scale)
    before = count - grid.numel()
    return torch.cat([torch.arange(before), before + grid.flip(1).flatten()])


def _mirrored_table(module: nn.Module, count: int, image: Sequence[int]) -> Tensor:
    """Order of a table of `count` entries that the module looks up for pairs of positions, by an index [N, N]."""
    order = torch.arange(count)
    for index in module.buffers(recurse=False):
        if not index.is_floating_point() and index.ndim == 2 and 0 <= int(index.min()) <= int(index.max()) < count:
            rows, columns = (_mirrored_grid(n, image) for n in index.shape)
            order[index.flatten()] = index[rows][:, columns].flatten()
    return order


def _reason(ours: StreamedModel, theirs: StreamedModel, x_BCHW: Tensor) -> str:
    """Where the two part, as seen by the first convolution that returns something else."""
    seen, later = _convolved(ours, x_BCHW.flip(3)), _convolved(theirs, x_BCHW)
    for path, (columns, out) in seen.items():
        if Comparison.of(out.flip(3), later[path][1], decide=False).relative_difference > TOLERANCES["F64"]:
            layer: Any = ours.model.get_submodule(path)
            kernel, stride, dilation = (setting[1] for setting in (layer.kernel_size, layer.stride, layer.dilation))
            seen_columns = (out.shape[3] - 1) * stride + dilation * (kernel - 1) + 1
            if (seen_columns - columns) % 2:
                return (
                    f"since {path}, kernel {kernel} in strides of {stride} over {columns} columns, cuts an image from "
                    "the right otherwise than from the left"
                )
            return f"since something before {path} {_NO_TABLE}"
    return f"since something in it {_NO_TABLE}"


def _convolved(model: StreamedModel, x_BCHW: Tensor) -> dict[str, tuple[int, Tensor]]:
    """What each convolution returns, in order, and over how many columns it ran."""
    seen: dict[str, tuple[int, Tensor]] = {}

    paths = {layer: path for path, layer in model.model.named_modules() if isinstance(layer, nn.Conv2d)}

    def note(module: Any, args: tuple[Tensor, ...], out: Tensor) -> None:
        seen.setdefault(paths[module], (args[0].shape[3], out))

    handles = [layer.register_forward_hook(note) for layer in paths]
    model.outputs(x_BCHW)
    for handle in handles:
        handle.remove()
    return seen
