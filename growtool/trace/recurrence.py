"""Recurrent layers, traced by their first positions.

torch unrolls a recurrent layer: an LSTM over 32 positions is some 1,200 operations, of which all but the first few
repeat those of the position before. Here it runs on the first positions alone, and the remaining positions of its
result are copies of the last of these. The axis of positions cannot grow, as the output at a position depends on all
positions before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_LAYERS = frozenset(("lstm", "gru", "rnn_tanh", "rnn_relu"))
POSITIONS = 3  # positions: the first starts from a constant state, two more read the state that another one left


class FirstPositions(TorchFunctionMode):
    """While active, recurrent layers run on their first positions alone.

    Args:
        fix: called with each tensor [positions, images, channels] that the layer reads or that is appended to its
            result; has to fix the axis of positions, if axes are followed.

    Attributes:
        repeats: in such a layer, the number of operations that each of its operations stands for; else None.
    """

    def __init__(self, fix: Callable[[Tensor], None] = lambda _: None) -> None:
        super().__init__()
        self._fix = fix
        self.repeats: Fraction | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if getattr(func, "__name__", "") not in _LAYERS or not _is_padded(args):
            return func(*args, **kwargs)
        x, *rest, batch_first = args
        # The layer never runs batch-first itself: torch would transpose the result in place, and the tape fixes every
        # axis of a tensor whose layout changes in place.
        result, *states = self._run(func, x.transpose(0, 1) if batch_first else x, rest, kwargs)
        return (result.transpose(0, 1) if batch_first else result, *states)

    def _run(self, func: Any, x_PNC: Tensor, rest: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the result [positions, images, channels] and the states of a layer."""
        self._fix(x_PNC)
        self.repeats = Fraction(len(x_PNC), min(len(x_PNC), POSITIONS))
        try:
            result, *states = func(x_PNC[:POSITIONS], *rest, False, **kwargs)
        finally:
            self.repeats = None
        if len(x_PNC) > POSITIONS:
            remaining = result[-1:].expand(len(x_PNC) - POSITIONS, -1, -1)
            self._fix(remaining)
            result = torch.cat((result, remaining))
        return (result, *states)


def _is_padded(args: tuple[Any, ...]) -> bool:
    """Return whether a layer is called with a tensor of sequences of one length, and not with packed sequences."""
    # Both ways have nine arguments. The fourth is `has_biases` here, and the list of weights with packed sequences.
    return len(args) == 9 and isinstance(args[3], bool)
