"""Lengths of training as people write them: `2epochs`, `500 steps`, or a share of the whole, `0.2`."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, Any

from pydantic import BeforeValidator

from growtool.plan.section import problem

_PATTERN = re.compile(r"\s*(?P<amount>\d*\.?\d+(?:e[+-]?\d+)?)\s*(?P<unit>[a-z]*)\s*", re.IGNORECASE)
_STEPS, _EPOCHS, _SHARE = "steps", "epochs", "share"
_UNITS: dict[str, str] = {
    "epochs": _EPOCHS,
    "epoch": _EPOCHS,
    "steps": _STEPS,
    "step": _STEPS,
    "macs": "macs",
    "": _SHARE,
}
"""The unit that a spelling means."""


def parse_amount(text: str, units: Collection[str]) -> tuple[float, str] | None:
    """Return number and unit of a length such as `3epochs` or `1 epoch`, or None if it is none in one of `units`."""
    match = _PATTERN.fullmatch(text)
    unit = _UNITS.get(match["unit"].lower(), "") if match else ""
    return (float(match["amount"]), unit) if match and unit in units else None


def _length(value: Any) -> Any:
    """Return a length in its normal form, such as `2epochs` or `0.1`; raise a problem for other numbers and texts."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return value
    amount, unit = parse_amount(str(value), (_STEPS, _EPOCHS, _SHARE)) or (-1.0, _SHARE)  # -1: no length
    if amount < 0 or (unit == _SHARE and amount >= 1):
        raise problem(
            f"found {value!r}, expected a share of the whole below 1, or a number of epochs or steps, "
            "such as 0.1, 2epochs or 500steps"
        )
    return f"{amount:.12g}{'' if unit == _SHARE else unit}"


Length = Annotated[str, BeforeValidator(_length, json_schema_input_type=float | str)]
"""A part of a training: `2epochs`, `500steps`, or below 1 a share of the whole."""


def updates_of(length: str, *, whole: int, per_epoch: int) -> int:
    """Return the number of updates of a `Length`.

    Args:
        length: as it was validated.
        whole: updates of the whole that a share is a part of.
        per_epoch: updates of an epoch.
    """
    amount, unit = parse_amount(length, _UNITS.values()) or (0.0, _SHARE)
    return round(amount * {_STEPS: 1, _EPOCHS: per_epoch, _SHARE: whole}[unit])
