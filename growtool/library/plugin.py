"""Plugins: a user's Python file that registers models in timm, or a library of models in growtool.

Loading one runs its code, so it is done only on request (`--plugin`).
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from growtool.errors import PlanError
from growtool.library.registry import libraries


def load_plugin(path: Path) -> list[str]:
    """Run a file that registers models in timm (`@timm.models.register_model`) or a library (`library.register`).

    Returns:
        The sorted names of the models that are new.

    Raises:
        PlanError: there is no such file, its name is that of another module, it fails, or it registers nothing.
    """
    if not path.is_file():
        raise PlanError(f"{path}: no such file; --plugin takes a Python file that registers models in timm")
    if not path.stem.isidentifier() or _names_another_module(path):
        raise PlanError(
            f"{path}: {path.stem!r} is the name of another module or no name for one; rename the file, timm finds its "
            "entry points by the module's name"
        )
    if path.suffix != ".py":
        raise PlanError(f"{path}: not a Python file; --plugin takes one that registers models in timm")
    before, known = set(libraries()), _names()
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None, "it is a Python file"
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # timm looks the module of an entry point up by its name
    try:
        # `exec_module` would leave a `__pycache__` beside the file, and read the old one if the file was edited within
        # the same second.
        exec(compile(path.read_bytes(), str(module.__file__), "exec", dont_inherit=True), vars(module))
    except Exception as error:
        del sys.modules[path.stem]
        raise PlanError(f"{path}: the plugin failed: {type(error).__name__}: {error}; mend it and try again") from error
    added = sorted(_names() - known)
    if not added and before.issuperset(libraries()):
        del sys.modules[path.stem]
        raise PlanError(
            f"{path}: registered no model, expected at least one; decorate its entry points with "
            "`@timm.models.register_model`, or register a library of models with `growtool.library.register`"
        )
    return added


def _names() -> set[str]:
    """Return the names of the models of all libraries."""
    return {name for library in libraries() for names in library.models().values() for name in names}


def _names_another_module(path: Path) -> bool:
    """Return whether an import of the file's name would find another module than this file."""
    found = importlib.util.find_spec(path.stem)
    return found is not None and (found.origin is None or Path(found.origin).resolve() != path.resolve())
