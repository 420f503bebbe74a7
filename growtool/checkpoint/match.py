"""Whether the stored tensors are the ones the architecture has: same names, same shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from growtool.checkpoint.reader import CONFIG
from growtool.checkpoint.skeleton import build
from growtool.errors import CheckpointError

if TYPE_CHECKING:
    from torch import nn

    from growtool.checkpoint.reader import Checkpoint

_SHOWN = 4  # findings of a kind a message lists before it only counts

Shape = tuple[int, ...]


def check_strict(checkpoint: Checkpoint, model: nn.Module | None = None) -> None:
    """Raise unless the file holds the numbers of the model the spec describes, by its names and in its shapes.

    Only the header is read.

    Args:
        checkpoint: the file and its spec.
        model: the skeleton `build(checkpoint.spec)` gives, where the caller has it already.

    Raises:
        CheckpointError: one error that names the missing, unexpected and mis-shaped tensors, or those of integers where
            the model computes with fractions; or that timm cannot build the model at all.
    """
    model = model if model is not None else build(checkpoint.spec, where=checkpoint.name)
    state = model.state_dict()
    expected = {name: tuple(tensor.shape) for name, tensor in state.items()}
    findings = _differences(expected, {name: info.shape for name, info in checkpoint.tensors.items()})
    if findings:
        remedy = (
            f"a {CONFIG} that does not match the weights? Restore the one saved with them, or correct its architecture "
            "and model_args"
            if checkpoint.config
            else "is it another model? Correct what was given for it as --model and --model-args, or as `model` and "
            "`model_args` in the plan"
        )
        raise CheckpointError(
            f"{checkpoint.name}: the weights are not those of {checkpoint.spec.architecture} with the model_args given "
            f"({len(checkpoint.tensors)} tensors found, {len(expected)} expected):\n"
            + "\n".join(f"  {line}" for line in findings)
            + f"\n  {remedy}"
        )
    whole = [
        f"{name} is {checkpoint.tensors[name].dtype}"
        for name, tensor in state.items()
        if tensor.is_floating_point() and not checkpoint.tensors[name].is_float
    ]
    if whole:
        raise CheckpointError(
            f"{checkpoint.name}: found integers in {len(whole)} tensors ({_first(whole)}), expected floating-point "
            "numbers there; quantised weights mean nothing without their scales, name the checkpoint they come from"
        )


def _differences(expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> list[str]:
    """One line for each kind of disagreement, in the order a reader needs them."""
    misshaped = [
        f"{name} is {list(found[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    missing = [f"{name} {list(shape)}" for name, shape in expected.items() if name not in found]
    unexpected = [f"{name} {list(shape)}" for name, shape in found.items() if name not in expected]
    kinds = {"wrong shape": misshaped, "missing": missing, "unexpected": unexpected}
    return [f"{kind} ({len(names)}): {_first(names)}" for kind, names in kinds.items() if names]


def _first(items: list[str]) -> str:
    rest = len(items) - _SHOWN
    return "; ".join(items[:_SHOWN]) + (f"; and {rest} more" if rest > 0 else "")
