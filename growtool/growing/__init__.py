"""Growing: a recipe is executed tensor by tensor, its promise is proven, and the result appears whole or not at all."""

from growtool.growing.grow import Grown, grow
from growtool.growing.summary import Summary, summarise

__all__ = ["Grown", "Summary", "grow", "summarise"]
