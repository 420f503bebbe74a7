"""What a growth keeps, decided from the two traces before any weight is read.

Copied channels pass through most operations as they are: anything elementwise, anything channel by channel. What treats
channels jointly is another matter (a norm sees other statistics if some channels are copied more often than others);
and source and target must run the same operations in the first place. Each finding is a reason why the promise is
`lossy`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from growtool.algebra.expansion import Expansion, copies_per_position
from growtool.prove.blanks.propagation import BlankPropagation
from growtool.prove.obstacle import SECTIONS, Obstacle, Section, Why, obstacles
from growtool.prove.scales.scale_pass import JointOp
from growtool.prove.scales.scaling import Scaling
from growtool.trace import Axis, ChannelGroup, Trace, channels_of, groups_on, places
from growtool.trace.axes import axis_size
from growtool.trace.reading.norms import group_axis
from growtool.trace.reading.place_names import grouped
from growtool.trace.table.kinds import Kind

# Operations on which channels act through averages alone: exact if every channel is copied equally often.
_AVERAGES = {
    "layer_norm": "LayerNorm", "rms_norm": "RMSNorm", "group_norm": "GroupNorm", "mean": "a mean", "var": "a variance",
    "batch_norm": "a norm by the batch's statistics", "std": "a standard deviation", "var_mean": "mean and variance",
    "std_mean": "mean and standard deviation",
}  # fmt: skip
_MEAN_REMAINS = "a norm writes the channels, and its gains leave a mean that cannot be taken off"
_JOINTLY = {
    "variance_norm": "a norm by a variance by N - 1 over the copied channels",
    "softmax": "a softmax runs over the copied channels",
    "product": "two activations are multiplied and summed over the copied channels",
}
_UNSPLIT = "channels are summed with weights that are not split among their copies"
_UNDONE = "the weights are transformed (standardised, say) before use, which undoes their split among the copies"


@dataclass(frozen=True, slots=True)
class Promise:
    """What the grown model computes.

    Attributes:
        kind: `exact`: the same outputs up to rounding. `exact up to eps`: so if the norms named had another eps, which
            lives in the module and not in the weights. `lossy`: neither.
        obstacles: why it is not exact.
    """

    kind: Literal["exact", "exact up to eps", "lossy"]
    obstacles: tuple[Obstacle, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not exact, in words."""
        return tuple(obstacle.text for obstacle in self.obstacles)

    @property
    def accidents(self) -> tuple[tuple[Section, str], ...]:
        """The reasons that no operator is known for, by the section of the plan that each is about."""
        found = [(obstacle.about, obstacle.text) for obstacle in self.obstacles if obstacle.about]
        return tuple(sorted(found, key=lambda accident: SECTIONS.index(accident[0])))

    def __str__(self) -> str:
        return self.kind if not self.reasons else f"{self.kind}: " + "; ".join(self.reasons)


def joint_obstacles(
    trace: Trace, expansions: Mapping[ChannelGroup, Expansion], skip: Callable[[str], bool], scaled: Scaling
) -> list[Obstacle]:
    """Operations of the target that treat copied channels jointly in a way copies change.

    Args:
        trace: the target's.
        expansions: how each set of channels grows; those that stay may be absent.
        skip: module paths whose result does not matter (closed blocks).
        scaled: the joint operations, and what weights make up for.
    """
    found: dict[tuple[Why, str], list[str]] = {}
    for joint, made_up_for in scaled.joint.items():
        on_axis = list(dict.fromkeys(groups_on(joint.axis)))
        # what becomes of blanks is followed operation by operation (`prove.blanks.propagation`)
        grown = [group for group in on_axis if _grows(expansions, group) and not expansions[group].has_blanks]
        watched = joint.kind in ("layer_norm", "rms_norm") and any(_has_blanks(expansions, a) for a in on_axis)
        if not grown or watched or made_up_for or skip(joint.module):
            continue
        reason = _reason(trace, joint, expansions, grown)
        if reason:
            found.setdefault(reason, []).append(joint.module)
    others = [(scaled.lost, _UNSPLIT), (scaled.undone, _UNDONE)]
    return [
        *(Obstacle(why, f"{places(modules)}: {reason}") for (why, reason), modules in found.items()),
        *(
            told
            for lost, reason in others
            for told in _one([path for path, group in lost if group in expansions and not skip(path)], reason)
        ),
    ]


def other_norm_groups(
    source: Trace,
    target: Trace,
    expansions: Mapping[ChannelGroup, Expansion],
    source_path: Callable[[str], str],
    skip: Callable[[str], bool],
) -> list[Obstacle]:
    """GroupNorms of the target whose groups are not, each, the copies of one group of the source.

    A group may grow, or there may be more of them; but the number of channels in a group of the target has to be that
    of a group of the source times the copies that lie in it.
    """
    found = []
    old, new = _norm_groups(source), _norm_groups(target)
    for path, axes in new.items():
        before = [axis_size(axis) for axis in old.get(source_path(path), [])]
        copies = [copies_per_position(axis, expansions) for axis in axes]
        after = [axis_size(axis) for axis in axes]
        if skip(path) or None in copies:
            continue  # channels copied unequally often are a reason of their own
        if [size * (times or 1) for size, times in zip(before, copies, strict=False)] != after:
            found.append(path)
    return _one(found, "GroupNorm over groups that are not the source's, copied")


def _one(paths: Sequence[str], reason: str) -> list[Obstacle]:
    return [Obstacle(Why.JOINTLY, f"{places(paths)}: {reason}")] if paths else []


def _norm_groups(trace: Trace) -> dict[str, list[Axis]]:
    groups: dict[str, list[Axis]] = {}
    for step in trace.forward.steps:
        if step.op.kind is Kind.GROUP_NORM:
            groups.setdefault(step.module, []).append(group_axis(step, trace.forward))
    return groups


def _reason(
    trace: Trace,
    joint: JointOp,
    expansions: Mapping[ChannelGroup, Expansion],
    grown: list[ChannelGroup],
) -> tuple[Why, str] | None:
    words = channels_of(trace)
    sizes = ", ".join(sorted({f"{words[a].what} {expansions[a].size} -> {a.size}" for a in grown if a in words}))
    even = copies_per_position(joint.axis, expansions) is not None
    if joint.kind in _AVERAGES:
        uneven = f"{_AVERAGES[joint.kind]} over channels that are not all copied equally often ({sizes})"
        return None if even else (Why.UNEVEN, uneven)
    return Why.JOINTLY, f"{_JOINTLY.get(joint.kind, f'{joint.kind} over the copied channels')} ({sizes})"


def ambiguous_parameters(
    trace: Trace,
    expansions: Mapping[ChannelGroup, Expansion],
    copied: frozenset[str],
    passages: Mapping[ChannelGroup, BlankPropagation],
) -> list[Obstacle]:
    """Parameters that are read in several ways on channels that grow: one split cannot serve them all.

    Args:
        trace: the target's.
        expansions: how each set of channels grows.
        copied: parameters that need none, as others make up for their copies.
        passages: what became of blank channels; where one copy and zeros are all there is, there is nothing to split.
    """
    grown = {name for group, name, _ in trace.consumers if _grows(expansions, group)}
    blank = {name for group, name, _ in trace.consumers if _has_blanks(expansions, group)}  # copies leave these open
    padded = {name for name in grown & trace.ambiguous if _is_padded(trace, name, expansions, passages)}
    return _one(
        sorted(grown & trace.ambiguous - (copied - blank) - padded),
        "read as a matrix along its channels and in another way too",
    )


def _is_padded(
    trace: Trace,
    name: str,
    expansions: Mapping[ChannelGroup, Expansion],
    passages: Mapping[ChannelGroup, BlankPropagation],
) -> bool:
    """Whether a parameter stays as it is, with zeros beside it."""
    groups = {group for axis in trace.tensors[name] for group in groups_on(axis) if _grows(expansions, group)}
    return all(
        expansions[group].copies == 1
        and group in passages
        and passages[group].blank == "silent"
        and name not in dict(passages[group].writers.folded)
        and name not in passages[group].free
        for group in groups
    )


def stopped_blanks(passages: Collection[BlankPropagation], skip: Callable[[str], bool]) -> list[Obstacle]:
    """Operations of the target that new channels without a copy do not pass unchanged."""
    stopped = grouped(item for blanks in passages for item in blanks.reasons if not skip(item[0]))
    means = grouped((module, _MEAN_REMAINS) for blanks in passages for module in blanks.nearly)
    return [*obstacles(Why.BLANKS, stopped), *obstacles(Why.MEAN, means)]


def _has_blanks(expansions: Mapping[ChannelGroup, Expansion], group: ChannelGroup) -> bool:
    return group in expansions and expansions[group].has_blanks


def _grows(expansions: Mapping[ChannelGroup, Expansion], group: ChannelGroup) -> bool:
    return group in expansions and not expansions[group].is_identity
