"""What each aten operation does to symbolic axes: one function per kind of operation, one table per file."""

from growtool.coupling.rules import indexing, layers, math, views
from growtool.coupling.rules.math import general
from growtool.coupling.tape import Rule

RULES: dict[str, Rule] = {**views.RULES, **indexing.RULES, **math.RULES, **layers.RULES}

__all__ = ["RULES", "general"]
