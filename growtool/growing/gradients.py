"""Weights of new hidden units from the gradient of the loss on images, for `gradmax`.

Hidden units stand between two layers, `y = W2 phi(W1 x)`: W1, the writer, makes them, W2, the reader, takes them. All
that the gradient on a new unit takes from the images is the matrix `M = sum (dL/dy) x^T`, over images and positions
(GradMax, arXiv 2201.05125; `growtool/operators/width/gradmax.py` chooses the units by it). For convolutions x and dL/dy
are taken at every pair of kernel places that meet in a hidden position: M is [O, *kernel of W2] by [I, *kernel of W1].
A one is appended to x, so that the same products give the sums of dL/dy and of x.

Axes: N images, O outputs of the reader times places of its kernel, K inputs of the writer times places of its kernel,
K1 = K + 1, P hidden positions.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad, unfold

from growtool.algebra.threads import single_threaded
from growtool.checkpoint import all_in_type
from growtool.errors import PlanError
from growtool.growing.execute import WIDER
from growtool.growing.statistics import Remark, in_memory, opened_images
from growtool.operators.base import generator_for
from growtool.operators.width.gradmax import directions, with_directions
from growtool.plan.width import Gradmax
from growtool.recipe import Recipe
from growtool.recipe.recipe import NewUnits


@single_threaded()
def steepest(recipe: Recipe, told: Remark) -> Mapping[str, Tensor]:
    """Return the tensors of the target whose new units lie along the largest gradients, by name, in the file's types.

    Args:
        recipe: what to make.
        told: called with a sentence on each thing that the user should know of the images.

    Raises:
        PlanError: the images cannot be used, the loss is not finite, or a type cannot hold the weights.
        CheckpointError: an image cannot be read.
    """
    model = in_memory(recipe)
    before = model.state_dict()
    state = dict(before)
    for units, (M_OK1, xx_K1K1) in _sums(recipe, model, told).items():
        _place(recipe, units, M_OK1, xx_K1K1, state)
    changed = {name: tensor for name, tensor in state.items() if tensor is not before[name]}
    return all_in_type({name: tensor.detach() for name, tensor in changed.items()}, recipe.infos, remedy=WIDER)


def _place(recipe: Recipe, units: NewUnits, M_OK1: Tensor, xx_K1K1: Tensor, state: dict[str, Tensor]) -> None:
    """Write the weights of new units into `state`, and the bias or statistics that centre them on the images.

    Args:
        recipe: what to make.
        units: the new units.
        M_OK1: `sum (dL/dy) (x, 1)^T`.
        xx_K1K1: `sum (x, 1) (x, 1)^T`; its last row holds the sum of x and the number of positions.
        state: the target's tensors by name, in which those that change are replaced.
    """
    name, dim = (units.reader, 1) if units.columns else (units.writer, 0)
    tensor = recipe.tensors[name]
    assert isinstance(tensor.width, Gradmax), "whatever carries the units grows by gradmax"
    new = torch.nonzero(tensor.maps[dim].blank).flatten()
    generator = generator_for(recipe.plan.seed, f"directions of {tensor.shared}")
    M_OK, mean_K = M_OK1[:, :-1], xx_K1K1[-1, :-1] / xx_K1K1[-1, -1]
    # Units whose rows are not zero become w1 (x - mean) on the images: the writer's bias or a BatchNorm centres them.
    centred = not units.columns and (units.bias or units.statistics)
    if centred:
        M_OK = M_OK - M_OK1[:, -1:] * mean_K  # sum g (x - mean)^T
    vectors = directions(M_OK, len(new), generator, columns=units.columns)
    state[name] = with_directions(state[name], new, tensor.maps[1 - dim].kept, vectors, tensor.width.scale, dim=dim)
    if not centred:
        return
    rows = state[name][new][:, tensor.maps[1].kept].flatten(1).double()
    covariance_KK = xx_K1K1[:-1, :-1] / xx_K1K1[-1, -1] - torch.outer(mean_K, mean_K)
    centring = {units.bias: -rows @ mean_K}
    if units.statistics:  # the BatchNorm subtracts the mean in place of the bias
        mean_and_variance = rows @ mean_K, ((rows @ covariance_KK) * rows).sum(1)
        centring = dict(zip(units.statistics, mean_and_variance, strict=True))
    for vector, values in centring.items():
        assert vector is not None
        state[vector] = state[vector].index_copy(0, new, values.to(state[vector].dtype))


def _sums(recipe: Recipe, model: nn.Module, told: Remark) -> dict[NewUnits, tuple[Tensor, Tensor]]:
    """Return the sums over all images for every set of new units.

    Returns:
        `sum (dL/dy) (x, 1)^T` [O, K1] and `sum (x, 1) (x, 1)^T` [K1, K1], over the channels of x and y that are copies.
    """
    images = opened_images(recipe, model, told)
    sums: dict[NewUnits, tuple[Tensor, Tensor]] = {}
    dtype = next(model.parameters()).dtype
    for batch, labels in images.batches():
        with _recorded(model, recipe.measured.values()) as (inputs, outputs):
            loss = cross_entropy(model(batch.to(dtype)), labels)
        if not bool(torch.isfinite(loss)):
            raise PlanError(f"gradmax: found a loss of {loss.item()} on the images of data, expected a finite one")
        written = [y for calls in outputs.values() for y in calls]
        gradients = dict(zip(map(id, written), torch.autograd.grad(loss, written), strict=True))
        for units in recipe.measured.values():
            writer, reader = (_layer(model, name) for name in (units.writer, units.reader))
            for x, y in zip(inputs[units.writer], outputs[units.reader], strict=True):  # one pair for each call
                channels = 1 if isinstance(writer, nn.Conv2d) else -1
                x_old = x.index_select(channels, recipe.tensors[units.writer].maps[1].kept)
                g_old = gradients[id(y)].index_select(channels, recipe.tensors[units.reader].maps[0].kept)
                columns_NK1P = input_columns(writer, x_old.double())
                M, flat = column_products(reader, columns_NK1P, g_old.double()), columns_NK1P.flatten(2)
                xx = torch.einsum("nkp,nlp->kl", flat, flat)
                before = sums.get(units, (torch.zeros_like(M), torch.zeros_like(xx)))
                sums[units] = before[0] + M, before[1] + xx
    return sums


def _layer(model: nn.Module, weight: str) -> nn.Module:
    return model.get_submodule(weight.rpartition(".")[0])


@contextlib.contextmanager
def _recorded(
    model: nn.Module, measured: Iterable[NewUnits]
) -> Iterator[tuple[Mapping[str, list[Tensor]], Mapping[str, list[Tensor]]]]:
    """Record the inputs of each writer and the outputs of each reader while open, by the names of their weights."""
    inputs, outputs = defaultdict[str, list[Tensor]](list), defaultdict[str, list[Tensor]](list)

    def keep_input(name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs[name].append(args[0].detach().clone())

    def keep_output(name: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        outputs[name].append(output)
        # Autograd gives no gradient on a tensor that the next layer has overwritten, as ReLU(inplace=True) does.
        return output.clone()

    with contextlib.ExitStack() as hooks:
        for units in measured:
            writer, reader = (_layer(model, name) for name in (units.writer, units.reader))
            hooks.enter_context(writer.register_forward_pre_hook(partial(keep_input, units.writer)))
            hooks.enter_context(reader.register_forward_hook(partial(keep_output, units.reader)))
        yield inputs, outputs


def input_columns(writer: nn.Module, x: Tensor) -> Tensor:
    """Return the inputs that each hidden position is made of, and a one, [N, K1, P].

    Args:
        writer: the layer that makes the hidden units, linear or a convolution.
        x: its input, [..., K], or [N, I, H, W] for a convolution; P is two dimensions then.
    """
    if not isinstance(writer, nn.Conv2d):
        columns = x.reshape(1, -1, x.shape[-1]).transpose(1, 2)
    else:
        assert not isinstance(writer.padding, str)
        geometry = writer.kernel_size, writer.dilation, writer.padding, writer.stride
        size = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, d, p, s in zip(x.shape[2:], *geometry, strict=True)]
        columns = unfold(x, *geometry).unflatten(2, size)
    return torch.cat([columns, torch.ones_like(columns[:, :1])], 1)


def column_products(reader: nn.Module, columns: Tensor, g: Tensor) -> Tensor:
    """Return `sum g (x, 1)^T` over images and positions, [O, K1].

    Args:
        reader: the layer that takes the hidden units, of the writer's kind.
        columns: the inputs of each hidden position, from `input_columns`.
        g: the gradient on the reader's output.
    """
    if not isinstance(reader, nn.Conv2d):
        return torch.einsum("po,nkp->ok", g.reshape(-1, g.shape[-1]), columns)
    assert not isinstance(reader.padding, str)
    # `pad` takes (left, right, top, bottom). Zeros, the ones beside x included: the reader sees no unit out there.
    hidden = pad(columns, [side for side in reader.padding[::-1] for _ in "ab"])
    parts = []
    for place in itertools.product(*map(range, reader.kernel_size)):
        # The hidden position that this place of the kernel meets for each output.
        rows, lines = (
            slice(at * d, at * d + s * (n - 1) + 1, s)
            for at, d, s, n in zip(place, reader.dilation, reader.stride, g.shape[2:], strict=True)
        )
        parts.append(torch.einsum("nohw,nkhw->ok", g, hidden[:, :, rows, lines]))
    return torch.stack(parts, 1).flatten(0, 1)
