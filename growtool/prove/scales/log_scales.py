"""A linear system in the logarithms of factors: which tensors are multiplied by what, so that outputs stay.

A factor is a product of powers; its logarithm is a sum. An `unknown` is the factor of (a part of) one parameter, a
`change` a factor that growth has brought in, whose value is known. Each requirement says that one sum is zero.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

Log: TypeAlias = "tuple[tuple[int, Fraction], ...]"  # term and how often it is in the sum, terms in order
ZERO: Log = ()
_Sum: TypeAlias = "dict[int, Fraction]"
_ALIKE = 1e-9  # sums of logarithms that differ by less are equal
_SWEEPS = 20


def alone(term: int) -> Log:
    """The sum of one term."""
    return ((term, Fraction(1)),)


def added(a: Log, b: Log, times: int = 1) -> Log:
    """`a + times b`."""
    return _log(_plus(dict(a), dict(b), Fraction(times)))


@dataclass(frozen=True, slots=True)
class Solution:
    """What the system has come to.

    Attributes:
        factors: unknown -> its factor, where that is not 1.
        failed: changes that nothing makes up for.
    """

    factors: Mapping[int, float]
    failed: frozenset[int]


class LogScales:
    """Unknowns, changes, and what is required of them."""

    def __init__(self) -> None:
        self._ratios: list[float | None] = []  # of each term: what a change multiplies by; None for an unknown
        self._uneven = set[int]()
        self._required: dict[Log, None] = {}

    def unknown(self) -> int:
        """The term of a factor that is to be found."""
        return self._term(None)

    def change(self, ratio: float, *, uneven: bool = False) -> int:
        """The term of a positive factor that growth has brought in.

        Args:
            ratio: the factor.
            uneven: whether it is another one for each channel, and `ratio` only a name for all of them: it cancels
                against its inverse, and no weight makes up for it.
        """
        term = self._term(ratio)
        self._uneven |= {term} if uneven else set()
        return term

    def require(self, log: Log) -> None:
        """Let a sum be zero."""
        if log:
            self._required[log] = None

    def solve(self, suspects: Collection[int] = ()) -> Solution:
        """The factors that fulfil all requirements, without the changes for which nothing can make up.

        What is free is chosen, one after the other, so that the sum of the logarithms' sizes is smallest, what has one
        factor counted once: few tensors change. Of choices as good as each other it is the middle one, so that queries
        and keys share a factor.

        Args:
            suspects: changes that are blamed alone where they and others stand in the way.
        """
        failed = set[int]()
        while True:
            solved, problems = self._eliminated(failed)
            if not problems:
                chosen = self._chosen(solved)
                found = {term: self._within(own, chosen) for term, own in solved.items()} | chosen
                problems = [own for own in found.values() if abs(self._size(own, self._uneven)) > _ALIKE]
            if not problems:
                break
            for own in problems:
                failed |= (own.keys() & suspects) or own.keys()
        factors = {term: self._value(own) for term, own in found.items()}
        return Solution({term: factor for term, factor in factors.items() if factor != 1.0}, frozenset(failed))

    def _term(self, ratio: float | None) -> int:
        self._ratios.append(ratio)
        return len(self._ratios) - 1

    def _eliminated(self, failed: Collection[int]) -> tuple[dict[int, _Sum], list[_Sum]]:
        """Unknowns as sums of those that remain and of changes; and the sums of changes that are not zero."""
        solved: dict[int, _Sum] = {}
        problems = list[_Sum]()
        for log in self._required:
            own = _substituted({term: times for term, times in log if term not in failed}, solved)
            unknowns = [term for term in own if self._ratios[term] is None]
            if unknowns:
                pivot = max(unknowns)
                by = -own.pop(pivot)
                solved[pivot] = {term: times / by for term, times in own.items()}
            elif abs(self._size(own)) > _ALIKE:
                problems.append(own)
        for term in reversed(solved):  # the later ones hold none of the earlier
            solved[term] = _substituted(solved[term], solved)
        return solved, problems

    def _chosen(self, solved: Mapping[int, _Sum]) -> dict[int, _Sum]:
        """The free unknowns that changes concern, each as a sum of changes."""
        sums = list(solved.values())
        changed = [own for own in sums if abs(self._size(self._within(own, {}))) > _ALIKE]
        free = sorted({term for own in changed for term in own if self._ratios[term] is None})
        alone = [{term: Fraction(1)} for term in free]
        sums = list({self._key(own): own for own in (*alone, *sums)}.values())
        holding = {term: [own for own in sums if term in own] for term in free}
        chosen: dict[int, _Sum] = {term: {} for term in free}
        for _ in range(_SWEEPS):
            before = dict(chosen)
            for term in free:
                chosen[term] = self._best(term, holding[term], chosen)
            if chosen == before:
                break
        return chosen

    def _best(self, term: int, sums: Iterable[_Sum], chosen: Mapping[int, _Sum]) -> _Sum:
        """What makes the sizes of sums smallest together as one unknown varies: a weighted median."""
        ends = []
        for own in sums:
            others = self._within({t: times for t, times in own.items() if t != term}, chosen)
            ends.append((_plus({}, others, -1 / own[term]), abs(own[term])))
        ends.sort(key=lambda end: self._size(end[0]))
        half, passed = sum(weight for _, weight in ends) / 2, Fraction(0)
        for place, (end, weight) in enumerate(ends):
            passed += weight
            if passed > half:
                return end
            if passed == half:
                return _plus(_plus({}, end, Fraction(1, 2)), ends[place + 1][0], Fraction(1, 2))
        raise AssertionError("weights are positive")

    def _key(self, own: _Sum) -> tuple[Log, float]:
        """What equal sums have in common: their unknowns, and the value of their changes."""
        unknowns = {term: times for term, times in own.items() if self._ratios[term] is None}
        return _log(unknowns), round(self._size(self._within(own, {})), 9)

    def _within(self, own: Mapping[int, Fraction], chosen: Mapping[int, _Sum]) -> _Sum:
        """A sum with what was chosen for free unknowns in their place; those that no change concerns are zero."""
        found: _Sum = {}
        for term, times in own.items():
            known = {term: Fraction(1)} if self._ratios[term] is not None else chosen.get(term, {})
            found = _plus(found, known, times)
        return found

    def _size(self, own: Mapping[int, Fraction], among: Collection[int] | None = None) -> float:
        """The value of a sum of changes, or of its part among some of them."""
        told = (item for item in own.items() if among is None or item[0] in among)
        return math.fsum(float(times) * math.log(self._ratio(term)) for term, times in told)

    def _value(self, own: Mapping[int, Fraction]) -> float:
        """The factor: one root of what has the same exponent, as few roundings as may be."""
        if abs(self._size(own)) <= _ALIKE:
            return 1.0
        alike = defaultdict[Fraction, list[float]](list)
        for term, times in own.items():
            alike[abs(times)].append(self._ratio(term) if times > 0 else 1 / self._ratio(term))
        return math.prod(math.prod(ratios) ** float(times) for times, ratios in alike.items())

    def _ratio(self, term: int) -> float:
        ratio = self._ratios[term]
        assert ratio is not None, "an unknown has no value of its own"
        return ratio


def _log(own: Mapping[int, Fraction]) -> Log:
    return tuple(sorted(own.items()))


def _plus(a: _Sum, b: Mapping[int, Fraction], times: Fraction) -> _Sum:
    """`a + times b`, in a new dictionary."""
    found = dict(a)
    for term, own in b.items():
        found[term] = found.get(term, Fraction(0)) + times * own
        if not found[term]:
            del found[term]
    return found


def _substituted(own: _Sum, solved: Mapping[int, _Sum]) -> _Sum:
    """A sum with every unknown that is solved for replaced, as often as it takes."""
    while known := [term for term in own if term in solved]:
        for term in known:
            if term in own:
                times = own.pop(term)
                own = _plus(own, solved[term], times)
    return own
