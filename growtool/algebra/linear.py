"""Operations by what they do to the values of a set of channels, whatever other axes there are."""

from __future__ import annotations

from growtool.coupling.follow import REARRANGEMENTS
from growtool.coupling.signature import VIEWS
from growtool.coupling.steps import Ref, Step

# Each channel of the result is the same linear function of that channel: zeros stay zeros, a mean over channels a mean.
_LINEAR_PER_CHANNEL = (
    VIEWS
    | REARRANGEMENTS
    | frozenset(
        (
            "cat stack roll flip neg mean sum index index_select repeat avg_pool1d avg_pool2d avg_pool3d "
            "_adaptive_avg_pool1d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
            "upsample_bilinear2d upsample_bicubic2d upsample_nearest2d upsample_linear1d upsample_nearest1d "
            "_upsample_bilinear2d_aa _upsample_bicubic2d_aa pixel_unshuffle pixel_shuffle im2col unfold"
        ).split()
    )
) - {"copy"}
# Each value of the result is a function of the same value with f(0) = 0.
ZERO_TO_ZERO = frozenset(
    "relu gelu silu tanh hardswish leaky_relu elu mish abs sqrt square sin erf sign relu6 prelu _prelu_kernel "
    "max_pool1d max_pool2d_with_indices adaptive_max_pool2d amax amin".split()
)
_MATRIX_PRODUCTS = {"mm": 0, "bmm": 0, "matmul": 0, "mv": 0, "addmm": 1, "baddbmm": 1, "linear": 0}
_CONVOLUTIONS = frozenset(("convolution", "_convolution"))


def is_linear_per_channel(step: Step) -> bool:
    """Whether each channel of the result is the same linear function of that channel of the operands."""
    return step.name in _LINEAR_PER_CHANNEL or (step.name == "constant_pad_nd" and keeps_zero(step))


def is_convolution(step: Step) -> bool:
    """Whether the operation is a convolution."""
    return step.name in _CONVOLUTIONS


def operands_of(step: Step) -> tuple[int, int] | None:
    """The two tensors of a matrix product or an ungrouped convolution, None for anything else."""
    if is_convolution(step):
        return (step.args[0].number, step.args[1].number) if step.args[8] == 1 else None
    if step.name not in _MATRIX_PRODUCTS:
        return None
    first = _MATRIX_PRODUCTS[step.name]
    return step.args[first].number, step.args[first + 1].number


def summed_dims(step: Step, dims: tuple[int, int]) -> tuple[int, int]:
    """The dimension of each operand that the product sums over.

    Args:
        step: a matrix product or an ungrouped convolution.
        dims: number of dimensions of its operands.
    """
    if is_convolution(step):
        return 1, 0 if step.args[6] else 1
    if step.name == "linear":
        return dims[0] - 1, 1
    return dims[0] - 1, max(dims[1] - 2, 0)


def bias_of(step: Step) -> int | None:
    """The tensor added to a product's result."""
    if step.name in ("addmm", "baddbmm"):
        return int(step.args[0].number)
    bias = step.arg(2, "bias") if is_convolution(step) or step.name == "linear" else None
    return bias.number if isinstance(bias, Ref) else None


def keeps_zero(step: Step) -> bool:
    """Whether an elementwise operation of one tensor maps zero to zero."""
    if step.name in ZERO_TO_ZERO:
        return True
    if step.name in ("hardtanh", "clamp"):
        low, high = step.arg(1, "min", -1), step.arg(2, "max", None if step.name == "clamp" else 1)
        return not any(isinstance(bound, Ref) for bound in (low, high)) and (low or 0) <= 0 <= (high or 0)
    if step.name in ("clamp_min", "clamp_max"):
        bound = step.args[1]
        return isinstance(bound, int | float) and (bound <= 0 if step.name == "clamp_min" else bound >= 0)
    if step.name == "pow":
        return isinstance(step.args[1], int | float) and step.args[1] > 0
    return step.name == "constant_pad_nd" and not step.arg(2, "value", 0)
