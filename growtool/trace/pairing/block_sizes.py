"""Which blocks of a source are as large as a block of the target has to have come from, where several could be copied.

Networks number the blocks of all stages in one sequence (LeViT, Hiera, transformers' EfficientNet), or have blocks of
one kind with more and fewer hidden units in a stage (GhostNet, MobileNetV4).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from growtool.trace.axes import Axis, axis_size, groups_on
from growtool.trace.result import Trace

Sizes = Mapping[Axis, int]  # channels of a target -> how many they are in the source


def sizes_of(old: tuple[Trace, str], new: tuple[Trace, str]) -> Sizes | None:
    """How many the channels of each dimension in a block of the target are in a block of the source.

    None where they are more there, or have several sizes: a block that changes the width is none to copy for one that
    does not.
    """
    sizes: dict[Axis, set[int]] = defaultdict(set)
    (source, origin), (target, path) = old, new
    for name in target.tensors_in(path):
        for axis, size in _beside_each_other(source, f"{origin}{name.removeprefix(path)}", target, name):
            sizes[axis].add(size)
    if any(len(found) > 1 or max(found) > axis_size(axis) for axis, found in sizes.items()):
        return None
    return {axis: max(found) for axis, found in sizes.items()}


def sizes_beside(source: Trace, target: Trace, longer: Sequence[str]) -> dict[Axis, int]:
    """How many the channels of tensors outside of the longer sequences are in the source."""
    return {
        axis: size
        for name in target.tensors
        if not name.startswith(tuple(longer))
        for axis, size in _beside_each_other(source, name, target, name)
    }


def _beside_each_other(source: Trace, origin: str, target: Trace, name: str) -> Iterator[tuple[Axis, int]]:
    """Each dimension of a target's tensor that is channels which may grow, with its size in one of the source."""
    for axis, was in zip(target.tensors[name], source.tensors.get(origin, ()), strict=False):
        groups = groups_on(axis)
        if groups and all(group.fixed is None for group in groups):
            yield axis, axis_size(was)


def prefer_equal(fitting: dict[int, dict[int, Sizes]]) -> None:
    """Leave the blocks that have the very sizes of the target's, if each block of the source then fits somewhere."""
    equal = {
        j: {i: sizes for i, sizes in blocks.items() if all(axis_size(axis) == size for axis, size in sizes.items())}
        for j, blocks in fitting.items()
    }
    if {i for blocks in equal.values() for i in blocks} == {i for blocks in fitting.values() for i in blocks}:
        fitting |= {j: blocks for j, blocks in equal.items() if blocks}


def agree(fitting: dict[int, dict[int, Sizes]], beside: Mapping[Axis, int]) -> None:
    """Leave the blocks in which channels are as many as they have to be.

    That is known from tensors beside the sequence, and from blocks of the source that fit one place alone: every
    block has to stay.

    Args:
        fitting: index in the target -> index of each block of the source that fits there, with its sizes; reduced.
        beside: channels of tensors beside the sequence -> how many they are in the source.
    """
    known, before = dict(beside), -1
    while before != sum(map(len, fitting.values())):
        before = sum(map(len, fitting.values()))
        places = Counter(i for blocks in fitting.values() for i in blocks)
        for blocks in fitting.values():
            only = [sizes for i, sizes in blocks.items() if places[i] == 1]
            known |= only[0] if len(only) == 1 else {}
        for j, blocks in fitting.items():
            fitting[j] = {
                i: sizes
                for i, sizes in blocks.items()
                if all(known.get(axis, size) == size for axis, size in sizes.items())
            }
