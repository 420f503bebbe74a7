"""Sequences of blocks of several kinds."""

from growtool.trace import Stretch


def alternating(source: str, target: str) -> Stretch:
    """A sequence of blocks of the kinds that letters stand for."""
    alike = {j: tuple(i for i, old in enumerate(source) if old == kind) for j, kind in enumerate(target)}
    return Stretch("s.", tuple(range(len(source))), tuple(range(len(target))), alike)
