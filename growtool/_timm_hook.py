"""Doing something as soon as timm has been imported, however late that is.

timm takes seconds to import and the command line must answer at once: growtool cannot import timm to register with it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def when_timm_is_imported(action: Callable[[], None]) -> None:
    """Run `action` now if timm is there, else once its import is complete."""
    if "timm.models" in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _AfterTimm(action))


class _AfterTimm(MetaPathFinder):
    """Finds timm as Python would, with a loader that runs the action afterwards; then steps aside."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "timm":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader, self._action)
        return spec


class _Then(Loader):
    """A loader followed by an action."""

    def __init__(self, loader: Loader, action: Callable[[], None]) -> None:
        self._loader, self._action = loader, action

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._action()
