"""Where the axes of a chart have their ticks: few round numbers that enclose the values."""

from __future__ import annotations

import math


def ticks(low: float, high: float) -> tuple[float, ...]:
    """Return about five round numbers, the first at or below `low`, the last at or above `high`."""
    span = (high - low) or abs(high) or 1.0
    rough = span / 5
    power = 10.0 ** math.floor(math.log10(rough))
    # 1e-9, here and below: a number that misses a tick by rounding alone counts as on it
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(n * step for n in range(first, max(last, first + 1) + 1))


def log_ticks(low: float, high: float) -> tuple[float, ...]:
    """Return 1, 2 and 5 times powers of ten, from at or below `low` to at or above `high`; both are above 0.

    Beyond four powers of ten there is a tick at each power alone.
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) <= 5 else (1,)
    values = [factor * 10.0**power for power in powers for factor in factors]
    first = max(n for n, value in enumerate(values) if value <= low * (1 + 1e-9))
    last = next((n for n, value in enumerate(values) if value >= high * (1 - 1e-9)), len(values) - 1)
    return tuple(values[first : max(last, first + 1) + 1])
