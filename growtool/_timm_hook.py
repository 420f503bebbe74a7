"""An import hook that runs an action as soon as timm has been imported, however late that is.

growtool registers a model with timm, but cannot import timm for that: this takes seconds, and the command line must
answer at once.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def when_timm_is_imported(action: Callable[[], None]) -> None:
    """Run `action` now if timm is imported already, else once its import is complete."""
    if "timm.models" in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _AfterTimm(action))


class _AfterTimm(MetaPathFinder):
    """A finder that finds timm once, as Python would, and has its loader run the action after the import."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "timm":
            return None
        sys.meta_path.remove(self)  # first, or the search below would come back here
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_then_act(module: ModuleType) -> None:
            execute(module)
            self._action()

        # On the loader itself: a loader of another class would hide the files of timm from importlib.resources.
        spec.loader.exec_module = execute_then_act  # type: ignore[method-assign]
        return spec
