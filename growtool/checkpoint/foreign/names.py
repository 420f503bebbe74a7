"""Names of tensors as training scripts change them: what stands before those that the model has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

# What DDP and torch.compile put before a name, in the order in which it is taken off.
_WRAPPERS = ("_orig_mod.", "module.", "_orig_mod.")


def cleaned(name: str) -> str:
    """A tensor's name without what DDP and torch.compile put before it."""
    for prefix in _WRAPPERS:
        name = name.removeprefix(prefix)
    return name


def foreign_prefix(found: Collection[str], expected: Collection[str]) -> str:
    """What stands before most of the model's names in a file; "" where most are there as they are, or none is.

    Args:
        found: names in the file.
        expected: names of the model.
    """
    wanted = set(expected)
    counts = Counter(
        name[: len(name) - len(rest)] for name in found for rest in _endings(name) if rest in wanted
    )  # fmt: skip
    prefix, count = max(counts.items(), key=lambda item: item[1], default=("", 0))
    return prefix if 2 * count > len(wanted) else ""


def common_prefix(names: Collection[str]) -> str:
    """The modules that all names begin with, up to a dot; "" where there is none."""
    parts = [name.split(".")[:-1] for name in names]
    shared: list[str] = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return "".join(f"{part}." for part in shared) if len(parts) > 1 else ""


def without(prefix: str, names: Iterable[str]) -> dict[str, str]:
    """The names that begin with `prefix`, each with what follows it."""
    return {name: name.removeprefix(prefix) for name in names if name.startswith(prefix)}


def _endings(name: str) -> Iterable[str]:
    yield name
    for place, letter in enumerate(name):
        if letter == ".":
            yield name[place + 1 :]
