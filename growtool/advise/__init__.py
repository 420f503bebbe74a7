"""Which plans fit a budget, and what was measured of choosing among them."""

from growtool.advise.budget import SizeBudget, parse_budget
from growtool.advise.proposals import AXES, Advice, Proposal, advise

__all__ = ["AXES", "Advice", "Proposal", "SizeBudget", "advise", "parse_budget"]
