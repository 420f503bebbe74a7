"""Whether the stored tensors are the ones the architecture has: same names, same shapes.

What torch takes as well without a change to any number is taken: names behind those of wrappers, tensors that the model
shares and the file holds once, and counts of batches that old BatchNorms have not kept. Where more is in the way, the
message tells what the model's library makes of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from growtool.checkpoint.documents import CONFIG, SPEC_KEY
from growtool.checkpoint.foreign.names import cleaned, common_prefix, foreign_prefix, without
from growtool.checkpoint.foreign.remedy import importing, listed, stripping
from growtool.checkpoint.tensors import infos_of
from growtool.errors import CheckpointError
from growtool.library import build, library_of
from growtool.library.building import shared_names
from growtool.library.taking import Made, Taken, taken

if TYPE_CHECKING:
    from torch import Tensor, nn

    from growtool.checkpoint.reader import Checkpoint
    from growtool.library.loaded import Script

_SHOWN = 4  # findings of a kind a message lists before it only counts
_MOST_MADE = 4  # times the numbers stored: a larger head, resampled positions, tied weights written out
_LITTLE = 4_000_000  # numbers that are built in no time

Shape = tuple[int, ...]
Attempt = tuple[list[str], list[str]]
"""What a library changed while it loaded a checkpoint, and the lines that do it; none where none do."""


def matched(checkpoint: Checkpoint, model: nn.Module | None = None) -> Checkpoint:
    """The checkpoint by the names of the model its spec describes, once it is known to hold its numbers in its shapes.

    Only the header is read, but for tensors that the model shares: copies of them in the file have to be equal.

    Args:
        checkpoint: the file and its spec.
        model: the skeleton `build(checkpoint.spec)` gives, where the caller has it already.

    Raises:
        CheckpointError: one error that names the missing, unexpected and mis-shaped tensors, or those of integers where
            the model computes with fractions; or that the model cannot be built at all.
    """
    model = model if model is not None else build(checkpoint.spec, where=checkpoint.name)
    state = model.state_dict(keep_vars=True)
    expected = {name: tuple(tensor.shape) for name, tensor in state.items()}
    shared = shared_names(state)
    found = checkpoint
    if checkpoint.form is None and checkpoint.stored.keys() != expected.keys():
        shapes = {name: info.shape for name, info in checkpoint.stored.items()}
        reading = library_of(checkpoint.spec).reading(model, shapes)
        found = (
            checkpoint.placed(_places(checkpoint, model, state, shared))
            if reading is None
            else checkpoint.read_by(reading)
        )
    findings = differences(expected, {name: info.shape for name, info in found.tensors.items()})
    if findings and (by_library := _as_library_takes(checkpoint, expected)):
        found, findings = by_library, []
    if findings:
        raise CheckpointError(
            f"{checkpoint.name}: the weights are not those of {checkpoint.spec.architecture} with the model_args given "
            f"({len(checkpoint.tensors)} tensors found, {len(expected)} expected):\n"
            + "\n".join(f"- {line}" for line in findings)
            + f"\n{explain(checkpoint, expected)}"
        )
    whole = [
        f"{name} is {found.tensors[name].dtype}"
        for name, tensor in state.items()
        if tensor.is_floating_point() and not found.tensors[name].is_float
    ]
    if whole:
        raise CheckpointError(
            f"{checkpoint.name}: found integers in {len(whole)} tensors ({_first(whole)}), expected floating-point "
            "numbers there; quantised weights mean nothing without their scales, name the checkpoint they come from"
        )
    _require_equal_copies(found, shared)
    return found


def _places(
    checkpoint: Checkpoint, model: nn.Module, state: Mapping[str, Tensor], shared: list[list[str]]
) -> dict[str, str | None]:
    """Where each tensor of the model stands in the file; None for a count of batches, 0 where there is none.

    Names of the file that the model has no use for stand for themselves.
    """
    plain = {name if name in state else cleaned(name): name for name in checkpoint.stored}
    if len(plain) < len(checkpoint.stored):  # two names that differ by a wrapper alone
        plain = {name: name for name in checkpoint.stored}
    places: dict[str, str | None] = {name: plain[name] for name in state if name in plain}
    for names in shared:  # as safetensors.torch.save_model leaves them
        kept = next((name for name in names if name in plain), None)
        places |= {name: plain[kept] for name in names if kept is not None and name not in plain}
    for name, kept in checkpoint.metadata.items():  # where it says which name it kept
        if name in state and name not in places and kept in plain:
            places[name] = plain[kept]
    for name in _counters(model):  # torch starts them at 0, too
        if name in state and name not in places:
            places[name] = None
    used = set(places.values())
    order = {name: places[name] for name in state if name in places}
    return order | {name: place for name, place in plain.items() if place not in used}


def _counters(model: nn.Module) -> list[str]:
    """The counts of batches of the model's norms with running statistics."""
    from torch.nn.modules.batchnorm import _NormBase

    norms = [name for name, module in model.named_modules() if isinstance(module, _NormBase)]
    return [f"{name}.num_batches_tracked" if name else "num_batches_tracked" for name in norms]


def _require_equal_copies(checkpoint: Checkpoint, shared: list[list[str]]) -> None:
    """Refuse a file that holds different numbers for what is one tensor in the model."""
    import torch

    for names in shared:
        first, *copies = dict.fromkeys(name for name in names if name in checkpoint.tensors)
        places = {checkpoint.places.get(name, name) for name in names}
        bits = (checkpoint.read(name).reshape(-1).view(torch.uint8) for name in (first, *copies))
        if len(places) > 1 and any(not torch.equal(a, b) for a, b in itertools.pairwise(bits)):
            raise CheckpointError(
                f"{checkpoint.name}: found different numbers in {', '.join(names)}, which are one tensor that the "
                "model shares; keep one of them in the file"
            )


def _as_library_takes(checkpoint: Checkpoint, expected: Mapping[str, Shape]) -> Checkpoint | None:
    """The checkpoint as its library loads it; None where it does not, or only with numbers of its own.

    Tensors that it only renames or reshapes are read from the file one by one, as ever.
    """
    if not _may_be(checkpoint, expected):
        return None
    folder = checkpoint.path.parent if _has_config(checkpoint) else None
    stored = {name: info.empty() for name, info in checkpoint.stored.items()}

    def with_numbers() -> Taken | None:
        values = {name: checkpoint.read_stored(name) for name in checkpoint.stored}
        return taken(checkpoint.spec, values, expected, folder)

    found = taken(checkpoint.spec, stored, expected, folder) or with_numbers()
    if found is None:
        return None
    infos = infos_of(found.given)
    rest = tuple(name for name in infos if name not in found.places)

    def numbers() -> Mapping[str, Tensor]:
        made = found if found.given[rest[0]].device.type != "meta" else with_numbers()
        assert made is not None, "the library took the same tensors before"
        return made.given

    return replace(checkpoint, stored=infos, places=dict(found.places), made=Made(rest, numbers), changes=found.changes)


def _may_be(checkpoint: Checkpoint, expected: Mapping[str, Shape]) -> bool:
    """Whether a library may make the model's tensors of those stored.

    It never makes so much of so little as a model of many times the numbers, and to build that could take minutes and
    all memory.
    """
    stored = sum(math.prod(info.shape) for info in checkpoint.tensors.values())
    needed = sum(math.prod(shape) for shape in expected.values())
    return checkpoint.form is None and needed <= _MOST_MADE * stored + _LITTLE


def differences(expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> list[str]:
    """One line for each kind of disagreement, in the order a reader needs them."""
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


def explain(checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]]) -> str:
    """The end of a message about a checkpoint that does not match its model.

    Its library is asked to load it. Where it does, what it changes is told with the lines that make a folder of that.

    Args:
        checkpoint: what does not match.
        expected: shapes of the model's tensors by their names.
    """
    if not _may_be(checkpoint, expected):
        return _other_model(checkpoint)
    prefix = foreign_prefix(checkpoint.stored, expected) or common_prefix(checkpoint.stored)
    told = f"the model's names stand after {prefix!r} in the file. " if prefix and not _is_wrapper(prefix) else ""
    state = {name: checkpoint.read_stored(name) for name in checkpoint.stored}
    attempt = _as_it_is(checkpoint, state) or _as_state(checkpoint, state, prefix)
    if attempt is None:
        return f"{told}{_other_model(checkpoint)}"
    name, (changes, lines) = library_of(checkpoint.spec).name, attempt
    done = "; ".join(changes)
    return (
        f"{told}{name} takes it {f'and, while loading, {done}' if done else 'without them'}. growtool reads what is "
        f"stored: {importing(_named(checkpoint))} makes a folder of what {name} loads"
        + (f", as do these lines:{listed(lines)}" if lines else "")
    )


def _as_it_is(checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> Attempt | None:
    """What the library changes while it loads the folder, and the lines that do it; None where it does not take it."""
    if checkpoint.folder is None or not _has_config(checkpoint):
        return None
    loaded = library_of(checkpoint.spec).load_folder(checkpoint.path.parent, checkpoint.spec)
    if loaded is None:
        return None
    changes = loaded.changes({cleaned(name): value for name, value in state.items()})
    if (script := loaded.script) is None:
        return changes, []
    return changes, [f"{script.imports}; model = {script.call}", _saving(checkpoint, script)]


def _as_state(checkpoint: Checkpoint, state: Mapping[str, Tensor], prefix: str) -> Attempt | None:
    """The same for the tensors of the file whose names begin with `prefix`, by what follows it."""
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
    """The folder or file that was named."""
    path = checkpoint.path.absolute()
    return path.parent if checkpoint.folder is not None and _has_config(checkpoint) else path


def _has_config(checkpoint: Checkpoint) -> bool:
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
