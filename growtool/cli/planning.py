"""The plan of `growtool grow`: read from a file or made from options, and changed by further options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growtool.cli.opening import told_arguments
from growtool.errors import PlanError, did_you_mean

if TYPE_CHECKING:
    from growtool.plan import LoadedPlan, Plan

_FROM_OPTIONS = Path("plan.yaml")  # name of a plan made from options; so is the copy beside the output called


def asked_plan(
    plan: Path | None, width: str | None, depth: str | None, operators: Sequence[str], data: Path | None
) -> LoadedPlan:
    """Return the plan in a file, or the one that `--width`, `--depth` and `--operator` stand for.

    Args:
        plan: the file, if there is one.
        width: factor of `--width`, as it was written.
        depth: factor of `--depth`, or the number of blocks of each stage separated by commas.
        operators: names of `--operator`.
        data: folder of images for a plan made from options; `overridden` puts it into a plan from a file.

    Raises:
        PlanError: a file and options are given, or neither, or what is given is no plan.
    """
    from growtool.plan import load_plan

    options = [("--width", width), ("--depth", depth), *(("--operator", name) for name in operators)]
    given = [f"{name} {value}" for name, value in options if value is not None]
    if plan is not None and given:
        raise PlanError(
            f"{', '.join(given)}: found beside the plan {plan}, expected one of them; say it in the plan, or leave the "
            "plan out"
        )
    if plan is not None:
        return load_plan(plan)
    if width is None and depth is None:
        raise PlanError(
            f"{', '.join(given) or 'growtool grow'}: found nothing to grow to, expected a plan, --width or --depth; "
            "such as `growtool grow CHECKPOINT --width 2`"
        )
    return _from_options(width, depth, operators, data)


def _from_options(width: str | None, depth: str | None, operators: Sequence[str], data: Path | None) -> LoadedPlan:
    """Make a plan from options; see `asked_plan`."""
    from pydantic import ValidationError

    from growtool.plan import LoadedPlan
    from growtool.plan.document import parse_word
    from growtool.plan.explain import explain
    from growtool.plan.schema import Plan

    scale: dict[str, Any] = {} if width is None else {"width": parse_word(width)[0]}
    if depth is not None:
        numbers = [parse_word(number)[0] for number in depth.split(",")]
        scale["depth"] = numbers if "," in depth else numbers[0]
    sections = _sections(operators)
    factors = {"width": width, "depth": depth}
    if idle := [
        f"--operator {name}: found without --{axis}, expected both"
        for axis, name in sections.items()
        if factors[axis] is None
    ]:
        raise PlanError(idle)
    # `scale: 2` is short for `scale: {width: 2}`, and the plan is written beside the output in its shortest form
    content = {"scale": scale.get("width") if depth is None else scale, **sections}
    content |= {} if data is None else {"data": {"path": str(data)}}
    options = {f"target.scale.{axis}": f"--{axis} {factor}" for axis, factor in factors.items() if factor is not None}
    try:
        return LoadedPlan.of(content, _FROM_OPTIONS, options)
    except ValidationError as error:
        found = error.errors(include_url=False)
        problems = [f"{_option(details['loc'], operators)}{explain(details, Plan)}" for details in found]
        raise PlanError(problems) from error


def _sections(operators: Sequence[str]) -> dict[str, str]:
    """Return the operator of `width` and of `depth`, of those that `--operator` names: axis -> operator.

    Raises:
        PlanError: one is unknown, or two are for one axis.
    """
    from growtool.operators.table import OPERATORS

    problems: list[str] = []
    sections: dict[str, str] = {}
    for name in operators:
        if name not in OPERATORS:
            known = f"expected one of {', '.join(OPERATORS)}{did_you_mean(name, OPERATORS)}"
            problems.append(f"--operator {name}: no such operator, {known}")
            continue
        for axis in OPERATORS[name].axes:
            if axis in sections:
                found = f"found {sections[axis]} for the {axis} already, expected one; drop one"
                problems.append(f"--operator {name}: {found}")
            sections.setdefault(axis, name)
    if problems:
        raise PlanError(problems)
    return sections


def _option(loc: Sequence[str | int], operators: Sequence[str]) -> str:
    """Return the option that a place in the plan comes from, as a message begins with it."""
    if tuple(loc[:2]) == ("target", "scale"):
        return f"--{loc[2]}: " if len(loc) > 2 else "--width: "
    named = [str(part) for part in loc if part in operators]
    return f"--operator {named[0]}: " if named else f"--operator {' '.join(operators)}: "


def overridden(
    loaded: LoadedPlan,
    *,
    model: str | None,
    model_args: Sequence[str],
    data: Path | None,
    recalibrate: bool,
    seed: int | None,
    allow_lossy: bool,
) -> LoadedPlan:
    """Return the plan with values of options in place of its own; each option is that of `growtool grow`.

    Raises:
        PlanError: images are given that nothing looks at, or none are there to recalibrate from; `model_args` are
            malformed or given without a model.
    """
    from growtool.plan.schema import Data

    plan, arguments = loaded.plan, told_arguments(model, model_args)
    changes: dict[str, object] = {} if seed is None else {"seed": seed}
    if model is not None:
        changes |= {"model": model, "model_args": {**plan.model_args, **arguments}}
    if data is not None:
        if not (plan.seeing or plan.recalibrate or recalibrate):
            raise PlanError(
                f"--data {data}: found images that nothing in the plan looks at; drop the option, add --recalibrate, "
                "or name an operator that sees images (gradmax, ligo, mixing)"
            )
        changes["data"] = plan.data.model_copy(update={"path": str(data)}) if plan.data else Data(path=str(data))
    if recalibrate:
        changes["recalibrate"] = True
        if plan.data is None and data is None:
            raise PlanError("--recalibrate: found no images to see, expected --data DIR or `data` in the plan; add one")
    if allow_lossy:
        changes["allow_lossy"] = True
    changed: Plan = plan.model_copy(update=changes)
    return loaded.with_plan(changed)
