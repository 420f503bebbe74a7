"""Numbers in words: with units, and few digits."""

from __future__ import annotations

_DECIMAL = ("", "k", "M", "G", "T", "P")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def count(number: float) -> str:
    """Return a number with three significant digits and a decimal prefix: `950`, `22.1 M`, `4.09 G`."""
    return _scaled(number, 1000, _DECIMAL)


def size(number: float) -> str:
    """Return a number of bytes with three significant digits and a binary prefix: `512 B`, `22.1 MiB`."""
    return _scaled(number, 1024, _BINARY)


def ratio(new: float, old: float) -> str:
    """Return `new / old` as `2.13x`; `new` if `old` is zero, `gone` if `new` is, `-` if both are."""
    if old and new:
        return f"{new / old:.3g}x"
    return "new" if new else "gone" if old else "-"


def _scaled(number: float, step: int, units: tuple[str, ...]) -> str:
    for unit in units:
        if round(number) < step or unit == units[-1]:  # 999.6 is 1.00 k, not 1000
            break
        number /= step
    plain = unit == units[0]
    digits = 0 if plain or number >= 100 else 1 if number >= 10 else 2
    return f"{number:.{digits}f} {unit}".rstrip()
