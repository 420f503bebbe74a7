"""`map`: the plan says which source block every target block is made from (SWS, IJCAI 2024; arXiv 2405.15319)."""

from __future__ import annotations

from collections.abc import Mapping

from growtool.operators.depth.placement import Placed, first_is_old
from growtool.plan.depth import Map


def arrange(spec: Map, sources: tuple[int, ...], count: int) -> list[Placed]:
    """`layer'_i = layer_{sources[i]}`, the sources being the list that the plan gives for the stage."""
    return first_is_old(list(sources), start=spec.start)


def listed(spec: Map, prefix: str) -> tuple[int, ...] | None:
    """The list for the sequence of blocks under `prefix` (`layers.2.blocks.`), None where the plan gives none."""
    if isinstance(spec.map, Mapping):
        return spec.map.get(prefix.rstrip("."))
    return spec.map


def loss(spec: Map) -> str | None:
    """Why the operator itself changes the function, or None."""
    return "map runs every repeated block once more" if spec.start == "copy" else None
