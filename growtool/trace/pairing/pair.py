"""Laying the axes of a small model beside those of a large one: which channels grow into which.

Both models are traced on their own; their layouts are matched parameter by parameter. That the structures agree is
itself the check: a head split that differs, a class count that changed or an image size that moved shows as a layout
that does not match, at the parameter where it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

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
    groups_on,
    is_fixed,
)
from growtool.trace.reading.place_names import places
from growtool.trace.reading.words import channels_of
from growtool.trace.result import Trace

_KEPT = {
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
        channels: of which set of channels that is said; the sentence begins with its name.
    """

    def __init__(self, text: str, channels: ChannelGroup | None = None) -> None:
        super().__init__(text)
        self.channels = channels

    def told(self, name: str, model: Trace) -> list[tuple[str, str]]:
        """The place, which is that of the channels or else the tensor `name`, with the text in a user's words.

        Args:
            name: of the tensor, or whatever else could not be matched.
            model: the one that the channels are of.
        """
        if self.channels is None:
            return [(name, str(self))]
        channels = channels_of(model)[self.channels]
        return [(place, f"{channels.what} {self}") for place in channels.where]


@dataclass(frozen=True, slots=True)
class GroupPair:
    """One set of channels in both models; `source` is None where the small model has a single channel (one head)."""

    source: ChannelGroup | None
    target: ChannelGroup

    @property
    def sizes(self) -> tuple[int, int]:
        """Number of channels before and after."""
        return (self.source.size if self.source else 1), self.target.size


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Positions that keep their number and order (kernels, classes, tokens)."""

    size: int


PairedFactor: TypeAlias = "GroupPair | Unchanged | PairedAxis"


@dataclass(frozen=True, slots=True)
class PairedAxis:
    """An axis as a concatenation of products, each factor seen in both models."""

    segments: tuple[tuple[PairedFactor, ...], ...]

    def growths(self) -> list[GroupPair]:
        """Every set of channels on the axis."""
        found: list[GroupPair] = []
        for segment in self.segments:
            for factor in segment:
                if isinstance(factor, GroupPair):
                    found.append(factor)
                elif isinstance(factor, PairedAxis):
                    found += factor.growths()
        return found


def pair(
    source: Trace, target: Trace, source_name: Callable[[str], str]
) -> tuple[dict[str, tuple[PairedAxis, ...]], list[tuple[str, str]]]:
    """Match every tensor of `target` with its origin in `source`.

    Args:
        source: the small model.
        target: the large one.
        source_name: target tensor name -> the source tensor it grows from (depth growth renames blocks).

    Returns:
        The paired layout of each target tensor; and each place that could not be matched, with the reason.
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
            paired[name] = tuple(_axis(old, new) for old, new in zip(origin, axes, strict=True))
        except Mismatch as mismatch:
            problems += mismatch.told(name, source)
    return paired, problems


def pair_outputs(source: Trace, target: Trace) -> tuple[tuple[tuple[PairedAxis, ...], ...], list[tuple[str, str]]]:
    """Match what the two models return.

    Returns:
        For each returned tensor the paired layout of its dimensions after the first, that of the images; and each
        that could not be matched, with the reason.
    """
    both = [[model.forward.axes(number)[1:] for number in model.forward.outputs] for model in (source, target)]
    if [len(axes) for axes in both[0]] != [len(axes) for axes in both[1]]:
        return (), [("the model's output", "the target returns tensors of other dimensions than the source")]
    paired: list[tuple[PairedAxis, ...]] = []
    problems: list[tuple[str, str]] = []
    for before, after in zip(*both, strict=True):
        try:
            paired.append(tuple(_axis(old, new) for old, new in zip(before, after, strict=True)))
        except Mismatch as mismatch:
            problems += mismatch.told("the model's output", source)
    return tuple(paired), problems


def _axis(old: Axis, new: Axis) -> PairedAxis:
    reasons = _frozen(old), _frozen(new)
    if all(reasons):
        if axis_size(old) != axis_size(new):
            raise Mismatch(_kept(axis_size(old), axis_size(new), next(filter(None, reasons))))
        return PairedAxis(((Unchanged(axis_size(old)),),))
    if len(new) == 1 and len(old) > 1 and not isinstance(new[0][-1], ChannelGroup) and len(new[0][-1]) == len(old):
        # one block of parts became several: (q, k, v) grew into heads x (q, k, v)
        inner = PairedAxis(tuple(_segment(a, b) for a, b in zip(old, new[0][-1], strict=True)))
        return PairedAxis(((*map(_alone, new[0][:-1]), inner),))
    if len(old) != len(new):
        raise Mismatch(
            f"made of {len(old)} parts in the source and of {len(new)} in the target; choose a target with the same "
            "kind of blocks"
        )
    return PairedAxis(tuple(_segment(a, b) for a, b in zip(old, new, strict=True)))


def _segment(old: Segment, new: Segment) -> tuple[PairedFactor, ...]:
    """Match factors; a factor of size 1 leaves no trace in the source, so fewer factors are aligned from the inside."""
    if len(old) > len(new):
        lost = old[0]
        size = factor_size(lost)
        raise Mismatch(f"{size} would become 1; {_NEVER_SHRINKS}", lost if isinstance(lost, ChannelGroup) else None)
    remaining, paired = list(old), list[PairedFactor]()
    for place in range(len(new) - 1, -1, -1):
        must_match = len(remaining) == place + 1
        if remaining and (must_match or factor_size(remaining[-1]) == factor_size(new[place])):
            paired.insert(0, _factor(remaining.pop(), new[place]))
        else:
            paired.insert(0, _alone(new[place]))
    return tuple(paired)


def _factor(old: Factor, new: Factor) -> PairedFactor:
    if isinstance(old, ChannelGroup) and isinstance(new, ChannelGroup):
        frozen = new.fixed or old.fixed
        if frozen and old.size != new.size:
            raise Mismatch(_kept(old.size, new.size, frozen))
        if old.size > new.size:
            raise Mismatch(f"{old.size} would become {new.size}; {_NEVER_SHRINKS}", old)
        return Unchanged(new.size) if frozen else GroupPair(old, new)
    if not isinstance(old, ChannelGroup) and not isinstance(new, ChannelGroup):
        return _axis(old, new)
    raise Mismatch("laid out otherwise in the target; choose a target with the same kind of blocks")


def _alone(factor: Factor) -> PairedFactor:
    if not isinstance(factor, ChannelGroup):
        raise Mismatch("has a part in the target that the source lacks; choose a target with the same kind of blocks")
    if factor.fixed:
        raise Mismatch(_kept(1, factor.size, factor.fixed))
    return GroupPair(None, factor)


def _kept(before: int, after: int, fixed: str) -> str:
    """That positions cannot change, in words."""
    what, why = _KEPT.get(fixed, ("positions:", f"growth keeps them ({fixed}), choose a target with as many"))
    return f"{what} {before} would become {after}; {why}"


def _frozen(axis: Axis) -> str | None:
    return "a single position" if axis_size(axis) == 1 else is_fixed(axis)


def origin_of(axis: Axis, origins: Mapping[ChannelGroup, ChannelGroup]) -> Axis | None:
    """A target's axis laid out in the source's channels; None where the origin of some is not known."""
    if not all(group in origins for group in groups_on(axis)):
        return None
    return tuple(
        tuple(origins[f] if isinstance(f, ChannelGroup) else (origin_of(f, origins) or ()) for f in segment)
        for segment in axis
    )


def as_paired(axis: Axis, origins: Mapping[ChannelGroup, ChannelGroup]) -> PairedAxis:
    """A target's axis, the origin of all of whose channels is known, in both models."""
    return PairedAxis(
        tuple(
            tuple(GroupPair(origins[f], f) if isinstance(f, ChannelGroup) else as_paired(f, origins) for f in segment)
            for segment in axis
        )
    )


def torn_groups(
    paired: Mapping[str, tuple[PairedAxis, ...]],
    names: list[str],
    same: Mapping[ChannelGroup, ChannelGroup] | None = None,
) -> list[str]:
    """Where the trace itself changed among `names`: one group in one model, several in the other.

    Args:
        paired: from `pair`.
        names: the tensors to look at.
        same: target channel groups that stand for the same channels although the target keeps them apart, each with its
            other.
    """
    targets: dict[ChannelGroup, dict[ChannelGroup, str]] = {}
    sources: dict[ChannelGroup, dict[ChannelGroup, str]] = {}
    for name in names:
        for axis in paired[name]:
            for growth in axis.growths():
                if growth.source is not None:
                    grown = representative(growth.target, same or {})
                    targets.setdefault(growth.source, {}).setdefault(grown, name)
                    sources.setdefault(grown, {}).setdefault(growth.source, name)
    lines = []
    for groups, one, several in ((targets, "source", "target"), (sources, "target", "source")):
        for parts in groups.values():
            if len(parts) > 1:
                lines.append(f"{places(parts.values())} share their channels in the {one}, not in the {several}")
    return lines


def representative(group: ChannelGroup, same: Mapping[ChannelGroup, ChannelGroup]) -> ChannelGroup:
    """The channel group that one counts as, by `same` of `torn_groups`."""
    while group in same:
        group = same[group]
    return group
