"""Reasons in words: modules by their paths, the first few of many."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from growtool.errors import some


def grouped(found: Iterable[tuple[str, str]]) -> list[str]:
    """One line for each reason, with the first few of the modules it was found in."""
    modules: dict[str, list[str]] = {}
    for module, reason in found:
        modules.setdefault(reason, []).append(module)
    return [f"{places(paths)}: {reason}" for reason, paths in modules.items()]


def places(modules: Sequence[str]) -> str:
    """The first few module paths and how many more."""
    names = [m or "the model itself" for m in dict.fromkeys(modules)]
    return some(names, 3)
