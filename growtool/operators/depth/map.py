"""`map`: the plan says which source block every target block is made from (SWS, IJCAI 2024; arXiv 2405.15319)."""

from __future__ import annotations

from collections.abc import Mapping

from growtool.operators.depth.placement import Placed, first_is_old, uncopied
from growtool.plan.depth import INITIAL, Map


def arrange(spec: Map, sources: tuple[int | None, ...], count: int) -> list[Placed]:
    """Return `layer'_i = layer_{sources[i]}`, where `sources` is the list that the plan gives for the stage."""
    placed = iter(first_is_old([source for source in sources if source is not None], start=spec.start))
    return [uncopied(spec.start) if source is None else next(placed) for source in sources]


def listed(spec: Map, prefix: str) -> tuple[int | None, ...] | None:
    """Return the plan's list for the sequence of blocks under `prefix` (`layers.2.blocks.`), or None if it has none.

    None in the list stands for a block that comes from none of the source.
    """
    blocks = spec.map.get(prefix.rstrip(".")) if isinstance(spec.map, Mapping) else spec.map
    return None if blocks is None else tuple(None if source == INITIAL else source for source in blocks)


def loss(spec: Map) -> str | None:
    """Return why the operator itself changes the function, or None if it does not."""
    return "map runs every repeated block once more" if spec.start == "copy" else None
