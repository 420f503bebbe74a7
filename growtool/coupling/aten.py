"""Operations that torch has several names for."""

from __future__ import annotations

LAYER_NORMS = frozenset(("native_layer_norm", "layer_norm"))
RMS_NORMS = frozenset(("_fused_rms_norm", "rms_norm"))
GROUP_NORMS = frozenset(("native_group_norm",))
# Those that take the running statistics a module holds, unless they are told to train.
RUNNING_NORMS = frozenset(("native_batch_norm", "_native_batch_norm_legit_no_training"))
BATCH_NORMS = RUNNING_NORMS | frozenset(
    ("_native_batch_norm_legit", "_native_batch_norm_legit_functional", "cudnn_batch_norm", "batch_norm")
)
# Where gain and shift stand among the arguments.
GAIN_AND_SHIFT: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(LAYER_NORMS, (2, 3)),
    **dict.fromkeys(RMS_NORMS, (2,)),
    **dict.fromkeys(GROUP_NORMS | BATCH_NORMS, (1, 2)),
}
RESHAPES = frozenset(("view", "_unsafe_view", "reshape"))
