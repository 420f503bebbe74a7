"""Growing the state of an optimizer with the weights it belongs to.

Momentum is a mean of gradients and the second moment a mean of their squares, and gradients grow by the transposed
matrices of the weights (`algebra.layers.grow_gradient`). A tensor that is new as a whole starts without state, so that
its steps are counted from zero. New positions within a tensor share its step count. If both of their moments were zero,
Adam's first update of them would be (1 - b1) / sqrt(1 - b2) = 3.16 learning rates (b1 = 0.9, b2 = 0.999), so their
second moment is the mean of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from growtool.algebra.layers import grow_gradient
from growtool.algebra.places import along
from growtool.checkpoint.beside import OPTIMIZER
from growtool.errors import PlanError
from growtool.finetune.optimizer_files import read_state
from growtool.finetune.optimizer_state import MOMENTS, OptimizerState, with_mean
from growtool.recipe import Recipe, TensorRecipe

_DECAYING_WEIGHTS = frozenset(
    {"Adafactor", "AdamP", "AdamWLegacy", "Lamb", "LaProp", "Lion", "Muon", "NAdamW", "RAdamLegacy", "SGDW"}
)
"""Optimizers that always keep weight decay out of the gradients."""
_DECOUPLED = ("decoupled_weight_decay", "decoupled_decay", "decoupled")
"""Options of other optimizers' groups that keep weight decay out of the gradients."""


@dataclass(frozen=True, slots=True)
class GrownState:
    """The state of an optimizer, grown with its parameters.

    Attributes:
        state: the state for the target's parameters.
        carried: number of parameters whose moments were grown.
        fresh: number of parameters that start without state.
        approximate: why the moments are not those that the grown model would have gathered itself; None if they are.
    """

    state: OptimizerState
    carried: int
    fresh: int
    approximate: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain data, without the state."""
        return {"carried": self.carried, "fresh": self.fresh, "approximate": self.approximate}


def find_state(folder: Path) -> OptimizerState | None:
    """Return the state that fine-tuning saved in `folder` or, for the folder of a run, in its `last`; None if none is.

    Raises:
        CheckpointError: the state is damaged.
    """
    home = next((place for place in (folder, folder / "last") if (place / OPTIMIZER).is_file()), None)
    return read_state(home) if home else None


def in_template_form(recipe: Recipe) -> bool:
    """Return whether source or target train templates and coefficients, whose moments grow in no known way."""
    return recipe.source.form is not None or recipe.form is not None


def can_grow(recipe: Recipe, state: OptimizerState) -> bool:
    """Return whether a state can be grown: one source, and nothing but counts and moments of each weight."""
    return (
        recipe.second is None
        and not in_template_form(recipe)
        and all(value.ndim == 0 or key.rpartition("/")[2] in MOMENTS for key, value in state.tensors.items())
    )


def grow_state(recipe: Recipe, state: OptimizerState) -> GrownState:
    """Grow the state of the source's optimizer to the target's parameters.

    Args:
        recipe: what each target tensor is made of.
        state: the state of the source's optimizer.

    Raises:
        PlanError: the optimizer keeps something that grows in no known way, or the state is not of this source.
    """
    names = [name for name, _ in recipe.models[1].named_parameters()]
    _require_known(recipe, state)
    tensors: dict[str, Tensor] = {}
    values: dict[str, Mapping[str, Any]] = {}
    for name in names:
        tensor = recipe.tensors[name]
        if tensor.new or tensor.source is None:
            continue
        slots = state.slots(tensor.source)
        tensors |= {f"{name}/{slot}": _grown(slot, value, tensor) for slot, value in slots.items()}
        if slots and tensor.source in state.values:
            values[name] = _renamed(state.values[tensor.source], tensor.source, name)
    carried = {key.rpartition("/")[0] for key in tensors}
    # A parameter joins the group of the one that it grows from.
    origins = {name: recipe.tensors[name].source or name for name in names}
    groups = [
        {**group, "params": [name for name in names if origins[name] in set(group["params"])]} for group in state.groups
    ]
    grown = replace(state, groups=groups, tensors={**tensors, **state.shared()}, values=values)
    return GrownState(grown, len(carried), len(names) - len(carried), _why_approximate(recipe, state))


def _require_known(recipe: Recipe, state: OptimizerState) -> None:
    """Check that a state belongs to the recipe's source and can be grown; raise PlanError if not."""
    shapes = {name: info.shape for name, info in recipe.source.tensors.items()}
    problems = []
    if in_template_form(recipe):
        raise PlanError(
            "optimizer: found a growth in template form, and how moments of templates and coefficients grow is not "
            "known; grow without the optimizer's state: --no-optimizer-state"
        )
    if recipe.second is not None:
        problems.append("optimizer: found the state of one source, expected none where two grow together")
    shared = state.shared()
    for key, value in state.tensors.items():
        parameter, _, slot = key.rpartition("/")
        if key in shared:
            continue
        if parameter not in shapes:
            problems.append(f"{key}: found in the optimizer's state, and {recipe.source.name} has no such parameter")
        elif value.ndim and (slot not in MOMENTS or tuple(value.shape) != shapes[parameter]):
            problems.append(f"{key}: {state.algorithm} keeps it as {list(value.shape)}, and how it grows is not known")
    if problems:
        more = len(problems) - 3
        rest = [f"... and {more} more"] if more > 0 else []
        raise PlanError([*problems[:3], *rest, "grow without the optimizer's state: --no-optimizer-state"])


def _grown(slot: str, value: Tensor, tensor: TensorRecipe) -> Tensor:
    """Return a count as it is, or a moment of the source's tensor grown to the target's.

    Args:
        slot: what the optimizer calls the value, such as `exp_avg_sq`.
        value: the value for the source's tensor.
        tensor: how the target's tensor is made.
    """
    if value.ndim == 0:
        return value
    power = MOMENTS[slot]  # 1 for means of gradients, 2 for means of their squares
    if tensor.rewrite is not None:
        value = tensor.rewrite.scaled(value, -power)  # weights times f have gradients over f
    grown = grow_gradient(value, tensor.maps, power=power)
    blank = torch.zeros(grown.shape, dtype=torch.bool)
    for dim, axis in enumerate(tensor.maps):
        blank |= along(axis.blank, dim, grown.ndim)
    if power == 2 and blank.any():
        grown = with_mean(grown, blank)
    return grown.contiguous()


def _renamed(value: Any, old: str, new: str) -> Any:
    """Return a value of an optimizer's state in which references to a parameter's tensors have its new name."""
    if isinstance(value, Mapping):
        return {key: _renamed(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, old, new) for item in value]
    return f"{new}/{value.removeprefix(f'{old}/')}" if isinstance(value, str) and value.startswith(f"{old}/") else value


def _why_approximate(recipe: Recipe, state: OptimizerState) -> str | None:
    """Return why grown moments are not those that the grown model would have gathered itself; None if they are."""
    if recipe.promise.kind == "lossy":
        return "the grown model computes another function, so its gradients are others"
    grown = [t for t in recipe.tensors.values() if not t.new and t.grows]
    if any(getattr(tensor.width, "split", None) != "equal" for tensor in grown):
        return "the readers of copied channels share their weights unequally, and gradients with them"
    if any(tensor.rewrite is not None for tensor in recipe.tensors.values()):
        return "weights were rewritten before they grew"
    decayed = _with_decayed_gradients(state)
    if any(tensor.source in decayed for tensor in grown):
        return f"{state.algorithm} adds weight decay to the gradients, and weights do not grow as gradients do"
    return None


def _with_decayed_gradients(state: OptimizerState) -> frozenset[str]:
    """Return the parameters whose moments hold their weight decay, too; unknown optimizers are taken to do so."""
    if state.algorithm in _DECAYING_WEIGHTS:
        return frozenset()
    decayed = {
        name
        for group in state.groups
        if group.get("weight_decay") and not any(group.get(option) for option in _DECOUPLED)
        for name in group["params"]
    }
    return frozenset(decayed & {key.rpartition("/")[0] for key in state.tensors})


def rate_factors(tensor: TensorRecipe) -> dict[str, float] | None:
    """Return the factors on learning rates with which a grown tensor changes the function as fast as it did before.

    The updates of a tensor that reads k_in copies of each channel add up k_in times. With SGD each of k_out copies that
    a tensor writes has 1/k_out of the gradient. Adam's update does not depend on the gradient's size.

    Returns:
        The factors by `sgd` and `adam`; None if both are 1, and for tensors that growth added.
    """
    if tensor.new or tensor.source is None or not tensor.grows:
        return None
    read = written = 1.0
    for axis in tensor.maps:
        read, written = (read * axis.factor, written) if axis.consumes else (read, written * axis.factor)
    factors = {"sgd": written / read, "adam": 1.0 / read}
    return None if set(factors.values()) == {1.0} else factors
