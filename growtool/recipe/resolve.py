"""From a plan and a checkpoint to a recipe: both models are traced and matched, and the operators asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import nn

from growtool.algebra.axis_map import AxisMap, axis_map
from growtool.algebra.expansion import Expansion
from growtool.algebra.memory import given_back
from growtool.algebra.threads import single_threaded
from growtool.calibration import tracking_norms
from growtool.checkpoint import Checkpoint, build
from growtool.checkpoint.match import matched
from growtool.errors import CheckpointError, PlanError
from growtool.images import require_images
from growtool.library import ModelSpec, meta_inputs
from growtool.plan.depth import INITIAL, Map
from growtool.plan.schema import Plan
from growtool.plan.section import SeesImages
from growtool.plan.target import Target
from growtool.prove.eps import without_eps
from growtool.prove.obstacle import Obstacle, Why, blamed, obstacles
from growtool.prove.promise import Promise
from growtool.recipe.choosing.operators import chosen, growing_by
from growtool.recipe.eps import told_eps
from growtool.recipe.matching import Matching
from growtool.recipe.promising import promise_of
from growtool.recipe.recipe import Recipe
from growtool.recipe.second import second_source
from growtool.recipe.target.advice import head_advice, sibling_advice
from growtool.recipe.target.spec import CannotScaleWidthError, target_specs, unknown_arguments
from growtool.recipe.template_form import source_templates, target_form
from growtool.recipe.tensors import tensor_recipes
from growtool.recipe.ties import torn_ties
from growtool.recipe.traced_model import TracedModel
from growtool.recipe.widths.expand import Widths
from growtool.trace import PairedAxis, places


@given_back()
@single_threaded()
def resolve(
    plan: Plan, checkpoint: Checkpoint, *, source: TracedModel | None = None, target: TracedModel | None = None
) -> Recipe:
    """Return the recipe of a growth: all that can be known of it without reading weights.

    Operators that the plan leaves open are chosen; the recipe's own plan names them. There is a recipe even if it loses
    the function by accident: `growtool.recipe.choosing.consent` refuses to carry it out.

    Args:
        plan: what to do.
        checkpoint: what grows.
        source: the checkpoint's model, if the caller has traced it.
        target: the plan's target, if the caller has traced it.

    Raises:
        CheckpointError: the file does not hold the model that it claims to hold.
        PlanError: the target cannot be reached; every problem found, each with its place and remedy.
    """
    source = source or TracedModel.of(checkpoint.spec, where=checkpoint.name)
    checkpoint = matched(checkpoint, source.model)
    require_digits(plan, checkpoint)

    def towards(target: TracedModel) -> Recipe:
        _require_use_of_images(plan, target)
        recipe = chosen(plan, source, target, lambda plan, matching: recipe_of(plan, checkpoint, matching))
        return replace(recipe, choices=(*target.remarks, *recipe.choices, *_uncopied(recipe)))

    return towards(target) if target is not None else _resolved(plan.target, source, towards)


def _resolved(target: Target, source: TracedModel, towards: Callable[[TracedModel], Recipe]) -> Recipe:
    """Return the recipe for a target that is still to be built, with advice where its arguments ask for some.

    `towards` returns the recipe for a traced target.

    Raises:
        PlanError: see `resolve`. If the arguments cut heads in two, it names sizes that do not; if nothing scales the
            width, it names larger models of the family.
    """

    def accepted(other: Target) -> bool:
        try:
            recipe = towards(traced_target(other, source))
        except PlanError:
            return False
        return recipe.plan.allow_lossy or not recipe.promise.accidents

    traced: TracedModel | None = None
    try:
        traced = traced_target(target, source)
        recipe = towards(traced)
    except CannotScaleWidthError as error:
        raise PlanError([*error.problems, sibling_advice(source, accepted)]) from error
    except PlanError as error:
        advice = head_advice(target, source, traced.trace if traced else None, accepted)
        if advice is None:
            raise
        # If the target could not be built, the constructor's own words on the arguments would only hide the advice.
        raise PlanError([*(error.problems if traced else ()), f"target.model_args: {advice}"]) from error
    if recipe.promise.kind != "lossy":
        return recipe
    advice = head_advice(target, source, traced.trace, accepted)
    if advice is None:
        return recipe
    advised = (*recipe.promise.obstacles, Obstacle(Why.ADVICE, advice))
    return replace(recipe, promise=replace(recipe.promise, obstacles=advised))


def require_digits(plan: Plan, checkpoint: Checkpoint) -> None:
    """Check that no result is rounded to the three or four binary digits of a float8; raise PlanError if one is."""
    float8 = sorted({info.dtype for info in checkpoint.stored.values() if info.dtype.startswith("F8")})
    if float8 and plan.output.dtype == "same":
        raise PlanError(
            f"output.dtype: {checkpoint.name} holds {', '.join(float8)}, too coarse for what growth computes from it; "
            "found `same`, expected a wider type for the output: add `output: {dtype: bfloat16}` (or float16, float32)"
        )


def _uncopied(recipe: Recipe) -> tuple[str, ...]:
    """Return a sentence on blocks that start with initial values because the source has none to copy.

    Nothing if the plan itself asks for initial values.
    """
    blocks, depth = recipe.blocks.uncopied, recipe.plan.depth
    if not blocks or isinstance(depth, Map) or getattr(depth, "start", None) == INITIAL:
        return ()
    one = len(blocks) == 1
    return (
        f"depth: {places(blocks, None)} {'starts' if one else 'start'} closed, with the values that "
        f"{recipe.library.name} initialises {'it' if one else 'them'} with (start: initial), as no block of the source "
        "is one to copy",
    )


def _require_use_of_images(plan: Plan, target: TracedModel) -> None:
    """Check that the target can do with images what the plan asks for; raise PlanError if not."""
    problems = []
    if plan.data is not None:
        require_images(target.spec, "data")
    if plan.recalibrate and not tracking_norms(target.model):
        problems.append("recalibrate: the target has no BatchNorm with running statistics; drop it")
    if target.library.outputs_may_grow(target.model):
        problems += [
            f"{axis}.operator: {section.operator} needs the classes of images, and the target has no classifier "
            "(num_classes 0); grow a checkpoint with its head, or use an operator that needs no images"
            for axis, section in (("width", plan.width), ("depth", plan.depth))
            if isinstance(section, SeesImages)
        ]
    if problems:
        raise PlanError(problems)


def recipe_of(plan: Plan, checkpoint: Checkpoint, matching: Matching) -> Recipe:
    """Return the recipe for two matched models, by a plan that leaves no operator open.

    Raises:
        PlanError: the target cannot be reached; every problem found, each with its place and remedy.
    """
    source, target = matching.source, matching.target
    growing = growing_by(plan, matching)
    promise, eps = promise_of(growing)
    told = told_eps(plan, target, eps)
    handing = growing.starts.closing.handing
    if told.exact and not handing.norms:
        promise = Promise("exact")
    templates = source_templates(plan, checkpoint, source)
    tensors = tensor_recipes(growing, checkpoint)
    torn = torn_ties(tensors.values(), source.model)
    if torn:
        known = promise.obstacles if promise.kind == "lossy" else ()
        by_name = any(obstacle.why is Why.BY_NAME for obstacle in known)
        ties = blamed(obstacles(Why.TIES, torn), None if by_name else "target")
        promise = Promise("lossy", (*ties, *known))
    return Recipe(
        plan=plan,
        source=checkpoint,
        second=second_source(plan, checkpoint, source),
        target=_typed(plan, target, told.spec),
        tensors=tensors,
        templates=templates,
        form=target_form(plan, tensors, templates),
        widths=tuple(growing.widths.changes.values()),
        promise=promise,
        eps={**told.left, **without_eps(handing.norms)},
        source_eps=without_eps({matching.blocks.source_name(norm): handing.norms[norm] for norm in handing.fronts}),
        matching=matching,
        expansions=growing.widths.expansions,
        measured=growing.widths.measured,
        outputs=tuple(_output_maps(axes, growing.widths) for axes in matching.outputs),
        models=(source.model, told.model),
        needed_import=target.library.needed_import(told.spec),
    )


def _typed(plan: Plan, target: TracedModel, spec: ModelSpec) -> ModelSpec:
    """Return the target's spec with the type in which its weights are written, if the plan gives one."""
    return spec if plan.output.dtype == "same" else target.library.typed(spec, plan.output.dtype)


def _output_maps(axes: Sequence[PairedAxis], widths: Widths) -> tuple[AxisMap, ...]:
    """Return how the dimensions of a returned tensor grow.

    Raises:
        PlanError: a dimension grows that carries channels of no tensor of the model.
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


def traced_target(target: Target, source: TracedModel) -> TracedModel:
    """Build and trace a plan's target.

    Args:
        target: as the plan says.
        source: the model that grows.

    Raises:
        PlanError: the plan's arguments make no model, or one that does not run.
    """
    specs, remarks = target_specs(target, source)
    where = "target.model_args" if target.model_args and target.model is None else "target"
    try:
        spec, model = _first_built(specs, where)
    except CheckpointError as error:
        raise PlanError(unknown_arguments(target, source.spec) or error.problems) from error
    try:
        return TracedModel.around(spec, model, remarks)
    except CheckpointError as error:
        words, size = source.library.words, meta_inputs(spec, model, 1).sizes
        raise PlanError(
            f"{where}: {source.library.name} builds {spec.architecture} so, but it does not run on "
            f"{words.sized(size)}{words.in_axes}: {type(error.__cause__).__name__}: {error.__cause__}; expected "
            f"arguments that fit each other, found {spec.described}"
        ) from error


def _first_built(specs: Sequence[ModelSpec], where: str) -> tuple[ModelSpec, nn.Module]:
    """Return the first spec that can be built, with its model.

    Raises:
        CheckpointError: no spec can be built; it is that of the first.
    """
    refused = list[CheckpointError]()
    for spec in specs:
        try:
            return spec, build(spec, where=where)
        except CheckpointError as error:
            refused.append(error)
    raise refused[0]
