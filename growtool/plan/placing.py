"""Where the paths in a file that holds plans or options start: in the folder of that file."""

from __future__ import annotations

from pathlib import Path

from growtool.plan.schema import MIRROR, Plan


def placed(text: str, base: Path) -> Path:
    """A path as it stands in a file of the folder `base`."""
    path = Path(text.removeprefix("local-dir:")).expanduser()
    return path if path.is_absolute() else base / path


def placed_plan(plan: Plan, base: Path) -> Plan:
    """The plan with its second source and its images placed, where it has some."""
    changes: dict[str, object] = {}
    if plan.second not in (None, MIRROR):
        changes["second"] = str(placed(str(plan.second), base))
    if plan.data is not None:
        changes["data"] = plan.data.model_copy(update={"path": str(placed(plan.data.path, base))})
    return plan.model_copy(update=changes)
