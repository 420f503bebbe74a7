"""Which operations map zeros to zeros, by their numbers."""

from __future__ import annotations

from typing import Any, Protocol

# Each value of the result is a function of the same value, or the largest of several.
_ZERO_TO_ZERO = frozenset(
    "relu gelu silu tanh hardswish leaky_relu elu mish abs sqrt square sin erf sign relu6 prelu _prelu_kernel "
    "max_pool1d max_pool2d_with_indices adaptive_max_pool2d amax amin".split()
)


class Operation(Protocol):
    """An operation with its arguments, while it is traced or after."""

    @property
    def name(self) -> str: ...

    def arg(self, index: int, name: str, default: Any = None) -> Any: ...


def keeps_zero(operation: Operation) -> bool:
    """Whether an operation of one tensor, value by value or over a window, maps zero to zero.

    False where a bound is a tensor, whose values are not known.
    """
    name, arg = operation.name, operation.arg
    if name == "hardtanh":
        return _holds_zero(arg(1, "min_val", -1), arg(2, "max_val", 1))
    if name in ("clamp", "clamp_min"):
        return _holds_zero(arg(1, "min"), arg(2, "max"))
    if name == "clamp_max":
        return _holds_zero(None, arg(1, "max"))
    if name == "threshold":  # x where it is above the threshold, else the value
        threshold, value = arg(1, "threshold"), arg(2, "value")
        return bool(threshold < 0 or value == 0)
    if name == "pow":
        exponent = arg(1, "exponent")
        return isinstance(exponent, int | float) and exponent > 0
    if name == "constant_pad_nd":
        return not arg(2, "value", 0)
    return name in _ZERO_TO_ZERO


def _holds_zero(low: Any, high: Any) -> bool:
    """Whether zero lies between two bounds; None where there is none."""
    return all(bound is None or isinstance(bound, int | float) for bound in (low, high)) and (
        (low is None or low <= 0) and (high is None or high >= 0)
    )
