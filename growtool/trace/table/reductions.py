"""Reductions and norms, read by the names of their arguments: the dimensions, the divisor, the source of statistics."""

from __future__ import annotations

from typing import Any

from growtool.trace.table.kinds import Operation


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
