"""Sequences of blocks: where depth may grow, and which blocks are alike."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from growtool.coupling.trace import Coupling

_INDEXED = re.compile(r"(.*?)(\d+)")


@dataclass(frozen=True, slots=True)
class Sequence:
    """Blocks numbered under a common prefix: `prefix` + index is a module path, e.g. `stages.2.blocks.` + `1`."""

    prefix: str
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stretch:
    """A sequence that is longer in the target.

    Attributes:
        prefix: the common prefix of the module paths.
        source: block indices in the small model.
        target: block indices in the large model.
        alike: target index -> the source indices whose block computes the same operations on parameters of the same names.
    """

    prefix: str
    source: tuple[int, ...]
    target: tuple[int, ...]
    alike: Mapping[int, tuple[int, ...]]


def sequences(names: Iterable[str]) -> dict[str, Sequence]:
    """Every numbered run of modules that hold modules of their own, by prefix."""
    found: dict[str, set[int]] = defaultdict(set)
    deep: set[tuple[str, int]] = set()
    for name in names:
        parts = name.split(".")
        for place, part in enumerate(parts[:-1]):
            match = _INDEXED.fullmatch(part)
            if match is None:
                continue
            prefix = "".join(f"{p}." for p in parts[:place]) + match[1]
            found[prefix].add(int(match[2]))
            if len(parts) - place > 2:
                deep.add((prefix, int(match[2])))
    return {
        prefix: Sequence(prefix, tuple(sorted(indices)))
        for prefix, indices in found.items()
        if all((prefix, index) in deep for index in indices)
    }


def stretches(source: Coupling, target: Coupling) -> list[Stretch]:
    """The sequences in which the target has more blocks than the source, outermost first."""
    old, new = sequences(source.tensors), sequences(target.tensors)
    longer = [p for p in sorted(new) if p in old and len(new[p].indices) > len(old[p].indices)]
    return [
        Stretch(p, old[p].indices, new[p].indices, _alike(source, target, old[p], new[p]))
        for p in longer
    ]  # fmt: skip


def shortened(source: Coupling, target: Coupling) -> list[str]:
    """A line for each sequence with fewer blocks in the target."""
    old, new = sequences(source.tensors), sequences(target.tensors)
    return [
        f"{p}*: {len(old[p].indices)} blocks in the source, {len(new[p].indices)} in the target; growth never removes blocks"
        for p in sorted(old)
        if p in new and len(new[p].indices) < len(old[p].indices)
    ]


def _alike(source: Coupling, target: Coupling, old: Sequence, new: Sequence) -> dict[int, tuple[int, ...]]:
    portraits = {i: _portrait(source, f"{old.prefix}{i}") for i in old.indices}
    return {
        j: tuple(i for i, portrait in portraits.items() if portrait == _portrait(target, f"{new.prefix}{j}"))
        for j in new.indices
    }


def _portrait(coupling: Coupling, path: str) -> tuple[frozenset[tuple[str, int]], frozenset[tuple[str, object]]]:
    """A block's parameter names with their dimensions, and the operations of its modules, relative to its path."""
    inside = f"{path}."
    names = frozenset((n.removeprefix(inside), len(a)) for n, a in coupling.tensors.items() if n.startswith(inside))
    operations = frozenset(
        (p.removeprefix(path), entries)
        for p, entries in coupling.signatures.items()
        if p == path or p.startswith(inside)
    )  # fmt: skip
    return names, operations


def inside(path: str, prefix: str) -> int | None:
    """The index of the block of sequence `prefix` that a tensor or module path lies in, None if in none."""
    if not path.startswith(prefix):
        return None
    match = re.match(r"(\d+)(?:\.|$)", path[len(prefix) :])
    return int(match[1]) if match else None
