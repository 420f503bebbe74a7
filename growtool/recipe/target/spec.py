"""What to grow to: a plan's target as a model with its arguments."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

from torch import nn

from growtool.errors import CheckpointError, PlanError, format_names
from growtool.library import ModelSpec, build, library_of
from growtool.library.paths import is_path
from growtool.library.values import Value, as_lists, leaves, scaled_at, times, with_leaves
from growtool.plan.target import Scale, Target, factor_text
from growtool.recipe.target.rounding import even_ratios
from growtool.recipe.target.size_arguments import SizeArguments, find_size_arguments
from growtool.recipe.target.trials import Built, Trials
from growtool.recipe.target.widening import LEAST_REACH
from growtool.trace import Trace


class CannotScaleWidthError(PlanError):
    """No argument changes the width of a model."""


_NOT_INHERITED = ("growtool",)  # the source's own history is told in the new lineage


def target_specs(
    target: Target, spec: ModelSpec, model: nn.Module, trace: Trace
) -> tuple[tuple[ModelSpec, ...], tuple[str, ...]]:
    """The target's spec, with another for where the library refuses to build it, and what a factor leaves as it is.

    Args:
        target: as the plan says.
        spec: the source.
        model: its skeleton.
        trace: its trace.

    Raises:
        PlanError: the constructor cannot be scaled so, with what can be reached instead.
    """
    extra = {key: value for key, value in spec.extra.items() if key not in _NOT_INHERITED}
    if target.model is not None:
        library = library_of(spec)
        named = library.named(replace(spec, extra=extra), target.model, target.model_args)
        return (library.opened(named) if any(map(is_path, named.model_args)) else named,), ()
    base = replace(spec, extra=extra)
    if target.scale is None:
        return _accepting(base, target.model_args), ()
    base, size_arguments = scalable(target.scale, base, model, trace)
    scaled, said = scaled_spec(target.scale, base, model, trace, size_arguments)
    return (scaled,), (*said, *_kept_stages(target.scale, size_arguments))


def _accepting(base: ModelSpec, args: Mapping[str, Any]) -> tuple[ModelSpec, ...]:
    """The source with other arguments, and the same by the library's further way; that alone for paths inside one."""
    plain, wide = base.with_args(**args), library_of(base).opened(base).with_args(**args)
    return (wide,) if any(map(is_path, args)) else (plain, wide)


def unknown_arguments(target: Target, spec: ModelSpec) -> list[str]:
    """A line for each of a target's arguments that its constructor has no use for, once it has refused to build it.

    Constructors hand on what they do not name themselves, so an argument counts as unknown only if no function on the
    way names it and the model builds without any other argument of the plan but not with it.
    """
    library = library_of(spec)
    base = spec if target.model is None else replace(library.named(spec, target.model, {}), model_args={})
    if not _builds(base):
        return []
    known = library.arguments(base, build(base))
    return [
        f"target.model_args.{name}: no argument of {base.architecture}'s constructor{_near(name, known, library.name)}"
        for name, value in target.model_args.items()
        if name not in known and not is_path(name) and not _builds(base.with_args(**{name: value}))
    ]


def _near(name: str, known: Iterable[str], library: str) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return (
        f"; did you mean {near[0]!r}?"
        if near
        else f"; drop it, or see {library}'s file of the model for those there are"
    )


def _builds(spec: ModelSpec) -> bool:
    try:
        build(spec)
    except CheckpointError:
        return False
    return True


def scalable(
    scale: Scale, base: ModelSpec, model: nn.Module, trace: Trace, built: Built | None = None
) -> tuple[ModelSpec, SizeArguments]:
    """What is scaled: the constructor's own arguments where they can, else those of the library's further way.

    Args:
        scale: tells what has to be scaled.
        base: the source.
        model: its skeleton.
        trace: its trace.
        built: see `find_size_arguments`.
    """
    axes = [axis for axis, factor in (("width", scale.width), ("depth", scale.depth)) if factor not in (None, 1)]
    size_arguments = find_size_arguments(base, model, trace, axes, built)
    lacking = [axis for axis in axes if not getattr(size_arguments, axis)]
    joint = size_arguments.joint
    little = "width" in axes and size_arguments.reach < LEAST_REACH
    opening = library_of(base).opened(base)
    if lacking or joint or little or (not size_arguments.closes and opening != base):
        more = find_size_arguments(opening, model, trace, axes, built)
        further = little and more.reach >= LEAST_REACH and more.joint <= size_arguments.joint
        closing = more.closes and not size_arguments.closes and bool(more.width or not size_arguments.width)
        better = further or (bool(more.depth) and closing) or (bool(more.width) and more.joint < joint)
        if better or any(getattr(more, what) for what in lacking):
            base, size_arguments = opening, more
    return base, size_arguments


def _kept_stages(scale: Scale, size_arguments: SizeArguments) -> tuple[str, ...]:
    """A sentence where a factor for the depth does not reach all stages."""
    name, value = next(iter(size_arguments.depth.items()), ("", 0))
    stages = size_arguments.stages.get(name)
    if not isinstance(scale.depth, float) or stages is None or len(stages) == len(leaves(value)):
        return ()
    old, new = list(leaves(value)), list(leaves(scaled_at(value, scale.depth, stages)))
    return (
        f"depth: {name} {old} become {new}; the other stages stay, as they have no block to copy and new ones no "
        "residual connection to start closed with",
    )


def scaled_spec(
    scale: Scale, base: ModelSpec, model: nn.Module, trace: Trace, size_arguments: SizeArguments
) -> tuple[ModelSpec, tuple[str, ...]]:
    """The spec with larger arguments, and a sentence on each that changes otherwise so that widths come out.

    Args:
        scale: how much larger.
        base: what is scaled.
        model: the skeleton of the source.
        trace: its trace.
        size_arguments: which arguments to scale; see `scalable`.

    Raises:
        CannotScaleWidthError: no argument makes it wider.
        PlanError: no argument does it, or a count would become a fraction.
    """
    args: dict[str, Any] = {}
    problems, said = list[str](), list[str]()
    wider = scale.width is not None and scale.width != 1
    if scale.width is not None and wider:
        if not size_arguments.width:
            problems.append(_unreachable("width", base, size_arguments.unkept))
        args |= {
            name: scaled_at(value, scale.width, size_arguments.stages.get(name))
            for name, value in size_arguments.width.items()
        }
        problems += _not_whole("width", size_arguments.width, scale.width, size_arguments.stages)
    if scale.depth is not None and scale.depth != 1:
        if not size_arguments.depth:
            problems.append(_unreachable("depth", base))
        else:
            for name in size_arguments.together if isinstance(scale.depth, float) else size_arguments.together[:1]:
                args[name], wrong = _depths(
                    scale.depth, name, size_arguments.depth[name], size_arguments.stages.get(name)
                )
                problems += wrong
            said += _let_fall(args, size_arguments)
    if problems:
        raise CannotScaleWidthError(problems) if wider and not size_arguments.width else PlanError(problems)
    if scale.width is not None and wider:
        numbers = library_of(base).numbers(base, model)
        fractions = {n: v for n, v in numbers.items() if n not in args and isinstance(v, float) and not v.is_integer()}
        ratios, evened = even_ratios(args, fractions, scale.width, Trials(base, model, trace))
        args |= ratios
        said += evened
    return base.with_args(**{name: as_lists(value) for name, value in args.items()}), tuple(said)


def _let_fall(args: dict[str, Any], size_arguments: SizeArguments) -> list[str]:
    """Lower in `args` what falls as the number of blocks rises; a sentence on each that is another than before."""
    said = []
    for name, (other, number) in size_arguments.against.items():
        before, now = size_arguments.depth[name], args.get(name)
        if isinstance(before, int) and isinstance(now, int):
            args[other] = float(f"{args.get(other, number) * before / now:.12g}")
            if args[other] != number:
                said.append(f"depth: {other} {number:g} becomes {args[other]:g}, so that widths rise more slowly")
    return said


def _depths(
    depth: float | tuple[int, ...], name: str, value: Value, stages: frozenset[int] | None
) -> tuple[Value, list[str]]:
    if isinstance(depth, float):
        places = {} if stages is None else {name: stages}
        return scaled_at(value, depth, stages), _not_whole("depth", {name: value}, depth, places)
    current = leaves(value)
    if len(depth) != len(current):
        return value, [
            f"target.scale.depth: found {len(depth)} numbers {list(depth)}, expected {len(current)}: "
            f"the source has {name} = {list(current)}"
        ]
    return with_leaves(value, depth), []


def _not_whole(
    what: str, size_arguments: Mapping[str, Value], factor: float, places: Mapping[str, Collection[int]]
) -> list[str]:
    """A line if some count would become a fraction, with the nearest factors that work."""
    broken, counts = [], []
    for name, value in size_arguments.items():
        for place, part in enumerate(leaves(value)):
            if isinstance(part, int) and place in places.get(name, (place,)):
                counts.append(part)
                product = times(part, factor)
                if not isinstance(product, int):
                    broken.append(f"{name} {part} x {factor_text(factor)} = {product:g}")
    if not broken:
        return []
    step = math.gcd(*counts)
    nearest = " or ".join(
        factor_text(Fraction(n, step)) for n in (math.floor(factor * step), math.ceil(factor * step)) if n > step
    )
    are = "is not a whole number" if len(broken) == 1 else "are not whole numbers"
    return [f"target.scale.{what}: {format_names(broken, 2)} {are}; nearest factors that fit: {nearest}"]


def _unreachable(what: str, spec: ModelSpec, unkept: str = "") -> str:
    said = f"target.scale.{what}: no argument of {library_of(spec).kind(spec)}'s constructor"
    if what == "width":
        return f"{said} changes its width" + (f" and keeps the rest; {unkept}" if unkept else "")
    return (
        f"{said} adds blocks like those there are or residual ones, nor does a number or a list inside one; name a "
        "deeper model with `target: {model: NAME}`, or arguments with `target: {model_args: ...}`"
    )
