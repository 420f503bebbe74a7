"""How a target is told the eps of its norms: by an argument of the constructor where one says just that."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from growtool.errors import CheckpointError, PlanError
from growtool.library import ModelSpec, build
from growtool.library.building import eps_of
from growtool.plan.schema import Plan
from growtool.recipe.traced_model import TracedModel


@dataclass(frozen=True)
class ToldEps:
    """A target whose norms were told the eps that they need, as far as its library can.

    Attributes:
        spec: of the target.
        model: without weights, its norms with their eps.
        left: path of a norm -> the eps that it needs and has not.
        exact: whether the target as its library builds it has what its norms need.
    """

    spec: ModelSpec
    model: nn.Module
    left: Mapping[str, float]
    exact: bool


def told_eps(plan: Plan, target: TracedModel, eps: Mapping[str, float]) -> ToldEps:
    """Tell the norms of a target their eps: by an argument of the constructor, else by `eps: told` in the plan.

    Args:
        plan: may say so.
        target: as traced.
        eps: path of a norm -> the eps that it needs.

    Raises:
        PlanError: the plan says so, and the library has no place for it.
    """
    if not eps:
        return ToldEps(target.spec, target.model, {}, False)
    asked = getattr(plan.width, "eps", "kept") == "told"
    spec = _spec_with_eps(target, eps) if asked or target.library.tells_eps else None
    exact = spec is not None
    if spec is None and asked:
        spec = _by_library(target, eps)
    if spec is None:
        return ToldEps(target.spec, target.model, eps, False)
    model = copy.deepcopy(target.model)  # the caller may go on with what it has traced
    target.library.set_eps(model, eps)
    return ToldEps(spec, model, {}, exact)


def _by_library(target: TracedModel, eps: Mapping[str, float]) -> ModelSpec:
    spec = target.library.with_eps(target.spec, eps)
    if spec is None:
        raise PlanError(
            f"width.eps: found told, and {target.library.name} has no place to tell {target.spec.architecture} the eps "
            "of its norms; expected kept, with a result that differs by as little as eps"
        )
    return spec


def _spec_with_eps(target: TracedModel, eps: Mapping[str, float]) -> ModelSpec | None:
    """The target with an argument (`norm_eps`) that gives these norms these eps, and no other norm another one.

    Args:
        target: as traced.
        eps: path of a norm -> its eps.

    Returns:
        None where no argument of the constructor does so.
    """
    values = {f"{value:.8g}" for value in eps.values()}
    if len(values) != 1:
        return None
    wanted = _eps_of(target.model) | dict(eps)
    for name in target.library.arguments(target.spec, target.model):
        if name != "eps" and not name.endswith("_eps"):
            continue
        spec = target.spec.with_args(**{name: next(iter(eps.values()))})
        try:
            found = _eps_of(build(spec))
        except CheckpointError:
            continue
        if found.keys() == wanted.keys() and all(math.isclose(found[path], wanted[path]) for path in wanted):
            return spec
    return None


def _eps_of(model: nn.Module) -> dict[str, float]:
    found = {path: eps_of(module) for path, module in model.named_modules()}
    return {path: eps for path, eps in found.items() if eps is not None}
