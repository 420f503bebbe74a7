"""A linear system in the logarithms of factors, solved for the factors of weights that keep the model's outputs.

A factor is a product of powers of terms, so its logarithm is a linear combination of the terms' logarithms. There are
two sorts of terms: an `unknown` is the factor of one parameter or of a part of it; a `change` is a factor of known
value that growth brings in. Each requirement says that one linear combination is zero.

Coefficients are `Fraction`s, so that terms cancel exactly; only the values of changes are floats.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

Log: TypeAlias = "tuple[tuple[int, Fraction], ...]"  # a linear combination: terms in order, with their coefficients
ZERO: Log = ()
_Sum: TypeAlias = "dict[int, Fraction]"  # the same while it is computed with: term -> coefficient
_ALIKE = 1e-9  # logarithms that differ by less are equal
_SWEEPS = 20  # at most, of the coordinate descent in `_chosen`


def alone(term: int) -> Log:
    """Return the combination of one term, with coefficient 1."""
    return ((term, Fraction(1)),)


def added(a: Log, b: Log, times: int = 1) -> Log:
    """Return `a + times b`."""
    return _log(_plus(dict(a), dict(b), Fraction(times)))


@dataclass(frozen=True, slots=True)
class Solution:
    """The solution of a system.

    Attributes:
        factors: unknown -> its factor; unknowns with factor 1 are absent.
        failed: changes that no factors of weights make up for.
    """

    factors: Mapping[int, float]
    failed: frozenset[int]


class LogScales:
    """A linear system under construction: its unknowns, its changes and its requirements."""

    def __init__(self) -> None:
        self._ratios: list[float | None] = []  # term -> the value of a change; None for an unknown
        self._uneven = set[int]()
        self._required: dict[Log, None] = {}

    def unknown(self) -> int:
        """Add an unknown and return its term."""
        return self._term(None)

    def change(self, ratio: float, *, uneven: bool = False) -> int:
        """Add a positive factor that growth brings in and return its term.

        Args:
            ratio: the factor.
            uneven: whether the factor differs from channel to channel. Then `ratio` only identifies it: the change may
                cancel against its inverse, but no weight makes up for it.
        """
        term = self._term(ratio)
        self._uneven |= {term} if uneven else set()
        return term

    def require(self, log: Log) -> None:
        """Require that a combination is zero."""
        if log:
            self._required[log] = None

    def solve(self, suspects: Collection[int] = ()) -> Solution:
        """Return the factors that fulfil all requirements, and the changes that had to be left out for that.

        Where the requirements leave a choice, the free unknowns are chosen one after the other, each so that the sum of
        |log factor| over all different factors is smallest: an L1 norm, so that few tensors change. Among equally good
        choices the middle one is taken, so that queries and keys share a factor.

        Args:
            suspects: changes to leave out first; a contradiction that involves suspects is blamed on them alone.
        """
        failed = set[int]()
        while True:  # each round leaves out at least one change more
            solved, contradictions = self._eliminated(failed)
            if not contradictions:
                chosen = self._chosen(solved)
                results = {term: self._inserted(combination, chosen) for term, combination in solved.items()} | chosen
                contradictions = [sum_ for sum_ in results.values() if abs(self._size(sum_, self._uneven)) > _ALIKE]
            if not contradictions:
                break
            for sum_ in contradictions:
                failed |= (sum_.keys() & suspects) or sum_.keys()
        factors = {term: self._value(sum_) for term, sum_ in results.items()}
        return Solution({term: factor for term, factor in factors.items() if factor != 1.0}, frozenset(failed))

    def _term(self, ratio: float | None) -> int:
        self._ratios.append(ratio)
        return len(self._ratios) - 1

    def _eliminated(self, failed: Collection[int]) -> tuple[dict[int, _Sum], list[_Sum]]:
        """Eliminate unknowns by Gaussian elimination, without the failed changes.

        Returns:
            Each pivot as a combination of changes and of the unknowns that remain free; and the contradictions:
            combinations of changes alone that are required to be zero and are not.
        """
        solved: dict[int, _Sum] = {}
        contradictions = list[_Sum]()
        for log in self._required:
            row = _substituted({term: times for term, times in log if term not in failed}, solved)
            unknowns = [term for term in row if self._ratios[term] is None]
            if unknowns:
                pivot = max(unknowns)
                by = -row.pop(pivot)
                solved[pivot] = {term: times / by for term, times in row.items()}
            elif abs(self._size(row)) > _ALIKE:
                contradictions.append(row)
        # A row holds no pivot of an earlier one, but may hold pivots of later ones: substitute from the last upwards.
        for term in reversed(solved):
            solved[term] = _substituted(solved[term], solved)
        return solved, contradictions

    def _chosen(self, solved: Mapping[int, _Sum]) -> dict[int, _Sum]:
        """Choose the free unknowns that changes concern: minimise the sum of all |log factor| by coordinate descent.

        Args:
            solved: each pivot as a combination of changes and free unknowns.

        Returns:
            Each of these unknowns as a combination of changes.
        """
        sums = list(solved.values())
        changed = [sum_ for sum_ in sums if abs(self._size(self._inserted(sum_, {}))) > _ALIKE]
        free = sorted({term for sum_ in changed for term in sum_ if self._ratios[term] is None})
        alone = [{term: Fraction(1)} for term in free]
        # equal factors, as of a weight and its bias, count once
        sums = list({self._key(sum_): sum_ for sum_ in (*alone, *sums)}.values())
        holding = {term: [sum_ for sum_ in sums if term in sum_] for term in free}
        chosen: dict[int, _Sum] = {term: {} for term in free}
        for _ in range(_SWEEPS):
            before = dict(chosen)
            for term in free:
                chosen[term] = self._best(term, holding[term], chosen)
            if chosen == before:
                break
        return chosen

    def _best(self, term: int, sums: Iterable[_Sum], chosen: Mapping[int, _Sum]) -> _Sum:
        """Return the value of one unknown t that minimises the sum of |a_i t + b_i|, the other unknowns being held.

        That is the median of the zeros -b_i / a_i, weighted by |a_i|; half-way between two where both are medians.
        """
        zeros = []
        for sum_ in sums:
            rest = self._inserted({t: times for t, times in sum_.items() if t != term}, chosen)
            zeros.append((_plus({}, rest, -1 / sum_[term]), abs(sum_[term])))
        zeros.sort(key=lambda zero: self._size(zero[0]))
        half, passed = sum(weight for _, weight in zeros) / 2, Fraction(0)
        for place, (zero, weight) in enumerate(zeros):
            passed += weight
            if passed > half:
                return zero
            if passed == half:
                return _plus(_plus({}, zero, Fraction(1, 2)), zeros[place + 1][0], Fraction(1, 2))
        raise AssertionError("weights are positive")

    def _key(self, sum_: _Sum) -> tuple[Log, float]:
        """Return what equal factors have in common: their unknowns, and the value of their changes."""
        unknowns = {term: times for term, times in sum_.items() if self._ratios[term] is None}
        return _log(unknowns), round(self._size(self._inserted(sum_, {})), 9)

    def _inserted(self, sum_: Mapping[int, Fraction], chosen: Mapping[int, _Sum]) -> _Sum:
        """Insert the chosen values of free unknowns into a combination; unknowns without a choice are zero."""
        result: _Sum = {}
        for term, times in sum_.items():
            value = {term: Fraction(1)} if self._ratios[term] is not None else chosen.get(term, {})
            result = _plus(result, value, times)
        return result

    def _size(self, sum_: Mapping[int, Fraction], among: Collection[int] | None = None) -> float:
        """Return the value of a combination of changes, or of the part of it that lies among some changes."""
        counted = (item for item in sum_.items() if among is None or item[0] in among)
        return math.fsum(float(times) * math.log(self._ratio(term)) for term, times in counted)

    def _value(self, sum_: Mapping[int, Fraction]) -> float:
        """Return the factor itself, with as few roundings as may be: one power for all ratios of equal exponent."""
        if abs(self._size(sum_)) <= _ALIKE:
            return 1.0
        alike = defaultdict[Fraction, list[float]](list)
        for term, times in sum_.items():
            alike[abs(times)].append(self._ratio(term) if times > 0 else 1 / self._ratio(term))
        return math.prod(math.prod(ratios) ** float(times) for times, ratios in alike.items())

    def _ratio(self, term: int) -> float:
        ratio = self._ratios[term]
        assert ratio is not None, "an unknown has no value of its own"
        return ratio


def _log(sum_: Mapping[int, Fraction]) -> Log:
    return tuple(sorted(sum_.items()))


def _plus(a: _Sum, b: Mapping[int, Fraction], times: Fraction) -> _Sum:
    """Return `a + times b` in a new dictionary, without terms that cancel."""
    result = dict(a)
    for term, coefficient in b.items():
        result[term] = result.get(term, Fraction(0)) + times * coefficient
        if not result[term]:
            del result[term]
    return result


def _substituted(sum_: _Sum, solved: Mapping[int, _Sum]) -> _Sum:
    """Replace every unknown that is solved for, until none is left."""
    while known := [term for term in sum_ if term in solved]:
        for term in known:
            if term in sum_:  # it may have cancelled
                times = sum_.pop(term)
                sum_ = _plus(sum_, solved[term], times)
    return sum_
