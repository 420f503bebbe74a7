"""Grow pretrained timm checkpoints: wider, deeper, and computing the same function.

Importing growtool makes `growtool_open` known to timm, without importing timm: checkpoints that load only "with
growtool imported" need no more than this import.
"""

from growtool._timm_hook import when_timm_is_imported
from growtool.errors import CheckpointError, GrowtoolError, PlanError


def _register() -> None:
    from growtool.checkpoint.reach import register

    register()


when_timm_is_imported(_register)

__all__ = ["CheckpointError", "GrowtoolError", "PlanError"]
