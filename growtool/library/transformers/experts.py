"""Mixtures of experts without choices that depend on values: what a trace can follow.

transformers sends each token to the experts that its router chose for it. Here every expert sees every token, and
counts as much as the router says, which is nothing for those it did not choose: the same function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

DENSE = "growtool_dense"


def register_dense() -> None:
    """Make `experts_implementation=DENSE` known to transformers."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(DENSE, _dense)


def _dense(self: Any, x_TC: Tensor, chosen_TK: Tensor, weight_TK: Tensor) -> Tensor:
    """Every expert on every token, by the weight its router gives.

    Args:
        self: the module of the experts; T tokens, C channels, K chosen experts of E.
    """
    total = None
    for e in range(self.num_experts):
        hidden = _layer(self, "gate_up_proj" if self.has_gate else "up_proj", e, x_TC)
        hidden = self._apply_gate(hidden) if self.has_gate else self.act_fn(hidden)
        y_TC = _layer(self, "down_proj", e, hidden)
        y_TC = self.post_expert_norm(y_TC) if self.has_post_expert_norm else y_TC
        part = y_TC * (weight_TK * (chosen_TK == e)).sum(-1, keepdim=True)
        total = part if total is None else total + part
    assert total is not None, "a mixture has experts"
    return total


def _layer(self: Any, name: str, e: int, x: Tensor) -> Tensor:
    from torch.nn.functional import linear

    weight = getattr(self, name)[e]
    bias = getattr(self, f"{name}_bias")[e] if self.has_bias else None
    return linear(x, weight.T if self.is_transposed else weight, bias)
