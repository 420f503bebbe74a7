"""The eps of norms whose variance growth changes: the eps that each needs, and the error without it.

A norm over old channels and blanks sees a mean square that is s times the source's. Its gain times `s^1/2` makes up for
it exactly if its eps is s times the source's: `s^1/2 x / (s v + s eps)^1/2 = x / (v + eps)^1/2`.
"""

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

_NEGLIGIBLE = 2.0**-40  # times an eps: nothing beside any variance that the eps was meant for


def needed_eps(source: Trace, norms: Iterable[RescaledNorm], source_path: Callable[[str], str]) -> dict[str, float]:
    """Return the eps that each rescaled norm needs, by module path; norms that have it already are absent.

    Args:
        source: the source's trace.
        norms: the rescaled norms of the target.
        source_path: path of a module of the target -> that of its counterpart.
    """
    calls = ((step.module, norm_call(step, source.forward)) for step in source.forward.steps)
    source_eps = {module: call.eps for module, call in calls if call is not None and call.eps is not None}
    needed = {}
    for norm in norms:
        eps = source_eps.get(source_path(norm.module), norm.eps) * norm.s
        if not math.isclose(eps, norm.eps, rel_tol=1e-6):
            needed[norm.module] = eps
    return needed


def eps_obstacles(
    wanted: Mapping[str, float], norms: Iterable[RescaledNorm], target: Trace, model: nn.Module
) -> list[Obstacle]:
    """Return obstacles for norms that cannot be given the eps that they need.

    Args:
        wanted: path of a norm -> the eps that it needs.
        norms: every rescaled norm of the target.
        target: its trace.
        model: the target.
    """
    untellable = [path for path in wanted if eps_of(model.get_submodule(path)) is None]
    # a module may norm several tensors, by one eps
    shares, channels = defaultdict[str, set[float]](set), defaultdict[str, set[object]](set)
    for norm in norms:
        shares[norm.module].add(norm.s)
    for step in target.forward.steps:
        call = norm_call(step, target.forward)
        if call is not None and step.module in wanted:
            axes = target.forward.axes(call.x)
            channels[step.module].add(tuple(axes[dim] for dim in call.dims))
    several = [path for path in wanted if len(shares[path]) > 1 or len(channels[path]) > 1]
    reasons = [
        (untellable, "the norm's eps would have to change with its width and cannot be told"),
        (several, "norms over several sets of channels have one eps, and would need others than each other"),
    ]
    return [Obstacle(Why.EPS, f"{places(paths)}: {reason}") for paths, reason in reasons if paths]


def without_eps(norms: Mapping[str, float]) -> dict[str, float]:
    """Return an eps for each norm that is negligible beside its variance, and yet lets no zero be divided by zero."""
    return {module: eps * _NEGLIGIBLE for module, eps in norms.items()}


def renormed_shifts(norms: Mapping[str, float]) -> list[str]:
    """Return sentences that tell how much norms of what has been normalised change it.

    To first order the relative change is eps / (2 variance), as `(1 + eps / v)^-1/2 = 1 - eps / (2 v) + ...`.

    Args:
        norms: module path -> its eps.
    """
    by_eps = defaultdict[float, list[str]](list)
    for module, eps in sorted(norms.items()):
        by_eps[eps].append(module)
    return [
        f"{places(modules)}: with the new blocks closed each norms what another has normed, so eps of {size:.3g} "
        f"counts more than once: by about {size / 2:.1e} (relative) a norm where the variance over the channels is 1, "
        "in inverse proportion to it elsewhere"
        for size, modules in by_eps.items()
    ]


def eps_shifts(norms: Iterable[RescaledNorm], wanted: Mapping[str, float]) -> list[str]:
    """Return sentences that tell how much norms are off while they keep their eps.

    To first order the relative error is (1 / s - 1) eps / (2 variance).

    Args:
        norms: the rescaled norms of the target.
        wanted: module path -> the eps that the norm needs.
    """
    by_eps: dict[tuple[float, float], list[str]] = {}
    for norm in norms:
        if norm.module in wanted:
            by_eps.setdefault((norm.eps, wanted[norm.module]), []).append(norm.module)
    return [
        f"{places(modules)}: eps is {eps:.3g} and would have to be {target:.3g}; the norm's output is too small by "
        f"{(eps / target - 1) * eps / 2:.1e} (relative) where the variance over the old channels is 1, in inverse "
        "proportion to it elsewhere"
        for (eps, target), modules in by_eps.items()
    ]
