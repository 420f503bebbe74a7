"""`growtool.grow`: growing a model or a checkpoint from Python."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from growtool.checkpoint import Checkpoint, build, infos_of, is_single_file, open_checkpoint
from growtool.checkpoint.folder import write_folder
from growtool.checkpoint.match import matched
from growtool.errors import CheckpointError
from growtool.growing.grow import grow as grow_recipe
from growtool.growing.optimizer import find_state, in_template_form
from growtool.growing.source import open_planned
from growtool.library import ModelSpec, libraries, library_of
from growtool.plan import LoadedPlan, Plan
from growtool.plan.load import loaded_plan
from growtool.recipe import resolve
from growtool.verify import CPU

_DEVIATION = 1e-6  # relative to the largest output, in float64: a model and the same model as its library builds it


def grow(
    model_or_path: nn.Module | Checkpoint | str | Path,
    plan: LoadedPlan | Plan | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    *,
    force: bool = False,
) -> nn.Module | Checkpoint:
    """Grow a model or a checkpoint by a plan, and prove that the result keeps what the plan promises.

    Args:
        model_or_path: a model of timm, the path of a timm folder or `.safetensors` file, or an opened checkpoint.
            The arguments of a model are those that `timm.create_model` was given. For a model that its class built
            directly, with other arguments than its defaults, the plan's `model_args` has to tell them.
        plan: the path of a plan in YAML, its content as a mapping, or what `load_plan` returned.
        out: a folder or `.safetensors` file to write. None keeps the result in memory.
        force: whether to replace an older output.

    Returns:
        With `out`, the checkpoint written there, opened. Without it, the grown model with its weights in the types of
        the source: on the device and in the mode (training or evaluation) of the model it grew from, or in evaluation
        mode on the CPU if it grew from a checkpoint. A model is proven on its device.

    Raises:
        PlanError: the plan is wrong, or cannot be carried out.
        CheckpointError: the source cannot be grown, or the proof failed.
    """
    if not isinstance(model_or_path, nn.Module | Checkpoint | str | Path):
        raise CheckpointError(
            f"found a {type(model_or_path).__name__}, expected a model, the path of a checkpoint, or an opened one; "
            "state dicts do not tell which model they are of"
        )
    loaded = loaded_plan(plan)
    with tempfile.TemporaryDirectory(prefix="growtool-") as temporary:
        source = _opened(model_or_path, loaded.plan, Path(temporary))
        with loaded.placing_problems():
            recipe = resolve(loaded.plan, source)
        place = Path(temporary) / "grown" if out is None else Path(out)
        has_room = out is not None and not is_single_file(place) and not in_template_form(recipe)
        state = find_state(source.path.parent) if has_room else None
        device = first_device(model_or_path) if isinstance(model_or_path, nn.Module) else CPU
        grown = grow_recipe(recipe, loaded, place, force=force, optimizer=state, device=device)
        written = open_checkpoint(grown.out)
        if out is not None:
            return written
        model = _loaded(written)  # before the temporary folder goes
    if isinstance(model_or_path, nn.Module):
        model = model.to(device).train(model_or_path.training)
    return model


def _loaded(written: Checkpoint) -> nn.Module:
    """Return the model of a checkpoint that was written, with its weights in memory."""
    model = library_of(written.spec).loaded(written.spec, written.path.parent)
    if model is None:  # the library itself would only build the model and load the state dict
        model = build(written.spec)
        model.load_state_dict(written.state_dict(), strict=True, assign=True)
    return model


def first_device(model: nn.Module) -> torch.device:
    return next((tensor.device for tensor in model.state_dict().values()), CPU)


def _opened(given: nn.Module | Checkpoint | str | Path, plan: Plan, temporary: Path) -> Checkpoint:
    """Return the model, path or checkpoint that grows as a checkpoint, with its arguments as the plan tells them."""
    if isinstance(given, Checkpoint):
        return replace(given, spec=given.spec.with_plan_args(plan.model, plan.model_args, where=given.name))
    return _written(given, plan, temporary) if isinstance(given, nn.Module) else open_planned(given, [plan])


def _written(model: nn.Module, plan: Plan, folder: Path) -> Checkpoint:
    """Write a model into a temporary folder, and return it as a checkpoint.

    Raises:
        CheckpointError: no library knows the model, or its library builds another one from the known arguments.
    """
    spec = _spec_of(model, plan)
    library_of(spec).require_known(spec.architecture, where=type(model).__name__)
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    out = folder / "source" / spec.architecture
    write_folder(out, spec, infos_of(state), state.__getitem__, model=model, documents={}, metadata={})
    source = open_checkpoint(out)
    _require_same(model, source)
    return source


def _spec_of(model: nn.Module, plan: Plan) -> ModelSpec:
    """Return the spec of a model in memory, by the first library that knows it; raise CheckpointError if none does."""
    told = (library.spec_of(model, plan.model, plan.model_args) for library in libraries())
    spec = next(filter(None, told), None)
    if spec is None:
        raise CheckpointError(
            f"{type(model).__name__}: found no name of a timm model in its pretrained_cfg, expected one; build it with "
            "timm.create_model, or name it with `model` (and `model_args`) in the plan"
        )
    return spec


def _require_same(model: nn.Module, source: Checkpoint) -> None:
    """Check that the source's spec makes this very model, by its outputs; raise CheckpointError if not."""
    # Shapes do not tell all: models that differ in the number of heads alone have equal ones.
    library = library_of(source.spec)
    remedy = (
        f"the arguments that {library.name} has noted on this {source.spec.architecture} make another model: build it "
        "with create_model, or tell the arguments that it was constructed with in the plan with `model_args: {...}`"
    )
    try:
        rebuilt = build(source.spec)
        source = matched(source, rebuilt)
    except CheckpointError as error:
        raise CheckpointError([*error.problems, remedy]) from error
    rebuilt.load_state_dict(source.state_dict(), strict=True, assign=True)
    inputs = library.inputs(rebuilt, 2, seed=0)
    with torch.no_grad():
        expected, found = (
            library.run(copied.cpu().double().eval(), inputs)
            for copied in (library.plain(copy.deepcopy(model)), rebuilt)
        )
    if len(expected) != len(found) or not all(map(_equal, expected, found)):
        raise CheckpointError(f"{type(model).__name__}: computes another function than {library.name}'s; {remedy}")


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=_DEVIATION * float(a.abs().max()))
