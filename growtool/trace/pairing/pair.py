"""Pairing the axes of a small model with those of a large one: which channels grow into which.

Both models are traced on their own, and their layouts are matched parameter by parameter. Layouts that do not match
name the parameter where another head split, number of classes or image size shows.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

from growtool.trace.axes import (
    KERNEL_POSITION,
    LOOKED_UP,
    MODEL_OUTPUT,
    SPATIAL_POSITION,
    Axis,
    ChannelGroup,
    Factor,
    Segment,
    axis_size,
    factor_size,
    fixed_reason,
    groups_on,
)
from growtool.trace.pairing.paired_axis import GroupPair, PairedAxis, PairedFactor, Unchanged
from growtool.trace.reading.place_names import places
from growtool.trace.reading.words import channels_of
from growtool.trace.result import Trace

T = TypeVar("T", bound=Hashable)
_KEPT = {  # reason to be fixed -> what stays, and why
    KERNEL_POSITION: ("a kernel of", "growth keeps kernels, choose a target with the same"),
    SPATIAL_POSITION: (
        "positions:",
        "growth keeps them, leave the sizes of images and patches as they are, and channels that convolutions run over",
    ),
    LOOKED_UP: ("a table of", "growth keeps what is looked up, choose a target with the same"),
    MODEL_OUTPUT: ("outputs:", "growth keeps them, choose a target with as many"),
}
_NEVER_SHRINKS = "growth never shrinks, choose a target that is smaller nowhere"


class Mismatch(Exception):
    """Two layouts cannot be matched.

    Args:
        text: what was found and what was expected.
        channels: the channel group that is spoken of, if there is one; the text then goes on from its name.
    """

    def __init__(self, text: str, channels: ChannelGroup | None = None) -> None:
        super().__init__(text)
        self.channels = channels

    def told(self, name: str, model: Trace) -> list[tuple[str, str]]:
        """Return each place of the mismatch with a sentence: the blocks that hold the channels, or else `name`.

        Args:
            name: the tensor, or whatever else could not be matched.
            model: the model that has the channels.
        """
        if self.channels is None:
            return [(name, str(self))]
        channels = channels_of(model)[self.channels]
        return [(place, f"{channels.what} {self}") for place in channels.where]


def pair(
    source: Trace, target: Trace, source_name: Callable[[str], str]
) -> tuple[dict[str, tuple[PairedAxis, ...]], list[tuple[str, str]]]:
    """Match every tensor of `target` with its origin in `source`.

    Args:
        source: the small model.
        target: the large one.
        source_name: gives the source tensor that a target tensor grows from; depth growth renumbers blocks.

    Returns:
        Name of a target tensor -> its paired axes. Tensors without an origin, or of a layout that does not match, are
        left out. And each place that could not be matched, with the reason.
    """
    paired: dict[str, tuple[PairedAxis, ...]] = {}
    problems: list[tuple[str, str]] = []
    for name, axes in target.tensors.items():
        origin = source.tensors.get(source_name(name))
        if origin is None:
            continue
        try:
            if len(origin) != len(axes):
                raise Mismatch(f"found {len(origin)} dimensions, expected {len(axes)}")
            paired[name] = tuple(_pair_axes(old, new) for old, new in zip(origin, axes, strict=True))
        except Mismatch as mismatch:
            problems += mismatch.told(name, source)
    return paired, problems


def pair_outputs(source: Trace, target: Trace) -> tuple[tuple[tuple[PairedAxis, ...], ...], list[tuple[str, str]]]:
    """Match the tensors that the two models return.

    Returns:
        The paired axes of each returned tensor, without the first axis, that of the images. And each place that could
        not be matched, with the reason.
    """
    both = [[model.forward.axes(number)[1:] for number in model.forward.outputs] for model in (source, target)]
    if [len(axes) for axes in both[0]] != [len(axes) for axes in both[1]]:
        return (), [("the model's output", "the target returns tensors of other dimensions than the source")]
    paired: list[tuple[PairedAxis, ...]] = []
    problems: list[tuple[str, str]] = []
    for before, after in zip(*both, strict=True):
        try:
            paired.append(tuple(_pair_axes(old, new) for old, new in zip(before, after, strict=True)))
        except Mismatch as mismatch:
            problems += mismatch.told("the model's output", source)
    return tuple(paired), problems


def _pair_axes(old: Axis, new: Axis) -> PairedAxis:
    frozen = _frozen(old)
    if frozen and _frozen(new):
        if axis_size(old) != axis_size(new):
            raise Mismatch(_kept(axis_size(old), axis_size(new), frozen))
        return PairedAxis(((Unchanged(axis_size(old)),),))
    if len(new) == 1 and len(old) > 1 and not isinstance(new[0][-1], ChannelGroup) and len(new[0][-1]) == len(old):
        # A model with one head has (q, k, v), one with several heads x (q, k, v): the only head was the outer factor of
        # a product, and its size 1 left a plain concatenation.
        inner = PairedAxis(tuple(_pair_segments(a, b) for a, b in zip(old, new[0][-1], strict=True)))
        return PairedAxis(((*map(_grown_from_one, new[0][:-1]), inner),))
    if len(old) != len(new):
        raise Mismatch(
            f"made of {len(old)} parts in the source and of {len(new)} in the target; choose a target with the same "
            "kind of blocks"
        )
    return PairedAxis(tuple(_pair_segments(a, b) for a, b in zip(old, new, strict=True)))


def _pair_segments(old: Segment, new: Segment) -> tuple[PairedFactor, ...]:
    """Match the factors of two products, from the innermost outwards.

    The source may have fewer, as a factor of size 1 is not in its layout. While it has, a factor is matched only with
    one of its own size, and any other is taken to have grown from size 1.
    """
    if len(old) > len(new):
        lost = old[0]
        size = factor_size(lost)
        raise Mismatch(f"{size} would become 1; {_NEVER_SHRINKS}", lost if isinstance(lost, ChannelGroup) else None)
    remaining, paired = list(old), list[PairedFactor]()
    for place in range(len(new) - 1, -1, -1):
        must_match = len(remaining) == place + 1
        if remaining and (must_match or factor_size(remaining[-1]) == factor_size(new[place])):
            paired.insert(0, _pair_factors(remaining.pop(), new[place]))
        else:
            paired.insert(0, _grown_from_one(new[place]))
    return tuple(paired)


def _pair_factors(old: Factor, new: Factor) -> PairedFactor:
    if isinstance(old, ChannelGroup) and isinstance(new, ChannelGroup):
        frozen = new.fixed or old.fixed
        if frozen and old.size != new.size:
            raise Mismatch(_kept(old.size, new.size, frozen))
        if old.size > new.size:
            raise Mismatch(f"{old.size} would become {new.size}; {_NEVER_SHRINKS}", old)
        return Unchanged(new.size) if frozen else GroupPair(old, new)
    if not isinstance(old, ChannelGroup) and not isinstance(new, ChannelGroup):
        return _pair_axes(old, new)
    raise Mismatch("laid out otherwise in the target; choose a target with the same kind of blocks")


def _grown_from_one(factor: Factor) -> PairedFactor:
    if not isinstance(factor, ChannelGroup):
        raise Mismatch("has a part in the target that the source lacks; choose a target with the same kind of blocks")
    if factor.fixed:
        raise Mismatch(_kept(1, factor.size, factor.fixed))
    return GroupPair(None, factor)


def _kept(before: int, after: int, fixed: str) -> str:
    """Return the sentence that positions cannot change their number, given the reason why they are fixed."""
    what, why = _KEPT.get(fixed, ("positions:", f"growth keeps them ({fixed}), choose a target with as many"))
    return f"{what} {before} would become {after}; {why}"


def _frozen(axis: Axis) -> str | None:
    """Return why an axis has nothing to grow, None if it has."""
    return "a single position" if axis_size(axis) == 1 else fixed_reason(axis)


def origin_of(axis: Axis, origins: Mapping[ChannelGroup, ChannelGroup]) -> Axis | None:
    """Return a target's axis with the source's groups in place of its own; None if the origin of one is not known."""
    if not all(group in origins for group in groups_on(axis)):
        return None
    return tuple(
        tuple(origins[f] if isinstance(f, ChannelGroup) else (origin_of(f, origins) or ()) for f in segment)
        for segment in axis
    )


def as_paired(axis: Axis, origins: Mapping[ChannelGroup, ChannelGroup]) -> PairedAxis:
    """Return a target's axis paired with the source; the origin of each of its groups has to be known."""
    return PairedAxis(
        tuple(
            tuple(GroupPair(origins[f], f) if isinstance(f, ChannelGroup) else as_paired(f, origins) for f in segment)
            for segment in axis
        )
    )


def torn_groups(
    paired: Mapping[str, tuple[PairedAxis, ...]],
    names: list[str],
    counts_as: Mapping[ChannelGroup, ChannelGroup],
) -> list[str]:
    """Return a line for each group of one model whose channels are in several groups of the other.

    Args:
        paired: from `pair`.
        names: the target's tensors to look at.
        counts_as: channel group of the target -> another one that it counts as, although the target keeps them apart.
    """
    # group -> each of its groups in the other model, with the first tensor that has both
    targets: dict[ChannelGroup, dict[ChannelGroup, str]] = {}
    sources: dict[ChannelGroup, dict[ChannelGroup, str]] = {}
    for name in names:
        for axis in paired[name]:
            for growth in axis.growths():
                if growth.source is not None:
                    grown = representative(growth.target, counts_as)
                    targets.setdefault(growth.source, {}).setdefault(grown, name)
                    sources.setdefault(grown, {}).setdefault(growth.source, name)
    lines = []
    for counterparts, one, several in ((targets, "source", "target"), (sources, "target", "source")):
        for tensors in counterparts.values():
            if len(tensors) > 1:
                lines.append(f"{places(tensors.values())} share their channels in the {one}, not in the {several}")
    return lines


def representative(group: T, counts_as: Mapping[T, T]) -> T:
    """Return the channel group that one counts as, by `counts_as` of `torn_groups`."""
    while group in counts_as:
        group = counts_as[group]
    return group


def count_as_one(one: T, other: T, counts_as: dict[T, T]) -> None:
    """Let two groups, and all that count as one of them, count as the same."""
    kept, gone = representative(one, counts_as), representative(other, counts_as)
    if kept != gone:
        counts_as[gone] = kept
