"""Names of tensors as training scripts save them: prefixes before the names that the model has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

# DDP puts `module.` before the names of the model it wraps, torch.compile `_orig_mod.`. Either may wrap the other: the
# prefixes are taken off in this order, each if it is there.
_WRAPPERS = ("_orig_mod.", "module.", "_orig_mod.")


def cleaned(name: str) -> str:
    """Return a tensor's name without the prefixes of DDP and torch.compile."""
    for prefix in _WRAPPERS:
        name = name.removeprefix(prefix)
    return name


def foreign_prefix(found: Collection[str], expected: Collection[str]) -> str:
    """Return the prefix before most of the model's names in a file.

    Args:
        found: names in the file.
        expected: names of the model.

    Returns:
        "" if most names stand in the file as they are, or no prefix makes more than half of the model's names.
    """
    wanted = set(expected)
    counts = Counter(
        name[: len(name) - len(rest)] for name in found for rest in _endings(name) if rest in wanted
    )  # fmt: skip
    prefix, count = max(counts.items(), key=lambda item: item[1], default=("", 0))
    return prefix if 2 * count > len(wanted) else ""


def common_prefix(names: Collection[str]) -> str:
    """Return the path of modules, with its last dot, that all names begin with; "" if there is none."""
    parts = [name.split(".")[:-1] for name in names]
    shared: list[str] = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return "".join(f"{part}." for part in shared) if len(parts) > 1 else ""


def without(prefix: str, names: Iterable[str]) -> dict[str, str]:
    """Return the names that begin with `prefix`, each mapped to the rest of it."""
    return {name: name.removeprefix(prefix) for name in names if name.startswith(prefix)}


def _endings(name: str) -> list[str]:
    """Return a name, and what follows each of its dots."""
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]
