"""The table of aten operations: one row for each that growtool knows, with all that it knows of it.

A new operation takes one row, with a rule for axes from `trace.table.rules`. An operation without a row fixes every
axis that it touches, unless torch tags it as elementwise. Operations that torch decomposes before they run (`linear`,
`reshape`, `dropout`) are never seen, and need no row.
"""

from __future__ import annotations

from typing import Any

import torch

from growtool.trace.table import macs, meta_results
from growtool.trace.table.kinds import Condition, Kind, Op, Operation
from growtool.trace.table.rules import indexing, layers, math, views

_Argument = tuple[int, str, float | None]  # index, name and default


def name_of(function: Any) -> str:
    """Return the name of an operation without overload; one that is not aten's keeps its namespace, and so has no row.

    `mylib::relu` may be anything.
    """
    return str(function._schema.name.removeprefix("aten::"))


def op_of(name: str, function: Any) -> Op:
    """Return the row of an operation; one without a row is elementwise if torch tags it so, and else unknown."""
    row = OPS.get(name)
    if row is None:
        row = _ELEMENTWISE if torch.Tag.pointwise in function.tags else _UNKNOWN
    return row


def _rows(names: str, kind: Kind, **facts: Any) -> dict[str, Op]:
    return dict.fromkeys(names.split(), Op(kind=kind, **facts))


def _pointwise(names: str, **facts: Any) -> dict[str, Op]:
    return _rows(names, Kind.POINTWISE, axes=math.pointwise, **facts)


def _between(lower: _Argument | None, upper: _Argument | None) -> Condition:
    """Return the condition that zero lies between two bounds; an argument of None is no bound.

    A bound that is a tensor does not meet it, as its values are not known.
    """

    def holds(operation: Operation) -> bool:
        low, high = (None if bound is None else operation.arg(*bound) for bound in (lower, upper))
        are_numbers = all(bound is None or isinstance(bound, int | float) for bound in (low, high))
        return are_numbers and (low is None or low <= 0) and (high is None or high >= 0)

    return holds


def _threshold_keeps_zero(operation: Operation) -> bool:
    # threshold(x) is x above the threshold, and a fixed value elsewhere
    return bool(operation.arg(1, "threshold") < 0 or operation.arg(2, "value") == 0)


def _threshold_is_relu(operation: Operation) -> bool:
    return not operation.arg(1, "threshold") and not operation.arg(2, "value")


def _positive_power(operation: Operation) -> bool:
    exponent = operation.arg(1, "exponent")
    return isinstance(exponent, int | float) and exponent > 0


def _pads_with_zeros(operation: Operation) -> bool:
    return not operation.arg(2, "value", 0)


def _bounded_by_zero(operation: Operation) -> bool:
    return not operation.arg(1, "min")


def _by_a_number(operation: Operation) -> bool:
    return isinstance(operation.arg(1, "other"), int | float)


_LOWER, _UPPER = (1, "min", None), (2, "max", None)
_ELEMENTWISE = Op(kind=Kind.POINTWISE, axes=math.pointwise)
_UNKNOWN = Op(kind=Kind.UNKNOWN)
_IMAGE: dict[str, Any] = {"axes": layers.resampling, "spatial": 2}
_OVER_LAST: dict[str, Any] = {"axes": layers.norm_over_last, "per_channel": True}
_BATCH_NORM: dict[str, Any] = {"axes": layers.batch_norm, "affine": (1, 2)}
_ADDED_PRODUCT: dict[str, Any] = {"axes": math.added_matrix_product, "factors": 1, "macs": macs.of_added_product}

OPS: dict[str, Op] = {
    # values are moved
    **_rows("view _unsafe_view reshape", Kind.RESHAPE, axes=views.reshape, linear=True, replays=True),
    **_rows("view_copy _reshape_alias", Kind.RESHAPE, axes=views.reshape, linear=True),
    **_rows("detach alias", Kind.SAME, axes=views.same, linear=True, replays=True, itself=True),
    **_rows("lift_fresh", Kind.SAME, axes=views.same, linear=True, itself=True),
    **_rows("clone", Kind.SAME, axes=views.same, linear=True, replays=True),
    **_rows("_to_copy lift lift_fresh_copy", Kind.SAME, axes=views.same, linear=True),
    **_rows("permute", Kind.PERMUTE, axes=views.permute, linear=True, replays=True),
    **_rows("transpose", Kind.PERMUTE, axes=views.transpose, linear=True, replays=True),
    **_rows("t", Kind.TRANSPOSE, axes=views.matrix_transpose, linear=True, replays=True, itself=True),
    **_rows("unsqueeze", Kind.SQUEEZE, axes=views.unsqueeze, linear=True, replays=True),
    **_rows("squeeze", Kind.SQUEEZE, axes=views.squeeze, linear=True, replays=True),
    **_rows("expand", Kind.EXPAND, axes=views.expand, linear=True, replays=True),
    **_rows("as_strided", Kind.STRIDE, axes=views.as_strided, linear=True),
    **_rows("select", Kind.PICK, axes=views.select, linear=True, replays=True, dim=1),
    **_rows("slice", Kind.PICK, axes=views.take_slice, linear=True, replays=True, dim=1),
    **_rows("split split_with_sizes", Kind.SPLIT, axes=views.split, linear=True, replays=True, dim=2),
    **_rows("unsafe_split unsafe_split_with_sizes", Kind.SPLIT, axes=views.split, linear=True, dim=2),
    **_rows("unbind", Kind.SPLIT, axes=views.unbind, linear=True, replays=True, dim=1),
    **_rows("copy", Kind.OVERWRITE, axes=math.pointwise),
    **_rows("native_dropout", Kind.DROPOUT, axes=views.same, linear=True),
    **_rows("cat", Kind.JOIN, axes=views.concatenate, linear=True, dim=1),
    **_rows("stack", Kind.JOIN, axes=views.stack, linear=True, dim=1),
    **_rows("repeat", Kind.MOVE, axes=views.repeat, linear=True),
    **_rows("roll", Kind.MOVE, axes=indexing.roll, linear=True),
    **_rows("flip", Kind.MOVE, axes=indexing.flip, linear=True),
    **_rows("tril triu", Kind.MOVE, axes=indexing.triangle, linear=True),
    **_rows("pixel_shuffle", Kind.MOVE, axes=layers.pixel_shuffle, linear=True),
    **_rows("pixel_unshuffle", Kind.MOVE, axes=layers.pixel_unshuffle, linear=True),
    **_rows("im2col", Kind.MOVE, axes=layers.image_to_columns, linear=True),
    **_rows("col2im", Kind.MOVE, axes=layers.columns_to_image),
    **_rows("unfold", Kind.MOVE, axes=layers.unfold, linear=True, replays=True),
    **_rows("index", Kind.LOOKUP, axes=indexing.index, linear=True),
    **_rows("index_select", Kind.LOOKUP, axes=indexing.index_select, linear=True),
    **_rows("embedding", Kind.LOOKUP, axes=indexing.embedding, linear=True),
    **_rows("constant_pad_nd", Kind.PAD, axes=indexing.pad, zero=_pads_with_zeros, linear=_pads_with_zeros),
    # no operand
    **_rows("zeros ones full empty scalar_tensor", Kind.CREATE, axes=math.created),
    **_rows("empty_strided new_empty_strided empty_permuted", Kind.CREATE, axes=math.created),
    **_rows("new_zeros new_ones new_full new_empty", Kind.CREATE, axes=math.created, per_channel=True),
    **_rows("zeros_like ones_like full_like empty_like", Kind.CREATE, axes=math.created, per_channel=True),
    **_rows("fill zero", Kind.FILL, axes=math.created, per_channel=True),
    **_rows("arange linspace logspace eye tril_indices triu_indices hann_window", Kind.DRAW, axes=math.created_uneven),
    **_rows("_efficientzerotensor", Kind.DRAW, axes=math.created_uneven),
    **_rows("rand randn randint randperm bernoulli normal uniform", Kind.DRAW, axes=math.created_uneven),
    # value by value
    **_rows("add", Kind.ADD, axes=math.pointwise, meta_result=meta_results.of_two),
    **_rows("sub", Kind.ADD, axes=math.pointwise),
    **_rows("mul", Kind.MULTIPLY, axes=math.pointwise, homogeneous=_by_a_number, meta_result=meta_results.of_two),
    **_rows("div", Kind.MULTIPLY, axes=math.pointwise, homogeneous=_by_a_number),
    **_pointwise("neg", linear=True),
    **_pointwise("relu", zero=True, homogeneous=True, idempotent=True),
    **_pointwise("leaky_relu", zero=True, homogeneous=True, sloped=True),
    **_pointwise("abs", zero=True, homogeneous=True),
    **_pointwise("gelu hardswish", zero=True, sloped=True, meta_result=meta_results.of_function),
    **_pointwise("silu tanh elu mish _prelu_kernel sin erf", zero=True, sloped=True),
    **_pointwise("sqrt sign", zero=True),
    **_pointwise("hardtanh", zero=_between((1, "min_val", -1), (2, "max_val", 1)), idempotent=True),
    **_pointwise("clamp", zero=_between(_LOWER, _UPPER)),
    **_pointwise("clamp_min", zero=_between(_LOWER, _UPPER), homogeneous=_bounded_by_zero, idempotent=True),
    **_pointwise("clamp_max", zero=_between(None, (1, "max", None))),
    **_pointwise("threshold", zero=_threshold_keeps_zero, homogeneous=_threshold_is_relu),
    **_pointwise("pow", zero=_positive_power),
    **_pointwise("hardsigmoid", meta_result=meta_results.of_function),
    **_pointwise("where masked_fill lerp softplus"),
    # sums
    **_rows("mm bmm", Kind.PRODUCT, axes=math.matrix_product, factors=0, macs=macs.of_product),
    **_rows("mv dot", Kind.PRODUCT, axes=math.matrix_product, factors=0, macs=macs.of_product),
    **_rows("addmm", Kind.PRODUCT, **_ADDED_PRODUCT, meta_result=meta_results.of_added_product),
    **_rows("baddbmm", Kind.PRODUCT, **_ADDED_PRODUCT),
    **_rows("convolution _convolution", Kind.CONVOLUTION, axes=layers.convolution, macs=macs.of_convolution),
    **_rows(
        "_scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu "
        "_scaled_dot_product_efficient_attention _scaled_dot_product_attention_math_for_mps "
        "_scaled_dot_product_fused_attention_overrideable",
        Kind.ATTENTION,
        axes=math.attention,
        macs=macs.of_attention,
    ),
    # over whole dimensions
    **_rows(
        "native_layer_norm", Kind.LAYER_NORM, **_OVER_LAST, affine=(2, 3), eps=4, meta_result=meta_results.of_layer_norm
    ),
    **_rows("_fused_rms_norm rms_norm", Kind.RMS_NORM, **_OVER_LAST, affine=(2,), eps=3),
    **_rows("native_group_norm", Kind.GROUP_NORM, axes=layers.group_norm, affine=(1, 2)),
    **_rows("native_batch_norm", Kind.BATCH_NORM, **_BATCH_NORM, running=True, meta_result=meta_results.of_batch_norm),
    **_rows("_native_batch_norm_legit_no_training", Kind.BATCH_NORM, **_BATCH_NORM, running=True),
    **_rows("_native_batch_norm_legit _native_batch_norm_legit_functional", Kind.BATCH_NORM, **_BATCH_NORM),
    **_rows("cudnn_batch_norm", Kind.BATCH_NORM, **_BATCH_NORM),
    **_rows("_softmax", Kind.SOFTMAX, axes=views.same),
    **_rows("_safe_softmax", Kind.SOFTMAX, axes=views.same, meta_result=meta_results.of_softmax),
    **_rows("_log_softmax", Kind.LOG_SOFTMAX, axes=views.same),
    **_rows("sum", Kind.SUM, axes=math.reduction, linear=True),
    **_rows("linalg_vector_norm norm", Kind.SUM, axes=math.reduction),
    **_rows("mean", Kind.MEAN, axes=math.reduction, linear=True),
    **_rows("var std", Kind.VARIANCE, axes=math.reduction, per_channel=True),
    **_rows("var_mean std_mean", Kind.VARIANCE, axes=math.reduction),
    **_rows("amax amin", Kind.EXTREME, axes=math.reduction, zero=True, homogeneous=True),
    **_rows("any all", Kind.EXTREME, axes=math.reduction),
    **_rows("max min logsumexp prod", Kind.REDUCE, axes=math.reduction),
    **_rows("argmax argmin", Kind.POSITION, axes=math.reduction),
    **_rows("cumsum", Kind.CUMULATE, axes=math.cumulative),
    **_rows("avg_pool2d _adaptive_avg_pool2d", Kind.POOL, **_IMAGE, linear=True),
    **_rows("avg_pool3d", Kind.POOL, axes=layers.resampling, spatial=3, linear=True),
    **_rows("max_pool2d_with_indices adaptive_max_pool2d", Kind.POOL, **_IMAGE, zero=True, homogeneous=True),
    **_rows("upsample_linear1d upsample_nearest1d", Kind.RESAMPLE, axes=layers.resampling, spatial=1, linear=True),
    **_rows("upsample_bilinear2d upsample_bicubic2d upsample_nearest2d", Kind.RESAMPLE, **_IMAGE, linear=True),
    **_rows("_upsample_bilinear2d_aa _upsample_bicubic2d_aa", Kind.RESAMPLE, **_IMAGE, linear=True),
    **_rows("upsample_trilinear3d", Kind.RESAMPLE, axes=layers.resampling, spatial=3, linear=True),
    **_rows("reflection_pad2d replication_pad2d grid_sampler_2d", Kind.RESAMPLE, **_IMAGE),
}

RUNNING_NORMS = frozenset(name for name, row in OPS.items() if row.running)
