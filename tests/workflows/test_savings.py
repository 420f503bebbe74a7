"""What is saved at equal accuracy: right where it is known in closed form, and never told beyond what was measured."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from growtool.workflows.compare.costs import costs_of, savings_table, sentences
from growtool.workflows.compare.savings import Cost, Curve, Measured, cost_at, envelope, levels, saving_at
from growtool.workflows.compare.savings import Level as At

POINTS = st.lists(st.tuples(st.floats(1e9, 1e15), st.floats(0, 100)), min_size=1, max_size=8)


def curve(name: str, *points: tuple[float, Sequence[float]], scratch: bool = False, target: str = "t") -> Curve:
    measured = [Measured(round(macs), n, dict(enumerate(top1))) for n, (macs, top1) in enumerate(points)]
    return Curve(name, target, scratch, tuple(measured))


def logarithmic(slope: float, offset: float) -> Callable[[float], float]:
    return lambda macs: offset + slope * math.log10(macs)


@given(POINTS, st.floats(0, 100))
def test_a_cost_lies_between_those_of_its_neighbours_or_is_not_told(
    points: list[tuple[float, float]], top1: float
) -> None:
    cost, (least, first) = cost_at(points, top1), envelope(points)[0]
    above = [macs for macs, value in points if value >= top1]
    assert (cost is None) == (not above)
    if cost is not None:
        assert cost.at_most == (first > top1 and least > 0)
        assert least * (1 - 1e-9) <= cost.macs <= min(above) * (1 + 1e-9), "never more than what showed as much"


@given(POINTS)
def test_an_envelope_never_pays_more_for_less(points: list[tuple[float, float]]) -> None:
    kept = envelope(points)
    assert set(kept) <= set(points)
    assert [macs for macs, _ in kept] == sorted({macs for macs, _ in kept})
    assert [top1 for _, top1 in kept] == sorted({top1 for _, top1 in kept})
    assert all(any(macs <= m and top1 >= t for macs, top1 in kept) for m, t in points)


@given(POINTS, st.floats(1e-3, 1e3))
def test_a_unit_of_cost_changes_nothing_else(points: list[tuple[float, float]], factor: float) -> None:
    middle = (envelope(points)[0][1] + envelope(points)[-1][1]) / 2
    cost, scaled = cost_at(points, middle), cost_at([(macs * factor, top1) for macs, top1 in points], middle)
    assert cost and scaled and scaled.macs == pytest.approx(cost.macs * factor, rel=1e-6)


@pytest.mark.parametrize("factor", [0.25, 0.8, 1.5])
def test_a_curve_that_costs_a_known_part_saves_the_rest(factor: float) -> None:
    """Straight lines over log MACs, where interpolation is exact: the same accuracy for `factor` times the cost."""
    truth = logarithmic(12, -80)
    scratch = curve("scratch", *((macs, [truth(macs)]) for macs in (1e12, 1e13, 4e13)), scratch=True)
    grown = curve("grown", *((macs * factor, [truth(macs)]) for macs in (2e12, 3e13)))
    for top1 in (truth(2.1e12), truth(1e13), truth(2.9e13)):
        saving = saving_at(grown, scratch, At(top1))
        assert saving.saved == pytest.approx(1 - factor, rel=1e-6), "negative where it costs more"
        assert saving.cost and saving.cost.macs == pytest.approx(factor * 10 ** ((top1 + 80) / 12), rel=1e-6)
        assert not saving.bound and not saving.reason("grown", "scratch")


def test_what_was_not_measured_is_not_told() -> None:
    scratch = curve("scratch", (1e12, [60.0]), (1e13, [80.0]), scratch=True)
    grown = curve("grown", (2e12, [70.0]), (5e12, [82.0]))
    savings = {top1: saving_at(grown, scratch, At(top1)) for top1 in (50.0, 69.0, 75.0, 81.0, 90.0)}
    assert {top1: saving.reason("grown", "scratch") for top1, saving in savings.items()} == {
        50.0: "the cheapest run of grown and of scratch has more than that",
        69.0: "",
        75.0: "",
        81.0: "scratch did not reach that accuracy",
        90.0: "grown and scratch did not reach that accuracy",
    }
    assert savings[81.0].cost is not None, "what it costs is told all the same"


def test_more_for_less_bounds_what_is_saved() -> None:
    """A point that is more accurate than asked for costs at most that: a bound, whichever of the two it is."""
    scratch = curve("scratch", (1e12, [60.0]), (1e13, [80.0]), scratch=True)
    at_least = saving_at(curve("grown", (2e12, [79.0]), (5e12, [82.0])), scratch, At(70.0))
    assert at_least.bound == "at least" and at_least.saved == pytest.approx(1 - 2e12 / 10**12.5)
    at_most = saving_at(curve("poor", (1e12, [30.0]), (2e12, [50.0])), scratch, At(50.0))
    assert at_most.bound == "at most" and at_most.saved == pytest.approx(-1.0)
    assert at_least.deviation is None and at_most.deviation is None
    dear = saving_at(curve("dear", (2e12, [79.0]), (5e12, [82.0])), scratch, At(61.0))
    assert (dear.saved, dear.bound, dear.reason("dear", "scratch")) == (
        None,
        "",
        "the cheapest run of dear has more than that",
    ), "it may be either"


def test_a_longer_run_that_ends_lower_is_passed_over() -> None:
    dip = [(1e12, 79.0), (2e12, 77.0), (4e12, 80.0)]
    cost = cost_at(dip, 79.5)
    assert cost == cost_at([dip[0], dip[2]], 79.5) and cost and cost.macs == pytest.approx(2e12)
    assert cost_at(dip, 78.0) == Cost(1e12, at_most=True)


def test_after_what_cost_nothing_costs_are_linear() -> None:
    free = [(0.0, 79.0), (4e12, 81.0), (8e12, 82.0)]
    found = [cost_at(free, top1) for top1 in (78.0, 79.0, 80.0, 81.0)]
    assert found == [Cost(0.0), Cost(0.0), Cost(2e12), Cost(4e12)], "nothing is the least, not a bound"
    scratch = curve("scratch", (1e12, [60.0]), (1e13, [81.0]), scratch=True)
    assert saving_at(curve("grown", (0, [79.0]), (4e12, [81.0])), scratch, At(79.0)).saved == 1.0


def test_a_saving_has_the_deviation_of_its_seeds() -> None:
    scratch = curve("scratch", (1e12, [60.0] * 3), (1e13, [80.0] * 3), scratch=True)
    seeds = [0.5, 0.6, 0.7]  # of the cost from scratch, seed by seed
    grown = Curve(
        "grown",
        "t",
        from_scratch=False,
        points=(
            Measured(10**12, 0, dict.fromkeys(range(3), 70.0)),
            Measured(6 * 10**12, 1, {seed: 70 + 7 / math.log10(6) * part for seed, part in enumerate(seeds)}),
        ),
    )
    saving = saving_at(grown, scratch, At(73.0))
    each = [saving_at(alone(grown, seed), scratch, At(73.0)).saved for seed in range(3)]
    assert saving.deviation == pytest.approx(math.sqrt(sum((x - sum(each) / 3) ** 2 for x in each) / 2))
    assert saving_at(grown, scratch, At(75.5)).deviation is None, "a seed does not get there"


def alone(several: Curve, seed: int) -> Curve:
    points = tuple(Measured(p.macs, p.steps, {0: p.top1[seed]}) for p in several.points)
    return Curve(several.name, several.target, several.from_scratch, points)


def test_at_its_own_end_each_seed_is_read_at_what_it_came_to() -> None:
    """The seed that ended below the mean has the accuracy of its own end, where the level is one of scratch's ends."""
    scratch = curve("scratch", (1e12, [60.0, 60.0]), (1e13, [79.0, 81.0]), scratch=True)
    grown = curve("grown", (1e12, [75.0, 75.0]), (5e12, [82.0, 82.0]))
    (top,) = [level for level in levels(grown, scratch, [grown]) if level.top1 == 80.0]
    assert top.by_seed == {0: 79.0, 1: 81.0}
    saving = saving_at(grown, scratch, top)
    assert saving.saved is not None and saving.deviation is not None


def test_seeds_count_where_both_ways_have_lengths_around_the_accuracy() -> None:
    """Longest and dearest runs are the last to be repeated: they take nothing from what is told below them."""
    scratch = curve("scratch", (1e12, [60.0, 62.0]), (1e13, [80.0, 80.5]), (3e13, [84.0]), scratch=True)
    grown = curve("grown", (1e12, [72.0, 71.0]), (5e12, [80.0, 79.5]), (2e13, [84.0]))
    at_76, at_82 = (saving_at(grown, scratch, At(top1)) for top1 in (76.0, 82.0))
    assert at_76.deviation is not None
    assert at_82.saved is not None and at_82.deviation is None, "one seed alone was trained that far"


def test_a_seed_that_was_not_trained_so_far_takes_nothing_from_what_others_show() -> None:
    """Its runs count in the means; the deviation is that of the seeds with lengths around the cost."""
    scratch = curve("scratch", (1e12, [60.0, 62.0, 61.0]), (1e13, [80.0, 80.5]), scratch=True)
    grown = curve("grown", (1e12, [72.0, 71.0, 71.5]), (5e12, [80.0, 79.5, 79.9]))
    saving, of_two = (
        saving_at(ways[0], ways[1], At(76.0))
        for ways in ((grown, scratch), [first_seeds(way, 2) for way in (grown, scratch)])
    )
    assert saving.deviation == of_two.deviation is not None and saving.saved != of_two.saved


def first_seeds(several: Curve, count: int) -> Curve:
    return replace(several, points=tuple(replace(p, top1=dict(list(p.top1.items())[:count])) for p in several.points))


def test_levels_are_what_was_measured_and_round_numbers_between() -> None:
    scratch = curve("scratch", (1e12, [63.0]), (1e13, [77.0]), (4e13, [83.0]), scratch=True)
    grown, other = curve("a", (1e13, [79.03]), (2e13, [82.0])), curve("b", (1e13, [78.0]), (2e13, [81.0]))
    found = [level.top1 for level in levels(grown, scratch, [grown, other])]
    assert found == [63.0, 77.0, 79.0, 79.03, 80.0, 81.0, 82.0, 83.0]
    assert 81.0 in [level.top1 for level in levels(other, scratch, [grown, other])]


def test_every_way_stands_beside_its_own_target() -> None:
    wide, deep = (curve(f"scratch-{n}", (1e12, [60.0]), scratch=True, target=n) for n in "wd")
    ways = [curve(n, (1e12, [70.0]), target=n) for n in "wd"] + [curve("source", (1e12, [70.0]), target="small")]
    assert [(p.curve.name, p.reference.name) for p in costs_of([wide, deep, *ways]).pairs] == [
        ("w", "scratch-w"),
        ("d", "scratch-d"),
    ]
    assert [(p.curve.name, p.reference.name) for p in costs_of([wide, ways[0], ways[2]]).pairs] == [
        ("w", "scratch-w"),
        ("source", "scratch-w"),
    ]
    assert not costs_of(ways).pairs, "where nothing trains from scratch"


def test_what_does_not_pay_is_said_as_what_does() -> None:
    scratch = curve("scratch", (1e12, [60.0]), (1e13, [80.0]), (2e13, [81.0]), scratch=True)
    costs = costs_of([curve("dear", (2e13, [70.0]), (4e13, [82.0])), scratch])
    assert savings_table(costs).rows == (
        ("dear", "70.00", "20.0 T", "3.16 T", "-532"),
        ("dear", "75.00", "26.7 T", "5.62 T", "-375"),
        ("dear", "80.00", "35.6 T", "10.0 T", "-256"),
        ("dear", "81.00", "37.8 T", "20.0 T", "-89"),
    )
    assert sentences(costs) == [
        "dear: no saving is known at 60.00 %, because the cheapest run of dear has more than that.",
        "dear: no saving is known at 82.00 %, because scratch did not reach that accuracy.",
        "dear: where its curve crosses that of scratch is not known; a fit needs 4 different costs of each, and dear "
        "has 2 and scratch has 3.",
    ]
