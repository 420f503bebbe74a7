"""A step of a program drawn at random: one of the rules for values of its kind."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

Value = tuple[str, Tensor]  # of a kind, which says what it may go on to
Rule = Callable[[Any, Tensor], Tensor]  # of the net and a value
RuleOfTwo = Callable[[Any, Tensor, Tensor], Tensor]


def drawn_step(
    net: Any,
    values: Sequence[Value],
    draw: random.Random,
    rules: Mapping[str, Sequence[tuple[str, Rule]]],
    of_two: Mapping[tuple[str, str], Sequence[tuple[str, RuleOfTwo]]],
    often: float,
) -> Value:
    """The value that a step makes, most often of the latest ones.

    Args:
        net: the program's.
        values: made so far.
        draw: decides.
        rules: by kind; each with the kind of what it makes.
        of_two: by both kinds, likewise.
        often: how often two values make one where they can.
    """
    recent = values[-3:] if draw.random() < 0.7 else values
    (kind, x), (other, y) = draw.choice(recent), draw.choice(values)
    if draw.random() < often and (kind, other) in of_two:
        made, function = draw.choice(of_two[kind, other])
        return made, function(net, x, y)
    made, rule = draw.choice(rules[kind])
    return made, rule(net, x)
