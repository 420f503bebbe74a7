"""What identifies an operation apart from the sizes of its operands.

Source and target compute alike, module by module, exactly where their signatures agree. Signatures hold the operation,
its numbers (a scale by head size, an eps), the order in which modules call each other, and the values of constants.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from growtool.coupling.operation import Call

Entry = tuple[Any, ...]

VIEWS = frozenset(
    (
        "view _unsafe_view reshape view_copy _reshape_alias flatten permute transpose t unsqueeze squeeze expand "
        "detach alias clone contiguous _to_copy to lift_fresh lift_fresh_copy slice select narrow split "
        "split_with_sizes unsafe_split unsafe_chunk unsafe_split_with_sizes chunk unbind view_as as_strided lift "
        "copy resolve_conj resolve_neg"
    ).split()
)
CREATIONS = frozenset(
    (
        "zeros ones full empty new_zeros new_ones new_full new_empty zeros_like ones_like full_like empty_like "
        "scalar_tensor empty_strided new_empty_strided fill zero empty_permuted"
    ).split()
)
POOLS = frozenset(
    (
        "avg_pool2d max_pool2d_with_indices _adaptive_avg_pool2d adaptive_max_pool2d avg_pool1d max_pool1d "
        "avg_pool3d _adaptive_avg_pool1d adaptive_avg_pool1d adaptive_avg_pool2d"
    ).split()
)
# Arguments that say how large something is; the axes say it too, and growth changes it.
_SIZES = frozenset("size sizes normalized_shape repeats shape N C HxW implicit".split())
_TURNS = frozenset("permute transpose".split())
_PICKS = frozenset("slice select narrow".split())


def signature(call: Call, *, picks_fixed: bool) -> Entry | None:
    """The entry of an operation, None for pure rearrangements and for constants without a number.

    Args:
        call: the operation.
        picks_fixed: whether it picks positions along an axis that does not grow (a class token): then which matters.
    """
    if call.name in _PICKS and picks_fixed:
        return (call.name, *(value for value in call.args[1:] if isinstance(value, int)))
    if call.name in _TURNS:
        return (call.name, *scalars(call))
    if call.name in VIEWS:
        return None
    if call.name in CREATIONS:
        numbers = scalars(call)
        return (call.name, *numbers) if any(numbers) or call.name in ("fill", "zero") else None
    if call.name in ("convolution", "_convolution"):
        stride, padding, dilation, transposed, output_padding = call.args[3:8]
        entry = (call.name, *map(tuple, (stride, padding, dilation)), transposed)
        return (*entry, tuple(output_padding)) if any(output_padding) else entry
    if call.name == "native_group_norm":  # which channels form a group, the axes say
        return (call.name, call.args[7])
    if "scaled_dot_product" in call.name:
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
