"""Matching the stored tensors with the tensors of the architecture: same names, same shapes.

Differences that change no number are bridged: prefixes of wrappers (DDP, torch.compile) before the names, tensors that
the model shares and the file holds once, and BatchNorm's `num_batches_tracked`, which old files lack. If more is
different, the model's library is asked to load the tensors. If it does not either, the message tells what differs.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from growtool.checkpoint.foreign.explaining import config_folder, differences, explain, first_few, is_worth_asking
from growtool.checkpoint.foreign.names import cleaned
from growtool.checkpoint.tensors import infos_of
from growtool.errors import CheckpointError
from growtool.library import build, library_of
from growtool.library.building import Shapes, places_of_ties, shared_names
from growtool.library.layout import Conversion, Reading
from growtool.library.taking import LoadedByLibrary, loaded_by_library, made_once

if TYPE_CHECKING:
    from torch import Tensor, nn

    from growtool.checkpoint.reader import Checkpoint


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
        by_name = checkpoint.read_by(reading or _reading_by_name(checkpoint, model, state, shared))
        by_model = replace(by_name, reading=reading)
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
            f"{checkpoint.name}: found integers in {len(integers)} tensors ({first_few(integers)}), expected "
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
    # safetensors.torch.save_model writes a shared tensor under one of its names,
    places |= places_of_ties(shared, places)
    for name, kept in checkpoint.metadata.items():  # and notes `dropped name: kept name` in the metadata
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


def _as_library_takes(checkpoint: Checkpoint, expected: Shapes) -> Checkpoint | None:
    """Return the checkpoint as its library loads it; None if the library does not load it, or adds numbers of its own.

    Tensors that the library only renames or reshapes are read from the file one by one.
    """
    if not is_worth_asking(checkpoint, expected):
        return None
    folder = config_folder(checkpoint)
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
