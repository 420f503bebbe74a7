"""What of a growth stays in template form, and what the file then holds."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from growtool.checkpoint import Checkpoint, Form, Templated, TensorInfo, coefficients_of
from growtool.errors import PlanError, format_names
from growtool.operators.table import OPERATORS
from growtool.plan.depth import Mixing
from growtool.plan.schema import Plan
from growtool.plan.width import Mixture
from growtool.recipe.recipe import Kept, TargetForm, TensorRecipe, written_dtype
from growtool.templates.decompose import coefficient_dtype
from growtool.templates.lift import lift
from growtool.templates.source import ExactForm, Templates, exact_form
from growtool.trace import Trace

_PARTS = 2  # of a sub-block bank, where the plan does not say


def source_templates(plan: Plan, checkpoint: Checkpoint, model: nn.Module, trace: Trace) -> Templates:
    """The templates a growth may use: those the checkpoint stores, and layers or parts of layers for the others.

    Raises:
        PlanError: the plan names a bank for a checkpoint that has its own.
    """
    width = next((section for section in plan.widths if isinstance(section, Mixture)), None)
    if checkpoint.form is not None and width is not None and width.bank is not None:
        raise PlanError(
            f"width.bank: found {width.bank!r}, and {checkpoint.name} is in template form and brings its own banks; "
            "drop bank, or export the checkpoint first"
        )
    if width is None and plan.output.form != "template":
        return Templates(checkpoint, ExactForm(Form({}, {}), {}, {}))
    stored = checkpoint.form or Form({}, {})
    rest = {name: info for name, info in checkpoint.tensors.items() if name not in stored.tensors}
    kind = (width.bank if width else None) or "raw"
    parts = (width.parts if width else None) or _PARTS
    exact = exact_form(
        model, trace, rest, parts=parts if kind == "sub_block" else 1, kind=kind, taken=set(stored.banks)
    )
    return Templates(checkpoint, exact)


def target_form(plan: Plan, tensors: Mapping[str, TensorRecipe], templates: Templates) -> TargetForm | None:
    """The form of the output; None where it is dense.

    A source in template form keeps it where the plan does not say otherwise, as far as the operator can.

    Raises:
        PlanError: the plan asks for template form, and a tensor of the source's form cannot keep it, or nothing has it.
    """
    stored = templates.checkpoint.form
    wanted = plan.output.form or ("dense" if stored is None else "template")
    if wanted == "dense":
        return None
    kept: dict[str, Kept] = {}
    templated: dict[str, Templated] = {}
    left: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        origin = templates.form.tensors.get(tensor.source or "")
        if origin is None or (plan.output.form is None and stored and tensor.source not in stored.tensors):
            continue
        found = _kept(plan, tensor, origin)
        if isinstance(found, str):
            left.setdefault(found, []).append(name)
        else:
            kept[name], templated[name] = found
    if plan.output.form == "template" and (left or not kept):
        reasons = [f"{why} ({format_names(names)})" for why, names in left.items()]
        why = "; ".join(reasons) or "no two layers of a stage have the same shape"
        raise PlanError(f"output.form: found template, and it cannot be kept: {why}; use form: dense")
    banks = {t.bank: templates.form.banks[t.bank] for t in templated.values()}
    form = Form(banks, templated)
    losses = {why: tuple(names) for why, names in left.items()}
    return TargetForm(form, kept, _infos(plan, form, kept, templates), losses)


def _kept(plan: Plan, tensor: TensorRecipe, origin: Templated) -> tuple[Kept, Templated] | str:
    """How the tensor's grid grows, or why it does not."""
    if any(not axis.is_identity for axis in tensor.maps[2:]):
        return "a dimension other than rows and columns grows"
    if tensor.paired or tensor.cancelling is not None:
        return "it belongs to a new block whose weights cancel in pairs"
    if isinstance(plan.depth, Mixing):
        return "mixing learns its weights"
    if tensor.rewrite is not None and not tensor.rewrite.only_scales:
        return "it is rewritten before it grows"
    grown = tensor.width if not tensor.is_copy and not tensor.zero else None
    if grown is not None and not OPERATORS[grown.operator].abilities().in_span(grown):
        return f"{grown.operator} makes new weights that are no combinations of the templates"
    sides = [lift(axis, layout) for axis, layout in zip(tensor.maps, (origin.rows, origin.columns), strict=False)]
    if sides[0] is None or sides[1] is None:
        return "growth copies parts of blocks; a bank of sub_block with matching parts has them whole"
    (rows, row_layout), (columns, column_layout) = sides[0], sides[1]
    return Kept(rows, columns), Templated(origin.bank, row_layout, column_layout)


def _infos(plan: Plan, form: Form, kept: Mapping[str, Kept], templates: Templates) -> dict[str, TensorInfo]:
    infos: dict[str, TensorInfo] = {}
    dtypes: dict[str, str] = {}
    for bank in form.banks:
        for part, info in templates.part_infos(bank).items():
            dtypes[bank] = written_dtype(plan, info)
            infos[part] = TensorInfo(info.shape, dtypes[bank])
    for name, sides in kept.items():
        bank = form.tensors[name].bank
        shape = (len(sides.rows.index), len(sides.columns.index), templates.templates(bank))
        infos[coefficients_of(name)] = TensorInfo(shape, coefficient_dtype(dtypes[bank]))
    return infos
