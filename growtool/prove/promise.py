"""What a growth keeps, decided from the two traces before any weight is read.

Copied channels pass unchanged through most operations: through all that work value by value or channel by channel.
Joint operations are another matter: a norm sees other statistics if some channels are copied more often than others.
The functions here look for such operations, each for one sort; what they find are obstacles, which make the promise
`lossy`. Whether source and target run the same operations at all is asked elsewhere (`prove.lockstep`,
`prove.block_equivalence`).
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
        kind: `exact`: the same outputs up to rounding. `exact up to eps`: the same if the norms named had another eps,
            which lives in the module and not in the weights. `lossy`: neither.
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
        """The reasons that no operator is known for, each with the section of the plan it is about, in their order."""
        accidents = [(obstacle.about, obstacle.text) for obstacle in self.obstacles if obstacle.about]
        return tuple(sorted(accidents, key=lambda accident: SECTIONS.index(accident[0])))

    def __str__(self) -> str:
        return self.kind if not self.reasons else f"{self.kind}: " + "; ".join(self.reasons)


def joint_obstacles(
    trace: Trace, expansions: Mapping[ChannelGroup, Expansion], skip: Callable[[str], bool], scaled: Scaling
) -> list[Obstacle]:
    """Return obstacles for joint operations of the target whose results copies change.

    Args:
        trace: the target's.
        expansions: how each channel group grows; groups that stay may be absent.
        skip: whether the result of a module does not matter (closed blocks).
        scaled: the joint operations, and what weights make up for.
    """
    modules_by_reason: dict[tuple[Why, str], list[str]] = {}
    for joint, made_up_for in scaled.joint.items():
        on_axis = list(dict.fromkeys(groups_on(joint.axis)))
        # Blanks, and copies beside them under a norm, are followed by `prove.blanks.propagation`.
        grown = [group for group in on_axis if _grows(expansions, group) and not expansions[group].has_blanks]
        beside_blanks = joint.kind in ("layer_norm", "rms_norm") and any(_has_blanks(expansions, a) for a in on_axis)
        if not grown or beside_blanks or made_up_for or skip(joint.module):
            continue
        reason = _reason(trace, joint, expansions, grown)
        if reason:
            modules_by_reason.setdefault(reason, []).append(joint.module)
    found = [Obstacle(why, f"{places(paths)}: {reason}") for (why, reason), paths in modules_by_reason.items()]
    for lost, why_lost in ((scaled.lost, _UNSPLIT), (scaled.undone, _UNDONE)):
        found += _jointly([path for path, group in lost if group in expansions and not skip(path)], why_lost)
    return found


def other_norm_groups(
    source: Trace,
    target: Trace,
    expansions: Mapping[ChannelGroup, Expansion],
    source_path: Callable[[str], str],
    skip: Callable[[str], bool],
) -> list[Obstacle]:
    """Return an obstacle for GroupNorms of the target whose groups are not the copies of one group of the source each.

    A group may grow, or there may be more groups; but a group of the target has to have as many channels as one of the
    source times the copies that lie in it.
    """
    paths = []
    source_groups = _norm_groups(source)
    for path, axes in _norm_groups(target).items():
        sizes = [axis_size(axis) for axis in source_groups.get(source_path(path), [])]
        copies = [copies_per_position(axis, expansions) for axis in axes]
        if skip(path) or None in copies:
            continue  # channels copied unequally often are an obstacle of their own (`joint_obstacles`)
        if [size * (times or 1) for size, times in zip(sizes, copies, strict=False)] != list(map(axis_size, axes)):
            paths.append(path)
    return _jointly(paths, "GroupNorm over groups that are not the source's, copied")


def _jointly(paths: Sequence[str], reason: str) -> list[Obstacle]:
    """Return one obstacle for all these modules or parameters, or none if there are none."""
    return [Obstacle(Why.JOINTLY, f"{places(paths)}: {reason}")] if paths else []


def _norm_groups(trace: Trace) -> dict[str, list[Axis]]:
    """Return the channels of one group at each run of a GroupNorm, by module path."""
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
    """Return why copies of these channels change the result of a joint operation, or None if they do not."""
    words = channels_of(trace)
    sizes = ", ".join(sorted({f"{words[a].what} {expansions[a].size} -> {a.size}" for a in grown if a in words}))
    even = copies_per_position(joint.axis, expansions) is not None
    if joint.kind in _AVERAGES:
        uneven = f"{_AVERAGES[joint.kind]} over channels that are not all copied equally often ({sizes})"
        return None if even else (Why.UNEVEN, uneven)
    return Why.JOINTLY, f"{_JOINTLY.get(joint.kind, f'{joint.kind} over the copied channels')} ({sizes})"


def read_in_several_ways(
    trace: Trace,
    expansions: Mapping[ChannelGroup, Expansion],
    copied: frozenset[str],
    passages: Mapping[ChannelGroup, BlankPropagation],
) -> list[Obstacle]:
    """Return an obstacle for parameters that are read in several ways on channels that grow, as no split serves all.

    Args:
        trace: the target's.
        expansions: how each channel group grows.
        copied: parameters that need no split, as other weights make up for their copies.
        passages: what became of blank channels.
    """
    grown = {name for group, name, _ in trace.consumers if _grows(expansions, group)}
    # factors that make up for copies do not for blanks: with blanks a copied parameter is not excused
    blank = {name for group, name, _ in trace.consumers if _has_blanks(expansions, group)}
    padded = {name for name in grown & trace.read_in_several_ways if _is_padded(trace, name, expansions, passages)}
    return _jointly(
        sorted(grown & trace.read_in_several_ways - (copied - blank) - padded),
        "read as a matrix along its channels and in another way too",
    )


def _is_padded(
    trace: Trace,
    name: str,
    expansions: Mapping[ChannelGroup, Expansion],
    passages: Mapping[ChannelGroup, BlankPropagation],
) -> bool:
    """Return whether a parameter stays as it is, with zeros beside it: then there is nothing to split."""
    groups = {group for axis in trace.tensors[name] for group in groups_on(axis) if _grows(expansions, group)}
    return all(
        expansions[group].copies == 1
        and group in passages
        and passages[group].blank == "silent"
        and name not in passages[group].writers
        and name not in passages[group].free
        for group in groups
    )


def stopped_blanks(passages: Collection[BlankPropagation], skip: Callable[[str], bool]) -> list[Obstacle]:
    """Return obstacles for operations of the target that blank channels do not pass, and for means that remain."""
    stopped = grouped(item for blanks in passages for item in blanks.reasons if not skip(item[0]))
    means = grouped((module, _MEAN_REMAINS) for blanks in passages for module in blanks.means_left)
    return [*obstacles(Why.BLANKS, stopped), *obstacles(Why.MEAN, means)]


def _has_blanks(expansions: Mapping[ChannelGroup, Expansion], group: ChannelGroup) -> bool:
    return group in expansions and expansions[group].has_blanks


def _grows(expansions: Mapping[ChannelGroup, Expansion], group: ChannelGroup) -> bool:
    return group in expansions and not expansions[group].is_identity
