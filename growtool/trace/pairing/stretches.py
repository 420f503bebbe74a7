"""Sequences of blocks: where depth may grow, and which blocks are alike."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass

from growtool.trace.axes import Axis
from growtool.trace.pairing.block_sizes import Sizes, agree, prefer_equal, sizes_beside, sizes_of
from growtool.trace.result import Trace
from growtool.trace.steps import Ref

_INDEXED = re.compile(r"(.*?)(\d+)")


@dataclass(frozen=True, slots=True)
class Numbered:
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
        alike: target index -> the source indices whose block has the same parameters, runs the same operations, with
            the same constants, and reads the same values beside the stream; none where no block of the source is one to
            copy.
    """

    prefix: str
    source: tuple[int, ...]
    target: tuple[int, ...]
    alike: Mapping[int, tuple[int, ...]]


def sequences(names: Iterable[str]) -> dict[str, Numbered]:
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
        prefix: Numbered(prefix, tuple(sorted(indices)))
        for prefix, indices in found.items()
        if all((prefix, index) in deep for index in indices)
    }


def stretches(
    source: Trace,
    target: Trace,
    ignoring: Collection[str] = (),
    filled: tuple[Mapping[str, Hashable], Mapping[str, Hashable]] = ({}, {}),
) -> list[Stretch]:
    """The sequences in which the target has more blocks than the source, outermost first.

    Args:
        source: the small model.
        target: the large model.
        ignoring: tensors of the target that do not count when blocks are compared.
        filled: of both, what the buffers hold that the constructor fills and no checkpoint has.
    """
    old, new = sequences(source.tensors), sequences(target.tensors)
    longer = [p for p in sorted(new) if p in old and len(new[p].indices) > len(old[p].indices)]
    if not longer:
        return []
    beside = sizes_beside(source, target, longer)
    old, new = ({p: _complete(trace, found[p]) for p in longer} for trace, found in ((source, old), (target, new)))
    return [
        Stretch(p, old[p].indices, new[p].indices, _alike(source, target, old[p], new[p], ignoring, filled, beside))
        for p in longer
    ]  # fmt: skip


def _complete(trace: Trace, blocks: Numbered) -> Numbered:
    """With the modules between the blocks that run and keep no tensors."""
    ran = {inside(path, blocks.prefix) for path in trace.signatures}
    return Numbered(blocks.prefix, tuple(sorted({*blocks.indices, *(index for index in ran if index is not None)})))


def shortened(source: Trace, target: Trace) -> list[str]:
    """A line for each sequence with fewer blocks in the target."""
    old, new = sequences(source.tensors), sequences(target.tensors)
    return [
        f"{p}*: {len(old[p].indices)} blocks in the source, {len(new[p].indices)} in the target; "
        "growth never removes blocks"
        for p in sorted(old)
        if p in new and len(new[p].indices) < len(old[p].indices)
    ]


def _alike(
    source: Trace,
    target: Trace,
    old: Numbered,
    new: Numbered,
    ignoring: Collection[str],
    filled: tuple[Mapping[str, Hashable], Mapping[str, Hashable]],
    beside: Mapping[Axis, int],
) -> dict[int, tuple[int, ...]]:
    """Blocks of one kind; where none of the source is quite the same in all, those with the same parameters."""
    names, parts, work = (
        {i: facts(source, f"{old.prefix}{i}") for i in old.indices} for facts in (_names, _parts, work_of)
    )
    shared, read = _shared(source, old), _shared(target, new)
    constants = {i: _below(filled[0], f"{old.prefix}{i}") for i in old.indices}
    # what may be ignored in the first block of a stage may be what another kind of block consists of
    whole = {j: _names(target, f"{new.prefix}{j}") in names.values() for j in new.indices}
    fitting: dict[int, dict[int, Sizes]] = {}
    for j in new.indices:
        path = f"{new.prefix}{j}"
        named = _names(target, path, () if whole[j] else ignoring)
        found = {i: sizes_of((source, f"{old.prefix}{i}"), (target, path)) for i in old.indices if names[i] == named}
        fitting[j] = {i: sizes for i, sizes in found.items() if sizes is not None}
    prefer_equal(fitting)
    agree(fitting, beside)
    alike = {}
    for j in new.indices:
        path, left_out = f"{new.prefix}{j}", () if whole[j] else ignoring
        same = tuple(fitting[j])
        for ours, theirs in (
            (parts, _parts(target, path, left_out)), (work, work_of(target, path)), (shared, read.get(j)),
            (constants, _below(filled[1], path)),
        ):  # fmt: skip
            same = tuple(i for i in same if ours.get(i) == theirs) or same
        alike[j] = same
    return alike


def _below(filled: Mapping[str, Hashable], path: str) -> frozenset[tuple[str, Hashable]]:
    """What the buffers of a block hold, by their names relative to its path."""
    return frozenset((name.removeprefix(path), held) for name, held in filled.items() if name.startswith(f"{path}."))


def _names(trace: Trace, path: str, ignoring: Collection[str] = ()) -> frozenset[tuple[str, int]]:
    """A block's parameters relative to its path, with their number of dimensions."""
    inside = f"{path}."
    return frozenset(
        (name.removeprefix(inside), len(trace.tensors[name])) for name in trace.tensors_in(path) if name not in ignoring
    )


def _parts(trace: Trace, path: str, ignoring: Collection[str] = ()) -> frozenset[tuple[str, tuple[int, ...]]]:
    """Of how many parts the dimensions of a block's parameters consist: three for queries, keys and values."""
    inside = f"{path}."
    return frozenset(
        (name.removeprefix(inside), tuple(map(len, trace.tensors[name])))
        for name in trace.tensors_in(path)
        if name not in ignoring
    )


def work_of(trace: Trace, path: str) -> frozenset[tuple[str, object]]:
    """The operations of a block's modules, relative to its path."""
    return frozenset(
        (inner.removeprefix(path), tuple(_relative(entry, path) for entry in trace.signatures[inner]))
        for inner in trace.modules_in(path)
    )


def _shared(trace: Trace, blocks: Numbered) -> dict[int, frozenset[int]]:
    """What each block reads beside the stream that was there before the first one: a mask, a table of rotations.

    Returns:
        Index of a block -> what identifies such values in this model and in others.
    """
    paths = {f"{blocks.prefix}{i}": i for i in blocks.indices}
    calls = {call.path: call for call in reversed(trace.forward.calls) if call.path in paths and call.ins}
    made = _identified(trace, min((call.first for call in calls.values()), default=0))
    return {
        paths[path]: frozenset(made[number] for number in call.ins[1:] if number in made)
        for path, call in calls.items()
    }


def _identified(trace: Trace, end: int) -> dict[int, int]:
    """Number of each tensor of the first operations -> a number that says how it is computed, sizes aside."""
    made: dict[int, int] = {}

    def of(argument: object) -> object:
        if isinstance(argument, Ref):
            return made.get(argument.number, trace.forward.stored.get(argument.number, "given"))
        return tuple(map(of, argument)) if isinstance(argument, list | tuple) else None

    for step in trace.forward.raw[:end]:
        entry = None if step.entry is None else trace.signatures[step.module][step.entry]
        operands = tuple(map(of, step.args)), tuple((name, of(value)) for name, value in step.kwargs.items())
        for place, number in enumerate(step.outs):
            made[number] = hash((step.name, step.module, entry, operands, place))
    return made


def _relative(entry: tuple[object, ...], path: str) -> tuple[object, ...]:
    return ("call", str(entry[1]).removeprefix(path)) if entry[0] == "call" else entry


def within(path: str, module: str) -> bool:
    """Whether a path is that of a module, or of something in it."""
    return path == module or path.startswith(f"{module}.")


def inside(path: str, prefix: str) -> int | None:
    """The index of the block of sequence `prefix` that a tensor or module path lies in, None if in none."""
    if not path.startswith(prefix):
        return None
    match = re.match(r"(\d+)(?:\.|$)", path[len(prefix) :])
    return int(match[1]) if match else None
