"""Which source block every target block is made from."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from growtool.errors import PlanError
from growtool.operators.depth import map as explicit
from growtool.operators.depth.placement import Placed, Start, made_anew
from growtool.operators.table import OPERATORS
from growtool.plan.depth import INITIAL, Depth, Map
from growtool.trace import InLine, Stretch, inside, places

_NOWHERE = " (new)"  # no name of a tensor or module ends so


@dataclass(frozen=True)
class BlockMap:
    """Which block of the source each block of the target comes from.

    Attributes:
        placed: sequence prefix -> target block index -> where it comes from. Sequences that did not grow are absent.
        uncopied: paths of blocks that start closed with initial values because the source has none to copy.
        parts: path of a block that is several layers in line -> the paths of all its layers, its own first.
    """

    placed: Mapping[str, Mapping[int, Placed]]
    uncopied: tuple[str, ...] = ()
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def source_name(self, path: str) -> str:
        """The source's name of a target tensor or module; no name of the source's where the block comes from none."""
        for prefix, blocks in self.placed.items():
            index = inside(path, prefix)
            if index is not None and index in blocks:
                origin, rest = blocks[index].source, path[len(prefix) + len(str(index)) :]
                return f"{prefix}{index if origin is None else origin}{rest}{_NOWHERE if origin is None else ''}"
        return path

    def block_of(self, path: str) -> tuple[str, Placed] | None:
        """The path of the block that a tensor or module lies in, if its sequence grew, and where it comes from."""
        for prefix, blocks in self.placed.items():
            index = inside(path, prefix)
            if index is not None and index in blocks:
                return f"{prefix}{index}", blocks[index]
        return None

    def is_new(self, path: str) -> bool:
        """Whether growth added the block that the tensor or module lies in."""
        found = self.block_of(path)
        return found is not None and found[1].new

    def is_initial(self, path: str) -> bool:
        """Whether the tensor or module lies in a block that starts as its library initialises it."""
        found = self.block_of(path)
        return found is not None and found[1].source is None

    def starts(self) -> list[tuple[str, Start]]:
        """Paths of the new blocks that are no running copies, and how each is to start."""
        return [(path, placed.start) for path, placed in self._blocks() if placed.start != "copy"]

    @property
    def new(self) -> list[str]:
        """Paths of the blocks that growth added."""
        return [path for path, placed in self._blocks() if placed.new]

    @property
    def initial(self) -> list[str]:
        """Paths of those that start as their library initialises them."""
        return [path for path, placed in self._blocks() if placed.source is None]

    def modules_of(self, path: str) -> tuple[str, ...]:
        """The paths of the modules that a block is."""
        return self.parts.get(path, (path,))

    def _blocks(self) -> list[tuple[str, Placed]]:
        later = {path for paths in self.parts.values() for path in paths[1:]}
        every = ((f"{prefix}{i}", placed) for prefix, blocks in self.placed.items() for i, placed in blocks.items())
        return [(path, placed) for path, placed in every if path not in later]


def place_blocks(stretched: Sequence[Stretch], depth: Depth | None) -> BlockMap:
    """Ask the plan's depth operator where blocks go, among blocks that are alike.

    Raises:
        PlanError: the target is deeper and the plan has no `depth`, or its `map` does not fit the blocks.
    """
    problems = [line for stretch in stretched for line in _obstacles(stretch, depth)]
    if isinstance(depth, Map):
        problems += _lists_of_nothing(depth, {stretch.prefix.rstrip(".") for stretch in stretched})
    if problems:
        raise PlanError(problems)
    placed = {s.prefix: _mapped(s, depth) if isinstance(depth, Map) else _arranged(s, depth) for s in stretched}
    if getattr(depth, "start", None) == INITIAL:
        placed = {prefix: {j: p.anew() for j, p in blocks.items()} for prefix, blocks in placed.items()}
    parts: dict[str, tuple[str, ...]] = {}
    for stretch in stretched:
        if isinstance(stretch, InLine):
            parts |= {
                f"{stretch.prefix}{head}": tuple(f"{stretch.prefix}{i}" for i in body)
                for head, body in stretch.bodies[1].items()
            }
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
    """Where each layer comes from, from where each unit does."""
    old, new = line.bodies
    placed = {index: Placed(source, new=False) for index, source in line.rest.items()}
    for head, unit in heads.items():
        sources = [None] * len(new[head]) if unit.source is None else old[unit.source]
        placed |= {i: replace(unit, source=s) for i, s in zip(new[head], sources, strict=True)}
    return dict(sorted(placed.items()))


def _obstacles(stretch: Stretch, depth: Depth | None) -> list[str]:
    p, old, new = stretch.prefix, stretch.source, stretch.target
    kept = {i for same in stretch.alike.values() for i in same}
    if foreign := [i for i in old if i not in kept]:
        return [
            f"target: {places(f'{p}{j}' for j in new if not stretch.alike[j])}: found no block with the parameters of "
            f"{places(f'{p}{i}' for i in foreign)} of the source, each as large or larger, expected one for each to "
            "become; choose a target with the same kind of blocks, or leave the depth of this stage as it is"
        ]
    if depth is None:
        return [
            f"{p}*: {len(old)} blocks in the source, {len(new)} in the target, and the plan has no `depth`; "
            "add `depth: {operator: zero_out}` (or stack, interleave)"
        ]
    return list(_wrong_map(stretch, depth)) if isinstance(depth, Map) else []


def _wrong_map(stretch: Stretch, depth: Map) -> Iterator[str]:
    """What is wrong with the plan's own list for a stage, one line each."""
    stage, old, new = stretch.prefix.rstrip("."), stretch.source, stretch.target
    sources = explicit.listed(depth, stretch.prefix)
    if sources is None:
        yield f"depth.map: found no list for {stage}, expected one: it grows to {len(new)} blocks"
        return
    if len(sources) != len(new):
        yield f"depth.map: found {len(sources)} blocks for {stage}, expected {len(new)}: the target has so many there"
        return
    named = [source for source in sources if source is not None]
    unknown = sorted(set(named) - set(old))
    if unknown:
        yield f"depth.map: found block {unknown[0]} for {stage}, expected one of {old[0]} to {old[-1]} of the source"
        return
    missing = sorted(set(old) - set(named))
    if missing:
        yield f"depth.map: found no block made from {stage}.{missing[0]}, expected each to stay; growth drops nothing"
    if list(dict.fromkeys(named)) != sorted(set(named)):
        yield f"depth.map: found {named} for {stage}, expected each block to come first after its predecessor"
    for j, source in zip(new, sources, strict=True):
        if source is not None and source not in stretch.alike[j]:
            kind = ", ".join(map(str, stretch.alike[j]))
            wanted = (
                f"one of {kind}: blocks of the same kind" if kind else f"{INITIAL}: the source has no block of its kind"
            )
            yield f"depth.map: found {stage}.{j} made from {stage}.{source}, expected {wanted}"
            return


def _lists_of_nothing(depth: Map, growing: Collection[str]) -> list[str]:
    """A line for each list of the plan whose stage does not grow or is none."""
    listed = depth.map if isinstance(depth.map, Mapping) else {}
    return [
        f"depth.map: found a list for {stage}, which does not grow deeper, expected lists for "
        f"{', '.join(sorted(growing)) or 'stages that do'} alone; drop it"
        for stage in listed
        if stage not in growing
    ]


def _mapped(stretch: Stretch, depth: Map) -> dict[int, Placed]:
    sources = explicit.listed(depth, stretch.prefix)
    assert sources is not None, "a map without a list for the stage was refused"
    return dict(zip(stretch.target, explicit.arrange(depth, sources, len(stretch.target)), strict=True))


def _too_few(
    stretch: Stretch, sources: tuple[int, ...], targets: list[int], by_kind: Mapping[tuple[int, ...], list[int]]
) -> str:
    """Why fewer blocks of the target than of the source are of one kind."""
    p = stretch.prefix
    if any(set(sources) & set(others) for others in by_kind if others != sources):
        return (
            f"{p}{targets[0]}: has the parameters of {p}{sources[0]} to {p}{sources[-1]} of the source, but is put "
            "together as none of them is, expected a block that is; choose a target with the same kind of blocks"
        )
    return (
        f"{p}*: {len(sources)} blocks like {p}{sources[0]} in the source, {len(targets)} in the target; growth never "
        "removes blocks"
    )


def _arranged(stretch: Stretch, depth: Any) -> dict[int, Placed]:
    arrange = OPERATORS[depth.operator].implementation().arrange
    by_kind: dict[tuple[int, ...], list[int]] = {}
    for j in stretch.target:
        by_kind.setdefault(stretch.alike[j], []).append(j)
    placed: dict[int, Placed] = {}
    anew = made_anew(depth.operator)
    for sources, targets in by_kind.items():
        if not sources:
            placed |= dict.fromkeys(targets, anew)
            continue
        if len(targets) < len(sources):
            raise PlanError(_too_few(stretch, sources, targets, by_kind))
        placed |= zip(targets, arrange(depth, sources, len(targets)), strict=True)
    kept = [p.source for _, p in sorted(placed.items()) if p.source is not None and not p.new]
    if kept != sorted(set(kept)):
        starts = [p.start for p in placed.values() if p.new]
        in_order = _in_order(stretch, starts[0], anew) if starts else None
        if in_order is None:
            raise PlanError(_out_of_order(stretch, len(by_kind), added=bool(starts)))
        return in_order
    return dict(sorted(placed.items()))


def _out_of_order(stretch: Stretch, kinds: int, *, added: bool) -> str:
    if not added:
        return (
            f"{stretch.prefix}*: the target has its blocks of {kinds} kinds in another order than the source; choose a "
            "target with the same order"
        )
    return (
        f"{stretch.prefix}*: blocks of {kinds} kinds alternate, and {len(stretch.target)} blocks would put them out of "
        "order; add as many blocks of each kind"
    )


def _in_order(stretch: Stretch, start: Start, anew: Placed) -> dict[int, Placed] | None:
    """Old blocks at the first places of their kind, new ones made from the nearest before; None if too few."""
    remaining = list(stretch.source)
    placed: dict[int, Placed] = {}
    for j in stretch.target:
        if remaining and remaining[0] in stretch.alike[j]:
            placed[j] = Placed(remaining.pop(0), False)
        elif not stretch.alike[j]:
            placed[j] = anew
        else:
            before = [p.source for p in placed.values() if p.source in stretch.alike[j]]
            placed[j] = Placed((before or stretch.alike[j])[-1 if before else 0], True, start)
    return None if remaining else placed
