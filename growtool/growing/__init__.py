"""Growing: execute a recipe tensor by tensor, prove what it promised, write the result whole."""

from growtool.growing.grow import Grown, grow
from growtool.growing.summary import Summary, summarise

__all__ = ["Grown", "Summary", "grow", "summarise"]
