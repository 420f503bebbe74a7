"""Matching the stored tensors with the tensors of the architecture: same names, same shapes.

Differences that change no number are bridged: prefixes of wrappers (DDP, torch.compile) before the names, tensors that
the model shares and the file holds once, and BatchNorm's `num_batches_tracked`, which old files lack. If more is
different, the model's library is asked to load the tensors. If it does not either, the message tells what differs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from growtool.checkpoint.documents import CONFIG, SPEC_KEY
from growtool.checkpoint.foreign.names import cleaned, common_prefix, foreign_prefix, without
from growtool.checkpoint.foreign.remedy import importing, listed, stripping
from growtool.checkpoint.tensors import infos_of
from growtool.errors import CheckpointError
from growtool.library import build, library_of
from growtool.library.building import places_of_ties, shared_names
from growtool.library.layout import Conversion, Reading
from growtool.library.taking import LoadedByLibrary, loaded_by_library, made_once

if TYPE_CHECKING:
    from torch import Tensor, nn

    from growtool.checkpoint.reader import Checkpoint
    from growtool.library.loaded import Script

_SHOWN = 4  # findings of a kind that a message lists; the others are counted
_MOST_MADE = 4  # times the numbers stored: room for a larger head, resampled positions, tied weights written out
_LITTLE = 4_000_000  # numbers of a model that is built in no time

Shape = tuple[int, ...]
Attempt = tuple[list[str], list[str]]
"""What a library changed while it loaded a checkpoint, and the lines of Python that do it; there may be no lines."""


def matched(checkpoint: Checkpoint, model: nn.Module | None = None) -> Checkpoint:
    """Return the checkpoint by the names of its model, after checking that it holds the model's tensors.

    Only headers are read, except for tensors that the model shares: if the file holds several copies, their numbers are
    compared.

    Args:
        checkpoint: the file and its spec.
        model: the skeleton from `build(checkpoint.spec)`, if the caller has it already.

    Raises:
        CheckpointError: tensors are missing, unexpected or of other shapes (all of them in one error); a tensor holds
            integers in place of floating-point numbers; copies of a shared tensor differ; or the model cannot be built.
    """
    model = model if model is not None else build(checkpoint.spec, where=checkpoint.name)
    state = model.state_dict(keep_vars=True)  # parameters themselves, by whose identity shared ones are found
    expected = {name: tuple(tensor.shape) for name, tensor in state.items()}
    shared = shared_names(state)
    by_model = checkpoint
    if checkpoint.form is None and checkpoint.stored.keys() != expected.keys():
        shapes = {name: info.shape for name, info in checkpoint.stored.items()}
        reading = library_of(checkpoint.spec).reading(model, shapes)
        by_model = checkpoint.read_by(reading or _reading_by_name(checkpoint, model, state, shared))
        by_model = replace(by_model, reading=reading)
    findings = differences(expected, {name: info.shape for name, info in by_model.tensors.items()})
    if findings and (by_library := _as_library_takes(checkpoint, expected)):
        by_model, findings = by_library, []
    if findings:
        raise CheckpointError(
            f"{checkpoint.name}: the weights are not those of {checkpoint.spec.architecture} with the model_args given "
            f"({len(checkpoint.tensors)} tensors found, {len(expected)} expected):\n"
            + "\n".join(f"- {line}" for line in findings)
            + f"\n{explain(checkpoint, expected)}"
        )
    _require_floats(by_model, state)
    _require_equal_copies(by_model, shared)
    return by_model


def _require_floats(checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> None:
    """Check that no floating-point tensor of the model is stored as integers; raise CheckpointError if one is."""
    integers = [
        f"{name} is {checkpoint.tensors[name].dtype}"
        for name, tensor in state.items()
        if tensor.is_floating_point() and not checkpoint.tensors[name].is_float
    ]
    if integers:
        raise CheckpointError(
            f"{checkpoint.name}: found integers in {len(integers)} tensors ({_first(integers)}), expected "
            "floating-point numbers there; quantised weights mean nothing without their scales, name the checkpoint "
            "they come from"
        )


def _reading_by_name(
    checkpoint: Checkpoint, model: nn.Module, state: Mapping[str, Tensor], shared: list[list[str]]
) -> Reading:
    """Return how a model's tensors are read from a file whose names differ by prefixes, shared tensors or counts alone.

    Tensors that the model has no use for are read as well, so that a message can list them.
    """
    plain = {name if name in state else cleaned(name): name for name in checkpoint.stored}
    if len(plain) < len(checkpoint.stored):  # two names that differ by a wrapper alone: neither may hide the other
        plain = {name: name for name in checkpoint.stored}
    places = {name: plain[name] for name in state if name in plain}
    places |= places_of_ties(
        shared, places
    )  # safetensors.torch.save_model writes a shared tensor under one of its names
    for name, kept in checkpoint.metadata.items():  # save_model notes `dropped name: kept name` in the metadata
        if name in state and name not in places and kept in plain:
            places[name] = plain[kept]
    counts = [name for name in _counters(model) if name in state and name not in places]
    used = set(places.values())
    order = {name: places[name] for name in state if name in places}
    places = order | {name: place for name, place in plain.items() if place not in used}
    return Reading(places, {name: Conversion((), (name,), partial(_no_batches, name)) for name in counts})


def _no_batches(name: str, _: object) -> dict[str, Tensor]:
    """Return a count of batches that the file lacks; nn.BatchNorm, too, reads it as 0 from old state dicts."""
    import torch

    return {name: torch.zeros((), dtype=torch.int64)}


def _counters(model: nn.Module) -> list[str]:
    """Return the names of `num_batches_tracked` of all norms that keep running statistics."""
    from torch.nn.modules.batchnorm import _NormBase

    norms = [name for name, module in model.named_modules() if isinstance(module, _NormBase)]
    return [f"{name}.num_batches_tracked" if name else "num_batches_tracked" for name in norms]


def _require_equal_copies(checkpoint: Checkpoint, shared: list[list[str]]) -> None:
    """Check that the file holds the same numbers under all names of a shared tensor; raise CheckpointError if not."""
    import torch

    for names in shared:
        places = {checkpoint.places.get(name, name) for name in names}
        # Bits, not values: a nan equals nothing, itself included.
        bits = (checkpoint.read(name).reshape(-1).view(torch.uint8) for name in names)
        if len(places) > 1 and any(not torch.equal(a, b) for a, b in itertools.pairwise(bits)):
            raise CheckpointError(
                f"{checkpoint.name}: found different numbers in {', '.join(names)}, which are one tensor that the "
                "model shares; keep one of them in the file"
            )


def _as_library_takes(checkpoint: Checkpoint, expected: Mapping[str, Shape]) -> Checkpoint | None:
    """Return the checkpoint as its library loads it; None if the library does not load it, or adds numbers of its own.

    Tensors that the library only renames or reshapes are read from the file one by one.
    """
    if not _may_be(checkpoint, expected):
        return None
    folder = checkpoint.path.parent if _has_config(checkpoint) else None
    stored = {name: info.empty() for name, info in checkpoint.stored.items()}

    def with_numbers() -> LoadedByLibrary | None:
        values = {name: checkpoint.read_stored(name) for name in checkpoint.stored}
        return loaded_by_library(checkpoint.spec, values, expected, folder)

    # Meta tensors tell all but the numbers. A library whose loading looks at numbers fails on them and is given these.
    found = loaded_by_library(checkpoint.spec, stored, expected, folder) or with_numbers()
    if found is None:
        return None
    infos = infos_of(found.given)
    computed = tuple(name for name in infos if name not in found.places)

    def numbers() -> Mapping[str, Tensor]:
        loaded = found if found.given[computed[0]].device.type != "meta" else with_numbers()
        assert loaded is not None, "the library took the same tensors before"
        return loaded.given

    made = made_once(computed, numbers)
    return replace(checkpoint, stored=infos, places=found.places, made=made, changes=found.changes)


def _may_be(checkpoint: Checkpoint, expected: Mapping[str, Shape]) -> bool:
    """Return whether a library may be asked to make the model's tensors from the stored ones.

    No library makes a model of many times the numbers out of a file. Building such a model could take minutes and all
    memory.
    """
    stored = sum(math.prod(info.shape) for info in checkpoint.tensors.values())
    needed = sum(math.prod(shape) for shape in expected.values())
    return checkpoint.form is None and needed <= _MOST_MADE * stored + _LITTLE


def differences(expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> list[str]:
    """Return a line each for wrong shapes, missing names and unexpected names; none if `found` is as `expected`."""
    misshaped = [
        f"{name} is {list(found[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    missing = [f"{name} {list(shape)}" for name, shape in expected.items() if name not in found]
    unexpected = [f"{name} {list(shape)}" for name, shape in found.items() if name not in expected]
    kinds = {"wrong shape": misshaped, "missing": missing, "unexpected": unexpected}
    return [f"{kind} ({len(names)}): {_first(names)}" for kind, names in kinds.items() if names]


def _first(items: list[str]) -> str:
    rest = len(items) - _SHOWN
    return "; ".join(items[:_SHOWN]) + (f"; and {rest} more" if rest > 0 else "")


def explain(checkpoint: Checkpoint, expected: Mapping[str, Shape]) -> str:
    """Return the end of a message about a checkpoint that does not match its model: why, and what to do.

    The model's library is asked to load the checkpoint. If it does, the text tells what the library changes on the way,
    with lines of Python that write a folder of the result.

    Args:
        checkpoint: the checkpoint that does not match.
        expected: shapes of the model's tensors by name.
    """
    if not _may_be(checkpoint, expected):
        return _other_model(checkpoint)
    prefix = foreign_prefix(checkpoint.stored, expected) or common_prefix(checkpoint.stored)
    told = f"the model's names stand after {prefix!r} in the file. " if prefix and not _is_wrapper(prefix) else ""
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


def _from_folder(checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> Attempt | None:
    """Let the library load the checkpoint's folder; return what it changed, None if there is none that it loads."""
    if checkpoint.folder is None or not _has_config(checkpoint):
        return None
    loaded = library_of(checkpoint.spec).load_folder(checkpoint.path.parent, checkpoint.spec)
    if loaded is None:
        return None
    changes = loaded.changes({cleaned(name): value for name, value in state.items()})
    if (script := loaded.script) is None:
        return changes, []
    return changes, [f"{script.imports}; model = {script.call}", _saving(checkpoint, script)]


def _from_state(checkpoint: Checkpoint, state: Mapping[str, Tensor], prefix: str) -> Attempt | None:
    """Let the library load the tensors whose names begin with `prefix`, without it; return what it changed, or None."""
    stripped = {name: state[old] for old, name in without(prefix, state).items()}
    folder = checkpoint.path.parent if _has_config(checkpoint) else None
    loaded = library_of(checkpoint.spec).load_state(checkpoint.spec, stripped, folder)
    if loaded is None:
        return None
    changes, reading = loaded.changes(stripped), f"load_file({str(checkpoint.path)!r})"
    if (script := loaded.script) is None:
        return changes, []
    return changes, [
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
    return path.parent if checkpoint.folder is not None and _has_config(checkpoint) else path


def _has_config(checkpoint: Checkpoint) -> bool:
    """Return whether a `config.json` stands beside the file; a library does not see one in the file's metadata."""
    return bool(checkpoint.config) and SPEC_KEY not in checkpoint.metadata


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
