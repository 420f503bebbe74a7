"""How long each arm of a comparison trains: epochs, updates, or multiply-accumulates."""

from __future__ import annotations

import math
from dataclasses import dataclass

from growtool.errors import PlanError
from growtool.finetune.options.lengths import parse_amount


@dataclass(frozen=True, slots=True)
class Budget:
    """`amount` passes over the training images, updates, or MACs of training."""

    amount: float
    unit: str

    @classmethod
    def parse(cls, text: str, option: str) -> Budget:
        """Read `3epochs`, `500 steps` or `2.5e15macs`, which the user gave with `option`.

        Raises:
            PlanError: it is none of these.
        """
        found = parse_amount(text, ("epochs", "steps", "macs"))
        if found is None or found[0] <= 0:
            raise PlanError(
                f"{option}: found {text!r}, expected a positive number of epochs, steps or macs, "
                "such as 3epochs, 500steps or 2.5e15macs"
            )
        return cls(*found)

    def steps(self, *, updates_per_epoch: int, batch_macs: int) -> int:
        """Updates, each of which takes `batch_macs` MACs; at least one."""
        if self.unit == "epochs":
            updates = self.amount * updates_per_epoch
        elif self.unit == "steps":
            updates = self.amount
        else:
            updates = self.amount / batch_macs
        return max(1, math.floor(updates + 1e-9))

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit.removesuffix('s') if self.amount == 1 else self.unit}"
