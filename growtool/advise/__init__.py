"""Which plans fit a budget, and what has been published about choosing among them."""

from growtool.advise.budget import Budget, parse_budget
from growtool.advise.proposals import AXES, Advice, Proposal, advise

__all__ = ["AXES", "Advice", "Budget", "Proposal", "advise", "parse_budget"]
