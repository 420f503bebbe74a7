"""The part of a timm configuration that says how images are prepared and how many classes there are, held to its types.

timm itself looks at these values when the first image comes, or never.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos", "random")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e30 < value < 1e30


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**31


def _is_size(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(_is_count(number, 1) for number in value)


def _are_numbers(value: Any) -> bool:
    return _is_number(value) or (isinstance(value, list | tuple) and bool(value) and all(map(_is_number, value)))


def _are_scales(value: Any) -> bool:
    return _are_numbers(value) and all(number > 0 for number in (value if isinstance(value, list | tuple) else [value]))


def _are_names(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list | tuple) and all(isinstance(name, str) for name in value))


_SIZE = "three whole numbers from 1: channels, height, width"
_KNOWN: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "input_size": (_is_size, _SIZE),
    "test_input_size": (_is_size, _SIZE),
    "mean": (_are_numbers, "a number, or one for each channel"),
    "std": (_are_scales, "a number above 0, or one for each channel"),
    "crop_pct": (lambda value: _is_number(value) and 0.01 <= value <= 100, "a number from 0.01 to 100"),
    "test_crop_pct": (lambda value: _is_number(value) and 0.01 <= value <= 100, "a number from 0.01 to 100"),
    "interpolation": (lambda value: value in _INTERPOLATIONS, f"one of {', '.join(_INTERPOLATIONS)}"),
    "crop_mode": (lambda value: isinstance(value, str), "a string"),
    "num_classes": (lambda value: _is_count(value, 0), "a whole number from 0"),
    "label_offset": (lambda value: _is_count(value, 0) or value is False, "a whole number from 0"),
    "classifier": (_are_names, "the name of a module, or a list of names"),
    "first_conv": (_are_names, "the name of a module, or a list of names"),
}


def problems_of(config: Mapping[str, Any], where: str) -> list[str]:
    """What is wrong with the values of `pretrained_cfg`; null stands for timm's default."""
    return [
        f"{where}: {key}: found {_shown(config[key])}, expected {expected}; restore the file"
        for key, (is_right, expected) in _KNOWN.items()
        if config.get(key) is not None and not is_right(config[key])
    ]


def _shown(value: Any, most: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"
