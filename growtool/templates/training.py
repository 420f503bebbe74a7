"""Training a model in template form: its weights are made of templates and coefficients in every forward pass.

`put_in_form` replaces each templated parameter by a module `Coefficients`, and gives the model a module `banks`. So the
names of the state dict are those of a template checkpoint. Before each forward pass every bank makes all its weights
with one matrix product; the layers find them under their old names.

Axes: B blocks of all members of a bank; T templates; o, i rows and columns of a template, p all numbers of a row; O, I
rows and columns of a parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from growtool.checkpoint import Form, Layout, TensorInfo, coefficients_of
from growtool.checkpoint.materialise import laid_out, positions

_LAYERS = "templated_layers"  # attribute of a model in template form: bank -> the modules `Coefficients` over it


class Coefficients(nn.Module):
    """The coefficients of a templated parameter, in the parameter's place.

    Attributes:
        coefficients: [k_out, k_in, T].
        sizes: O and I.
        rows, columns: buffers, the place in the grid of each of the O and I positions; None for the first ones.
        value: the parameter as the latest forward pass made it, [O, I, ...].
    """

    def __init__(self, shape: tuple[int, ...], rows: Layout, columns: Layout, block: tuple[int, ...]) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(torch.empty(shape, device="meta"))
        self.sizes = rows.size, columns.size
        for name, layout, size in (("rows", rows, block[0]), ("columns", columns, block[1])):
            self.register_buffer(name, positions(layout, size), persistent=False)  # the form has it: not in files
        self.value: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the module for a copy without `value`: torch copies no tensor that was computed with gradients."""
        return {**self.__dict__, "value": None}


class TrainableTemplates(nn.Module):
    """The templates of a bank: `templates` [T, o, i, ...], or `left` [T, o] and `right` [T, i, ...]."""

    def __init__(self, parts: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        for name, shape in parts.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape, device="meta")))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TrainableTemplates:
        """Apply `fn` to the templates as matrices, as `Module.to` does to move them or to change their type."""
        # `to(memory_format=channels_last)` converts all tensors of 4 or 5 dimensions, and fails on those of 5, which
        # templates of convolutions are.

        def flat(tensor: Tensor) -> Tensor:
            return fn(tensor.flatten(1)).reshape(tensor.shape)

        return cast("TrainableTemplates", super()._apply(flat, recurse))  # type: ignore[no-untyped-call]

    def weights(self, C_BT: Tensor) -> Tensor:
        """Return the combinations `sum_t C_bt T_t`, [B, o, i, ...]."""
        first, *second = self.parameters()
        if not second:
            blocks: Tensor = C_BT @ first.flatten(1)
            return blocks.reshape(-1, *first.shape[1:])
        blocks_Bop: Tensor = torch.einsum("bt,to,tp->bop", C_BT, first, second[0].flatten(1))
        return blocks_Bop.reshape(*blocks_Bop.shape[:2], *second[0].shape[1:])


def put_in_form(model: nn.Module, form: Form, stored: Mapping[str, TensorInfo]) -> None:
    """Put a model into the form of a template checkpoint of it, in place; `stored` has the checkpoint's tensors.

    New parameters are on the meta device: load the checkpoint with `assign=True`.
    """
    model.banks = nn.ModuleDict(
        {
            bank: TrainableTemplates({part.rpartition(".")[2]: stored[part].shape for part in form.parts(bank)})
            for bank in form.banks
        }
    )
    layers: dict[str, list[Coefficients]] = {bank: [] for bank in form.banks}
    for name, templated in form.tensors.items():
        path, _, attribute = name.rpartition(".")
        owner = model.get_submodule(path)
        shape = stored[coefficients_of(name)].shape
        layer = Coefficients(shape, templated.rows, templated.columns, form.block(templated.bank, stored))
        del owner._parameters[attribute]
        owner.add_module(attribute, layer)
        # `owner.weight` finds the property, as nn.Module looks among modules only for what Python does not find.
        owner.__class__ = _with_property(type(owner), attribute)
        layers[templated.bank].append(layer)
    setattr(model, _LAYERS, layers)
    model.register_forward_pre_hook(_materialise)
    spared = _undecayed(model)
    model.no_weight_decay = partial(frozenset, spared | set(map(coefficients_of, form.tensors)))  # type: ignore[assignment]


def even_out_gradients(model: nn.Module) -> None:
    """Scale gradients so that a step moves the weights about as far as it moves them in the dense model.

    With weights W = A T and their gradient G, a step of rate r on the templates T moves W by r A A^T G. That is at most
    the step of the dense model, r G, times the largest eigenvalue of A A^T, which grows with the number of layers that
    share a template. A step on the coefficients A moves W by r G T^T T, longer by the squared norm of the templates.
    The gradients are divided by these two numbers if they are above 1, so that clipping sees what acts on the weights.
    Optimizers that normalise each parameter's gradient, such as Adam, take the same steps either way.
    """
    for bank, layers in getattr(model, _LAYERS).items():
        parts = list(_bank(model, bank).parameters())
        with torch.no_grad():
            A = torch.cat([layer.coefficients.flatten(0, 1) for layer in layers]).double()
            sharing = float(torch.linalg.matrix_norm(A, 2)) ** 2
            size = float(_mean_square_norm(parts))
        for parameter in parts:
            parameter.register_hook(partial(torch.mul, other=1 / max(1.0, sharing)))
        for layer in layers:
            layer.coefficients.register_hook(partial(torch.mul, other=1 / max(1.0, size)))


def _mean_square_norm(parts: list[nn.Parameter]) -> Tensor:
    """Return the mean squared norm of templates; for a rank-one template, |l r^T|^2 = |l|^2 |r|^2."""
    squares = [part.double().flatten(1).square().sum(1) for part in parts]
    return torch.stack(squares).prod(0).mean()


def _bank(model: nn.Module, name: str) -> TrainableTemplates:
    return cast("TrainableTemplates", cast("nn.ModuleDict", model.banks)[name])


def _materialise(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Make the weights of all templated parameters: the forward pre-hook of a model in template form."""
    first = inputs[0] if inputs else None
    channels_last = (
        isinstance(first, Tensor) and first.ndim == 4 and first.is_contiguous(memory_format=torch.channels_last)
    )
    for bank, layers in getattr(model, _LAYERS).items():
        C_BT = torch.cat([layer.coefficients.flatten(0, 1) for layer in layers])
        # Without autocast the weights are those that an export would write.
        with nullcontext() if C_BT.is_meta else torch.autocast(C_BT.device.type, enabled=False):
            blocks = _bank(model, bank).weights(C_BT)
        grids = [layer.coefficients.shape[:2] for layer in layers]
        for layer, part, grid in zip(layers, blocks.split([a * b for a, b in grids]), grids, strict=True):
            places = cast("tuple[Tensor | None, Tensor | None]", (layer.rows, layer.columns))
            weight = laid_out(part.unflatten(0, grid), layer.sizes, places)
            if channels_last and weight.ndim == 4:  # parameters were converted with the model, these are made anew
                weight = weight.contiguous(memory_format=torch.channels_last)
            layer.value = weight


def _with_property(kind: type[nn.Module], attribute: str) -> type[nn.Module]:
    """Return a subclass of a module's class whose `attribute` is the weight that the latest forward pass made."""

    def value(module: nn.Module) -> Tensor:
        layer = module._modules[attribute]
        assert isinstance(layer, Coefficients)
        if layer.value is None:
            raise RuntimeError(f"{attribute}: a model in template form has its weights only once it was called")
        return layer.value

    return type(kind.__name__, (kind,), {attribute: property(value), "__module__": kind.__module__})


def _undecayed(model: nn.Module) -> set[str]:
    """Return the names of the parameters that the model itself keeps out of weight decay."""
    names = getattr(model, "no_weight_decay", None)
    return set(names()) if callable(names) else set()


def kinds_of_parameters(form: Form) -> dict[str, frozenset[str]]:
    """Return the names of the parameters by their kind, `coefficients` or `templates`."""
    return {
        "coefficients": frozenset(map(coefficients_of, form.tensors)),
        "templates": frozenset(part for bank in form.banks for part in form.parts(bank)),
    }
