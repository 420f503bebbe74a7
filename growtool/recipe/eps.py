"""Telling a target the eps that its norms need: by an argument of its constructor, or by the library's own way."""

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
    """A target whose norms have the eps that they need, as far as its library and the plan allow.

    Attributes:
        spec: of the target.
        model: without weights; its norms have the eps that they were told.
        left: path of a norm -> the eps that it needs and does not have.
        exact: whether an argument of the constructor gives all norms what they need.
    """

    spec: ModelSpec
    model: nn.Module
    left: Mapping[str, float]
    exact: bool


def told_eps(plan: Plan, target: TracedModel, eps: Mapping[str, float]) -> ToldEps:
    """Tell the norms of a target their eps: by an argument of its constructor, else one by one if the plan asks for it.

    Args:
        plan: asks with `eps: told` in its `width`.
        target: as traced.
        eps: path of a norm -> the eps that it needs.

    Raises:
        PlanError: the plan asks for it, and the library has no place for the eps of single norms.
    """
    if not eps:
        return ToldEps(target.spec, target.model, {}, False)
    asked = getattr(plan.width, "eps", "kept") == "told"
    spec = _spec_with_eps(target, eps) if asked or target.library.tells_eps else None
    exact = spec is not None
    if spec is None and not asked:
        return ToldEps(target.spec, target.model, eps, False)
    spec = spec or target.library.with_eps(target.spec, eps)
    if spec is None:
        raise PlanError(
            f"width.eps: found told, and {target.library.name} has no place to tell {target.spec.architecture} the eps "
            "of its norms; expected kept, with a result that differs by as little as eps"
        )
    model = copy.deepcopy(target.model)  # the caller may go on with what it has traced
    target.library.set_eps(model, eps)
    return ToldEps(spec, model, {}, exact)


def _spec_with_eps(target: TracedModel, eps: Mapping[str, float]) -> ModelSpec | None:
    """Return the target with an argument (`norm_eps`) that gives these norms their eps and leaves all others alone.

    None if no argument of the constructor does so.
    """
    values = {f"{value:.8g}" for value in eps.values()}  # equal up to rounding
    if len(values) != 1:
        return None
    wanted = _eps_of(target.model) | dict(eps)
    for name in target.library.arguments(target.spec, target.model):
        if name != "eps" and not name.endswith("_eps"):
            continue
        spec = target.spec.with_args(**{name: next(iter(eps.values()))})
        try:
            built = _eps_of(build(spec))
        except CheckpointError:
            continue
        if built.keys() == wanted.keys() and all(math.isclose(built[path], wanted[path]) for path in wanted):
            return spec
    return None


def _eps_of(model: nn.Module) -> dict[str, float]:
    """Return the eps of each module that has one, by its path."""
    eps = {path: eps_of(module) for path, module in model.named_modules()}
    return {path: value for path, value in eps.items() if value is not None}
