"""Random symbolic axes, and what an axis means, written out by brute force."""

from hypothesis import strategies as st

from growtool.trace.axes import (
    Axis,
    ChannelGroup,
    Factor,
    new_axis,
    resolve,
)

Position = tuple[tuple[int, int], ...]


def meaning(axis: Axis) -> list[Position]:
    """Every position of a resolved axis."""
    found: list[Position] = []
    for segment in axis:
        rows: list[Position] = [()]
        for factor in segment:
            rows = [row + inner for row in rows for inner in _factor_meaning(factor)]
        found += rows
    return found


def _factor_meaning(factor: Factor) -> list[Position]:
    if isinstance(factor, ChannelGroup):
        assert factor.term is None, "bound groups do not survive resolve"
        return [((factor.serial, i),) for i in range(factor.size)]
    return meaning(factor)


@st.composite
def axes(draw, size: int, *, depth: int = 3) -> Axis:
    """An axis of a given size: one channel group, a product, or a concatenation."""
    kinds = ["group"]
    divisors = [n for n in range(2, size) if size % n == 0]
    if depth and divisors:
        kinds.append("product")
    if depth and size > 1:
        kinds.append("concatenation")
    kind = draw(st.sampled_from(kinds))
    if kind == "product":
        outer = draw(st.sampled_from(divisors))
        return resolve(((draw(axes(outer, depth=depth - 1)), draw(axes(size // outer, depth=depth - 1))),))
    if kind == "concatenation":
        at = draw(st.integers(1, size - 1))
        return draw(axes(at, depth=depth - 1)) + draw(axes(size - at, depth=depth - 1))
    return new_axis(size)
