"""Sequences of blocks: where the target has more of them, and from which blocks of the source each can come."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from growtool.trace.axes import Axis
from growtool.trace.call import Axes
from growtool.trace.pairing.block_sizes import Sizes, agree, prefer_equal, sizes_beside, sizes_of
from growtool.trace.result import Trace
from growtool.trace.steps import Ref

_INDEXED = re.compile(r"(.*?)(\d+)")


@dataclass(frozen=True, slots=True)
class Numbered:
    """Blocks that are numbered under a common prefix.

    Attributes:
        prefix: with an index behind it, the path of a block: `stages.2.blocks.` and `1`, or `layer` and `3`.
        indices: the numbers of the blocks, in order.
    """

    prefix: str
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stretch:
    """A sequence of blocks that is longer in the target.

    Attributes:
        prefix: common prefix of the module paths.
        source: indices of the blocks in the small model.
        target: indices of the blocks in the large model.
        alike: index in the target -> indices of the source's blocks that it can come from. They have the same
            parameters in fitting sizes; the same operations, constants and side inputs, if any block has them. Empty if
            no block of the source can be copied.
    """

    prefix: str
    source: tuple[int, ...]
    target: tuple[int, ...]
    alike: Mapping[int, tuple[int, ...]]


def sequences(names: Iterable[str]) -> dict[str, Numbered]:
    """Return the sequences of blocks among the modules that hold named tensors, by prefix.

    A sequence is any run of numbered modules in which each holds modules of its own; numbered layers are none.
    """
    numbered: dict[str, set[int]] = defaultdict(set)
    blocks: set[tuple[str, int]] = set()  # numbered modules that hold modules
    for name in names:
        parts = name.split(".")
        for place, part in enumerate(parts[:-1]):
            match = _INDEXED.fullmatch(part)
            if match is None:
                continue
            prefix = "".join(f"{p}." for p in parts[:place]) + match[1]
            numbered[prefix].add(int(match[2]))
            if len(parts) - place > 2:
                blocks.add((prefix, int(match[2])))
    return {
        prefix: Numbered(prefix, tuple(sorted(indices)))
        for prefix, indices in numbered.items()
        if all((prefix, index) in blocks for index in indices)
    }


def stretches(
    source: Trace,
    target: Trace,
    ignoring: Collection[str] = (),
    filled: tuple[Mapping[str, Hashable], Mapping[str, Hashable]] = ({}, {}),
) -> list[Stretch]:
    """Return the sequences in which the target has more blocks than the source, in the order of their prefixes.

    Args:
        source: the small model.
        target: the large model.
        ignoring: tensors of the target that only it has, such as projections on shortcuts; left out when blocks are
            compared.
        filled: for source and target, name -> values of the buffers that the constructor fills and no checkpoint has.
    """
    old, new = sequences(source.tensors), sequences(target.tensors)
    longer = [p for p in sorted(new) if p in old and len(new[p].indices) > len(old[p].indices)]
    if not longer:
        return []
    beside = sizes_beside(source, target, longer)
    old, new = {p: _complete(source, old[p]) for p in longer}, {p: _complete(target, new[p]) for p in longer}
    return [
        Stretch(p, old[p].indices, new[p].indices, _alike(source, target, old[p], new[p], ignoring, filled, beside))
        for p in longer
    ]  # fmt: skip


def _complete(trace: Trace, blocks: Numbered) -> Numbered:
    """Return a sequence with the numbered modules without tensors that run in it, such as EfficientFormer's flatten."""
    ran = {inside(path, blocks.prefix) for path in trace.signatures}
    return Numbered(blocks.prefix, tuple(sorted({*blocks.indices, *(index for index in ran if index is not None)})))


def shortened(source: Trace, target: Trace) -> list[str]:
    """Return a line for each sequence with fewer blocks in the target."""
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
    """Return, for each block of the target, the blocks of the source that it can come from.

    Candidates have the same parameters in fitting sizes. Each further criterion narrows them down, unless it would
    leave none.
    """
    names, parts, work = (
        {i: facts(source, f"{old.prefix}{i}") for i in old.indices} for facts in (_names, _parts, work_of)
    )
    constants = {i: _constants(filled[0], f"{old.prefix}{i}") for i in old.indices}
    old_side_inputs, new_side_inputs = _side_inputs(source, old), _side_inputs(target, new)
    # tensors to be ignored in the first block of a stage may be those that another kind of block consists of
    left_out = {j: () if _names(target, f"{new.prefix}{j}") in names.values() else ignoring for j in new.indices}
    fitting: dict[int, dict[int, Sizes]] = {}
    for j in new.indices:
        path = f"{new.prefix}{j}"
        new_names = _names(target, path, left_out[j])
        candidates = [i for i in old.indices if names[i] == new_names]
        sizes = {i: sizes_of((source, f"{old.prefix}{i}"), (target, path)) for i in candidates}
        fitting[j] = {i: fits for i, fits in sizes.items() if fits is not None}
    prefer_equal(fitting)
    agree(fitting, beside)
    alike = {}
    for j in new.indices:
        path, same = f"{new.prefix}{j}", tuple(fitting[j])
        for old_facts, new_fact in (
            (parts, _parts(target, path, left_out[j])), (work, work_of(target, path)),
            (old_side_inputs, new_side_inputs.get(j)), (constants, _constants(filled[1], path)),
        ):  # fmt: skip
            same = tuple(i for i in same if old_facts.get(i) == new_fact) or same
        alike[j] = same
    return alike


def _constants(filled: Mapping[str, Hashable], path: str) -> frozenset[tuple[str, Hashable]]:
    """Return the values of the filled buffers in a block, with their names relative to its path."""
    return frozenset(
        (name.removeprefix(path), values) for name, values in filled.items() if name.startswith(f"{path}.")
    )


def _names(trace: Trace, path: str, ignoring: Collection[str] = ()) -> frozenset[tuple[str, int]]:
    """Return the names of a block's tensors, relative to its path, with their numbers of dimensions."""
    return frozenset((name, len(axes)) for name, axes in _tensors(trace, path, ignoring))


def _parts(trace: Trace, path: str, ignoring: Collection[str] = ()) -> frozenset[tuple[str, tuple[int, ...]]]:
    """Return the number of parts of each dimension of a block's tensors: three for queries, keys and values."""
    return frozenset((name, tuple(map(len, axes))) for name, axes in _tensors(trace, path, ignoring))


def _tensors(trace: Trace, path: str, ignoring: Collection[str]) -> Iterator[tuple[str, Axes]]:
    """Yield the tensors in a block: each name relative to the block's path, with the axes."""
    for name in trace.tensors_in(path):
        if name not in ignoring:
            yield name.removeprefix(f"{path}."), trace.tensors[name]


def work_of(trace: Trace, path: str) -> frozenset[tuple[str, object]]:
    """Return the signatures of a block's modules, with paths relative to the block's."""
    return frozenset(
        (inner.removeprefix(path), tuple(_relative(entry, path) for entry in trace.signatures[inner]))
        for inner in trace.modules_in(path)
    )


def _side_inputs(trace: Trace, blocks: Numbered) -> dict[int, frozenset[int]]:
    """Return what each block receives beside the stream: a mask, say, or a table of rotations.

    Only values count that were computed before the first block ran.

    Returns:
        Index of a block -> numbers that identify these values, in this model and in others.
    """
    paths = {f"{blocks.prefix}{i}": i for i in blocks.indices}
    # reversed, so that the first call of a path is the one that stays
    calls = {call.path: call for call in reversed(trace.forward.calls) if call.path in paths and call.ins}
    identified = _identified(trace, min((call.first for call in calls.values()), default=0))
    return {
        paths[path]: frozenset(identified[number] for number in call.ins[1:] if number in identified)
        for path, call in calls.items()
    }


def _identified(trace: Trace, end: int) -> dict[int, int]:
    """Return a number for each result of the first raw steps, up to `end`, that says how it is computed.

    Sizes do not count, so that the numbers can be compared between models.
    """
    identified: dict[int, int] = {}

    def of(argument: object) -> object:
        if isinstance(argument, Ref):
            return identified.get(argument.number, trace.forward.stored.get(argument.number, "given"))
        return tuple(map(of, argument)) if isinstance(argument, list | tuple) else None

    for step in trace.forward.raw[:end]:
        entry = None if step.entry is None else trace.signatures[step.module][step.entry]
        operands = tuple(map(of, step.args)), tuple((name, of(value)) for name, value in step.kwargs.items())
        for place, number in enumerate(step.outs):
            identified[number] = hash((step.name, step.module, entry, operands, place))
    return identified


def _relative(entry: tuple[object, ...], path: str) -> tuple[object, ...]:
    return ("call", str(entry[1]).removeprefix(path)) if entry[0] == "call" else entry


def within(path: str, module: str) -> bool:
    """Return whether a path is that of a module, or of a module or tensor in it."""
    return path == module or path.startswith(f"{module}.")


def inside(path: str, prefix: str) -> int | None:
    """Return the index of the block, in the sequence of a prefix, that a path lies in; None if it lies in none."""
    if not path.startswith(prefix):
        return None
    match = re.match(r"(\d+)(?:\.|$)", path[len(prefix) :])
    return int(match[1]) if match else None
