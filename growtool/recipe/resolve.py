"""From a plan and a checkpoint to a recipe: trace both models, match them, ask the operators."""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache

from torch import Tensor, nn

from growtool.algebra.expansion import AxisMap, Expansion, axis_map
from growtool.algebra.moved_factors import MovedFactor
from growtool.algebra.passing import passing_value
from growtool.algebra.promise import Promise
from growtool.algebra.standardised import Rescaled
from growtool.calibration import tracking_norms
from growtool.checkpoint import Checkpoint, TensorInfo, build, input_size, open_checkpoint
from growtool.checkpoint.loading import needed_import
from growtool.checkpoint.match import check_strict
from growtool.checkpoint.reach import set_eps, with_eps
from growtool.coupling import Coupling, Growth, PairedAxis, trace_model
from growtool.errors import CheckpointError, PlanError, some
from growtool.plan.schema import MIRROR, Plan
from growtool.plan.section import SeesImages
from growtool.plan.target import Target
from growtool.plan.width import Width
from growtool.recipe.alternative import better_width
from growtool.recipe.matching import Matching, match
from growtool.recipe.mirror import mirror_image
from growtool.recipe.overrides import width_sections
from growtool.recipe.promising import promise_of
from growtool.recipe.recipe import Recipe, TensorRecipe, written_dtype
from growtool.recipe.rewriting import copied_weights, factors_moved, filling, partners, rewrites, unread
from growtool.recipe.starts import Starts, starts_of
from growtool.recipe.target import target_spec, unknown_arguments
from growtool.recipe.telling_eps import spec_with_eps
from growtool.recipe.template_form import source_templates, target_form
from growtool.recipe.traced import Traced
from growtool.recipe.widths import Widths, expand_widths


def resolve(
    plan: Plan, checkpoint: Checkpoint, *, source: Traced | None = None, target: Traced | None = None
) -> Recipe:
    """Everything about a growth that can be known without reading weights.

    Args:
        plan: what to do.
        checkpoint: what grows.
        source: its model, where the caller has traced it.
        target: the plan's target, likewise.

    Raises:
        CheckpointError: the file does not hold the model it claims.
        PlanError: the target cannot be reached; every problem found, each with its place and remedy.
    """
    source = source or Traced.of(checkpoint.spec, where=checkpoint.name)
    check_strict(checkpoint, source.model)
    _require_digits(plan, checkpoint)
    target = target or traced_target(plan.target, source)
    _require_use_of_images(plan, target.model)
    return recipe_of(plan, checkpoint, source, target)


def _require_digits(plan: Plan, checkpoint: Checkpoint) -> None:
    """Raises PlanError where what is computed would be rounded to the three or four binary digits of a float8."""
    eighths = sorted({info.dtype for info in checkpoint.stored.values() if info.dtype.startswith("F8")})
    if eighths and plan.output.dtype == "same":
        raise PlanError(
            f"output.dtype: {checkpoint.name} holds {', '.join(eighths)}, too coarse for what growth computes from it; "
            "found `same`, expected a wider type for the output: add `output: {dtype: bfloat16}` (or float16, float32)"
        )


def _require_use_of_images(plan: Plan, target: nn.Module) -> None:
    problems = []
    if plan.recalibrate and not tracking_norms(target):
        problems.append("recalibrate: the target has no BatchNorm with running statistics; drop it")
    if getattr(target, "num_classes", None) == 0:
        problems += [
            f"{axis}.operator: {section.operator} needs the classes of images, and the target has no classifier "
            "(num_classes 0); grow a checkpoint with its head, or use an operator that needs no images"
            for axis, section in (("width", plan.width), ("depth", plan.depth))
            if isinstance(section, SeesImages)
        ]
    if problems:
        raise PlanError(problems)


def recipe_of(plan: Plan, checkpoint: Checkpoint, source: Traced, target: Traced) -> Recipe:
    """The recipe for two models that have been traced.

    Raises:
        PlanError: the target cannot be reached; every problem found, each with its place and remedy.
    """
    matching = match(source, target, plan.depth)
    starts = starts_of(plan.depth, matching)
    widths = expand_widths(plan, matching, starts.zero | starts.cancelling.keys())
    sections = width_sections(plan, matching, widths)
    rescaled, moved = copied_weights(plan, matching, widths), factors_moved(plan, matching)
    promise, eps = promise_of(plan, matching, widths, sections, starts, moved, rescaled)
    spec = spec_with_eps(target, eps) if eps else target.spec
    if spec is not None:
        promise = Promise("exact") if eps else promise
    else:
        spec = with_eps(target.spec, eps) if _tells_eps(plan) else target.spec
    told, model = spec is not target.spec, target.model
    if told:
        model = copy.deepcopy(model)  # the caller may go on with what it has traced
        set_eps(model, eps)
    templates = source_templates(plan, checkpoint, source.model, source.coupling)
    tensors = _tensors(plan, checkpoint, matching, widths, starts, sections, rescaled, moved)
    return Recipe(
        plan=plan,
        source=checkpoint,
        second=_second(plan, checkpoint, source),
        target=spec,
        num_features=int(getattr(target.model, "num_features", 0)),
        tensors=tensors,
        templates=templates,
        form=target_form(plan, tensors, templates),
        widths=widths.changes,
        promise=promise,
        alternative=better_width(plan, matching, starts, moved, promise),
        eps={} if told else eps,
        matching=matching,
        expansions=widths.expansions,
        measured=widths.measured,
        outputs=tuple(_output_maps(axes, widths) for axes in matching.outputs),
        models=(source.model, model),
        needs=needed_import(spec),
    )


def _output_maps(axes: Sequence[PairedAxis], widths: Widths) -> tuple[AxisMap, ...]:
    """How the dimensions of a returned tensor grow.

    Raises:
        PlanError: one grows of which no tensor of the model tells how.
    """
    known = dict(widths.expansions)
    for growth in {growth for axis in axes for growth in axis.growths()} - known.keys():
        before, after = growth.sizes
        if before != after:
            raise PlanError(
                f"the model's output: would grow from {before} to {after} positions that no tensor of the model "
                "carries, expected channels; choose a target with outputs of the same size"
            )
        known[growth] = Expansion.identity(before)
    return tuple(axis_map(axis, known, frozenset()) for axis in axes)


def _second(plan: Plan, checkpoint: Checkpoint, source: Traced) -> Checkpoint | None:
    """The plan's second checkpoint.

    Raises:
        CheckpointError: it cannot be read.
        PlanError: it holds another model than the first, or this has no mirror image.
    """
    if plan.second is None:
        return None
    if plan.second == MIRROR:
        return mirror_image(checkpoint, source)
    spec = checkpoint.spec
    second = open_checkpoint(plan.second, architecture=plan.model, model_args=plan.model_args, otherwise=spec)
    ours, theirs = ({name: info.shape for name, info in c.tensors.items()} for c in (checkpoint, second))
    if second.spec.architecture != spec.architecture or ours != theirs:
        different = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        raise PlanError(
            f"second: {second.name} holds {second.spec.architecture}, expected {spec.architecture} with the shapes of "
            f"{checkpoint.name}" + (f"; {some(different)} differ" if different else "")
        )
    return second


def _tells_eps(plan: Plan) -> bool:
    return getattr(plan.width, "eps", "kept") == "told"


def traced_target(target: Target, source: Traced) -> Traced:
    """The target, built and traced.

    Raises:
        PlanError: the plan's arguments do not make a model, or one that does not run.
    """
    spec = target_spec(target, source.spec, source.model, source.coupling)
    where = "target.model_args" if target.model_args and target.model is None else "target"
    try:
        model = build(spec, where=where)
    except CheckpointError as error:
        raise PlanError(unknown_arguments(target, source.spec) or error.problems) from error
    try:
        return Traced(spec, model, trace_model(model, input_size(model)))
    except CheckpointError as error:
        raise PlanError(
            f"{where}: timm builds {spec.architecture} so, but it does not run on images of {input_size(model)} "
            f"(channels, height, width): {type(error.__cause__).__name__}: {error.__cause__}; expected arguments "
            f"that fit each other, found {dict(spec.model_args)}"
        ) from error


def _tensors(
    plan: Plan,
    checkpoint: Checkpoint,
    matching: Matching,
    widths: Widths,
    starts: Starts,
    sections: Mapping[str, Width],
    rescaled: Mapping[str, Rescaled],
    moved: Mapping[str, MovedFactor],
) -> dict[str, TensorRecipe]:
    coupling, blocks = matching.target.coupling, matching.blocks
    rewritten = rewrites(matching, widths, rescaled, moved)
    copied = {name for weight in rescaled.values() for name in weight.target.weights}
    first = _first_names(matching.target.model)

    @cache  # many tensors carry the same channels in the same layout
    def mapped(axis: PairedAxis, summed: frozenset[Growth], free: frozenset[Growth]) -> AxisMap:
        return axis_map(axis, widths.expansions, summed, free)

    recipes = {}
    for name, value in matching.target.model.state_dict().items():
        axes = matching.paired[name]
        consumed = [
            frozenset() if name in copied else _consumed(coupling, axis, name, dim) for dim, axis in enumerate(axes)
        ]
        maps = tuple(
            mapped(axis, summed, unread(widths, axis, name)) for axis, summed in zip(axes, consumed, strict=True)
        )
        rows = [g for axis, summed in zip(axes, consumed, strict=True) for g in axis.growths() if g not in summed]
        implied = _implied(name, maps, matching, starts)
        origin = None if implied is not None else blocks.source_name(name)
        stored = (
            checkpoint.tensors[origin] if origin else TensorInfo((), "I64" if value.ndim == 0 else _float(checkpoint))
        )
        recipes[name] = TensorRecipe(
            name=name,
            source=origin,
            implied=implied,
            info=TensorInfo(tuple(value.shape), written_dtype(plan, stored)),
            maps=maps,
            new=blocks.is_new(name),
            zero=name in starts.zero,
            paired=starts.paired.get(name, ()),
            cancelling=starts.cancelling.get(name),
            shared=first.get(name, name),
            rewrite=rewritten.get(name),
            fill=filling(matching, widths, name, rows),
            anew=widths.every_tensor and value.is_floating_point(),
            following=_following(origin, checkpoint) if origin else None,
            partners=partners(matching, widths, name),
            width=sections.get(name, plan.width),
        )
    return recipes


def _following(name: str, checkpoint: Checkpoint) -> str | None:
    """The name of the same tensor one block on, where the checkpoint has one of the same shape."""
    for found in re.finditer(r"(?<=\.)\d+(?=\.)", name):
        following = f"{name[: found.start()]}{int(found[0]) + 1}{name[found.end() :]}"
        if following in checkpoint.tensors and checkpoint.tensors[following].shape == checkpoint.tensors[name].shape:
            return following
    return None


def _implied(name: str, maps: Sequence[AxisMap], matching: Matching, starts: Starts) -> Tensor | None:
    """What the source would hold under the name if it had a layer that passes its input on there; None elsewhere."""
    bridge = matching.bridges.get(name)
    size = maps[0].size if maps else 0
    if bridge is not None:
        return bridge.source_value(name, size)
    if name in starts.passing:
        eps = matching.target.coupling.norm_eps.get(name)
        return passing_value(name, tuple(axis.size for axis in maps), eps)
    block = matching.blocks.block_of(name)
    if block is None or block[1].start != "identity":
        return None
    module = matching.target.model.get_submodule(name.rpartition(".")[0])
    return passing_value(name, tuple(axis.size for axis in maps), getattr(module, "eps", None))


def _first_names(model: nn.Module) -> dict[str, str]:
    """Parameter name -> the first name of the same parameter."""
    seen: dict[int, str] = {}
    return {name: seen.setdefault(id(p), name) for name, p in model.named_parameters(remove_duplicate=False)}


def _consumed(coupling: Coupling, axis: PairedAxis, name: str, dim: int) -> frozenset[Growth]:
    return frozenset(g for g in axis.growths() if (g.target, name, dim) in coupling.consumers)


def _float(checkpoint: Checkpoint) -> str:
    """The element type most of the checkpoint's numbers have."""
    sizes: dict[str, int] = defaultdict(int)
    for info in checkpoint.tensors.values():
        if info.is_float:
            sizes[info.dtype] += info.numel
    return max(sizes, key=lambda name: sizes[name])
