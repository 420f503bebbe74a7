"""Whether source and target run the same operations, module by module."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from growtool.trace import Trace, places

Entry = tuple[object, ...]  # of a module's signature: an operation with its numbers, or the call of a module


@dataclass
class Excused:
    """What may differ between the operations of source and target, since the weights make up for it.

    Attributes:
        stands_for: module of the target -> an entry of its signature -> the source's entry that it stands for.
        dropped: module of the target -> places of entries that do nothing once new blocks are closed.
        replaced: modules of the source that do nothing and have an identity shortcut for a counterpart.
    """

    stands_for: dict[str, dict[Entry, Entry]] = field(default_factory=dict)
    dropped: Mapping[str, Collection[int]] = field(default_factory=dict)
    replaced: Collection[str] = ()

    def eps(self, path: str, share: float, before: Sequence[Entry], now: Sequence[Entry]) -> None:
        """The eps of a norm may have fallen by `share`; `before` and `now` are the entries of source and target."""
        for entry in now:
            standing = next((old for old in before if _differs_in_eps(old, entry, share)), None)
            if entry not in before and standing is not None:
                self.stands_for.setdefault(path, {})[entry] = standing

    def factor(self, path: str, own: float, source: float, now: Sequence[Entry]) -> None:
        """A multiplication by `own` stands for one by `source`, if the module has only one by `own`."""
        entry, standing = (("mul", float(f"{number:.9g}")) for number in (own, source))
        if list(now).count(entry) == 1:
            self.stands_for.setdefault(path, {})[entry] = standing


def different_operations(
    source: Trace, target: Trace, source_path: Callable[[str], str], skip: Callable[[str], bool], excused: Excused
) -> list[str]:
    """Modules of the target that do not run the operations of their counterpart in the source.

    Args:
        source: the source's trace.
        target: the target's.
        source_path: path of a module of the target -> that of its counterpart.
        skip: paths of the target to leave out.
        excused: what may differ.
    """
    found: dict[str, list[str]] = {}
    for path in target.signatures.keys() | source.signatures.keys():
        if skip(path):
            continue
        before = source.signatures.get(source_path(path), ())
        old = tuple(e for e in before if not (e[0] == "call" and e[1] in excused.replaced))
        gone, same = excused.dropped.get(path, ()), excused.stands_for.get(path, {})
        entries = tuple(entry for place, entry in enumerate(target.signatures.get(path, ())) if place not in gone)
        new = tuple(same.get(entry, entry) for entry in _seen_from_source(entries, source_path, skip))
        if old != new:
            reason = _difference(path, source_path(path), source, target, old, new)
            found.setdefault(reason, []).append(path)
    return [
        f"{places(sorted(paths))}: {reason}" for reason, paths in sorted(found.items(), key=lambda item: item[1][0])
    ]


def _seen_from_source(
    entries: Sequence[Entry], source_path: Callable[[str], str], skip: Callable[[str], bool]
) -> tuple[Entry, ...]:
    """The target's entries with the modules it calls under their names in the source, those to skip left out."""
    kept = (e for e in entries if not (e[0] == "call" and skip(str(e[1]))))
    return tuple(("call", source_path(str(e[1]))) if e[0] == "call" else e for e in kept)


def _differs_in_eps(old: Entry, new: Entry, share: float) -> bool:
    """Whether both are the same operation of a norm, and the one difference is an eps that fell by `share`."""
    *rest, before = old
    *others, now = new
    return (
        rest == others
        and isinstance(before, float)
        and isinstance(now, float)
        and math.isclose(now, before * share, rel_tol=1e-5)
    )


def _difference(
    path: str,
    origin: str,
    source: Trace,
    target: Trace,
    old: Sequence[Entry],
    new: Sequence[Entry],
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


def _shown(entry: Entry) -> str:
    name, *scalars = entry
    return f"{name}({', '.join(map(str, scalars))})" if scalars else str(name)
