"""How training starts at new positions: with an optimizer state begun anew, and with updates that grow to full size.

Both come from SPARKLING (arXiv 2602.02472), which grows width in the middle of training. The growth report names the
new positions and tensors: of copies all but the first one, and whatever is no copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from growtool.errors import PlanError
from growtool.finetune.optimizer_state import MOMENTS, OptimizerState, with_mean
from growtool.finetune.options.choices import NewState
from growtool.finetune.parallel.distributed import as_sharded
from growtool.finetune.update.trainable import Selection


class NewWarmup:
    """A warm-up of the new positions alone: in update t of N, counted from 0, their step is scaled by t / N.

    With w' the weights before and w those after the optimizer's step, a new position becomes w' + t / N (w - w').
    Scaling gradients would not do: Adam's step does not depend on their size. For every optimizer whose step is a
    multiple of the rate, this is a rate t / N as high, weight decay included. Old positions get the optimizer's step to
    the bit.

    Args:
        model: the model that trains, sharded or not.
        new: its new tensors and positions.
        updates: N; 0 leaves every step as it is.
    """

    def __init__(self, model: nn.Module, new: Selection, updates: int) -> None:
        self._updates = updates
        self._parts: list[tuple[Tensor, Tensor]] = []
        for name, parameter in model.named_parameters():
            if name in new:
                mask = new.mask(name, parameter.shape).to(parameter.device)
                self._parts.append((parameter, as_sharded(mask, parameter)))

    @contextmanager
    @torch.no_grad()
    def scaling(self, step: int) -> Iterator[None]:
        """Scale the step that the optimizer makes while this is open, in update `step`, counted from 0."""
        if step >= self._updates:
            yield
            return
        before = [parameter.detach().clone() for parameter, _ in self._parts]
        yield
        for (parameter, mask), old in zip(self._parts, before, strict=True):
            parameter.copy_(torch.where(mask, old + (parameter - old) * (step / self._updates), parameter))


def begun_anew(state: OptimizerState, new: Selection, how: NewState) -> OptimizerState:
    """Return the state with that of new positions begun anew, and without that of new tensors.

    Args:
        state: of an optimizer over a grown model.
        new: the new tensors and positions of the model.
        how: `carried` returns the state as growth mapped it. `reset` sets the moments at new positions to 0. `mean`
            sets first moments to 0 and second ones to the mean over the old positions of their tensor, so that Adam's
            first steps are of the usual size.

    Raises:
        PlanError: the optimizer keeps a tensor that is no moment of each weight.
    """
    if how == "carried":
        return state
    tensors: dict[str, Tensor] = {}
    for key, value in state.tensors.items():
        name, _, slot = key.partition("/")
        if name in new.names:
            continue
        if name in new.slices and value.ndim:  # a number, such as Adam's step, belongs to old positions as well
            if slot not in MOMENTS:
                raise PlanError(
                    f"--new-state {how}: {state.algorithm} keeps {key}, and what of it belongs to new positions is not "
                    "known; drop the option, or train with another optimizer, e.g. adamw or sgd"
                )
            mask = new.mask(name, value.shape)
            value = with_mean(value, mask) if how == "mean" and MOMENTS[slot] == 2 else value.masked_fill(mask, 0)
        tensors[key] = value
    values = {name: slots for name, slots in state.values.items() if name not in new.names}
    return replace(state, tensors=tensors, values=values)
