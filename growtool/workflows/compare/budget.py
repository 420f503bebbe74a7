"""The length of training of an arm: epochs, updates, or multiply-accumulates."""

from __future__ import annotations

import math
from dataclasses import dataclass

from growtool.errors import PlanError
from growtool.finetune.options.lengths import parse_amount


@dataclass(frozen=True, slots=True)
class Budget:
    """A length of training: `amount` epochs, steps (updates) or macs (MACs of training)."""

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
        """Return the number of updates in the budget, at least one; an update takes `batch_macs` MACs."""
        if self.unit == "epochs":
            updates = self.amount * updates_per_epoch
        elif self.unit == "steps":
            updates = self.amount
        else:
            updates = self.amount / batch_macs
        return max(1, math.floor(updates + 1e-9))  # 0.1 epochs of 30 updates are 3, whatever rounding makes of it

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit.removesuffix('s') if self.amount == 1 else self.unit}"
