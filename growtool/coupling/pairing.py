"""Laying the axes of a small model beside those of a large one: which channels grow into which.

Both models are traced on their own; their layouts are matched parameter by parameter. That the structures agree is
itself the check: a head split that differs, a class count that changed or an image size that moved shows as a layout
that does not match, at the parameter where it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from growtool.coupling.axis import Atom, Axis, Factor, Segment, atoms, axis_size, factor_size, is_fixed
from growtool.coupling.trace import Coupling


class Mismatch(Exception):
    """Two layouts cannot be matched; the text says what was found and what was expected."""


@dataclass(frozen=True, slots=True)
class Growth:
    """One set of channels in both models; `source` is None where the small model has a single channel (one head)."""

    source: Atom | None
    target: Atom

    @property
    def sizes(self) -> tuple[int, int]:
        """Number of channels before and after."""
        return (self.source.size if self.source else 1), self.target.size


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Positions that keep their number and order (kernels, classes, tokens)."""

    size: int


PairedFactor: TypeAlias = "Growth | Unchanged | PairedAxis"


@dataclass(frozen=True, slots=True)
class PairedAxis:
    """An axis as a concatenation of products, each factor seen in both models."""

    segments: tuple[tuple[PairedFactor, ...], ...]

    def growths(self) -> list[Growth]:
        """Every set of channels on the axis."""
        found: list[Growth] = []
        for segment in self.segments:
            for factor in segment:
                if isinstance(factor, Growth):
                    found.append(factor)
                elif isinstance(factor, PairedAxis):
                    found += factor.growths()
        return found


def pair(
    source: Coupling, target: Coupling, source_name: Callable[[str], str]
) -> tuple[dict[str, tuple[PairedAxis, ...]], list[str]]:
    """Match every tensor of `target` with its origin in `source`.

    Args:
        source: the small model.
        target: the large one.
        source_name: target tensor name -> the source tensor it grows from (depth growth renames blocks).

    Returns:
        The paired layout of each target tensor, and a line per tensor that could not be matched.
    """
    paired: dict[str, tuple[PairedAxis, ...]] = {}
    problems: list[str] = []
    for name, axes in target.tensors.items():
        origin = source.tensors.get(source_name(name))
        if origin is None:
            continue
        try:
            if len(origin) != len(axes):
                raise Mismatch(f"found {len(origin)} dimensions, expected {len(axes)}")
            paired[name] = tuple(_axis(old, new, dim) for dim, (old, new) in enumerate(zip(origin, axes, strict=True)))
        except Mismatch as mismatch:
            problems.append(f"{name}: {mismatch}")
    return paired, problems


def pair_outputs(source: Coupling, target: Coupling) -> tuple[tuple[tuple[PairedAxis, ...], ...], list[str]]:
    """Match what the two models return.

    Returns:
        For each returned tensor the paired layout of its dimensions after the first, that of the images; and a line per
        tensor that could not be matched.
    """
    both = [[model.forward.axes(number)[1:] for number in model.forward.outputs] for model in (source, target)]
    if [len(axes) for axes in both[0]] != [len(axes) for axes in both[1]]:
        return (), ["the model's output: the target returns tensors of other dimensions than the source"]
    paired: list[tuple[PairedAxis, ...]] = []
    problems: list[str] = []
    for before, after in zip(*both, strict=True):
        try:
            sides = enumerate(zip(before, after, strict=True), 1)
            paired.append(tuple(_axis(old, new, dim) for dim, (old, new) in sides))
        except Mismatch as mismatch:
            problems.append(f"the model's output: {mismatch}")
    return tuple(paired), problems


def _axis(old: Axis, new: Axis, dim: int) -> PairedAxis:
    if axis_size(old) > axis_size(new):
        raise Mismatch(
            f"dimension {dim} would shrink from {axis_size(old)} to {axis_size(new)}; growth never shrinks, "
            "choose a target that is smaller nowhere"
        )
    frozen = _frozen(old) or _frozen(new)
    if _frozen(old) and _frozen(new):
        if axis_size(old) != axis_size(new):
            raise Mismatch(
                f"dimension {dim} is {axis_size(old)} and would become {axis_size(new)}, but it is {frozen}; "
                "choose a target that keeps it"
            )
        return PairedAxis(((Unchanged(axis_size(old)),),))
    if len(new) == 1 and len(old) > 1 and not isinstance(new[0][-1], Atom) and len(new[0][-1]) == len(old):
        # one block of parts became several: (q, k, v) grew into heads x (q, k, v)
        inner = PairedAxis(tuple(_segment(a, b, dim) for a, b in zip(old, new[0][-1], strict=True)))
        return PairedAxis(((*(_alone(factor, dim) for factor in new[0][:-1]), inner),))
    if len(old) != len(new):
        raise Mismatch(f"dimension {dim} has {len(old)} parts in the source and {len(new)} in the target")
    return PairedAxis(tuple(_segment(a, b, dim) for a, b in zip(old, new, strict=True)))


def _segment(old: Segment, new: Segment, dim: int) -> tuple[PairedFactor, ...]:
    """Match factors; a factor of size 1 leaves no trace in the source, so fewer factors are aligned from the inside."""
    if len(old) > len(new):
        raise Mismatch(f"dimension {dim} is a product of {len(old)} factors in the source, {len(new)} in the target")
    remaining, paired = list(old), list[PairedFactor]()
    for place in range(len(new) - 1, -1, -1):
        must_match = len(remaining) == place + 1
        if remaining and (must_match or factor_size(remaining[-1]) == factor_size(new[place])):
            paired.insert(0, _factor(remaining.pop(), new[place], dim))
        else:
            paired.insert(0, _alone(new[place], dim))
    return tuple(paired)


def _factor(old: Factor, new: Factor, dim: int) -> PairedFactor:
    if isinstance(old, Atom) and isinstance(new, Atom):
        if old.size > new.size:
            raise Mismatch(
                f"dimension {dim}: {old.size} would shrink to {new.size}; growth never shrinks, choose a "
                "target that is smaller nowhere"
            )
        frozen = new.fixed or old.fixed
        if frozen and old.size != new.size:
            raise Mismatch(
                f"dimension {dim}: {old.size} would become {new.size}, but it is {frozen}; choose a target "
                "that keeps it"
            )
        return Unchanged(new.size) if frozen else Growth(old, new)
    if not isinstance(old, Atom) and not isinstance(new, Atom):
        return _axis(old, new, dim)
    raise Mismatch(f"dimension {dim} is laid out as {old} in the source and as {new} in the target")


def _alone(factor: Factor, dim: int) -> PairedFactor:
    if not isinstance(factor, Atom):
        raise Mismatch(f"dimension {dim} has a part in the target that the source lacks")
    if factor.fixed:
        raise Mismatch(f"dimension {dim}: 1 would become {factor.size}, but it is {factor.fixed}")
    return Growth(None, factor)


def _frozen(axis: Axis) -> str | None:
    return "a single position" if axis_size(axis) == 1 else is_fixed(axis)


def origin_of(axis: Axis, origins: Mapping[Atom, Atom]) -> Axis | None:
    """A target's axis laid out in the source's channels; None where the origin of some is not known."""
    if not all(atom in origins for atom in atoms(axis)):
        return None
    return tuple(
        tuple(origins[f] if isinstance(f, Atom) else (origin_of(f, origins) or ()) for f in segment) for segment in axis
    )


def as_paired(axis: Axis, origins: Mapping[Atom, Atom]) -> PairedAxis:
    """A target's axis, the origin of all of whose channels is known, in both models."""
    return PairedAxis(
        tuple(
            tuple(Growth(origins[f], f) if isinstance(f, Atom) else as_paired(f, origins) for f in segment)
            for segment in axis
        )
    )


def torn_groups(
    paired: Mapping[str, tuple[PairedAxis, ...]], names: list[str], same: Mapping[Atom, Atom] | None = None
) -> list[str]:
    """Where the coupling itself changed among `names`: one group in one model, several in the other.

    Args:
        paired: from `pair`.
        names: the tensors to look at.
        same: target atoms that stand for the same channels although the target keeps them apart, each with its other.
    """
    targets: dict[Atom, dict[Atom, str]] = {}
    sources: dict[Atom, dict[Atom, str]] = {}
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
                where = " and ".join(list(parts.values())[:3])
                lines.append(f"{where} share their channels in the {one}, not in the {several}")
    return lines


def representative(atom: Atom, same: Mapping[Atom, Atom]) -> Atom:
    """The atom that one counts as, by `same` of `torn_groups`."""
    while atom in same:
        atom = same[atom]
    return atom
