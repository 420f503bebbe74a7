"""Signatures of modules: what identifies their operations, apart from sizes.

Where the signatures of source and target agree, module by module, both run the same operations with the same numbers;
whether on the same values is asked elsewhere (`prove.block_equivalence`). A signature has an entry for each operation
with its numbers (a scale by head size, an eps), for each call of a module, and for each constant with its values.
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

# Arguments left out: sizes, which are in the axes already and change with growth, and `implicit` of `expand`.
_SIZES = frozenset("size sizes normalized_shape repeats shape N C HxW implicit".split())


def signature(call: Call, *, picks_fixed: bool) -> Entry | None:
    """Return the entry of an operation; None for most moves of values, and for a creation without non-zero arguments.

    Args:
        call: the operation.
        picks_fixed: whether it takes positions of an axis that does not grow (a class token). Which ones it takes is in
            the entry then; positions of other axes shift when the axis grows.
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
    if kind is Kind.GROUP_NORM:  # its eps; the axes say which channels are a group
        return (call.name, call.args[7])
    if kind is Kind.ATTENTION:
        # torch has several kernels for it, and leaves out a scale of d^-1/2, which growth of d changes
        scale = call.kwargs.get("scale") or call.args[0].shape[-1] ** -0.5
        others = tuple(number for name, number in _scalars(call) if name != "scale")
        return ("scaled_dot_product_attention", f"scale={scale:.6g}", *others)
    return (call.name, *scalars(call))


def constant_signature(tensor: Tensor) -> Entry:
    """Return the entry of a constant: its one value if all are alike, whatever the shape, else a hash of its values."""
    flat = tensor.detach().reshape(-1)
    values = torch.view_as_real(flat.resolve_conj()) if flat.is_complex() else flat[:, None]  # [values, 1 or 2]
    if len(values) and bool((values == values[0]).all()):
        return ("constant", *(_rounded(float(part)) for part in values[0]))
    return ("constant", hashlib.sha256(values.to(torch.float64).numpy().tobytes()).hexdigest()[:12])


def scalars(call: Call) -> Entry:
    """Return the numbers, flags and strings among the arguments, without sizes."""
    return tuple(value for _, value in _scalars(call))


def _scalars(call: Call) -> Iterator[tuple[str, Any]]:
    names = [argument.name for argument in call.func._schema.arguments]
    for name, value in (*zip(names, call.args, strict=False), *call.kwargs.items()):
        if name in _SIZES:
            continue
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, float | bool | str | int):
                yield name, _rounded(item) if isinstance(item, float) else item


def _rounded(value: float) -> float:
    return float(f"{value:.9g}")
