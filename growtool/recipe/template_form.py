"""Template form: which tensors of a growth keep it, and what the file then holds."""

from __future__ import annotations

from collections.abc import Mapping

from growtool.checkpoint import Checkpoint, Form, Templated, TensorInfo, coefficients_of
from growtool.errors import PlanError, format_names
from growtool.operators.table import OPERATORS
from growtool.plan.depth import Mixing
from growtool.plan.schema import Plan
from growtool.plan.width import Mixture
from growtool.recipe.recipe import Kept, TargetForm, TensorRecipe, written_dtype
from growtool.recipe.traced_model import TracedModel
from growtool.templates.decompose import coefficient_dtype
from growtool.templates.grouping import templatable
from growtool.templates.lift import lift
from growtool.templates.source import ExactForm, Templates, exact_form

_PARTS = 2  # per side, into which a sub-block bank cuts layers if the plan does not say


def source_templates(plan: Plan, checkpoint: Checkpoint, source: TracedModel) -> Templates:
    """Return the templates that a growth may use: those in the file, and for other tensors layers or parts of layers.

    None of the latter are looked for unless the plan grows by `mixture` or writes template form.

    Args:
        plan: says the bank.
        checkpoint: what grows.
        source: its model.

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
    weights, parts = templatable(source.model, source.trace, rest), parts if kind == "sub_block" else 1
    return Templates(checkpoint, exact_form(weights, source.trace, parts=parts, kind=kind, taken=stored.banks))


def target_form(plan: Plan, tensors: Mapping[str, TensorRecipe], templates: Templates) -> TargetForm | None:
    """Return the form of the output, or None if it is dense.

    A source in template form keeps it, as far as the operators can, unless the plan says otherwise.

    Args:
        plan: may ask for a form.
        tensors: how each tensor is made.
        templates: what the source's tensors are combinations of.

    Raises:
        PlanError: the plan asks for template form, and a tensor with templates cannot keep it, or no tensor has any.
    """
    stored = templates.checkpoint.form
    wanted = plan.output.form or ("dense" if stored is None else "template")
    if wanted == "dense":
        return None
    kept: dict[str, Kept] = {}
    templated: dict[str, Templated] = {}
    dense: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        origin = templates.form.tensors.get(tensor.source or "")
        if origin is None or (plan.output.form is None and stored and tensor.source not in stored.tensors):
            continue
        grown = _kept(plan, tensor, origin)
        if isinstance(grown, str):
            dense.setdefault(grown, []).append(name)
        else:
            kept[name], templated[name] = grown
    if plan.output.form == "template" and (dense or not kept):
        reasons = [f"{why} ({format_names(names)})" for why, names in dense.items()]
        why = "; ".join(reasons) or "no two layers of a stage have the same shape"
        raise PlanError(f"output.form: found template, and it cannot be kept: {why}; use form: dense")
    banks = {t.bank: templates.form.banks[t.bank] for t in templated.values()}
    form = Form(banks, templated)
    losses = {why: tuple(names) for why, names in dense.items()}
    return TargetForm(form, kept, _infos(plan, form, kept, templates), losses)


def _kept(plan: Plan, tensor: TensorRecipe, origin: Templated) -> tuple[Kept, Templated] | str:
    """Return how a tensor's grid grows and its layout in the target, or why it becomes dense."""
    if any(not axis.is_identity for axis in tensor.maps[2:]):
        return "a dimension other than rows and columns grows"
    if tensor.paired or tensor.cancelling is not None:
        return "it belongs to a new block whose weights cancel in pairs"
    if isinstance(plan.depth, Mixing):
        return "mixing learns its weights"
    if tensor.rewrite is not None and not tensor.rewrite.only_scales:
        return "it is rewritten before it grows"
    width = tensor.width if not tensor.is_copy and not tensor.zero else None
    if width is not None and not OPERATORS[width.operator].abilities().in_span(width):
        return f"{width.operator} makes new weights that are no combinations of the templates"
    sides = [lift(axis, layout) for axis, layout in zip(tensor.maps, (origin.rows, origin.columns), strict=False)]
    if sides[0] is None or sides[1] is None:
        return "growth copies parts of blocks; a bank of sub_block with matching parts has them whole"
    (rows, row_layout), (columns, column_layout) = sides[0], sides[1]
    return Kept(rows, columns), Templated(origin.bank, row_layout, column_layout)


def _infos(plan: Plan, form: Form, kept: Mapping[str, Kept], templates: Templates) -> dict[str, TensorInfo]:
    """Return shapes and types of the banks of a form, and of the coefficients of the tensors in it."""
    infos: dict[str, TensorInfo] = {}
    dtypes: dict[str, str] = {}
    for bank in form.banks:
        for part, info in templates.part_infos(bank).items():
            dtypes[bank] = written_dtype(plan, info)
            infos[part] = TensorInfo(info.shape, dtypes[bank])
    for name, sides in kept.items():
        bank = form.tensors[name].bank
        shape = (len(sides.rows.index), len(sides.columns.index), templates.bank(bank).count)
        infos[coefficients_of(name)] = TensorInfo(shape, coefficient_dtype(dtypes[bank]))
    return infos
