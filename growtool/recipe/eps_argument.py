"""How a target is told the eps of its norms: by an argument of the constructor where one says just that."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import nn

from growtool.errors import CheckpointError
from growtool.library import ModelSpec, build, library_of
from growtool.recipe.traced_model import TracedModel


def spec_with_eps(target: TracedModel, eps: Mapping[str, float]) -> ModelSpec | None:
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
    for name in library_of(target.spec).arguments(target.spec, target.model):
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
    found = {path: getattr(module, "eps", None) for path, module in model.named_modules()}
    return {path: eps for path, eps in found.items() if isinstance(eps, float)}
