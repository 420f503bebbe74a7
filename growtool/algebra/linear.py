"""Operations by what they do to the values of a set of channels, whatever other axes there are."""

from __future__ import annotations

from growtool.coupling.follow import REARRANGEMENTS
from growtool.coupling.signature import VIEWS
from growtool.coupling.steps import Ref, Step
from growtool.coupling.zeros import keeps_zero

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
