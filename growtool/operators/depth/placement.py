"""Which source block stands at each position of a grown sequence: the answer that every depth operator gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from growtool.plan.depth import INITIAL, CancelOut, Interleave, Map, Mixing, Net2Deeper, Placement, Stack, ZeroOut
from growtool.plan.section import ShrinkPerturb

Start = Literal["copy", "zero_out", "cancel_out", "identity"]

# operator -> how its blocks with initial values start; `zero_out` for all others
_START_UNCOPIED: Mapping[str, Start] = {"cancel_out": "cancel_out", "shrink_perturb": "copy"}


@dataclass(frozen=True, slots=True)
class Placed:
    """One block of the grown sequence.

    Attributes:
        source: index of the block it copies; None for one that starts as its library initialises it.
        new: whether growth added it.
        start: how a new block starts: as a running `copy`; with a residual branch that ends in zeros (`zero_out`) or in
            weights that cancel (`cancel_out`); or with layers that pass on what they receive (`identity`).
    """

    source: int | None
    new: bool
    start: Start = "copy"

    def with_initial_values(self) -> Placed:
        """Return the same block; a new one with the values that its library initialises it with."""
        return replace(self, source=None) if self.new else self


def uncopied(operator: str) -> Placed:
    """Return a new block that copies none: closed, unless the operator runs blocks with initial values anyway."""
    return Placed(None, True, _START_UNCOPIED.get(operator, "zero_out"))


def arrange(
    spec: Stack | Interleave | Mixing | ZeroOut | CancelOut | Net2Deeper | ShrinkPerturb,
    sources: tuple[int, ...],
    count: int,
) -> list[Placed]:
    """Return the blocks of a grown sequence, as every depth operator but `map` arranges them.

    Args:
        spec: the operator, with its options.
        sources: the L blocks of the source.
        count: L', the number of blocks.
    """
    old = len(sources)
    match spec:
        case Stack():  # layer'_i = layer_(i mod L) (G_stack, arXiv 2405.15319)
            return _first_is_old([sources[m % old] for m in range(count)])
        case Interleave() | Mixing():
            # layer'_i = layer_floor(i L / L') (arXiv 2405.15319 and 2408.06567); `mixing` starts from it, and
            # `growtool.growing.learning` learns the combinations
            return _first_is_old([sources[m * old // count] for m in range(count)])
        case ZeroOut() | CancelOut():
            return _inserted(spec.placement, sources, count, spec.operator)
        case Net2Deeper():
            return _inserted(spec.placement, sources, count, "identity")
        case ShrinkPerturb():  # new blocks come from none
            return [placed.with_initial_values() for placed in _inserted("end", sources, count, "copy")]


def listed(spec: Map, prefix: str) -> tuple[int | None, ...] | None:
    """Return the plan's list for the sequence of blocks under `prefix` (`layers.2.blocks.`), or None if it has none.

    None in the list stands for a block that comes from none of the source.
    """
    blocks = spec.map.get(prefix.rstrip(".")) if isinstance(spec.map, Mapping) else spec.map
    return None if blocks is None else tuple(None if source == INITIAL else source for source in blocks)


def mapped(spec: Map, sources: tuple[int | None, ...]) -> list[Placed]:
    """Return a block per entry of the plan's list: `layer'_i = layer_{sources[i]}` (SWS, IJCAI 2024)."""
    placed = iter(_first_is_old([source for source in sources if source is not None], start=spec.start))
    return [uncopied(spec.start) if source is None else next(placed) for source in sources]


def _first_is_old(sources: list[int], *, start: Start = "copy") -> list[Placed]:
    """Return a block per source block: the first of each is the block itself, later ones are new, with this start."""
    seen: set[int] = set()
    placed = []
    for source in sources:
        new = source in seen
        placed.append(Placed(source, new, start if new else "copy"))
        seen.add(source)
    return placed


def _inserted(placement: Placement, sources: tuple[int, ...], count: int, start: Start) -> list[Placed]:
    """Return `count` blocks with new ones among the old, each a copy of the old block before it.

    Args:
        placement: `interleaved`: a new block after every L / (L' - L) old ones; `end`: new blocks after all old ones.
        sources: the L blocks of the source.
        count: L', the number of blocks.
        start: how new blocks start.
    """
    old = len(sources)
    if placement == "end":
        return _first_is_old([sources[min(m, old - 1)] for m in range(count)], start=start)
    # position m has block ceil((m + 1) L / L'), counted from 1, so that the last position has the last block
    return _first_is_old([sources[-(-(m + 1) * old // count) - 1] for m in range(count)], start=start)
