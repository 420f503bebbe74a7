"""What to say of a checkpoint whose tensors are not the model's: what timm makes of it, or what stands in the way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from growtool.checkpoint import by_timm
from growtool.checkpoint.names import cleaned, common_prefix, foreign_prefix, without
from growtool.checkpoint.reader import CONFIG, SPEC_KEY, WEIGHTS
from growtool.checkpoint.remedy import importing, listed

if TYPE_CHECKING:
    from torch import Tensor

    from growtool.checkpoint.reader import Checkpoint

_MOST_MADE = 4  # times the numbers stored: a larger head, resampled positions, tied weights written out
_LITTLE = 4_000_000  # numbers that are built in no time

Attempt = tuple[by_timm.Loaded, list[str], list[str]]
"""What timm loaded, what it changed, and the lines that do it."""


def explain(checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]]) -> str:
    """The end of a message about a checkpoint that does not match its model.

    timm is asked to load it. Where it does, what it changes is told with the lines that make a folder of what it loads.
    It is not asked for a model of many times the numbers stored: it never makes so much of so little, and to build it
    could take minutes and all memory.

    Args:
        checkpoint: what does not match.
        expected: shapes of the model's tensors by their names.
    """
    stored = sum(math.prod(info.shape) for info in checkpoint.tensors.values())
    needed = sum(math.prod(shape) for shape in expected.values())
    if checkpoint.form is not None or needed > _MOST_MADE * stored + _LITTLE:
        return _other_model(checkpoint)
    prefix = foreign_prefix(checkpoint.stored, expected) or common_prefix(checkpoint.stored)
    told = f"the model's names stand after {prefix!r} in the file. " if prefix and not _is_wrapper(prefix) else ""
    state = {name: checkpoint.read_stored(name) for name in checkpoint.stored}
    attempt = _as_it_is(checkpoint, state) or _as_state(checkpoint, state, prefix)
    if attempt is None:
        return f"{told}{_other_model(checkpoint)}"
    loaded, changes, lines = attempt
    done = "; ".join(changes)
    # save_for_hf goes by the name in the model's configuration, which not every entry point has made its own
    by_lines = (
        cast("Mapping[str, Any]", loaded.model.pretrained_cfg).get("architecture") == checkpoint.spec.architecture
    )
    return (
        f"{told}timm takes it {f'and, while loading, {done}' if done else 'without them'}. growtool reads what is "
        f"stored: {importing(_named(checkpoint))} makes a folder of what timm loads"
        + (f", as do these lines:{listed(lines)}" if by_lines else "")
    )


def _as_it_is(checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> Attempt | None:
    """What timm changes while it loads the folder, and the lines that do it; None where it does not take it."""
    folder = checkpoint.path.parent
    if checkpoint.path.name != WEIGHTS or not _has_config(checkpoint):
        return None
    told = by_timm.arguments_of_folder(folder)
    try:
        loaded = by_timm.load(*told)
    except Exception:  # whatever timm trips over
        return None
    changes = loaded.changes({cleaned(name): value for name, value in state.items()})
    return loaded, changes, [f"{_imports(checkpoint)}; model = {by_timm.call(*told)}", _saving(checkpoint)]


def _as_state(checkpoint: Checkpoint, state: Mapping[str, Tensor], prefix: str) -> Attempt | None:
    """The same for the tensors of the file whose names begin with `prefix`, by what follows it."""
    stripped = {name: state[old] for old, name in without(prefix, state).items()}
    told = by_timm.arguments_of_state(checkpoint.spec, checkpoint.path.parent if _has_config(checkpoint) else None)
    try:
        loaded = by_timm.load(*told, stripped)
    except Exception:  # whatever timm trips over
        return None
    reading = f"load_file({str(checkpoint.path)!r})"
    lines = [
        f"{_imports(checkpoint)}; from safetensors.torch import load_file",
        f"state = {{name.removeprefix({prefix!r}): value for name, value in {reading}.items() "
        f"if name.startswith({prefix!r})}}" if prefix else f"state = {reading}",
        f"model = {by_timm.call(*told, state='state')}",
        _saving(checkpoint),
    ]  # fmt: skip
    return loaded, loaded.changes(stripped), lines


def _imports(checkpoint: Checkpoint) -> str:
    from growtool.checkpoint.loading import needed_import

    return ", ".join(filter(None, ["import timm", needed_import(checkpoint.spec)]))


def _saving(checkpoint: Checkpoint) -> str:
    named = _named(checkpoint)
    target = named.with_name(f"{named.name.removesuffix('.safetensors')}-loaded")
    return f"timm.models.save_for_hf(model, {str(target)!r}, safe_serialization=True)"


def _named(checkpoint: Checkpoint) -> Path:
    """The folder or file that was named."""
    path = checkpoint.path.absolute()
    return path.parent if path.name == WEIGHTS and _has_config(checkpoint) else path


def _has_config(checkpoint: Checkpoint) -> bool:
    return SPEC_KEY not in checkpoint.metadata and (checkpoint.path.parent / CONFIG).is_file()


def _is_wrapper(prefix: str) -> bool:
    return cleaned(prefix) == ""


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
