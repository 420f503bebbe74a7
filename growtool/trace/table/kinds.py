"""The columns of the table of aten operations in `trace.table.ops`, and what is read from arguments of operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, TypeAlias

from growtool.trace.axes import Axis


class Kind(Enum):
    """The sort of an operation. Analyses ask for it rather than for names."""

    # values are moved, none is computed
    RESHAPE = auto()  # a row-major view
    SAME = auto()  # the operand itself, or a copy
    PERMUTE = auto()
    TRANSPOSE = auto()  # of a matrix
    SQUEEZE = auto()  # adds or removes dimensions of size 1
    EXPAND = auto()
    STRIDE = auto()
    PICK = auto()  # takes some positions of a dimension
    SPLIT = auto()
    OVERWRITE = auto()  # with values of another tensor
    DROPOUT = auto()
    JOIN = auto()  # several tensors become one
    MOVE = auto()  # positions in another order, or repeated
    LOOKUP = auto()
    PAD = auto()
    # no operand
    CREATE = auto()
    FILL = auto()
    DRAW = auto()  # values differ along the axes
    # value by value
    ADD = auto()
    MULTIPLY = auto()
    POINTWISE = auto()
    # sums
    PRODUCT = auto()
    CONVOLUTION = auto()
    ATTENTION = auto()
    # over whole dimensions
    LAYER_NORM = auto()
    RMS_NORM = auto()
    VARIANCE_NORM = auto()  # divides by a standard deviation taken with N - 1; timm's SimpleNorm
    GROUP_NORM = auto()
    BATCH_NORM = auto()
    SOFTMAX = auto()
    LOG_SOFTMAX = auto()
    SUM = auto()
    MEAN = auto()
    VARIANCE = auto()
    EXTREME = auto()
    REDUCE = auto()
    POSITION = auto()  # the position of the largest or smallest value
    CUMULATE = auto()
    POOL = auto()
    RESAMPLE = auto()
    UNKNOWN = auto()


_MOVES = frozenset(
    (Kind.RESHAPE, Kind.SAME, Kind.PERMUTE, Kind.TRANSPOSE, Kind.SQUEEZE, Kind.EXPAND, Kind.STRIDE, Kind.PICK,
     Kind.SPLIT, Kind.OVERWRITE)
)  # fmt: skip
_KEEPS_ALL = frozenset((Kind.RESHAPE, Kind.SAME, Kind.PERMUTE, Kind.TRANSPOSE, Kind.SQUEEZE, Kind.DROPOUT))


@dataclass(frozen=True)
class Operation:
    """An operation with its arguments: a `Call` during the trace, or a `Step` after it.

    Attributes:
        name: aten's name, without namespace, overload and trailing underscore.
        op: the row of the table of operations.
        func: torch's operation, with the names of its arguments; None for a norm fused from several operations.
        args, kwargs: the arguments as given.
        outs: every tensor among the results, in order.
    """

    name: str
    op: Op
    func: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outs: tuple[Any, ...]

    def arg(self, index: int, name: str, default: Any = None) -> Any:
        """Return an argument by position or by name."""
        return self.args[index] if len(self.args) > index else self.kwargs.get(name, default)


Condition: TypeAlias = "Callable[[Operation], bool]"
Sizes: TypeAlias = "Callable[[Any], Sequence[int]]"  # the sizes of a tensor among the arguments or results
Count: TypeAlias = "Callable[[Operation, Sizes], int]"  # the multiply-accumulates of an operation
Rule: TypeAlias = "Callable[..., Sequence[tuple[Axis, ...]]]"  # of `Observer` and `Call`; the axes of each result


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One row of the table: what growtool knows of an aten operation.

    A `Condition` decides a fact by the numbers among the arguments.

    Attributes:
        kind: the sort of operation.
        axes: the rule for symbolic axes; None fixes every axis that the operation touches.
        linear: whether each channel of the result is the same linear function of that channel of the operands,
            whatever other axes there are. Zeros stay zeros then, and the mean over channels is mapped to the mean.
        zero: whether an operation of one tensor, value by value or over a window, maps zero to zero.
        sloped: whether its derivative at zero, as torch computes it, is not zero.
        homogeneous: whether f(c x) = c f(x) for every c > 0.
        idempotent: whether f(f(x)) = f(x).
        per_channel: whether it treats each channel alone, though not value by value.
        replays: whether it may run on the numbers of channels in place of values, to learn where each channel goes.
        itself: whether the result is the operand in the same memory, transposed at most.
        running: whether it normalises by the running statistics that its module holds, unless it is told to train.
        affine: indices of gain and shift among the arguments.
        eps: index of eps among the arguments.
        dim: index of the dimension among the arguments.
        factors: index of the first of the two tensors that are multiplied and summed over.
        spatial: number of trailing axes that are positions in the image.
        macs: counts its multiply-accumulates from the sizes of its tensors.
        meta_result: makes the result on the meta device by shape, where torch is slow; None leaves it to torch.
    """

    kind: Kind
    axes: Rule | None = None
    linear: bool | Condition = False
    zero: bool | Condition = False
    sloped: bool = False
    homogeneous: bool | Condition = False
    idempotent: bool = False
    per_channel: bool = False
    replays: bool = False
    itself: bool = False
    running: bool = False
    affine: tuple[int, ...] = ()
    eps: int | None = None
    dim: int | None = None
    factors: int | None = None
    spatial: int = 0
    macs: Count | None = None
    meta_result: Callable[..., Any] | None = None

    @property
    def moves(self) -> bool:
        """Whether the result is a view or a copy of values of an operand, perhaps of some of them."""
        return self.kind in _MOVES

    @property
    def keeps_all(self) -> bool:
        """Whether the result holds every value of its one operand exactly once."""
        return self.kind in _KEEPS_ALL

    @property
    def sums_products(self) -> bool:
        """Whether it is a matrix product or a convolution."""
        return self.kind in (Kind.PRODUCT, Kind.CONVOLUTION)

    @property
    def pointwise(self) -> bool:
        """Whether each value of the result is a function of the operands' values at the same place."""
        return self.kind in (Kind.ADD, Kind.MULTIPLY, Kind.POINTWISE)


def gain_and_shift(norm: Operation) -> tuple[Any, Any]:
    """Return what a norm multiplies by and what it adds: a tensor of a call, the `Ref` of a step; None without one."""
    leaves = [norm.arg(place, name) for place, name in zip(norm.op.affine, ("weight", "bias"), strict=False)]
    gain, shift = (*leaves, None, None)[:2]
    return gain, shift


def reduced_dims(operation: Operation, ndim: int) -> list[int]:
    """Return the dimensions that a reduction of a tensor with `ndim` dimensions runs over; all, if it names none."""
    dims = _argument(operation, "dim")
    if dims is None or dims == []:
        return list(range(ndim))
    return [dim % max(ndim, 1) for dim in (dims if isinstance(dims, list | tuple) else [dims])]


def divisor_correction(operation: Operation) -> float:
    """Return the number that a variance subtracts from N in its divisor; torch's default is 1."""
    value = _argument(operation, "correction", _argument(operation, "unbiased"))
    return 1.0 if value is None else float(value)


def takes_batch_statistics(operation: Operation) -> bool:
    """Return whether a batch norm takes its statistics from its input, as in training or in an instance norm."""
    return bool(_argument(operation, "training", False)) or _argument(operation, "running_mean") is None


def _argument(operation: Operation, name: str, default: Any = None) -> Any:
    names = [argument.name for argument in operation.func._schema.arguments]
    return operation.arg(names.index(name), name, default) if name in names else default


def keeps_zero(operation: Operation) -> bool:
    """Return whether an operation of one tensor maps zero to zero: `Op.zero`."""
    return _holds(operation.op.zero, operation)


def is_linear_per_channel(operation: Operation) -> bool:
    """Return whether each channel of the result is the same linear function of that channel of the operands."""
    return _holds(operation.op.linear, operation)


def is_homogeneous(operation: Operation) -> bool:
    """Return whether an operation of one tensor passes a positive factor on: `Op.homogeneous`."""
    return _holds(operation.op.homogeneous, operation)


def _holds(fact: bool | Condition, operation: Operation) -> bool:
    return fact if isinstance(fact, bool) else fact(operation)
