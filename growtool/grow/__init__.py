"""Growing: execute a recipe tensor by tensor, prove what it promised, write the result whole."""

from growtool.grow.grow import Grown, grow
from growtool.grow.summary import Summary, summarise

__all__ = ["Grown", "Summary", "grow", "summarise"]
