"""The eps of norms whose variance growth changes: what each would need, and how much it is off without."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from torch import nn

from growtool.algebra.rewrite import RescaledNorm
from growtool.library.building import eps_of
from growtool.prove.obstacle import Obstacle, Why
from growtool.trace import Trace, places
from growtool.trace.reading.norms import norm_call

_NEGLIGIBLE = 2.0**-40


def eps_of_norms(trace: Trace) -> dict[str, float]:
    """Module path -> what a norm over the channels of each position adds to the variance."""
    calls = ((step.module, norm_call(step, trace.forward)) for step in trace.forward.steps)
    return {module: call.eps for module, call in calls if call is not None and call.eps is not None}


def needed_eps(source: Trace, norms: Iterable[RescaledNorm], source_path: Callable[[str], str]) -> dict[str, float]:
    """The eps each rescaled norm of the target needs, where it is not the one it has.

    Args:
        source: the source's trace.
        norms: of the target.
        source_path: path of a module of the target -> that of its counterpart.
    """
    before, needed = eps_of_norms(source), {}
    for norm in norms:
        wanted = before.get(source_path(norm.module), norm.eps) * norm.s
        if not math.isclose(wanted, norm.eps, rel_tol=1e-6):
            needed[norm.module] = wanted
    return needed


def eps_obstacles(
    wanted: Mapping[str, float], norms: Iterable[RescaledNorm], target: Trace, model: nn.Module
) -> list[Obstacle]:
    """Modules that cannot be told the eps that their norm needs.

    Args:
        wanted: path of a norm -> the eps that it needs.
        norms: every rescaled norm of the target.
        target: its trace.
        model: the target.
    """
    untold = [path for path in wanted if eps_of(model.get_submodule(path)) is None]
    rescaled, normalised = defaultdict[str, set[float]](set), defaultdict[str, set[object]](set)
    for norm in norms:
        rescaled[norm.module].add(norm.s)
    for step in target.forward.steps:
        call = norm_call(step, target.forward)
        if call is not None and step.module in wanted:
            axes = target.forward.axes(call.x)
            normalised[step.module].add(tuple(axes[dim] for dim in call.dims))
    several = [path for path in wanted if len(rescaled[path]) > 1 or len(normalised[path]) > 1]
    told = [
        (untold, "the norm's eps would have to change with its width and cannot be told"),
        (several, "norms over several sets of channels have one eps, and would need others than each other"),
    ]
    return [Obstacle(Why.EPS, f"{places(paths)}: {reason}") for paths, reason in told if paths]


def without_eps(norms: Mapping[str, float]) -> dict[str, float]:
    """In place of the eps of each norm one that is nothing beside its variance, and yet divides zeros by no zero."""
    return {module: eps * _NEGLIGIBLE for module, eps in norms.items()}


def renormed_shifts(norms: Mapping[str, float]) -> list[str]:
    """How much each norm of what has been normalised changes it, by its eps: to first order eps / (2 variance)."""
    found = defaultdict[float, list[str]](list)
    for module, eps in sorted(norms.items()):
        found[eps].append(module)
    return [
        f"{places(modules)}: with the new blocks closed each norms what another has normed, so eps of {size:.3g} "
        f"counts more than once: by about {size / 2:.1e} (relative) a norm where the variance over the channels is 1, "
        "in inverse proportion to it elsewhere"
        for size, modules in found.items()
    ]


def eps_shifts(norms: Iterable[RescaledNorm], wanted: Mapping[str, float]) -> list[str]:
    """How much each norm is off while its eps is the source's: to first order (1 / s - 1) eps / (2 variance)."""
    found: dict[tuple[float, float], list[str]] = {}
    for norm in norms:
        if norm.module in wanted:
            found.setdefault((norm.eps, wanted[norm.module]), []).append(norm.module)
    return [
        f"{places(modules)}: eps is {eps:.3g} and would have to be {target:.3g}; the norm's output is too small by "
        f"{(eps / target - 1) * eps / 2:.1e} (relative) where the variance over the old channels is 1, in inverse "
        "proportion to it elsewhere"
        for (eps, target), modules in found.items()
    ]
