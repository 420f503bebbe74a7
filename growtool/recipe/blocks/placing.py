"""Which source block every target block is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from string import digits
from typing import Any

from growtool.errors import PlanError
from growtool.operators.depth.placement import Placed, Start, arrange, listed, mapped, uncopied
from growtool.plan.depth import INITIAL, Depth, Map
from growtool.recipe.blocks.misplaced import out_of_order, stretch_problems, superfluous_lists, too_few
from growtool.trace import InLine, Stretch, inside

_NOWHERE = " (new)"  # ends names that stand for nothing in the source; no tensor or module has such a name


@dataclass(frozen=True)
class BlockMap:
    """Which block of the source each block of the target comes from.

    Attributes:
        placed: sequence prefix -> target block index -> where it comes from. Sequences that do not grow are absent.
        uncopied: paths of blocks that start closed with initial values because the source has no block to copy.
        parts: path of a block that is several layers in line -> the paths of all its layers, its own first.
    """

    placed: Mapping[str, Mapping[int, Placed]]
    uncopied: tuple[str, ...] = ()
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def source_name(self, path: str) -> str:
        """Return the source's name of a target tensor or module.

        In a block that comes from none of the source's, it is a name that the source does not have.
        """
        block = self.block_of(path)
        if block is None:
            return path
        here, placed = block
        if placed.source is None:
            return f"{path}{_NOWHERE}"
        return f"{here.rstrip(digits)}{placed.source}{path.removeprefix(here)}"

    def block_of(self, path: str) -> tuple[str, Placed] | None:
        """Return the path of the block around a tensor or module, and where it comes from.

        None if the tensor or module lies in no block of a sequence that grows.
        """
        for prefix, blocks in self.placed.items():
            index = inside(path, prefix)
            if index is not None and index in blocks:
                return f"{prefix}{index}", blocks[index]
        return None

    def is_new(self, path: str) -> bool:
        """Return whether the tensor or module lies in a block that growth adds."""
        block = self.block_of(path)
        return block is not None and block[1].new

    def is_initial(self, path: str) -> bool:
        """Return whether the tensor or module lies in a block that starts as its library initialises it."""
        block = self.block_of(path)
        return block is not None and block[1].source is None

    def passes_on(self, path: str) -> bool:
        """Return whether the tensor or module lies in a new block that passes on what it receives."""
        block = self.block_of(path)
        return block is not None and block[1].start == "identity"

    def starts(self) -> list[tuple[str, Start]]:
        """Return the paths of the new blocks that are no running copies, and how each is to start."""
        return [(path, placed.start) for path, placed in self._blocks() if placed.start != "copy"]

    @property
    def new(self) -> list[str]:
        """Paths of the blocks that growth adds."""
        return [path for path, placed in self._blocks() if placed.new]

    @property
    def initial(self) -> list[str]:
        """Paths of the blocks that start as their library initialises them."""
        return [path for path, placed in self._blocks() if placed.source is None]

    def modules_of(self, path: str) -> tuple[str, ...]:
        """Return the paths of the modules that a block consists of."""
        return self.parts.get(path, (path,))

    def _blocks(self) -> list[tuple[str, Placed]]:
        later = {path for paths in self.parts.values() for path in paths[1:]}
        every = ((f"{prefix}{i}", placed) for prefix, blocks in self.placed.items() for i, placed in blocks.items())
        return [(path, placed) for path, placed in every if path not in later]


def place_blocks(stretched: Sequence[Stretch], depth: Depth | None) -> BlockMap:
    """Ask the plan's depth operator where blocks go in each longer sequence, kind by kind.

    Args:
        stretched: the sequences that are longer in the target.
        depth: the plan's section.

    Raises:
        PlanError: the target is deeper and the plan has no `depth`, its `map` does not fit the blocks, or blocks of the
            source have no place in the target.
    """
    problems = [line for stretch in stretched for line in stretch_problems(stretch, depth)]
    if isinstance(depth, Map):
        problems += superfluous_lists(depth, {stretch.prefix.rstrip(".") for stretch in stretched})
    if problems:
        raise PlanError(problems)
    placed = {s.prefix: _mapped(s, depth) if isinstance(depth, Map) else _arranged(s, depth) for s in stretched}
    if getattr(depth, "start", None) == INITIAL:
        placed = {prefix: {j: p.with_initial_values() for j, p in blocks.items()} for prefix, blocks in placed.items()}
    parts: dict[str, tuple[str, ...]] = {}
    for stretch in stretched:
        if isinstance(stretch, InLine):
            _, bodies = stretch.bodies
            for head, body in bodies.items():
                parts[f"{stretch.prefix}{head}"] = tuple(f"{stretch.prefix}{i}" for i in body)
            placed[stretch.prefix] = _layer_by_layer(stretch, placed[stretch.prefix])
    return BlockMap(placed, _uncopied(stretched, placed), parts)


def _uncopied(stretched: Sequence[Stretch], placed: Mapping[str, Mapping[int, Placed]]) -> tuple[str, ...]:
    return tuple(
        f"{s.prefix}{j}"
        for s in stretched
        for j, p in placed[s.prefix].items()
        if p.source is None and p.start != "copy" and not s.alike[j]
    )


def _layer_by_layer(line: InLine, heads: Mapping[int, Placed]) -> dict[int, Placed]:
    """Return where each layer of a line comes from.

    Args:
        line: units of layers.
        heads: index that a unit starts with -> where the unit comes from.
    """
    old, new = line.bodies
    placed = {index: Placed(source, new=False) for index, source in line.rest.items()}
    for head, unit in heads.items():
        sources = [None] * len(new[head]) if unit.source is None else old[unit.source]
        placed |= {i: replace(unit, source=s) for i, s in zip(new[head], sources, strict=True)}
    return dict(sorted(placed.items()))


def _mapped(stretch: Stretch, depth: Map) -> dict[int, Placed]:
    sources = listed(depth, stretch.prefix)
    assert sources is not None, "a map without a list for the stage was refused"
    return dict(zip(stretch.target, mapped(depth, sources), strict=True))


def _arranged(stretch: Stretch, depth: Any) -> dict[int, Placed]:
    """Return where the blocks of a sequence come from, as the depth operator arranges those of each kind.

    Raises:
        PlanError: the target has too few blocks of some kind, or its kinds alternate so that the order would break.
    """
    by_kind: dict[tuple[int, ...], list[int]] = {}
    for j in stretch.target:
        by_kind.setdefault(stretch.alike[j], []).append(j)
    placed: dict[int, Placed] = {}
    without_source = uncopied(depth.operator)
    for sources, targets in by_kind.items():
        if not sources:
            placed |= dict.fromkeys(targets, without_source)
            continue
        if len(targets) < len(sources):
            raise PlanError(too_few(stretch, sources, targets, by_kind))
        placed |= zip(targets, arrange(depth, sources, len(targets)), strict=True)
    # kinds were arranged apart from each other: old blocks have to be in order, and each there once, across all kinds
    kept = [p.source for _, p in sorted(placed.items()) if p.source is not None and not p.new]
    if kept != sorted(set(kept)):
        _, added = arrange(depth, stretch.source[:1], 2)
        in_order = _in_order(stretch, added.start, without_source)
        if in_order is None:
            raise PlanError(out_of_order(stretch, len(by_kind)))
        return in_order
    return dict(sorted(placed.items()))


def _in_order(stretch: Stretch, start: Start, without_source: Placed) -> dict[int, Placed] | None:
    """Return the old blocks, in order, each at the first place that it fits, and new ones at all other places.

    A new block is made from the nearest block before it of the same kind, or else from the first of that kind. None if
    not every old block finds a place.
    """
    remaining = list(stretch.source)
    placed: dict[int, Placed] = {}
    for j in stretch.target:
        kind = stretch.alike[j]
        if remaining and remaining[0] in kind:
            placed[j] = Placed(remaining.pop(0), False)
        elif not kind:
            placed[j] = without_source
        else:
            before = [p.source for p in placed.values() if p.source in kind]
            placed[j] = Placed(before[-1] if before else kind[0], True, start)
    return None if remaining else placed
