"""What is said of a checkpoint whose tensors are not those of its model: where they differ, why, and what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from growtool.checkpoint.documents import CONFIG, SPEC_KEY
from growtool.checkpoint.foreign.names import cleaned, common_prefix, foreign_prefix, without
from growtool.checkpoint.foreign.remedy import importing, listed, stripping
from growtool.library import library_of

if TYPE_CHECKING:
    from torch import Tensor

    from growtool.checkpoint.reader import Checkpoint
    from growtool.library.building import Shapes
    from growtool.library.loaded import Script

_SHOWN = 4  # findings of a kind that a message lists; the others are counted
_MOST_MADE = 4  # times the numbers stored: room for a larger head, resampled positions, tied weights written out
_LITTLE = 4_000_000  # numbers of a model that is built in no time

Attempt = tuple[list[str], list[str]]
"""What a library changed while it loaded a checkpoint, and the lines of Python that do it; there may be no lines."""


def is_worth_asking(checkpoint: Checkpoint, expected: Shapes) -> bool:
    """Return whether a library is asked to make the model's tensors of the stored ones.

    No library makes a model of many times the numbers out of a file. Building such a model could take minutes and all
    memory.
    """
    stored = sum(info.numel for info in checkpoint.tensors.values())
    needed = sum(math.prod(shape) for shape in expected.values())
    return checkpoint.form is None and needed <= _MOST_MADE * stored + _LITTLE


def differences(expected: Shapes, found: Shapes) -> list[str]:
    """Return a line each for wrong shapes, missing names and unexpected names; none if `found` is as `expected`."""
    misshaped = [
        f"{name} is {list(found[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    missing = [f"{name} {list(shape)}" for name, shape in expected.items() if name not in found]
    unexpected = [f"{name} {list(shape)}" for name, shape in found.items() if name not in expected]
    kinds = {"wrong shape": misshaped, "missing": missing, "unexpected": unexpected}
    return [f"{kind} ({len(names)}): {first_few(names)}" for kind, names in kinds.items() if names]


def first_few(items: list[str]) -> str:
    """Return the first findings of a list, and how many more there are."""
    rest = len(items) - _SHOWN
    return "; ".join(items[:_SHOWN]) + (f"; and {rest} more" if rest > 0 else "")


def explain(checkpoint: Checkpoint, expected: Shapes) -> str:
    """Return the end of a message about a checkpoint that does not match its model: why, and what to do.

    The model's library is asked to load the checkpoint. If it does, the text tells what the library changes on the way,
    with lines of Python that write a folder of the result.

    Args:
        checkpoint: the checkpoint that does not match.
        expected: shapes of the model's tensors by name.
    """
    if not is_worth_asking(checkpoint, expected):
        return _other_model(checkpoint)
    prefix = foreign_prefix(checkpoint.stored, expected) or common_prefix(checkpoint.stored)
    told = f"the model's names stand after {prefix!r} in the file. " if cleaned(prefix) else ""  # no wrapper's prefix
    state = {name: checkpoint.read_stored(name) for name in checkpoint.stored}
    attempt = _from_folder(checkpoint, state) or _from_state(checkpoint, state, prefix)
    if attempt is None:
        return f"{told}{_other_model(checkpoint)}"
    name, (changes, lines) = library_of(checkpoint.spec).name, attempt
    done = "; ".join(changes)
    return (
        f"{told}{name} takes it {f'and, while loading, {done}' if done else 'without them'}. growtool reads what is "
        f"stored: {importing(_named(checkpoint))} makes a folder of what {name} loads"
        + (f", as do these lines:{listed(lines)}" if lines else "")
    )


def config_folder(checkpoint: Checkpoint) -> Path | None:
    """Return the folder whose `config.json` describes a checkpoint; a library sees none in the metadata of a file."""
    return checkpoint.path.parent if checkpoint.config and SPEC_KEY not in checkpoint.metadata else None


def _from_folder(checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> Attempt | None:
    """Let the library load the checkpoint's folder; return what it changed, None if there is none that it loads."""
    folder = config_folder(checkpoint) if checkpoint.folder else None
    loaded = library_of(checkpoint.spec).load_folder(folder, checkpoint.spec) if folder else None
    if loaded is None:
        return None
    script = loaded.script
    lines = [f"{script.imports}; model = {script.call}", _saving(checkpoint, script)] if script else []
    return loaded.changes({cleaned(name): value for name, value in state.items()}), lines


def _from_state(checkpoint: Checkpoint, state: Mapping[str, Tensor], prefix: str) -> Attempt | None:
    """Let the library load the tensors whose names begin with `prefix`, without it; return what it changed, or None."""
    stripped = {name: state[old] for old, name in without(prefix, state).items()}
    loaded = library_of(checkpoint.spec).load_state(checkpoint.spec, stripped, config_folder(checkpoint))
    if loaded is None:
        return None
    if (script := loaded.script) is None:
        return loaded.changes(stripped), []
    reading = f"load_file({str(checkpoint.path)!r})"
    return loaded.changes(stripped), [
        f"{script.imports}; from safetensors.torch import load_file",
        stripping(prefix, reading) if prefix else f"state = {reading}",
        f"model = {script.call}",
        _saving(checkpoint, script),
    ]


def _saving(checkpoint: Checkpoint, script: Script) -> str:
    named = _named(checkpoint)
    target = named.with_name(f"{named.name.removesuffix('.safetensors')}-loaded")
    return script.saving.format(repr(str(target)))


def _named(checkpoint: Checkpoint) -> Path:
    """Return the folder or file that the user named."""
    path = checkpoint.path.absolute()
    return path.parent if checkpoint.folder and config_folder(checkpoint) else path


def _other_model(checkpoint: Checkpoint) -> str:
    if checkpoint.config:
        return (
            f"a {CONFIG} that does not match the weights? Restore the one saved with them, or correct its architecture "
            "and model_args"
        )
    return (
        "is it another model? Correct what was given for it as --model and --model-args, or as `model` and "
        "`model_args` in the plan"
    )
