"""Whether a model is another one with more blocks, by the names and shapes of its tensors alone.

Blocks are the numbered children of a module. They have to keep their order, but not their numbers: where a stage ends
in a block of its own kind, a longer stage has that block at a later place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from growtool.library.building import Shapes
from growtool.trace.pairing.stretches import sequences

Tree: TypeAlias = "Mapping[str, Tree | tuple[int, ...]]"  # a module's children and tensors; a tensor is its shape
_NUMBERED = re.compile(r"(.*?)(\d+)")


def adds_blocks(before: Shapes, after: Shapes, *, alike: bool) -> bool:
    """Return whether blocks were added and nothing else has changed.

    Args:
        before, after: shapes of both models.
        alike: whether each new block has to have the shapes of a block that its sequence had before.
    """
    return len(after) > len(before) and _extends(_tree(before), _tree(after), alike)


def blocks_unlike(before: Shapes, after: Shapes) -> list[str]:
    """Return the paths of the blocks of longer sequences whose shapes no block of the sequence had before."""

    def of_block(shapes: Shapes, path: str) -> Shapes:
        return {name.removeprefix(path): shape for name, shape in shapes.items() if name.startswith(f"{path}.")}

    found, old = [], sequences(before)
    for prefix, sequence in sequences(after).items():
        if prefix in old and len(sequence.indices) > len(old[prefix].indices):
            known = [of_block(before, f"{prefix}{i}") for i in old[prefix].indices]
            found += [f"{prefix}{j}" for j in sequence.indices if of_block(after, f"{prefix}{j}") not in known]
    return found


def lengthens(before: Shapes, after: Shapes) -> bool:
    """Return whether some module has more numbered children than before, whatever else has changed."""
    return _lengthens(_tree(before), _tree(after))


def _lengthens(before: Tree | tuple[int, ...], after: Tree | tuple[int, ...]) -> bool:
    if isinstance(before, tuple) or isinstance(after, tuple):
        return False
    old, new = _runs(before), _runs(after)
    return any(
        len(new[stem]) > len(old[stem]) or any(map(_lengthens, old[stem], new[stem]))
        for stem in old.keys() & new.keys()
    )


def _tree(shapes: Shapes) -> Tree:
    root: dict[str, Any] = {}
    for name, shape in shapes.items():
        *path, leaf = name.split(".")
        node = root
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = shape
    return root


def _extends(before: Tree | tuple[int, ...], after: Tree | tuple[int, ...], alike: bool) -> bool:
    if isinstance(before, tuple) or isinstance(after, tuple):
        return before == after
    old, new = _runs(before), _runs(after)
    return old.keys() == new.keys() and all(_run_extends(old[stem], new[stem], alike) for stem in old)


def _runs(node: Tree) -> dict[str, list[Any]]:
    """Return a module's children by the part of their names that is no number, in the order of their numbers."""
    runs: dict[str, list[tuple[int, Any]]] = {}
    for name, child in node.items():
        match = _NUMBERED.fullmatch(name)
        stem, number = (f"{match[1]}#", int(match[2])) if match else (name, 0)
        runs.setdefault(stem, []).append((number, child))
    return {stem: [child for _, child in sorted(run, key=lambda item: item[0])] for stem, run in runs.items()}


def _run_extends(old: list[Any], new: list[Any], alike: bool) -> bool:
    if len(old) == len(new):
        return all(_extends(before, after, alike) for before, after in zip(old, new, strict=True))
    remaining = iter(new)  # `in` consumes it: the old blocks have to be a subsequence of the new ones
    return all(block in remaining for block in old) and not (alike and any(block not in old for block in new))
