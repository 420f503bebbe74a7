"""The result of tracing a model: its channel groups, signatures, residual modules and operations."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from growtool.trace.axes import ChannelGroup, groups_on
from growtool.trace.call import Axes
from growtool.trace.flow.flow import Params
from growtool.trace.steps import ForwardPass


@dataclass(frozen=True, slots=True)
class Member:
    """One dimension of a parameter or buffer that carries a channel group.

    Attributes:
        tensor: name of the parameter or buffer.
        dim: the dimension.
        role: `consumer` if a sum runs over the dimension, `vector` if it is the only one, else `producer`.
    """

    tensor: str
    dim: int
    role: str


@dataclass(frozen=True, slots=True)
class NamedGroup:
    """A channel group and every dimension of a parameter or buffer that carries it.

    Attributes:
        name: the first member, and the index of the group among the groups of its axis. For example, the head size
            is `blocks.0.attn.qkv.weight[0].1`, behind the number of heads, `.0`. An architecture has the same names at
            all widths.
        group: the channels.
        members: the dimensions, in the order of the model's tensors.
    """

    name: str
    group: ChannelGroup
    members: tuple[Member, ...]

    @property
    def size(self) -> int:
        """Number of channels."""
        return self.group.size

    @property
    def fixed(self) -> str | None:
        """The reason why the channels cannot grow, None if they can."""
        return self.group.fixed


@dataclass(frozen=True, eq=False)
class Trace:
    """What one forward pass tells about a model.

    Attributes:
        tensors: name of a parameter or buffer -> the axis of each of its dimensions.
        consumers: (channel group, name, dim) for each dimension of a parameter that a sum over the group runs along.
        signatures: module path -> its operations in order, without sizes.
        exits: module path -> parameters that, set to zero, make the module return its input unchanged.
        scaled: name of a parameter that scales a residual branch at its end (LayerScale) -> the parameters of the last
            affine layer before it, which zero the branch as well.
        norm_eps: name of a parameter or buffer of a BatchNorm with running statistics -> the eps of the norm.
        received_activation: module path -> the idempotent activation that its only input came out of, e.g. `relu()`.
        infinite: sets of parameters that make a value infinite or NaN if they are zero together.
        read_in_several_ways: names of parameters that are summed over along different dimensions in different places.
        unknown: operations without a rule, whose axes are fixed -> how often each ran.
        forward: every operation in order.
    """

    tensors: Mapping[str, Axes]
    consumers: frozenset[tuple[ChannelGroup, str, int]]
    signatures: Mapping[str, tuple[tuple[Any, ...], ...]]
    exits: Mapping[str, Params]
    scaled: Mapping[str, Params]
    norm_eps: Mapping[str, float]
    received_activation: Mapping[str, str]
    infinite: frozenset[Params]
    read_in_several_ways: Params
    unknown: Mapping[str, int]
    forward: ForwardPass

    @cached_property
    def closable(self) -> frozenset[str]:
        """Paths of the modules that return their input once parameters are zero, and on whatever other terms.

        Such a module can be left out at first. The terms are those of `module_calls.Same`.
        """
        firsts = ((call.path, call.outs[0].same) for call in self.forward.calls if call.outs)
        return frozenset(path for path, same in firsts if same is not None and same.params)

    @cached_property
    def growable(self) -> frozenset[ChannelGroup]:
        """The channel groups on parameters or buffers that may grow."""
        return frozenset(named.group for named in self.groups if named.fixed is None)

    def tensors_in(self, path: str) -> Sequence[str]:
        """Return the names of the tensors in a module and in the modules inside it."""
        return _below(path, self._sorted_tensors)

    def modules_in(self, path: str) -> Sequence[str]:
        """Return the paths of a module and of the modules inside it, as far as they have signatures."""
        itself = [path] if path in self.signatures else []
        return [*itself, *_below(path, self._sorted_modules)]

    @cached_property
    def _sorted_tensors(self) -> list[str]:
        return sorted(self.tensors)

    @cached_property
    def _sorted_modules(self) -> list[str]:
        return sorted(self.signatures)

    def __repr__(self) -> str:
        return f"Trace({len(self.tensors)} tensors, {len(self.groups)} groups of channels)"

    @property
    def names(self) -> dict[ChannelGroup, str]:
        """Channel group -> its name."""
        return {group.group: group.name for group in self.groups}

    @property
    def groups(self) -> tuple[NamedGroup, ...]:
        """Every channel group with its members, in the order of the model's tensors."""
        members: dict[ChannelGroup, list[Member]] = defaultdict(list)
        names: dict[ChannelGroup, str] = {}
        for name, axes in self.tensors.items():
            for dim, axis in enumerate(axes):
                for place, group in enumerate(dict.fromkeys(groups_on(axis))):
                    names.setdefault(group, f"{name}[{dim}].{place}")
                    role = "vector" if len(axes) == 1 else "producer"
                    role = "consumer" if (group, name, dim) in self.consumers else role
                    members[group].append(Member(name, dim, role))
        return tuple(NamedGroup(names[group], group, tuple(carriers)) for group, carriers in members.items())


def _below(path: str, names: Sequence[str]) -> Sequence[str]:
    """Return those of the sorted names that begin with a path and a dot."""
    # they stand together, and end where names with the next character after the dot, the slash, would begin
    return names[bisect_left(names, f"{path}.") : bisect_left(names, f"{path}/")]
