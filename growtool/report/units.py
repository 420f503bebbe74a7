"""Numbers as people read them."""

from __future__ import annotations

_DECIMAL = ("", "k", "M", "G", "T", "P")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def count(number: float) -> str:
    """Three significant digits and a decimal prefix: `950`, `22.1 M`, `4.09 G`."""
    return _scaled(number, 1000, _DECIMAL)


def size(number: float) -> str:
    """Bytes with a binary prefix: `512 B`, `22.1 MiB`."""
    return _scaled(number, 1024, _BINARY)


def ratio(new: float, old: float) -> str:
    """How many times `old` goes into `new`: `2.13x`; `new`, `gone` and `-` where one of them, or both, are zero."""
    if old and new:
        return f"{new / old:.3g}x"
    return "new" if new else "gone" if old else "-"


def _scaled(number: float, step: int, units: tuple[str, ...]) -> str:
    for unit in units:
        if round(number) < step or unit == units[-1]:
            break
        number /= step
    plain = unit == units[0]
    digits = 0 if plain or number >= 100 else 1 if number >= 10 else 2
    return f"{number:.{digits}f} {unit}".rstrip()
