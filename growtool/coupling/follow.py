"""What an operation passes on besides axes: the parameters a tensor is made of, its flow, and its signature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from growtool.coupling.flow import Flow, Params, activated, added, both_zeroed

if TYPE_CHECKING:
    from growtool.coupling.tape import Call, Tape

VIEWS = frozenset(
    (
        "view _unsafe_view reshape view_copy _reshape_alias flatten permute transpose t unsqueeze squeeze expand "
        "detach alias clone contiguous _to_copy to lift_fresh lift_fresh_copy slice select narrow split "
        "split_with_sizes unsafe_split unsafe_chunk unsafe_split_with_sizes chunk unbind view_as as_strided lift "
        "copy resolve_conj resolve_neg"
    ).split()
)
# Rearrangements that keep every value; whether a stream comes back in its old layout shows in its axes.
REARRANGEMENTS = frozenset(
    (
        "view _unsafe_view reshape view_copy _reshape_alias flatten detach alias clone contiguous _to_copy to "
        "lift_fresh lift_fresh_copy unsqueeze squeeze view_as lift dropout native_dropout permute transpose t"
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
CONTRACTIONS = frozenset("mm bmm addmm baddbmm mv dot linear convolution _convolution matmul".split())
_IDEMPOTENT = frozenset("relu hardtanh relu6 clamp_min threshold".split())
_ZERO_TO_ZERO = _IDEMPOTENT | frozenset(
    "gelu silu hardswish tanh elu leaky_relu mish constant_pad_nd roll mean".split()
)
_AFFINE_NORMS = {
    "native_layer_norm": (2, 3),
    "native_group_norm": (1, 2),
    "native_batch_norm": (1, 2),
    "_fused_rms_norm": (2,),
    "_native_batch_norm_legit_no_training": (1, 2),
    "_native_batch_norm_legit": (1, 2),
    "cudnn_batch_norm": (1, 2),
    "batch_norm": (1, 2),
    "rms_norm": (2,),
}
_INTEGERS_MATTER = POOLS | frozenset(
    (
        "mean sum amax amin var softmax _softmax _safe_softmax roll cat stack add mul sub div pow constant_pad_nd "
        "flip cumsum pixel_shuffle pixel_unshuffle leaky_relu clamp topk"
    ).split()
)


def params_after(tape: Tape, call: Call) -> Params | None:
    """The parameters the result is made of, None where it depends on the input or sums parameters with parameters."""
    made_of = [tape.value(tensor).params for tensor in call.ins]
    if call.name in CREATIONS and call.name not in ("fill", "zero"):
        return frozenset()
    if any(params is None for params in made_of):
        return None
    if call.name in CONTRACTIONS and sum(map(bool, made_of)) > 1:
        return None
    return frozenset().union(*(params for params in made_of if params))


def flow_after(tape: Tape, call: Call) -> Flow:
    """The flow of the result; a fresh one wherever nothing certain can be said."""
    values = [tape.value(tensor) for tensor in call.ins]
    activations = [v for v in values if v.params is None]
    if not activations:
        return Flow()
    first = activations[0].flow
    if call.name == "add" and len(activations) == 2 and call.ins[0].shape == call.ins[1].shape:
        return added(activations[0].flow, activations[1].flow) if call.arg(2, "alpha", 1) == 1 else Flow()
    if call.name == "sub" and len(activations) == 2:
        return Flow(zeroed_by=both_zeroed(first, activations[1].flow))
    if call.name in REARRANGEMENTS and len(activations) == 1:
        return first.renewed(bases=first.reachable())
    if call.name in _IDEMPOTENT:
        return activated(first, f"{call.name}{_scalars(call)}", tape.activations)
    return Flow(
        zeroed_by=_zeroed_by(tape, call, [v.flow for v in activations]),
        activation=first.activation if call.name in VIEWS | POOLS else None,
    )


def _zeroed_by(tape: Tape, call: Call, activations: list[Flow]) -> Params | None:
    if call.name in _AFFINE_NORMS:
        affine = [call.args[i] for i in _AFFINE_NORMS[call.name] if len(call.args) > i and call.args[i] is not None]
        named = [tape.value(tensor).params for tensor in affine]
        return frozenset().union(*(p for p in named if p)) if affine and all(named) else None
    weights = [tape.value(tensor).params for tensor in call.ins if tape.value(tensor).params is not None]
    if call.name in CONTRACTIONS and weights and len(activations) == 1:
        return frozenset().union(*(p for p in weights if p))
    if call.name == "add" and len(activations) == 1 and weights and weights[0] and activations[0].zeroed_by:
        return activations[0].zeroed_by | weights[0]
    if call.name in ("mul", "div"):
        if weights and weights[0] and call.name == "mul":
            return weights[0]
        return next((flow.zeroed_by for flow in activations if flow.zeroed_by is not None), None)
    if (call.name in VIEWS | POOLS or call.name in _ZERO_TO_ZERO) and len(activations) == 1:
        return activations[0].zeroed_by
    return None


def signature(call: Call) -> tuple[Any, ...] | None:
    """What identifies the operation apart from the sizes of its operands; None for pure rearrangements.

    Source and target compute alike, module by module, exactly where their signatures agree.
    """
    if call.name in VIEWS or call.name in CREATIONS:
        return None
    if call.name in ("convolution", "_convolution"):
        stride, padding, dilation, transposed = call.args[3:7]
        return (call.name, *map(tuple, (stride, padding, dilation)), transposed)
    if call.name == "native_group_norm":
        return (call.name, f"groups={call.args[6]}", call.args[7])
    if "scaled_dot_product" in call.name:
        scale = call.kwargs.get("scale") or call.args[0].shape[-1] ** -0.5
        return ("scaled_dot_product_attention", f"scale={scale:.6g}")
    return (call.name, *_scalars(call))


def _scalars(call: Call) -> tuple[Any, ...]:
    kinds: tuple[type, ...] = (float, bool, str, int) if call.name in _INTEGERS_MATTER else (float, bool, str)
    found = []
    for value in (*call.args, *call.kwargs.values()):
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, kinds) and not isinstance(item, Tensor | torch.dtype):
                found.append(item if not isinstance(item, float) else float(f"{item:.9g}"))
    return tuple(found)
