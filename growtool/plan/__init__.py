"""Plans: what a user asks of `growtool grow`, and how it is read from YAML."""

from growtool.plan.load import LoadedPlan, load_plan
from growtool.plan.schema import Plan

__all__ = ["LoadedPlan", "Plan", "load_plan"]
