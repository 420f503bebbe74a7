"""New positions learn otherwise at first: the optimizer begins anew there, and their updates grow to full size.

Both are of SPARKLING (arXiv 2602.02472), which grows width in the middle of training. New are the positions and tensors
that the growth report names: all but the first copy of each, and what is no copy.
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
    """Scales the first updates of new positions by t / N, t being the updates before and N those of the warm-up.

    What is scaled is the step that the optimizer has made, w <- w' + t / N (w - w'), since Adam's does not depend on
    the size of gradients. For every optimizer whose step is a multiple of the rate, this is a rate t / N as high at the
    new positions, weight decay included. Old positions get the optimizer's step to the bit.

    Args:
        model: sharded or not; its parameters are looked at before and after a step.
        new: what of them is new.
        updates: of the warm-up; 0 leaves every step as it is.
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
        """Scale what happens to the parameters while this is open, in the update after `step` others."""
        if step >= self._updates:
            yield
            return
        before = [parameter.detach().clone() for parameter, _ in self._parts]
        yield
        for (parameter, mask), old in zip(self._parts, before, strict=True):
            parameter.copy_(torch.where(mask, old + (parameter - old) * (step / self._updates), parameter))


def begun_anew(state: OptimizerState, new: Selection, how: NewState) -> OptimizerState:
    """The state with that of new positions as if they had just begun; whole new tensors begin without any.

    Args:
        state: of an optimizer over a grown model.
        new: its new tensors and positions.
        how: `carried` leaves all as growth mapped it; `reset` makes every moment 0; `mean` the first moments 0 and the
            second ones the mean of the old positions of their tensor, so that Adam's first steps are of the usual size.

    Raises:
        PlanError: the optimizer keeps something else than moments of each weight.
    """
    if how == "carried":
        return state
    tensors: dict[str, Tensor] = {}
    for key, value in state.tensors.items():
        name, _, slot = key.partition("/")
        if name in new.slices and value.ndim:
            if slot not in MOMENTS:
                raise PlanError(
                    f"--new-state {how}: {state.algorithm} keeps {key}, and what of it belongs to new positions is not "
                    "known; drop the option, or train with another optimizer, e.g. adamw or sgd"
                )
            mask = new.mask(name, value.shape)
            value = with_mean(value, mask) if how == "mean" and MOMENTS[slot] == 2 else value.masked_fill(mask, 0)
        if name not in new.names:
            tensors[key] = value
    values = {name: slots for name, slots in state.values.items() if name not in new.names}
    return replace(state, tensors=tensors, values=values)
