"""Power laws through measured curves, and where two of them cross, with how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from growtool.workflows.compare.savings import Points

LENGTHS = 4
"""Different costs that a fit of three numbers needs at least, so that something is left over to judge it by."""
RESAMPLES = 500
REACH = 10.0
"""A crossing is looked for up to so many times the highest cost that was measured."""
_BEST = 100.0  # no accuracy is above that
_EXPONENTS = (0.01, 4.0)  # between almost a straight line over log MACs and almost a step
_GRID, _ZOOMS, _PLACES = 40, 6, 2000


@dataclass(frozen=True, slots=True)
class Fit:
    """accuracy = limit - scale * (MACs / unit) ** -exponent.

    Attributes:
        limit: in percent, at most 100.
        scale: percent between the limit and the accuracy at `unit`, at least 0.
        exponent: from 0.01 to 4.
        unit: MACs, the geometric mean of those measured.
        residual: root mean square of what is left over, in percent.
        count: points it is made from, those of all seeds.
    """

    limit: float
    scale: float
    exponent: float
    unit: float
    residual: float
    count: int

    @property
    def levels_off(self) -> bool:
        """Whether the points tell a limit: else the fit is held by the one that all accuracies have."""
        return self.limit < _BEST

    def at(self, macs: float) -> float:
        """Accuracy in percent."""
        return self.limit - self.scale * math.pow(macs / self.unit, -self.exponent)


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where two fits cross first.

    Attributes:
        ahead: whether the first of the two curves is the more accurate one before.
        macs: where; None where they do not cross between `lowest` and `highest`.
        top1: accuracy there, in percent.
        interval: 95 % of what resampled residuals lead to, in MACs; None for a side on which they do not cross.
        share: of resamples in which the lead that `ahead` tells ends within what was looked at.
        lowest, highest: MACs between which was looked: from where both curves begin.
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
        """Whether it lies beyond what was measured."""
        return self.macs is not None and self.macs > self.measured


def fit(points: Points) -> Fit | None:
    """By least squares; points that cost nothing are left out. None where there are fewer than `LENGTHS` costs."""
    kept = _paid(points)
    if len({macs for macs, _ in kept}) < LENGTHS:
        return None
    x_N, unit = _scaled(kept)
    limit_R, scale_R, exponent_R = _solve(x_N, torch.tensor([[top1 for _, top1 in kept]], dtype=torch.float64))
    rest = _values(limit_R, scale_R, exponent_R, x_N)[0] - torch.tensor([top1 for _, top1 in kept], dtype=torch.float64)
    residual = float(rest.square().mean().sqrt())
    return Fit(float(limit_R[0]), float(scale_R[0]), float(exponent_R[0]), unit, residual, len(kept))


def crossing(first: Points, second: Points) -> Crossing | None:
    """Where the fits of two curves cross; None where one of them has too few points for a fit.

    How sure it is: residuals, scaled for the three numbers that each fit has taken from them, are drawn with
    replacement and added to it, and both are fitted anew, 500 times from the same random numbers.
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


def _scaled(points: Sequence[tuple[float, float]]) -> tuple[Tensor, float]:
    """Costs in units of their geometric mean, and that."""
    macs_N = torch.tensor([macs for macs, _ in points], dtype=torch.float64)
    unit = float(macs_N.log().mean().exp())
    return macs_N / unit, unit


def _solve(x_N: Tensor, y_RN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Limit, scale and exponent of the best fit to each row: a grid of exponents, closed form for the other two."""
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
    """Limit and scale by least squares, with the limit at most 100 and the scale at least 0."""
    mean_RK, mean_R1 = power_RKN.mean(-1), y_RN.mean(-1, keepdim=True)
    centred_RKN = power_RKN - mean_RK[:, :, None]
    slope_RK = -(centred_RKN * y_RN[:, None]).sum(-1) / centred_RKN.square().sum(-1)
    scale_RK = slope_RK.clamp(min=0)
    limit_RK = mean_R1 + scale_RK * mean_RK
    bound_RK = ((_BEST - y_RN)[:, None] * power_RKN).sum(-1) / power_RKN.square().sum(-1)
    above_RK = limit_RK > _BEST
    return limit_RK.clamp(max=_BEST), torch.where(above_RK, bound_RK.clamp(min=0), scale_RK)


def _values(limit_R: Tensor, scale_R: Tensor, exponent_R: Tensor, x_N: Tensor) -> Tensor:
    return limit_R[:, None] - scale_R[:, None] * x_N ** -exponent_R[:, None]


def _resampled(points: Sequence[tuple[float, float]], place_G: Tensor, random: torch.Generator) -> Tensor:
    """The fit's accuracy at each place in the first row, in the others those of fits to resampled residuals."""
    x_N, unit = _scaled(points)
    y_1N = torch.tensor([[top1 for _, top1 in points]], dtype=torch.float64)
    best = _solve(x_N, y_1N)
    fitted_1N = _values(*best, x_N)
    count = x_N.numel()
    rest_N = (y_1N - fitted_1N)[0] * math.sqrt(count / (count - 3))
    drawn_RN = rest_N[torch.randint(count, (RESAMPLES, count), generator=random)]
    others = _solve(x_N, fitted_1N + drawn_RN)
    return torch.cat([_values(*fits, place_G / unit) for fits in (best, others)])


def _first_end(lead_G: Tensor, place_G: Tensor) -> float | None:
    """Where a lead is no more, interpolated in the logarithm of the place; None where it lasts."""
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
