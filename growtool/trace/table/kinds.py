"""What growtool knows of an aten operation: the form of a row in `trace.table.ops`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol, TypeAlias

from growtool.trace.axes import Axis
from growtool.trace.table.macs import Count


class Kind(Enum):
    """What sort of operation it is; the analyses ask for this, never for names."""

    # nothing is computed, values are only moved
    RESHAPE = auto()  # a row-major view
    SAME = auto()  # the operand itself, or a copy
    PERMUTE = auto()
    TRANSPOSE = auto()  # of a matrix
    SQUEEZE = auto()  # dimensions of one position come or go
    EXPAND = auto()
    STRIDE = auto()
    PICK = auto()  # some positions of a dimension
    SPLIT = auto()
    OVERWRITE = auto()  # with values of another tensor
    DROPOUT = auto()
    JOIN = auto()  # several tensors become one
    MOVE = auto()  # positions into another order, or several times
    LOOKUP = auto()
    PAD = auto()
    # no operand
    CREATE = auto()
    FILL = auto()
    DRAW = auto()  # values that differ along the axes
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
    VARIANCE_NORM = auto()  # by a deviation that is taken with N - 1
    GROUP_NORM = auto()
    BATCH_NORM = auto()
    SOFTMAX = auto()
    LOG_SOFTMAX = auto()
    SUM = auto()
    MEAN = auto()
    VARIANCE = auto()
    EXTREME = auto()
    REDUCE = auto()
    POSITION = auto()  # where the largest or smallest is
    CUMULATE = auto()
    POOL = auto()
    RESAMPLE = auto()
    UNKNOWN = auto()


_MOVES = frozenset(
    (Kind.RESHAPE, Kind.SAME, Kind.PERMUTE, Kind.TRANSPOSE, Kind.SQUEEZE, Kind.EXPAND, Kind.STRIDE, Kind.PICK,
     Kind.SPLIT, Kind.OVERWRITE)
)  # fmt: skip
_KEEPS_ALL = frozenset((Kind.RESHAPE, Kind.SAME, Kind.PERMUTE, Kind.TRANSPOSE, Kind.SQUEEZE, Kind.DROPOUT))


class Operation(Protocol):
    """An operation with its arguments, while it is traced (`Call`) or after (`Step`)."""

    @property
    def name(self) -> str: ...

    @property
    def op(self) -> Op: ...

    def arg(self, index: int, name: str, default: Any = None) -> Any: ...


Condition: TypeAlias = "Callable[[Operation], bool]"
Rule: TypeAlias = "Callable[..., Sequence[tuple[Axis, ...]]]"  # of an `Observer` and a `Call`


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One row. What is a `Condition` depends on the operation's numbers.

    Attributes:
        kind: what sort of operation it is.
        axes: its rule for symbolic axes; None: it fixes every axis it touches.
        linear: whether each channel of the result is the same linear function of that channel of the operands,
            whatever other axes there are. Zeros stay zeros, and a mean over channels stays one.
        zero: whether an operation of one tensor, value by value or over a window, maps zero to zero.
        sloped: whether its derivative at zero is not zero, as torch computes it.
        homogeneous: whether f(c x) = c f(x) for every c > 0.
        idempotent: whether a second one right after it changes nothing.
        per_channel: whether it treats each channel alone, though not value by value.
        replays: whether it may run on channel numbers in place of values.
        itself: whether the result is the operand in the same memory, turned at most.
        running: whether it takes the running statistics its module holds, unless it is told to train.
        affine: where gain and shift stand among the arguments.
        eps: where eps stands.
        dim: where the dimension stands.
        factors: where the first of two tensors stands that are multiplied and summed.
        spatial: how many trailing axes are positions in the image.
        macs: its multiply-accumulates, from the sizes of its tensors.
        form: what comes out on the meta device, where torch takes long to say so; None: ask torch.
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
    form: Callable[..., Any] | None = None

    @property
    def moves(self) -> bool:
        """Whether it computes nothing: every value of the result is one of an operand's."""
        return self.kind in _MOVES

    @property
    def keeps_all(self) -> bool:
        """Whether it only rearranges: every value of the operand is in the result once."""
        return self.kind in _KEEPS_ALL

    @property
    def sums_products(self) -> bool:
        """Whether it is a matrix product or a convolution."""
        return self.kind in (Kind.PRODUCT, Kind.CONVOLUTION)

    @property
    def pointwise(self) -> bool:
        """Whether each value of the result is a function of the operands' values at that place."""
        return self.kind in (Kind.ADD, Kind.MULTIPLY, Kind.POINTWISE)


def keeps_zero(operation: Operation) -> bool:
    """Whether an operation of one tensor maps zero to zero; not where a bound is a tensor: its values are not known."""
    return _holds(operation.op.zero, operation)


def is_linear_per_channel(operation: Operation) -> bool:
    """Whether each channel of the result is the same linear function of that channel of the operands."""
    return _holds(operation.op.linear, operation)


def is_homogeneous(operation: Operation) -> bool:
    """Whether an operation of one tensor passes a positive factor on."""
    return _holds(operation.op.homogeneous, operation)


def _holds(fact: bool | Condition, operation: Operation) -> bool:
    return fact if isinstance(fact, bool) else fact(operation)
