"""What identifies an operation apart from the sizes of its operands.

Source and target compute alike, module by module, exactly where their signatures agree. Signatures hold the operation,
its numbers (a scale by head size, an eps), the order in which modules call each other, and the values of constants.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from growtool.trace.call import Call
from growtool.trace.table.kinds import Kind

Entry = tuple[Any, ...]

# Arguments that say how large something is; the axes say it too, and growth changes it.
_SIZES = frozenset("size sizes normalized_shape repeats shape N C HxW implicit".split())


def signature(call: Call, *, picks_fixed: bool) -> Entry | None:
    """The entry of an operation, None for pure rearrangements and for constants without a number.

    Args:
        call: the operation.
        picks_fixed: whether it picks positions along an axis that does not grow (a class token): then which matters.
    """
    kind = call.op.kind
    if kind is Kind.PICK and picks_fixed:
        return (call.name, *(value for value in call.args[1:] if isinstance(value, int)))
    if kind is Kind.PERMUTE:
        return (call.name, *scalars(call))
    if call.op.moves:
        return None
    if kind in (Kind.CREATE, Kind.FILL):
        numbers = scalars(call)
        return (call.name, *numbers) if any(numbers) or kind is Kind.FILL else None
    if kind is Kind.CONVOLUTION:
        stride, padding, dilation, transposed, output_padding = call.args[3:8]
        entry = (call.name, *map(tuple, (stride, padding, dilation)), transposed)
        return (*entry, tuple(output_padding)) if any(output_padding) else entry
    if kind is Kind.GROUP_NORM:  # which channels form a group, the axes say
        return (call.name, call.args[7])
    if kind is Kind.ATTENTION:
        scale = call.kwargs.get("scale") or call.args[0].shape[-1] ** -0.5
        rest = tuple(number for name, number in _scalars(call) if name != "scale")
        return ("scaled_dot_product_attention", f"scale={scale:.6g}", *rest)
    return (call.name, *scalars(call))


def constant_signature(tensor: Tensor) -> Entry:
    """The entry of a tensor that is neither parameter, buffer nor activation: its values, one if they are all alike."""
    flat = tensor.detach().reshape(-1)
    if len(flat) and bool((flat == flat[0]).all()):
        return ("constant", *_rounded((float(flat[0]),)))
    return ("constant", hashlib.sha256(flat.to(torch.float64).numpy().tobytes()).hexdigest()[:12])


def scalars(call: Call) -> Entry:
    """The numbers, flags and words among the arguments, save for those that are mere sizes."""
    return tuple(value for _, value in _scalars(call))


def _scalars(call: Call) -> Iterator[tuple[str, Any]]:
    names = [argument.name for argument in call.func._schema.arguments]
    for name, value in (*zip(names, call.args, strict=False), *call.kwargs.items()):
        if name in _SIZES:
            continue
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, float | bool | str | int):
                yield name, float(f"{item:.9g}") if isinstance(item, float) else item


def _rounded(values: Any) -> Entry:
    return tuple(float(f"{value:.9g}") if isinstance(value, float) else value for value in values)
