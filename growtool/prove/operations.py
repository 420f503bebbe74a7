"""Whether source and target run the same operations, module by module."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

from growtool.trace import Trace, places


def different_operations(
    source: Trace,
    target: Trace,
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
        source: the source's trace.
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
    source: Trace,
    target: Trace,
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
