"""Fits of power laws, and where they cross."""

import json
import math
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from growtool.workflows.compare.costs import costs_of, fit_sentences, sentences
from growtool.workflows.compare.fit import LENGTHS, crossing, fit
from growtool.workflows.compare.savings import Curve, Measured

COSTS = [1e12 * factor for factor in (1, 2, 4, 8, 16, 32)]
Law = Callable[[float], float]


def law(limit: float, scale: float, exponent: float) -> Law:
    return lambda macs: limit - scale * (macs / 1e12) ** -exponent


def points(of: Law, costs: list[float] = COSTS, *, noise: float = 0.0, seed: int = 0) -> list[tuple[float, float]]:
    random = Random(seed)
    return [(macs, of(macs) + random.gauss(0, noise)) for macs in costs]


@settings(max_examples=30)
@given(st.floats(50, 99), st.floats(1, 40), st.floats(0.1, 2.5))
def test_a_fit_finds_the_law_that_its_points_obey(limit: float, scale: float, exponent: float) -> None:
    found = fit(points(law(limit, scale, exponent)))
    assert found is not None and found.residual < 1e-4
    assert found.limit == pytest.approx(limit, abs=1e-2)
    assert found.exponent == pytest.approx(exponent, rel=1e-2)
    assert found.at(3e12) == pytest.approx(law(limit, scale, exponent)(3e12), abs=1e-3)


def test_a_fit_is_no_better_than_any_accuracy_can_be() -> None:
    rising = [(macs, 10 + 20 * n) for n, macs in enumerate(COSTS[:5])]
    falling = [(macs, 80 - n) for n, macs in enumerate(COSTS)]
    above, level = fit(rising), fit(falling)
    assert above is not None and above.limit == 100 and not above.levels_off
    assert level is not None and level.scale == 0 and level.limit == pytest.approx(77.5), "more training never hurts it"


def test_it_takes_four_costs_that_are_paid() -> None:
    few = points(law(80, 20, 0.5), COSTS[: LENGTHS - 1])
    assert fit(few) is None and fit([*few, few[0]]) is None and fit([*few, (0.0, 50.0)]) is None
    assert fit([*few, (5e12, 70.0)]) is not None
    assert crossing(few, points(law(80, 20, 0.5))) is None


def test_the_same_laws_cross_where_they_are_equal() -> None:
    """80 - 10 / sqrt(C) and 85 - 30 / sqrt(C) are equal at C = 16, where both are 77.5."""
    early, late = law(80, 10, 0.5), law(85, 30, 0.5)
    found = crossing(points(early), points(late))
    assert found is not None and found.macs is not None and found.ahead
    assert found.macs == pytest.approx(16e12, rel=1e-3) and found.top1 == pytest.approx(77.5, abs=1e-3)
    assert not found.extrapolated and found.share == 1
    other = crossing(points(late), points(early))
    assert other is not None and not other.ahead and other.macs == pytest.approx(16e12, rel=1e-3)


def test_a_crossing_beyond_what_was_measured_is_called_so() -> None:
    found = crossing(points(law(80, 10, 0.5), COSTS[:4]), points(law(85, 30, 0.5), COSTS))
    assert found is not None and found.extrapolated and found.measured == COSTS[3]
    assert found.macs == pytest.approx(16e12, rel=1e-2)


def test_what_does_not_cross_has_no_crossing() -> None:
    found = crossing(points(law(85, 10, 0.5)), points(law(80, 30, 0.5)))
    assert found is not None and found.ahead
    assert (found.macs, found.top1, found.interval, found.share, found.extrapolated) == (
        None,
        None,
        (None, None),
        0,
        False,
    )
    assert found.highest == 10 * COSTS[-1]


def test_an_interval_holds_the_crossing_about_as_often_as_it_says() -> None:
    """With 18 points each, residuals tell how far the crossing may lie off; 15 sets of noise, of which most hold it."""
    held = 0
    for seed in range(15):
        first = points(law(80, 10, 0.5), COSTS * 3, noise=0.3, seed=seed)
        found = crossing(first, points(law(85, 30, 0.5), COSTS * 3, noise=0.3, seed=1000 + seed))
        assert found is not None
        low, high = (math.inf if end is None else end for end in found.interval)
        held += low <= 16e12 <= high
    assert held >= 12


def test_more_noise_is_less_sure_and_the_same_question_has_the_same_answer() -> None:
    def width(noise: float) -> float:
        found = crossing(points(law(80, 10, 0.5), noise=noise), points(law(85, 30, 0.5), noise=noise, seed=1))
        assert found is not None
        low, high = (math.inf if end is None else end for end in found.interval)
        return high / low

    assert 1 <= width(0.001) < width(0.05) < width(1.0)
    assert width(0.05) == width(0.05)


def curve(name: str, of: Law, *, scratch: bool) -> Curve:
    return Curve(name, "t", scratch, tuple(Measured(round(m), n, {0: top1}) for n, (m, top1) in enumerate(points(of))))


def test_the_crossing_is_told_in_words() -> None:
    grown, scratch = curve("tile", law(80, 10, 0.5), scratch=False), curve("scratch", law(85, 30, 0.5), scratch=True)
    costs = costs_of([grown, scratch])
    assert sentences(costs)[-1] == (
        "tile is ahead of scratch from 1.00 T MACs on, until their fits cross at 16.0 T and 77.50 % (95 % interval: "
        "16.0 T to 16.0 T; 100 % of the fits to resampled residuals cross)."
    )
    assert fit_sentences(costs)[0].startswith("Fit of tile: 80.00 - 4.20 x (MACs / 5.66 T) ^ -0.5 percent; 6 points, ")
    apart = costs_of([curve("tile", law(85, 10, 0.5), scratch=False), curve("scratch", law(80, 30, 0.5), scratch=True)])
    assert sentences(apart)[-1] == (
        "tile is ahead of scratch from 1.00 T MACs on, and their fits do not cross up to 320 T, 10 times the highest "
        "cost that was measured (beyond 32.0 T they are extrapolated; 0 % of the fits to resampled residuals cross)."
    )


def test_fits_and_crossings_are_data_too() -> None:
    grown, scratch = curve("tile", law(80, 10, 0.5), scratch=False), curve("scratch", law(85, 30, 0.5), scratch=True)
    found = json.loads(json.dumps(costs_of([grown, scratch]).to_json()))
    (crossed,) = found["crossings"]
    assert (crossed["arm"], crossed["reference"]) == ("tile", "scratch")
    assert crossed["ahead"] and not crossed["extrapolated"]
    assert crossed["macs"] == pytest.approx(16e12, rel=1e-3) and len(crossed["interval"]) == 2
    limits = [entry["fit"]["limit"] for entry in found["curves"]]
    assert limits == [pytest.approx(80, abs=0.01), pytest.approx(85, abs=0.01)]
    costly = [saving for saving in found["savings"] if saving["top1"] > 77.6 and saving["saved"] is not None]
    assert costly and all(saving["saved"] < 0 for saving in costly), "beyond the crossing it costs more"
