"""Recurrent layers by their first positions: torch unrolls them, and every position is treated as the one before.

An LSTM over 32 positions is some 1,200 operations, of which all but the first few say the same again. Here it runs on
the first positions alone; the others of its result are copies of the last of these. The axis of positions cannot grow,
whatever it is made of: what a position becomes depends on all that come before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_LAYERS = frozenset(("lstm", "gru", "rnn_tanh", "rnn_relu"))
POSITIONS = 3  # positions: a first one, whose state is constant, and two that read what the one before them has left


class FirstPositions(TorchFunctionMode):
    """While active, recurrent layers run on few positions.

    Args:
        repeat: told, before such a layer runs, how many operations each of its own stands for, and None after it.
        fix: given what the layer reads and writes, positions first: these cannot grow.
    """

    def __init__(self, repeat: Callable[[Fraction | None], None], fix: Callable[[Tensor], None]) -> None:
        super().__init__()
        self._repeat, self._fix = repeat, fix

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if getattr(func, "__name__", "") not in _LAYERS or not _is_padded(args):
            return func(*args, **kwargs)
        sequence, *rest, images_first = args
        if images_first:  # torch would turn the result around in place
            result, *states = self._run(func, sequence.transpose(0, 1), rest, kwargs)
            return (result.transpose(0, 1), *states)
        return self._run(func, sequence, rest, kwargs)

    def _run(self, func: Any, sequence: Tensor, rest: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """The layer on a sequence [positions, images, channels]."""
        self._fix(sequence)
        self._repeat(Fraction(len(sequence), min(len(sequence), POSITIONS)))
        try:
            result, *states = func(sequence[:POSITIONS], *rest, False, **kwargs)
        finally:
            self._repeat(None)
        if len(sequence) > POSITIONS:
            further = result[-1:].expand(len(sequence) - POSITIONS, -1, -1)
            self._fix(further)
            result = torch.cat((result, further))
        return (result, *states)


def _is_padded(args: tuple[Any, ...]) -> bool:
    """Whether the layer is called with a sequence of equal length for every image, not with packed ones."""
    return len(args) == 9 and isinstance(args[3], bool)  # has biases; with packed ones this is the list of weights
