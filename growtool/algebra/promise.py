"""What a growth keeps, decided from the two traces before any weight is read.

Copied channels pass through most operations as they are: anything elementwise, anything channel by channel. What treats
channels jointly is another matter (a norm sees other statistics if some channels are copied more often than others);
and source and target must run the same operations in the first place. Each finding is a reason why the promise is
`lossy`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from growtool.algebra.blank_norms import RescaledNorm
from growtool.algebra.expansion import Expansion
from growtool.algebra.passage import Passage
from growtool.algebra.softmax_sums import softmax_sums
from growtool.coupling import Atom, Axis, Coupling, Mixing, atoms
from growtool.coupling.axis import axis_size
from growtool.coupling.operation import BY_N_MINUS_1

# Operations on which channels act through averages alone: exact if every channel is copied equally often.
_AVERAGES = {
    "layer_norm": "LayerNorm", "rms_norm": "RMSNorm", "group_norm": "GroupNorm", "mean": "a mean", "var": "a variance",
    "batch_norm": "a norm by the batch's statistics", "std": "a standard deviation", "var_mean": "mean and variance",
    "std_mean": "mean and standard deviation",
}  # fmt: skip
NORM_LEAVES_A_MEAN = "a norm writes the channels, and its gains leave a mean that cannot be taken off"
_JOINTLY = {
    "softmax": "a softmax runs over the copied channels",
    "product": "two activations are multiplied and summed over the copied channels",
    "constant": "the copied channels are summed with numbers that are no parameter's own",
    "weight": "the weights are transformed (standardised, say) before use, which undoes their split among the copies",
}


@dataclass(frozen=True, slots=True)
class Promise:
    """What the grown model computes.

    Attributes:
        kind: `exact`: the same outputs up to rounding. `exact up to eps`: so if the norms named had another eps, which
            lives in the module and not in the weights. `lossy`: neither.
        reasons: why it is not exact.
    """

    kind: Literal["exact", "exact up to eps", "lossy"]
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.kind if not self.reasons else f"{self.kind}: " + "; ".join(self.reasons)


def uneven_mixings(
    coupling: Coupling,
    expansions: Mapping[Atom, Expansion],
    skip: Callable[[str], bool],
    copied: Collection[str] = (),
    kept: Collection[Atom] = (),
    variances: Collection[str] = (),
) -> list[str]:
    """Operations of the target that treat copied channels jointly in a way copies change.

    Args:
        coupling: the target's.
        expansions: how each set of channels grows; those that stay may be absent.
        skip: module paths whose result does not matter (closed blocks).
        copied: weights that are not split among the copies of what they read (`algebra.standardised`).
        kept: channels whose products are made up for (`algebra.head_size`).
        variances: modules whose one variance is (`algebra.variance_norms`).
    """
    found: dict[str, list[str]] = {}
    weighted = any(m.kind == "softmax" and any(_grows(expansions, a) for a in atoms(m.axis)) for m in coupling.mixings)
    sums = softmax_sums(coupling) if weighted else frozenset()
    for mixing in coupling.mixings:
        on_axis = list(dict.fromkeys(atoms(mixing.axis)))
        # what becomes of blanks is followed operation by operation (`algebra.passage`)
        grown = [atom for atom in on_axis if _grows(expansions, atom) and not expansions[atom].has_blanks]
        watched = mixing.kind in ("layer_norm", "rms_norm") and any(_has_blanks(expansions, a) for a in on_axis)
        even = copies_per_position(mixing.axis, expansions) is not None
        made_up_for = (
            (mixing.kind == "product" and all(atom in kept for atom in grown))
            or (mixing.kind == BY_N_MINUS_1 and mixing.module in variances)
            or (mixing.kind in ("product", "softmax") and even and (mixing.module, mixing.axis) in sums)
        )
        if not grown or watched or made_up_for or skip(mixing.module):
            continue
        reason = _reason(coupling, mixing, expansions, grown, copied)
        if reason:
            found.setdefault(reason, []).append(mixing.module)
    return [f"{places(modules)}: {reason}" for reason, modules in found.items()]


def other_norm_groups(
    source: Coupling,
    target: Coupling,
    expansions: Mapping[Atom, Expansion],
    source_path: Callable[[str], str],
    skip: Callable[[str], bool],
) -> list[str]:
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
    return [f"{places(found)}: GroupNorm over groups that are not the source's, copied"] if found else []


def _norm_groups(coupling: Coupling) -> dict[str, list[Axis]]:
    groups: dict[str, list[Axis]] = {}
    for mixing in coupling.mixings:
        if mixing.kind == "group_norm":
            groups.setdefault(mixing.module, []).append(mixing.axis)
    return groups


def _reason(
    coupling: Coupling,
    mixing: Mixing,
    expansions: Mapping[Atom, Expansion],
    grown: list[Atom],
    copied: Collection[str],
) -> str | None:
    sizes = ", ".join(sorted({f"{expansions[a].size} -> {a.size}" for a in grown}))
    even = copies_per_position(mixing.axis, expansions) is not None
    if mixing.kind in _AVERAGES:
        return (
            None if even else f"{_AVERAGES[mixing.kind]} over channels that are not all copied equally often ({sizes})"
        )
    if mixing.kind == "weight" and even and (mixing.params <= set(copied) or not _consumes(coupling, mixing, grown)):
        return None
    return f"{_JOINTLY.get(mixing.kind, f'{mixing.kind} over the copied channels')} ({sizes})"


def ambiguous_parameters(coupling: Coupling, expansions: Mapping[Atom, Expansion]) -> list[str]:
    """Parameters that are read in several ways on channels that grow: one split cannot serve them all."""
    grown = {name for atom, name, _ in coupling.consumers if _grows(expansions, atom)}
    names = sorted(grown & coupling.ambiguous)
    return [f"{places(names)}: read as a matrix along its channels and in another way too"] if names else []


def _consumes(coupling: Coupling, mixing: Mixing, grown: list[Atom]) -> bool:
    return any(atom in grown and name in mixing.params for atom, name, _ in coupling.consumers)


def copies_per_position(axis: Axis, expansions: Mapping[Atom, Expansion]) -> int | None:
    """How often each source position of the axis stands in the target, if equally often, else None."""
    per_segment = set()
    for segment in axis:
        copies = 1
        for factor in segment:
            if isinstance(factor, Atom):
                times = expansions[factor].multiplicity if factor in expansions else 1
            else:
                times = copies_per_position(factor, expansions)
            if times is None:
                return None
            copies *= times
        per_segment.add(copies)
    return per_segment.pop() if len(per_segment) == 1 else None


def stopped_blanks(passages: Iterable[Passage], skip: Callable[[str], bool]) -> list[str]:
    """Operations of the target that new channels without a copy do not pass unchanged."""
    found = [item for passage in passages for item in passage.reasons if not skip(item[0])]
    return grouped([*found, *((module, NORM_LEAVES_A_MEAN) for passage in passages for module in passage.nearly)])


def grouped(found: Iterable[tuple[str, str]]) -> list[str]:
    """One line for each reason, with the first few of the modules it was found in."""
    modules: dict[str, list[str]] = {}
    for module, reason in found:
        modules.setdefault(reason, []).append(module)
    return [f"{places(paths)}: {reason}" for reason, paths in modules.items()]


def needed_eps(
    before: Mapping[str, float], norms: Iterable[RescaledNorm], source_path: Callable[[str], str]
) -> dict[str, float]:
    """The eps each rescaled norm of the target needs, where it is not the one it has.

    Args:
        before: path of a norm of the source -> its eps.
        norms: of the target.
        source_path: path of a module of the target -> that of its counterpart.
    """
    needed = {}
    for norm in norms:
        wanted = before.get(source_path(norm.module), norm.eps) * norm.s
        if not math.isclose(wanted, norm.eps, rel_tol=1e-6):
            needed[norm.module] = wanted
    return needed


def eps_shifts(norms: Iterable[RescaledNorm], wanted: Mapping[str, float]) -> list[str]:
    """How much each norm is off while its eps is the source's: to first order (1 / s - 1) eps / (2 variance)."""
    found: dict[tuple[float, float], list[str]] = {}
    for norm in norms:
        if norm.module in wanted:
            found.setdefault((norm.eps, wanted[norm.module]), []).append(norm.module)
    return [
        f"{places(modules)}: eps is {eps:.3g} and would have to be {target:.3g}; the norm's output is too small by "
        f"{(eps / target - 1) * eps / 2:.1e} (relative) where the variance over the old channels is 1, in inverse "
        "proportion to it elsewhere"
        for (eps, target), modules in found.items()
    ]


def _has_blanks(expansions: Mapping[Atom, Expansion], atom: Atom) -> bool:
    return atom in expansions and expansions[atom].has_blanks


def _grows(expansions: Mapping[Atom, Expansion], atom: Atom) -> bool:
    return atom in expansions and not expansions[atom].is_identity


def different_operations(
    source: Coupling,
    target: Coupling,
    source_path: Callable[[str], str],
    skip: Callable[[str], bool],
    shares: Mapping[str, float] | None = None,
    replaced: Collection[str] = (),
    scales: Mapping[str, tuple[float, float]] | None = None,
    stand_in: Mapping[str, Mapping[tuple[object, ...], tuple[object, ...]]] | None = None,
    dropped: Mapping[str, Collection[int]] | None = None,
) -> list[str]:
    """Modules of the target that do not run the operations of their counterpart in the source.

    Args:
        source: the source's coupling.
        target: the target's.
        source_path: path of a module of the target -> that of its counterpart.
        skip: paths of the target to leave out.
        shares: norms of the target -> the share of their positions that are copies; eps may have fallen by it.
        replaced: paths of the source that do nothing and have a bridge for a counterpart.
        scales: modules of the target -> a factor of theirs and the one it stands for in the source, which the weights
            make up for.
        stand_in: path of the target -> entries that stand for another one of the source.
        dropped: path of the target -> places of entries that do nothing once new blocks are closed.
    """
    found: dict[str, list[str]] = {}
    for path in target.signatures.keys() | source.signatures.keys():
        if skip(path):
            continue
        before = source.signatures.get(source_path(path), ())
        old = tuple(e for e in before if not (e[0] == "call" and e[1] in replaced))
        gone = (dropped or {}).get(path, ())
        entries = tuple(entry for place, entry in enumerate(target.signatures.get(path, ())) if place not in gone)
        new = _seen_from_source(entries, source_path, skip)
        if stand_in and path in stand_in:
            new = tuple(stand_in[path].get(entry, entry) for entry in new)
        if shares and path in shares:
            new = tuple(entry if entry in old else _with_eps_of(old, entry, shares[path]) for entry in new)
        if scales and path in scales:
            new = _with_factor_of(new, *scales[path])
        if old != new:
            reason = _difference(path, source_path(path), source, target, old, new)
            found.setdefault(reason, []).append(path)
    return [
        f"{places(sorted(paths))}: {reason}" for reason, paths in sorted(found.items(), key=lambda item: item[1][0])
    ]


def _seen_from_source(
    entries: Sequence[tuple[object, ...]], source_path: Callable[[str], str], skip: Callable[[str], bool]
) -> tuple[tuple[object, ...], ...]:
    """The target's entries with the modules it calls under their names in the source, those to skip left out."""
    kept = (e for e in entries if not (e[0] == "call" and skip(str(e[1]))))
    return tuple(("call", source_path(str(e[1]))) if e[0] == "call" else e for e in kept)


def _with_eps_of(old: Sequence[tuple[object, ...]], entry: tuple[object, ...], share: float) -> tuple[object, ...]:
    """The source's entry for an operation of a norm whose one difference is an eps that fell by `share`."""

    def is_it(before: tuple[object, ...]) -> bool:
        return (
            before[:-1] == entry[:-1] and isinstance(before[-1], float) and isinstance(entry[-1], float)
            and math.isclose(entry[-1], before[-1] * share, rel_tol=1e-5)
        )  # fmt: skip

    return next(filter(is_it, old), entry)


def _with_factor_of(entries: Sequence[tuple[object, ...]], own: float, source: float) -> tuple[tuple[object, ...], ...]:
    """The entries with the source's factor in place of the target's, if it stands there once."""
    before, after = (("mul", float(f"{factor:.9g}")) for factor in (own, source))
    return tuple(after if e == before else e for e in entries) if list(entries).count(before) == 1 else tuple(entries)


def _difference(
    path: str,
    origin: str,
    source: Coupling,
    target: Coupling,
    old: Sequence[tuple[object, ...]],
    new: Sequence[tuple[object, ...]],
) -> str:
    if origin in source.exits and path not in target.exits:
        return "the source has a skip connection here, the target has none"
    if path in target.exits and origin not in source.exits:
        return "the target has a skip connection here, the source has none"
    for a, b in zip(old, new, strict=False):
        if a != b:
            return f"the source computes {_shown(a)}, the target {_shown(b)}"
    extra, owner = (old[len(new)], "source") if len(old) > len(new) else (new[len(old)], "target")
    return f"only the {owner} computes {_shown(extra)}"


def _shown(entry: tuple[object, ...]) -> str:
    name, *scalars = entry
    return f"{name}({', '.join(map(str, scalars))})" if scalars else str(name)


def places(modules: Sequence[str]) -> str:
    """The first few module paths and how many more."""
    names = [m or "the model itself" for m in dict.fromkeys(modules)]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
