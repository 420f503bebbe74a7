"""Grouping the weights that can share a bank: those of one shape in one stage of the model."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping

from torch import nn

from growtool.checkpoint import TensorInfo
from growtool.trace import Trace, groups_on

Groups = dict[str, tuple[str, ...]]


def like_tensors(tensors: Mapping[str, TensorInfo]) -> Groups:
    """Return for each tensor the tensors of the same shape in the same stage, itself included, sorted by name."""
    groups: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
    for name in sorted(tensors):
        groups[stage_of(name), tensors[name].shape].append(name)
    return {name: tuple(groups[stage_of(name), info.shape]) for name, info in tensors.items()}


def stage_of(name: str) -> str:
    """Return a tensor's path up to the last numbered module: `layer2` for `layer2.0.conv1.weight`."""
    numbered = list(re.finditer(r"(?:^|\.)\d+(?=\.)", name))
    return name[: numbered[-1].start()] if numbered else name


def templatable(model: nn.Module, trace: Trace, tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Return the weights that may be a grid of blocks.

    These are the floating-point parameters of two or more dimensions of which only the first two may grow, and that the
    model holds under one name only.
    """
    named = list(model.named_parameters(remove_duplicate=False))
    names_of = Counter(id(parameter) for _, parameter in named)

    def grows_elsewhere(name: str) -> bool:
        return any(not group.fixed for axis in trace.tensors[name][2:] for group in groups_on(axis))

    return {
        name: tensors[name]
        for name, parameter in named
        if names_of[id(parameter)] == 1
        and parameter.ndim >= 2
        and name in tensors
        and tensors[name].is_float
        and not grows_elsewhere(name)
    }
