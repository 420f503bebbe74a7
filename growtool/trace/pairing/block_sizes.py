"""Which of several blocks of the source a block of the target can come from, told by their sizes.

Names of parameters do not suffice where the blocks of all stages are numbered in one sequence (LeViT, Hiera,
transformers' EfficientNet), or where blocks of one kind have more or fewer hidden units (GhostNet, MobileNetV4).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from growtool.trace.axes import ONE, Axis, axis_size, groups_on
from growtool.trace.result import Trace

Sizes = Mapping[Axis, int]  # axis of the target -> its size in the source


def sizes_of(old: tuple[Trace, str], new: tuple[Trace, str]) -> Sizes | None:
    """Return the sizes that the axes of a block of the target have in a block of the source.

    None if the block cannot come from there: if an axis would shrink, or if it has several sizes in the source. A block
    that changes the width is so not copied for one that does not.

    Args:
        old: the source, and the path of a block in it.
        new: the target, and the path of a block in it.
    """
    sizes: dict[Axis, set[int]] = defaultdict(set)
    (source, origin), (target, path) = old, new
    for name in target.tensors_in(path):
        for axis, size in _growing_axes(source, f"{origin}{name.removeprefix(path)}", target, name):
            sizes[axis].add(size)
    if any(len(old_sizes) > 1 or max(old_sizes) > axis_size(axis) for axis, old_sizes in sizes.items()):
        return None
    return {axis: max(old_sizes) for axis, old_sizes in sizes.items()}


def sizes_beside(source: Trace, target: Trace, longer: Sequence[str]) -> dict[Axis, int]:
    """Return the sizes in the source of the axes of all tensors outside the longer sequences, given by prefix.

    Axes of size 1 are left out: as they have no channels, they are all the same.
    """
    return {
        axis: size
        for name in target.tensors
        if not name.startswith(tuple(longer))
        for axis, size in _growing_axes(source, name, target, name)
        if axis != ONE
    }


def _growing_axes(source: Trace, origin: str, target: Trace, name: str) -> Iterator[tuple[Axis, int]]:
    """Yield each axis of a target's tensor without fixed channels, with its size in a tensor of the source."""
    for axis, old_axis in zip(target.tensors[name], source.tensors.get(origin, ()), strict=False):
        if all(group.fixed is None for group in groups_on(axis)):
            yield axis, axis_size(old_axis)


def prefer_equal(fitting: dict[int, dict[int, Sizes]]) -> None:
    """Keep the blocks of the same sizes as the target's, if each block of the source still fits somewhere then.

    Args:
        fitting: as for `agree`.
    """
    equal = {
        j: {i: sizes for i, sizes in blocks.items() if all(axis_size(axis) == size for axis, size in sizes.items())}
        for j, blocks in fitting.items()
    }
    if {i for blocks in equal.values() for i in blocks} == {i for blocks in fitting.values() for i in blocks}:
        fitting |= {j: blocks for j, blocks in equal.items() if blocks}


def agree(fitting: dict[int, dict[int, Sizes]], beside: Mapping[Axis, int]) -> None:
    """Keep the blocks whose axes have the sizes that they are known to have in the source.

    Sizes are known from tensors beside the sequence. They are also known from a block of the source that fits a single
    place: it has to stand there, as growth keeps every block.

    Args:
        fitting: index in the target -> indices of the blocks of the source that fit there, each with its sizes; blocks
            are taken out of it.
        beside: axis of a tensor beside the sequence -> its size in the source.
    """
    known, before = dict(beside), -1
    while before != sum(map(len, fitting.values())):  # each block that is taken out may leave another a single place
        before = sum(map(len, fitting.values()))
        places = Counter(i for blocks in fitting.values() for i in blocks)
        for blocks in fitting.values():
            only_here = [sizes for i, sizes in blocks.items() if places[i] == 1]
            known |= only_here[0] if len(only_here) == 1 else {}
        for j, blocks in fitting.items():
            fitting[j] = {
                i: sizes
                for i, sizes in blocks.items()
                if all(known.get(axis, size) == size for axis, size in sizes.items())
            }
