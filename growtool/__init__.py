"""Grow pretrained timm and transformers checkpoints: wider, deeper, and computing the same function.

    import growtool

    growtool.grow("vit_small", {"target": {"scale": {"width": 2}}, "width": {"operator": "mixture"}}, "vit_grown")

Importing growtool makes `growtool_open` known to timm, without importing timm: checkpoints that load only "with
growtool imported" need no more than this import. torch and timm come in with the first function that needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from growtool._timm_hook import when_timm_is_imported
from growtool.errors import CheckpointError, GrowtoolError, PlanError

if TYPE_CHECKING:
    from growtool.checkpoint import open_checkpoint
    from growtool.finetune.config import RunConfig
    from growtool.finetune.run import finetune as finetune_checkpoint
    from growtool.growing import grow as grow_checkpoint
    from growtool.growing import summarise
    from growtool.growing.call import grow
    from growtool.plan import Plan, load_plan
    from growtool.recipe import resolve
    from growtool.report.inspect import inspect_checkpoint
    from growtool.trace import trace_model
    from growtool.workflows.verify import verify_checkpoints

# Public name -> its module and its name there. `growtool.finetune` is a folder, which would hide a function of that
# name as soon as it is imported; hence `finetune_checkpoint`.
_HOMES = {
    "open_checkpoint": "growtool.checkpoint:open_checkpoint",
    "trace_model": "growtool.trace:trace_model",
    "RunConfig": "growtool.finetune.config:RunConfig",
    "finetune_checkpoint": "growtool.finetune.run:finetune",
    "grow": "growtool.growing.call:grow",
    "grow_checkpoint": "growtool.growing:grow",
    "summarise": "growtool.growing:summarise",
    "Plan": "growtool.plan:Plan",
    "load_plan": "growtool.plan:load_plan",
    "resolve": "growtool.recipe:resolve",
    "inspect_checkpoint": "growtool.report.inspect:inspect_checkpoint",
    "verify_checkpoints": "growtool.workflows.verify:verify_checkpoints",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, as most of them need torch."""
    if name in _HOMES:
        from pkgutil import resolve_name

        return resolve_name(_HOMES[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the names that an interactive session completes, those that are not imported yet included."""
    return sorted({*globals(), *__all__})


def _register() -> None:
    from growtool.library.timm.reach import register

    register()


when_timm_is_imported(_register)

__all__ = [
    "CheckpointError",
    "GrowtoolError",
    "Plan",
    "PlanError",
    "RunConfig",
    "finetune_checkpoint",
    "grow",
    "grow_checkpoint",
    "inspect_checkpoint",
    "load_plan",
    "open_checkpoint",
    "resolve",
    "summarise",
    "trace_model",
    "verify_checkpoints",
]
