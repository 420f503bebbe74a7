"""Power laws through measured curves, where two of them cross, and how certain the crossing is.

Axes: R resamples (the first row is the fit itself), K exponents, N points, G places along the MACs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from growtool.workflows.compare.savings import Points

LENGTHS = 4
"""The fewest different costs for a fit: it has three numbers, and a fourth point is needed to judge it by."""
RESAMPLES = 500
REACH = 10.0
"""A crossing is searched up to this multiple of the highest measured cost."""
_BEST = 100.0  # percent; no accuracy is higher
_EXPONENTS = (0.01, 4.0)  # from almost a straight line over log MACs to almost a step
_GRID, _ZOOMS, _PLACES = 40, 6, 2000  # exponents per grid, grids within each other, places searched for a crossing


@dataclass(frozen=True, slots=True)
class Fit:
    """accuracy = limit - scale * (MACs / unit) ** -exponent.

    Attributes:
        limit: in percent, at most 100.
        scale: percent between the limit and the accuracy at `unit`, at least 0.
        exponent: from 0.01 to 4.
        unit: geometric mean of the measured MACs.
        residual: root mean square of the residuals, in percent.
        count: points of all seeds that it fits.
    """

    limit: float
    scale: float
    exponent: float
    unit: float
    residual: float
    count: int

    @property
    def levels_off(self) -> bool:
        """Whether the points determine the limit; if not, the limit is 100 %, which bounds all accuracies."""
        return self.limit < _BEST

    def at(self, macs: float) -> float:
        """Return the accuracy in percent at a cost."""
        return self.limit - self.scale * math.pow(macs / self.unit, -self.exponent)


@dataclass(frozen=True, slots=True)
class Crossing:
    """The first crossing of two fits.

    Attributes:
        ahead: whether the first curve is the more accurate one before the crossing.
        macs: of the crossing; None if the fits do not cross between `lowest` and `highest`.
        top1: accuracy at the crossing, in percent.
        interval: 95 % interval of the crossing over resampled residuals, in MACs; None for an end without a crossing.
        share: of resamples in which the curve that is ahead is overtaken between `lowest` and `highest`.
        lowest, highest: the MACs that were searched, from where both curves have begun.
        measured: MACs up to which both curves were measured; a crossing beyond is extrapolated.
    """

    ahead: bool
    macs: float | None
    top1: float | None
    interval: tuple[float | None, float | None]
    share: float
    lowest: float
    highest: float
    measured: float

    @property
    def extrapolated(self) -> bool:
        """Whether the crossing lies beyond the measured costs."""
        return self.macs is not None and self.macs > self.measured


def fit(points: Points) -> Fit | None:
    """Fit a power law by least squares, without points of no cost; return None for fewer than `LENGTHS` costs."""
    kept = _paid(points)
    if len({macs for macs, _ in kept}) < LENGTHS:
        return None
    x_N, y_1N, unit = _scaled(kept)
    best = _solve(x_N, y_1N)
    residual = (_values(*best, x_N) - y_1N).square().mean().sqrt()
    limit, scale, exponent = map(float, best)
    return Fit(limit, scale, exponent, unit, float(residual), len(kept))


def crossing(first: Points, second: Points) -> Crossing | None:
    """Find where the fits of two curves cross; return None if one of them has too few points for a fit.

    The interval comes from a bootstrap of the residuals: they are scaled for the three numbers that the fit has taken
    from them, drawn with replacement and added to the fit, and both curves are fitted again. This is done `RESAMPLES`
    times, always from the same random numbers.
    """
    first_fit = fit(first)
    if first_fit is None or fit(second) is None:
        return None
    ways = [_paid(points) for points in (first, second)]
    lowest = max(min(macs for macs, _ in way) for way in ways)
    ends = [max(macs for macs, _ in way) for way in ways]
    highest = max(ends) * REACH
    place_G = torch.logspace(math.log10(lowest), math.log10(highest), _PLACES, dtype=torch.float64)
    random = torch.Generator().manual_seed(0)
    first_RG, second_RG = (_resampled(way, place_G, random) for way in ways)
    lead_RG = first_RG - second_RG
    ahead = bool(lead_RG[0, 0] > 0)
    found = [_first_end(lead_G if ahead else -lead_G, place_G) for lead_G in lead_RG]
    drawn = sorted(math.inf if macs is None else macs for macs in found[1:])
    low, high = (drawn[round(part * (RESAMPLES - 1))] for part in (0.025, 0.975))
    macs = found[0]
    return Crossing(
        ahead=ahead,
        macs=macs,
        top1=None if macs is None else first_fit.at(macs),
        interval=(_finite(low), _finite(high)),
        share=sum(map(math.isfinite, drawn)) / RESAMPLES,
        lowest=lowest,
        highest=highest,
        measured=min(ends),
    )


def _paid(points: Points) -> list[tuple[float, float]]:
    return [(macs, top1) for macs, top1 in points if macs > 0]


def _scaled(points: Points) -> tuple[Tensor, Tensor, float]:
    """Return the costs [N] in units of their geometric mean, the accuracies [1, N], and this mean."""
    macs_N, top1_N = torch.tensor(points, dtype=torch.float64).T.contiguous()
    unit = float(macs_N.log().mean().exp())
    return macs_N / unit, top1_N[None], unit


def _solve(x_N: Tensor, y_RN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return limit, scale and exponent of the best fit to each row of accuracies.

    For a given exponent the other two are linear and have a closed form, so a grid of exponents is enough. Each grid
    lies around the best exponent of the one before.
    """
    rows = len(y_RN)
    low_R, high_R = (torch.full((rows,), math.log(end), dtype=torch.float64) for end in _EXPONENTS)
    part_K = torch.linspace(0, 1, _GRID, dtype=torch.float64)
    for _ in range(_ZOOMS):
        log_RK = low_R[:, None] + (high_R - low_R)[:, None] * part_K
        power_RKN = x_N ** -log_RK.exp()[:, :, None]
        limit_RK, scale_RK = _linear(power_RKN, y_RN)
        rest_RKN = limit_RK[:, :, None] - scale_RK[:, :, None] * power_RKN - y_RN[:, None]
        best_R = rest_RKN.square().sum(-1).argmin(-1)
        row_R = torch.arange(rows)
        found = limit_RK[row_R, best_R], scale_RK[row_R, best_R], log_RK[row_R, best_R].exp()
        low_R, high_R = (log_RK[row_R, (best_R + step).clamp(0, _GRID - 1)] for step in (-1, 1))
    return found


def _linear(power_RKN: Tensor, y_RN: Tensor) -> tuple[Tensor, Tensor]:
    """Return limit and scale by least squares, with the limit at most 100 and the scale at least 0."""
    mean_RK, mean_R1 = power_RKN.mean(-1), y_RN.mean(-1, keepdim=True)
    centred_RKN = power_RKN - mean_RK[:, :, None]
    slope_RK = -(centred_RKN * y_RN[:, None]).sum(-1) / centred_RKN.square().sum(-1)
    scale_RK = slope_RK.clamp(min=0)
    limit_RK = mean_R1 + scale_RK * mean_RK
    bound_RK = ((_BEST - y_RN)[:, None] * power_RKN).sum(-1) / power_RKN.square().sum(-1)
    above_RK = limit_RK > _BEST  # then the limit is held at 100, and the scale alone is fitted
    return limit_RK.clamp(max=_BEST), torch.where(above_RK, bound_RK.clamp(min=0), scale_RK)


def _values(limit_R: Tensor, scale_R: Tensor, exponent_R: Tensor, x_N: Tensor) -> Tensor:
    return limit_R[:, None] - scale_R[:, None] * x_N ** -exponent_R[:, None]


def _resampled(points: Points, place_G: Tensor, random: torch.Generator) -> Tensor:
    """Return accuracies at each place: of the fit in the first row, of fits to resampled residuals in the others."""
    x_N, y_1N, unit = _scaled(points)
    best = _solve(x_N, y_1N)
    fitted_1N = _values(*best, x_N)
    count = x_N.numel()
    rest_N = (y_1N - fitted_1N)[0] * math.sqrt(count / (count - 3))  # unbiased: three numbers were fitted
    drawn_RN = rest_N[torch.randint(count, (RESAMPLES, count), generator=random)]
    others = _solve(x_N, fitted_1N + drawn_RN)
    return torch.cat([_values(*fits, place_G / unit) for fits in (best, others)])


def _first_end(lead_G: Tensor, place_G: Tensor) -> float | None:
    """Return where a lead ends, interpolated in the logarithm of the place; None if it never ends."""
    over = (lead_G <= 0).nonzero()
    if not len(over):
        return None
    after = int(over[0])
    if after == 0:
        return float(place_G[0])
    before = after - 1
    part = float(lead_G[before] / (lead_G[before] - lead_G[after]))
    return float(place_G[before] ** (1 - part) * place_G[after] ** part)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
