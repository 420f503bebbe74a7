"""What a plan grows to: its target as the spec of a model, with all arguments."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from growtool.errors import CheckpointError, PlanError, format_names
from growtool.library import ModelSpec, build, library_of
from growtool.library.paths import is_path
from growtool.library.values import Value, as_lists, leaves, times, with_leaves
from growtool.plan.target import Scale, Target, factor_text
from growtool.recipe.target.rounding import even_ratios
from growtool.recipe.target.size_arguments import SizeArguments, find_size_arguments
from growtool.recipe.target.trials import Built, Trials
from growtool.recipe.target.widening import LEAST_REACH
from growtool.recipe.traced_model import TracedModel


class CannotScaleWidthError(PlanError):
    """No argument changes the width of a model."""


_NOT_INHERITED = ("growtool",)  # the source's own history is told in the new lineage


def target_specs(target: Target, source: TracedModel) -> tuple[tuple[ModelSpec, ...], tuple[str, ...]]:
    """Return the specs that a target may be built by, the preferred one first, and a sentence on each surprise.

    There is a second spec only where the library may refuse the first. The sentences tell which arguments change beside
    those that are scaled, and which stages a factor leaves as they are.

    Args:
        target: as the plan says.
        source: the model that grows.

    Raises:
        PlanError: the constructor cannot be scaled so; with what can be reached instead.
    """
    extra = {key: value for key, value in source.spec.extra.items() if key not in _NOT_INHERITED}
    spec, library = replace(source.spec, extra=extra), source.library
    if target.model is not None:
        named = library.named(spec, target.model, target.model_args)
        return (library.with_open_arguments(named) if any(map(is_path, named.model_args)) else named,), ()
    if target.scale is None:
        return _accepting(spec, target.model_args), ()
    base, size_arguments = scalable(target.scale, replace(source, spec=spec))
    scaled, remarks = scaled_spec(target.scale, base, size_arguments)
    return (scaled,), (*remarks, *_kept_stages(target.scale, size_arguments))


def _accepting(base: ModelSpec, args: Mapping[str, Any]) -> tuple[ModelSpec, ...]:
    """Return the source with other arguments, plain and opened; opened alone if some are paths inside arguments."""
    plain, wide = base.with_args(**args), library_of(base).with_open_arguments(base).with_args(**args)
    return (wide,) if any(map(is_path, args)) else (plain, wide)


def unknown_arguments(target: Target, spec: ModelSpec) -> list[str]:
    """Return a line for each of a target's arguments that is unknown to its constructor, which has refused to build it.

    Constructors hand on arguments that they do not name themselves. So an argument counts as unknown only if no
    function on the way names it, and if the constructor refuses it where it is the plan's only argument.
    """
    library = library_of(spec)
    base = spec if target.model is None else replace(library.named(spec, target.model, {}), model_args={})
    if not _builds(base):
        return []
    known = library.arguments(base, build(base))
    return [
        f"target.model_args.{name}: no argument of {base.architecture}'s constructor{_hint(name, known, library.name)}"
        for name, value in target.model_args.items()
        if name not in known and not is_path(name) and not _builds(base.with_args(**{name: value}))
    ]


def _hint(name: str, known: Iterable[str], library: str) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    if nearest:
        return f"; did you mean {nearest[0]!r}?"
    return f"; drop it, or see {library}'s file of the model for those there are"


def _builds(spec: ModelSpec) -> bool:
    try:
        build(spec)
    except CheckpointError:
        return False
    return True


def scalable(scale: Scale, source: TracedModel, built: Built | None = None) -> tuple[TracedModel, SizeArguments]:
    """Return the model to scale and its size arguments: the source, or its spec opened where its own do not suffice.

    An opened spec takes more arguments, but searching them takes longer, and its result loads only with growtool.

    Args:
        scale: tells what has to be scaled.
        source: the small model.
        built: see `find_size_arguments`.
    """
    axes = [axis for axis, factor in (("width", scale.width), ("depth", scale.depth)) if factor not in (None, 1)]
    plain = find_size_arguments(source, axes, built)
    lacking = [axis for axis in axes if not getattr(plain, axis)]
    reaches_little = "width" in axes and plain.reach < LEAST_REACH
    opening = replace(source, spec=source.library.with_open_arguments(source.spec))
    if opening.spec == source.spec or not (lacking or plain.joint or reaches_little or not plain.closes):
        return source, plain
    opened = find_size_arguments(opening, axes, built)
    reaches_further = reaches_little and opened.reach >= LEAST_REACH and opened.joint <= plain.joint
    closes_instead = opened.closes and not plain.closes and bool(opened.depth)
    keeps_width = bool(opened.width or not plain.width)
    grows_less_jointly = bool(opened.width) and opened.joint < plain.joint
    better = reaches_further or (closes_instead and keeps_width) or grows_less_jointly
    if better or any(getattr(opened, axis) for axis in lacking):
        return opening, opened
    return source, plain


def _kept_stages(scale: Scale, size_arguments: SizeArguments) -> tuple[str, ...]:
    """Return a sentence if a factor for the depth does not reach all stages."""
    name, value = next(iter(size_arguments.depth.items()), ("", 0))
    stages = size_arguments.stages.get(name)
    if not isinstance(scale.depth, float) or stages is None or len(stages) == len(leaves(value)):
        return ()
    old, new = list(leaves(value)), list(leaves(size_arguments.scaled(name, scale.depth)))
    return (
        f"depth: {name} {old} become {new}; the other stages stay, as they have no block to copy and new ones no "
        "residual connection to start closed with",
    )


def scaled_spec(scale: Scale, base: TracedModel, size_arguments: SizeArguments) -> tuple[ModelSpec, tuple[str, ...]]:
    """Return the spec with larger arguments, and a sentence on each other argument that changes with them.

    Args:
        scale: how much larger.
        base: what is scaled.
        size_arguments: which arguments to scale; see `scalable`.

    Raises:
        CannotScaleWidthError: no argument makes it wider.
        PlanError: no argument makes it deeper, or a count would become a fraction.
    """
    args: dict[str, Any] = {}
    problems, remarks = list[str](), list[str]()
    wider = scale.width if scale.width != 1 else None
    if wider is not None:
        if not size_arguments.width:
            problems.append(_unreachable("width", base.spec, size_arguments.unkept))
        args |= {name: size_arguments.scaled(name, wider) for name in size_arguments.width}
        problems += _not_whole("width", size_arguments.counts(size_arguments.width), wider)
    if scale.depth is not None and scale.depth != 1:
        if not size_arguments.depth:
            problems.append(_unreachable("depth", base.spec))
        else:
            deeper, wrong = _depths(scale.depth, size_arguments)
            args |= deeper
            problems += wrong
            remarks += _let_fall(args, size_arguments)
    if problems:
        if wider is not None and not size_arguments.width:
            raise CannotScaleWidthError(problems)
        raise PlanError(problems)
    if wider is not None:
        numbers = base.library.numbers(base.spec, base.model)
        fractions = {n: v for n, v in numbers.items() if n not in args and isinstance(v, float) and not v.is_integer()}
        ratios, evened = even_ratios(args, fractions, wider, Trials(base))
        args |= ratios
        remarks += evened
    return base.spec.with_args(**{name: as_lists(value) for name, value in args.items()}), tuple(remarks)


def _depths(depth: float | tuple[int, ...], size_arguments: SizeArguments) -> tuple[dict[str, Value], list[str]]:
    """Return the arguments that add blocks with their new values, and a line for each that cannot be so."""
    if isinstance(depth, float):
        names = size_arguments.together
        wrong = [line for name in names for line in _not_whole("depth", size_arguments.counts([name]), depth)]
        return {name: size_arguments.scaled(name, depth) for name in names}, wrong
    # numbers of blocks, stage by stage: those of the first argument alone
    name = size_arguments.together[0]
    value = size_arguments.depth[name]
    current = leaves(value)
    if len(depth) != len(current):
        line = (
            f"target.scale.depth: found {len(depth)} numbers {list(depth)}, expected {len(current)}: "
            f"the source has {name} = {list(current)}"
        )
        return {name: value}, [line]
    return {name: with_leaves(value, depth)}, []


def _let_fall(args: dict[str, Any], size_arguments: SizeArguments) -> list[str]:
    """Lower in `args` each number that falls as the number of blocks rises, and return a sentence on each change.

    A width factor may have raised such a number, so that it ends up where it was.
    """
    remarks = []
    for name, (other, number) in size_arguments.against.items():
        before, after = size_arguments.depth[name], args.get(name)
        if isinstance(before, int) and isinstance(after, int):
            args[other] = float(f"{args.get(other, number) * before / after:.12g}")
            if args[other] != number:
                remarks.append(f"depth: {other} {number:g} becomes {args[other]:g}, so that widths rise more slowly")
    return remarks


def _not_whole(what: str, counts: Sequence[tuple[str, int]], factor: float) -> list[str]:
    """Return a line if some count would become a fraction, with the nearest factors that work."""
    broken = [
        f"{name} {count} x {factor_text(factor)} = {product:g}"
        for name, count in counts
        if not isinstance(product := times(count, factor), int)
    ]
    if not broken:
        return []
    step = math.gcd(*(count for _, count in counts))
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
