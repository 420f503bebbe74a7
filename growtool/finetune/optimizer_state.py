"""An optimizer's state under the names of the parameters, so that it outlives the process and can follow growth.

torch numbers parameters in the order in which the optimizer holds them. That order changes with the options, with the
number of processes and with growth; a name does not. (The names of
`torch.distributed.checkpoint.state_dict` would cost exactness: it takes a step where a state is still empty, and drops
what an optimizer keeps of its own, such as kron's generator.)
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
"""Slots that hold a mean of gradients or of their squares for each weight, by the power."""


@dataclass(frozen=True, slots=True)
class OptimizerState:
    """Plain data; every tensor is on the CPU and whole, whatever the number of processes.

    Attributes:
        algorithm: class of the optimizer, `AdamW`.
        groups: options of each parameter group, with the names of its parameters under `params`.
        tensors: state tensors as `PARAMETER/SLOT`.
        values: other state by parameter, then by slot; `{"$tensor": key}` stands for a tensor inside a list.
        extra: what the optimizer keeps beside both, such as the state of a generator of its own.
    """

    algorithm: str
    groups: Sequence[Mapping[str, Any]]
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def slots(self, parameter: str) -> dict[str, Tensor]:
        """The state tensors of one parameter by slot."""
        prefix = f"{parameter}/"
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}

    def shared(self) -> dict[str, Tensor]:
        """The tensors that belong to groups or to the whole optimizer, such as LAMB's count of steps."""
        return {key: self.tensors[key] for key in references([*self.groups, self.extra])}


def capture(optimizer: torch.optim.Optimizer, model: nn.Module, keep: Keep | None = None) -> OptimizerState:
    """The state as it stands.

    With sharded parameters every process must call this, as the shards are gathered, one tensor at a time.

    Args:
        optimizer: over parameters of `model`.
        model: what trains.
        keep: what becomes of a tensor under its key; None moves it to the CPU, the optimizer's own where it is there.
    """
    state = optimizer.state_dict()
    keep = keep or _on_cpu
    names = _numbered(optimizer, model)
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
    return OptimizerState(_class(optimizer), groups, tensors, values, extra)


def restore(optimizer: torch.optim.Optimizer, model: nn.Module, state: OptimizerState, *, where: str) -> None:
    """Continue exactly where `state` was captured.

    Raises:
        CheckpointError: it is of another optimizer, or of other parameters.
    """
    groups, names = optimizer.state_dict()["param_groups"], _numbered(optimizer, model)
    here = [[names[index] for index in group["params"]] for group in groups]
    if state.algorithm != _class(optimizer) or here != [list(group["params"]) for group in state.groups]:
        raise CheckpointError(
            f"{where}: found the state of {state.algorithm} over {sum(len(g['params']) for g in state.groups)} "
            f"parameters in {len(state.groups)} groups, expected {_class(optimizer)} over {len(names)} in {len(here)} "
            "with the same names in the same order; resume with the options of that run, or start a new one"
        )
    options = [
        {**fresh, **{key: unpacked(value, state.tensors) for key, value in group.items() if key != "params"}}
        for group, fresh in zip(state.groups, groups, strict=True)
    ]
    for key, found, expected in (
        (key, group[key], fresh[key])
        for group, fresh in zip(options, groups, strict=True)
        for key in fresh
        if not _is_alike(group[key], fresh[key])
    ):
        raise CheckpointError(
            f"{where}: option {key} of the optimizer: found {found!r}, expected something like {expected!r}; use "
            "another checkpoint of the run"
        )
    extra = {key: unpacked(value, state.tensors) for key, value in state.extra.items()}
    optimizer.load_state_dict({"state": _by_number(optimizer, names, state), "param_groups": options, **extra})


def _is_alike(found: Any, fresh: Any) -> bool:
    """Whether an option that was read has the type of the optimizer's own; what is unset there may be anything."""
    if isinstance(fresh, tuple):
        same = isinstance(found, tuple) and len(found) == len(fresh)
        return same and all(map(_is_alike, found, fresh))
    if isinstance(fresh, bool | str):
        return isinstance(found, type(fresh))
    return not isinstance(fresh, int | float) or (
        isinstance(found, int | float | Tensor) and not isinstance(found, bool)
    )


def adopt(
    optimizer: torch.optim.Optimizer, model: nn.Module, state: OptimizerState, shapes: Mapping[str, Sequence[int]]
) -> int:
    """Start from the moments in `state` where they fit; rates, decay and groups stay those of `optimizer`.

    A parameter that is new, or that has another shape now, starts without.

    Args:
        optimizer: over parameters of `model`.
        model: what trains.
        state: to start from.
        shapes: of the parameters that `state` is of, by name. Slots do not tell: not all have their parameter's shape.

    Returns:
        The number of parameters whose state was taken over; 0 where `state` is of another optimizer.
    """
    if state.algorithm != _class(optimizer):
        return 0
    names = _numbered(optimizer, model)
    now = {name: parameter.shape for name, parameter in model.named_parameters()}
    fitting = {name for name, shape in shapes.items() if name in now and tuple(shape) == tuple(now[name])}
    taken = {index: slots for index, slots in _by_number(optimizer, names, state).items() if names[index] in fitting}
    fresh = optimizer.state_dict()  # of some, such as older torch's Adagrad, with a state before the first step
    optimizer.load_state_dict({"state": {**fresh["state"], **taken}, "param_groups": fresh["param_groups"]})
    return len(taken)


def with_mean(moments: Tensor, mask: Tensor) -> Tensor:
    """Second moments of the positions in `mask` become the mean of the others, so that their steps are as large."""
    return moments.masked_fill(mask, float(moments[~mask].mean()))


def _class(optimizer: torch.optim.Optimizer) -> str:
    return type(optimizer).__name__


def _numbered(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[int, str]:
    """The name of each parameter by torch's number for it."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {index: names[id(parameter)] for index, parameter in enumerate(held)}


def _by_number(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str], state: OptimizerState
) -> dict[int, dict[str, Any]]:
    """State as torch wants it: by number, sharded as the parameter is."""
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    nested = {reference for values in state.values.values() for reference in references(values)}
    numbered: dict[int, dict[str, Any]] = {}
    for index, name in names.items():
        slots: dict[str, Any] = {
            slot: as_sharded(tensor, held[index])
            for slot, tensor in state.slots(name).items()
            if f"{name}/{slot}" not in nested
        }
        slots |= {slot: unpacked(value, state.tensors) for slot, value in state.values.get(name, {}).items()}
        if slots:
            numbered[index] = slots
    return numbered


def _on_cpu(key: str, tensor: Tensor) -> Tensor:
    return tensor.cpu()
