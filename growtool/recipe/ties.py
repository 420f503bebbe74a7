"""Ties: tensors that one model holds under several names, each of which has to hold the same after growth.

A target may tie tensors that the source keeps apart, keep a tie, or drop one. A file holds every name on its own; when
a model loads it, the name that is read last decides for all names of a tie.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from growtool.errors import format_names
from growtool.library.building import memory_of
from growtool.recipe.matching import Matching
from growtool.recipe.recipe import TensorRecipe
from growtool.trace import ChannelGroup, groups_on
from growtool.trace.pairing.pair import count_as_one

# Fields of a recipe that may differ between the names of one tensor; the source tensors are compared by themselves.
_OF_THE_NAME = {"name", "source", "new", "next_block", "shared"}


def first_names(model: nn.Module) -> dict[str, str]:
    """Return tensor of a model -> the first name of one in the same memory."""
    seen: dict[int, str] = {}
    return {name: seen.setdefault(memory_of(t), name) for name, t in model.state_dict(keep_vars=True).items()}


def torn_ties(recipes: Iterable[TensorRecipe], source: nn.Module) -> list[str]:
    """Return a line for tensors of the target that are not made alike under all of their names.

    Args:
        recipes: of the target's tensors.
        source: the small model.
    """
    tied, torn = defaultdict[str, list[TensorRecipe]](list), defaultdict[str, list[str]](list)
    first = first_names(source)
    for recipe in recipes:
        tied[recipe.shared].append(recipe)
    for one, *others in tied.values():
        names = " = ".join([one.name, *(other.name for other in others)])
        if len({r.source and first[r.source] for r in (one, *others)}) > 1:
            torn["one tensor in the target, several in the source, which may differ"].append(names)
        elif not all(_alike(one, other) for other in others):
            torn["one tensor in the target, which would have to grow in several ways at once"].append(names)
    return [f"{format_names(names)}: {why}" for why, names in torn.items()]


def _alike(one: Any, other: Any) -> bool:
    """Return whether two recipes, or two values in them, make a tensor alike."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    if is_dataclass(one) and type(one) is type(other):
        names = [field.name for field in fields(one) if field.name not in _OF_THE_NAME]
        return all(_alike(getattr(one, name), getattr(other, name)) for name in names)
    return bool(one == other)


def untied(matching: Matching, counts_as_one: Mapping[ChannelGroup, ChannelGroup]) -> dict[ChannelGroup, ChannelGroup]:
    """Return channel group of the target -> the one that it counts as, ties that the target drops included.

    Where the source ties tensors that the target keeps apart, their channels are one group in the source alone.

    Args:
        matching: source and target side by side.
        counts_as_one: channel groups that stand for the same channels anyway, likewise.
    """
    first, seen, counts_as = first_names(matching.source.model), dict[str, str](), dict(counts_as_one)
    for name in matching.paired:
        if matching.blocks.is_new(name):
            continue  # a copy by growth, whatever the source ties
        origin = matching.blocks.source_name(name)
        before = seen.setdefault(first.get(origin, origin), name)
        for old, new in zip(*(matching.target.trace.tensors[n] for n in (before, name)), strict=True):
            for a, b in zip(groups_on(old), groups_on(new), strict=False):
                count_as_one(a, b, counts_as)
    return counts_as
