"""Paths of modules and tensors in a user's words: `blocks 0-3`, `stage 1, blocks 0-1`, `attn of layer1.0-1`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_COUNTED = re.compile(r"(?:(.+)\.)?(block|stage|layer|level|group|unit)s\.")  # prefixes that read as a word
_ENDING = re.compile(r"[^\d]+\d+")  # a name that ends in a number: layer1
_SHOWN = 3  # ranges
_Run = tuple[str, tuple[int, ...]]  # prefix of the blocks, and their numbers


def places(paths: Iterable[str], shown: int | None = _SHOWN) -> str:
    """Return module or tensor paths as text; paths that differ only in the number of their block are told as a range.

    `blocks.0`, `blocks.1` is `blocks 0-1`; `stages.1.blocks.0` is `stage 1, block 0`; `layer1.0`, `layer1.1` is
    `layer1.0-1`; `blocks.0.attn`, `blocks.1.attn` is `attn of blocks 0-1`. A path that is the only one of its kind
    stays as it is.

    Args:
        paths: repeats are told once; the empty path is that of the model itself.
        shown: number of ranges before the text ends with the number of paths that are left; None for all.
    """
    ranges = _ranges(list(dict.fromkeys(paths)))
    texts = [text for text, _ in ranges[:shown]]
    left = sum(count for _, count in ranges[len(texts) :])
    joined = ("; " if any(", " in text for text in texts) else ", ").join(texts)
    return f"{joined} and {left} more" if left else joined


def _ranges(paths: Sequence[str]) -> list[tuple[str, int]]:
    """Return each range of paths as text, with the number of paths that it stands for."""
    numbers: dict[tuple[str, str], list[int]] = {}
    for path in paths:
        before, number, behind = _split(path)
        numbers.setdefault((before, behind), []).append(number)
    # modules that are found in the same blocks share a range
    behinds: dict[_Run, list[str]] = {}
    for (before, behind), block_numbers in numbers.items():
        behinds.setdefault((before, tuple(sorted(block_numbers))), []).append(behind)
    return [(_told(run, parts), len(run[1]) * len(parts)) for run, parts in behinds.items()]


def _split(path: str) -> tuple[str, int, str]:
    """Return the number of the block with the text before and behind it; -1 and the whole path before, without one.

    The number is the last component that is one, or else the number that the last component with one ends in.
    """
    parts = path.split(".")
    numbered = [at for at, part in enumerate(parts) if part.isdecimal()]
    numbered = numbered or [at for at, part in enumerate(parts) if _ENDING.fullmatch(part)]
    if not numbered:
        return path, -1, ""
    at = numbered[-1]
    word = parts[at].rstrip("0123456789")
    before = "".join(f"{part}." for part in parts[:at]) + word
    return before, int(parts[at].removeprefix(word)), ".".join(parts[at + 1 :])


def _told(run: _Run, behinds: Sequence[str]) -> str:
    """Return the text of a range: `attn and mlp of blocks 0-3` for `attn` and `mlp` behind."""
    before, numbers = run
    if numbers == (-1,):
        return before or "the model itself"
    if behinds == [""]:
        return _numbered(before, numbers)
    if len(numbers) == 1:
        return ", ".join(f"{before}{numbers[0]}" + (f".{behind}" if behind else "") for behind in behinds)
    inner = " and ".join(filter(None, [", ".join(behinds[:-1]), behinds[-1]]))
    return f"{inner} of {_numbered(before, numbers)}"


def _numbered(before: str, numbers: Sequence[int]) -> str:
    """Return `blocks 0-3` for `blocks.`, `stage 1, blocks 0-3` for `stages.1.blocks.`, `layer1.0-3` for `layer1.`."""
    counted = _COUNTED.fullmatch(before)
    if counted is None:
        return f"{before}{_runs(numbers)}"
    outer, word = counted.groups()
    text = f"{word}{'s' if len(numbers) > 1 else ''} {_runs(numbers)}"
    if outer is None:
        return text
    around, number, behind = _split(outer)
    return f"{outer if number < 0 or behind else _numbered(around, (number,))}, {text}"


def _runs(numbers: Sequence[int]) -> str:
    """Return `0-3, 5` for 0, 1, 2, 3, 5."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def grouped(found: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line for each reason, with the first few modules of it.

    Args:
        found: pairs of a module path and a reason.
    """
    modules: dict[str, list[str]] = {}
    for module, reason in found:
        modules.setdefault(reason, []).append(module)
    return [f"{places(paths)}: {reason}" for reason, paths in modules.items()]
