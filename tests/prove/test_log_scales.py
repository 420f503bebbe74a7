"""The linear system in the logarithms of factors."""

import math

import pytest
import torch

from growtool.prove.scales.log_scales import LogScales, added, alone


def test_queries_and_keys_share_a_factor():
    scales = LogScales()
    q, k, copies = map(alone, (scales.unknown(), scales.unknown(), scales.change(3.0)))
    scales.require(added(added(q, k), copies))
    assert scales.solve().factors == {0: pytest.approx(3**-0.5), 1: pytest.approx(3**-0.5)}


def test_a_weight_and_its_bias_count_once():
    scales = LogScales()
    weight, bias, k, copies = map(alone, (scales.unknown(), scales.unknown(), scales.unknown(), scales.change(4.0)))
    scales.require(added(weight, bias, -1))
    scales.require(added(added(bias, k), copies))
    assert scales.solve().factors == dict.fromkeys(range(3), pytest.approx(0.5))


def test_as_few_tensors_as_may_be_change():
    scales = LogScales()
    gain, bias, scale, copies = map(alone, (scales.unknown(), scales.unknown(), scales.unknown(), scales.change(2.0)))
    scales.require(added(added(gain, copies), bias, -1))
    scales.require(added(bias, scale))
    assert scales.solve().factors == {0: pytest.approx(0.5)}


def test_what_cancels_needs_no_weight():
    scales = LogScales()
    split, summed, weight = map(alone, (scales.change(1 / 3), scales.change(3.0), scales.unknown()))
    scales.require(added(added(split, summed), weight))
    assert scales.solve().factors == {} and not scales.solve().failed


def test_what_nothing_makes_up_for_leaves_the_rest_alone():
    scales = LogScales()
    lost, weight, found = map(alone, (scales.change(2.0), scales.unknown(), scales.change(5.0)))
    scales.require(lost)
    scales.require(added(weight, found))
    solution = scales.solve()
    assert solution.failed == {0} and solution.factors == {1: pytest.approx(0.2)}


def test_suspects_are_blamed_alone():
    scales = LogScales()
    split, product = map(alone, (scales.change(0.5), scales.change(3.0)))
    scales.require(added(split, product))
    assert scales.solve().failed == {0, 1}
    scales = LogScales()
    split, product = map(alone, (scales.change(0.5), scales.change(3.0)))
    scales.require(added(split, product))
    scales.require(added(split, split, -1))
    assert 1 in scales.solve(suspects={1}).failed


def test_no_weight_makes_up_for_copies_in_unlike_numbers():
    scales = LogScales()
    weight, copies = map(alone, (scales.unknown(), scales.change(2.5, uneven=True)))
    scales.require(added(weight, copies))
    assert scales.solve().failed == {1} and not scales.solve().factors
    scales = LogScales()
    split, summed = map(alone, (scales.change(1 / 2.5, uneven=True), scales.change(2.5, uneven=True)))
    scales.require(added(split, summed))
    assert not scales.solve().failed


@pytest.mark.parametrize("seed", range(20))
def test_any_system_that_can_be_solved_is(seed):
    """Requirements that some factors fulfil: those found do as well."""
    generator = torch.Generator().manual_seed(seed)
    scales = LogScales()
    hidden = torch.randn(8, generator=generator, dtype=torch.float64)
    unknowns = [alone(scales.unknown()) for _ in hidden]
    rows = torch.randint(-2, 3, (6, len(hidden)), generator=generator)
    changes = (-(rows.double() @ hidden)).exp()
    for row, ratio in zip(rows.tolist(), changes.tolist(), strict=True):
        log = alone(scales.change(ratio))
        for unknown, times in zip(unknowns, row, strict=True):
            log = added(log, unknown, times)
        scales.require(log)
    solution = scales.solve()
    found = torch.tensor([math.log(solution.factors.get(i, 1.0)) for i in range(len(hidden))], dtype=torch.float64)
    assert not solution.failed
    assert torch.allclose(rows.double() @ found, rows.double() @ hidden, atol=1e-9)
