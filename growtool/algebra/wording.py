"""Reasons in words, each with the modules it was found in."""

from __future__ import annotations

from collections.abc import Iterable

from growtool.trace import places


def grouped(found: Iterable[tuple[str, str]]) -> list[str]:
    """One line for each reason, with the first few of the modules it was found in."""
    modules: dict[str, list[str]] = {}
    for module, reason in found:
        modules.setdefault(reason, []).append(module)
    return [f"{places(paths)}: {reason}" for reason, paths in modules.items()]
