"""The state of an optimizer by parameter name, to save it, load it again, and grow it with the model.

torch numbers parameters in the order in which the optimizer holds them. That order changes with the options, with the
number of processes and with growth; names do not.

(`torch.distributed.checkpoint.state_dict` knows names, too, but would not restore a run exactly: it takes an optimizer
step if the state is still empty, and drops what an optimizer keeps besides it, such as kron's random generator.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from growtool.errors import CheckpointError
from growtool.finetune.parallel.distributed import as_sharded
from growtool.finetune.state.packed import Keep, packed, references, unpacked

MOMENTS = {
    "momentum_buffer": 1, "exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2, "square_avg": 2, "sum": 2,
}  # fmt: skip
"""Slots that hold, for each weight, a mean (or sum, or maximum) of a power of its gradients -> that power."""


@dataclass(frozen=True, slots=True)
class OptimizerState:
    """The state of an optimizer as plain data, the same for any number of processes: no tensor is sharded.

    Attributes:
        algorithm: name of the optimizer's class, such as `AdamW`.
        groups: options of each parameter group, with the names of its parameters under `params`.
        tensors: all tensors, on the CPU: state tensors as `PARAMETER/SLOT`, the others by the key of their place.
        values: state that is no tensor, by parameter, then by slot; may contain `{"$tensor": key}`, see `packed`.
        extra: what the optimizer keeps besides state and groups, such as the state of a random generator.
    """

    algorithm: str
    groups: Sequence[Mapping[str, Any]]
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def slots(self, parameter: str) -> dict[str, Tensor]:
        """Return the state tensors of one parameter by slot."""
        prefix = f"{parameter}/"
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}

    def shared(self) -> dict[str, Tensor]:
        """Return the tensors of groups or of the whole optimizer, such as LAMB's number of steps, by key."""
        return {key: self.tensors[key] for key in references([*self.groups, self.extra])}


def capture(optimizer: torch.optim.Optimizer, model: nn.Module, keep: Keep | None = None) -> OptimizerState:
    """Return the current state of an optimizer.

    With sharded parameters every process must call this, since tensors are gathered one at a time.

    Args:
        optimizer: holds parameters of `model`.
        keep: makes the tensor to return of each one and its key. By default tensors are moved to the CPU; those that
            are there already are not copied, so that later steps change them.
    """
    state = optimizer.state_dict()
    keep = keep or (lambda key, tensor: tensor.cpu())
    names = _names_by_number(optimizer, model)
    tensors: dict[str, Tensor] = {}
    groups = [
        {key: packed(value, f"group{number}/{key}", tensors, keep) for key, value in group.items() if key != "params"}
        | {"params": [names[index] for index in group["params"]]}
        for number, group in enumerate(state["param_groups"])
    ]
    values: dict[str, dict[str, Any]] = {}
    for index, slots in state["state"].items():
        name = names[index]
        for slot, value in slots.items():
            encoded = packed(value, f"{name}/{slot}", tensors, keep)
            if not isinstance(value, Tensor):
                values.setdefault(name, {})[str(slot)] = encoded
    rest = {key: value for key, value in state.items() if key not in ("state", "param_groups")}
    extra = {key: packed(value, f"extra/{key}", tensors, keep) for key, value in rest.items()}
    return OptimizerState(type(optimizer).__name__, groups, tensors, values, extra)


def restore(optimizer: torch.optim.Optimizer, model: nn.Module, state: OptimizerState, *, where: str) -> None:
    """Load a state into the optimizer that it was captured from, or one like it, to continue exactly.

    Args:
        optimizer: holds parameters of `model`.
        state: of an optimizer of the same class, with the same parameters in the same groups and order.
        where: the place of the state, for messages.

    Raises:
        CheckpointError: the state is of another optimizer or of other parameters, or an option has another type.
    """
    kind, groups = type(optimizer).__name__, optimizer.state_dict()["param_groups"]
    names = _names_by_number(optimizer, model)
    here = [[names[index] for index in group["params"]] for group in groups]
    if state.algorithm != kind or here != [list(group["params"]) for group in state.groups]:
        raise CheckpointError(
            f"{where}: found the state of {state.algorithm} over {sum(len(g['params']) for g in state.groups)} "
            f"parameters in {len(state.groups)} groups, expected {kind} over {len(names)} in {len(here)} "
            "with the same names in the same order; resume with the options of that run, or start a new one"
        )
    options = [
        {**fresh, **{key: unpacked(value, state.tensors) for key, value in group.items() if key != "params"}}
        for group, fresh in zip(state.groups, groups, strict=True)
    ]
    for group, fresh in zip(options, groups, strict=True):
        for key, expected in fresh.items():
            if not _is_alike(group[key], expected):
                raise CheckpointError(
                    f"{where}: option {key} of the optimizer: found {group[key]!r}, expected something like "
                    f"{expected!r}; use another checkpoint of the run"
                )
    extra = {key: unpacked(value, state.tensors) for key, value in state.extra.items()}
    optimizer.load_state_dict({"state": _by_number(optimizer, names, state), "param_groups": options, **extra})


def _is_alike(found: Any, expected: Any) -> bool:
    """Return whether an option has the same kind of value as expected; any will do for None and other types."""
    if isinstance(expected, tuple):
        same_length = isinstance(found, tuple) and len(found) == len(expected)
        return same_length and all(map(_is_alike, found, expected))
    if isinstance(expected, bool | str):  # before numbers, since a bool is an int
        return isinstance(found, type(expected))
    if isinstance(expected, int | float):
        return isinstance(found, int | float | Tensor) and not isinstance(found, bool)
    return True


def adopt(
    optimizer: torch.optim.Optimizer, model: nn.Module, state: OptimizerState, shapes: Mapping[str, Sequence[int]]
) -> int:
    """Load the state of the parameters that exist with the same shape; the options of all groups stay as they are.

    Parameters that are new or have another shape start without state.

    Args:
        optimizer: holds parameters of `model`.
        state: of an optimizer over another model, or over the same in other groups or order.
        shapes: shapes of the parameters of `state` by name. They cannot be read off `state`, since not every state
            tensor has the shape of its parameter.

    Returns:
        The number of parameters whose state was loaded; 0 if `state` is of another class of optimizer.
    """
    if state.algorithm != type(optimizer).__name__:
        return 0
    names = _names_by_number(optimizer, model)
    now = {name: parameter.shape for name, parameter in model.named_parameters()}
    fitting = {name for name, shape in shapes.items() if name in now and tuple(shape) == tuple(now[name])}
    taken = {index: slots for index, slots in _by_number(optimizer, names, state).items() if names[index] in fitting}
    # Some optimizers, such as Adagrad of older torch, have a state before the first step; others keep it.
    fresh = optimizer.state_dict()
    optimizer.load_state_dict({"state": {**fresh["state"], **taken}, "param_groups": fresh["param_groups"]})
    return len(taken)


def with_mean(moments: Tensor, mask: Tensor) -> Tensor:
    """Return second moments that are the mean of the others where `mask` is set, so that steps there are as large."""
    return moments.masked_fill(mask, float(moments[~mask].mean()))


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the parameters of an optimizer; the place of each is its number in torch's state dict."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _names_by_number(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[int, str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {number: names[id(parameter)] for number, parameter in enumerate(_parameters(optimizer))}


def _by_number(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str], state: OptimizerState
) -> dict[int, dict[str, Any]]:
    """Return the state of each parameter by number, as torch's state dict has it; tensors are sharded as it is."""
    parameters = _parameters(optimizer)
    nested = {reference for values in state.values.values() for reference in references(values)}
    numbered: dict[int, dict[str, Any]] = {}
    for index, name in names.items():
        slots: dict[str, Any] = {
            slot: as_sharded(tensor, parameters[index])
            for slot, tensor in state.slots(name).items()
            if f"{name}/{slot}" not in nested
        }
        slots |= {slot: unpacked(value, state.tensors) for slot, value in state.values.get(name, {}).items()}
        if slots:
            numbered[index] = slots
    return numbered
