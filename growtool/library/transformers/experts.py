"""Mixtures of experts computed without branches on values, so that a trace on the meta device can follow them.

transformers sends each token to the experts that its router chose for it. Here every expert computes on every token,
and its output is multiplied by the router's weight, or by zero where the router did not choose it: the same function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

DENSE = "growtool_dense"


def register_dense() -> None:
    """Register `_dense` with transformers as the `experts_implementation` of this name."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(DENSE, _dense)


def _dense(self: Any, x_TC: Tensor, chosen_TK: Tensor, weight_TK: Tensor) -> Tensor:
    """Return the sum of all experts' outputs [T, C], each times the weight that the router gives it for a token.

    The axes are T tokens, C channels and K experts chosen for a token.

    Args:
        self: the module of the experts; transformers' decorator `use_experts_implementation` sets `has_gate`,
            `has_bias`, `has_post_expert_norm` and `is_transposed` on it.
        x_TC: the tokens.
        chosen_TK: numbers of the chosen experts.
        weight_TK: the router's weights for them.
    """
    total_TC = None
    for e in range(self.num_experts):
        hidden = _layer(self, "gate_up_proj" if self.has_gate else "up_proj", e, x_TC)
        hidden = self._apply_gate(hidden) if self.has_gate else self.act_fn(hidden)
        y_TC = _layer(self, "down_proj", e, hidden)
        y_TC = self.post_expert_norm(y_TC) if self.has_post_expert_norm else y_TC
        weighted_TC = y_TC * (weight_TK * (chosen_TK == e)).sum(-1, keepdim=True)
        total_TC = weighted_TC if total_TC is None else total_TC + weighted_TC
    assert total_TC is not None, "a mixture has experts"
    return total_TC


def _layer(self: Any, name: str, e: int, x: Tensor) -> Tensor:
    """Apply one expert's linear layer to tokens."""
    from torch.nn.functional import linear

    weight = getattr(self, name)[e]
    bias = getattr(self, f"{name}_bias")[e] if self.has_bias else None
    return linear(x, weight.T if self.is_transposed else weight, bias)  # GPT-OSS keeps [input, output]
