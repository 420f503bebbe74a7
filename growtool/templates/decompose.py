"""Decomposing a dense checkpoint into banks of templates and coefficients over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from growtool.checkpoint import Form, Layout, Templated, TensorInfo, coefficients_of, in_type, is_finite
from growtool.errors import CheckpointError, PlanError
from growtool.templates.factorise import Factored, low_rank_atoms, shared_directions
from growtool.templates.grouping import like_tensors, templatable
from growtool.templates.measures import BankReport, gram, report_bank
from growtool.templates.source import ExactForm, Read, bank_name, exact_form
from growtool.trace import Trace

Kind = Literal["raw", "svd", "sub_block", "low_rank"]


@dataclass(frozen=True, slots=True)
class Request:
    """Which banks to make.

    Attributes:
        kind: what the templates are. `raw`: the layers themselves; `sub_block`: equal parts of them; `svd`: their
            principal directions; `low_rank`: rank-one matrices of each.
        parts: with `sub_block`, the number of parts that the channels on either side of a layer are cut into.
        rank: with `svd`, the number of templates of a bank; with `low_rank`, that of a layer.
        energy: used if `rank` is None: the part of the squared norm to keep.
    """

    kind: Kind = "raw"
    parts: int = 2
    rank: int | None = None
    energy: float = 0.99


@dataclass(frozen=True)
class Decomposition:
    """A checkpoint in template form, ready to be written.

    Attributes:
        form: the map of the banks and their tensors.
        infos: shape and type of every tensor of the file.
        produce: makes the tensor of a name in `infos`.
        reports: the measures of each bank.
    """

    form: Form
    infos: Mapping[str, TensorInfo]
    produce: Callable[[str], Tensor]
    reports: tuple[BankReport, ...]


def coefficient_dtype(dtype: str) -> str:
    """Return the type of the coefficients over templates of a type: float64 for float64, else float32.

    Types with fewer digits would leave a rest where sums of templates cancel.
    """
    return dtype if dtype == "F64" else "F32"


def decompose(
    request: Request, model: nn.Module, trace: Trace, tensors: Mapping[str, TensorInfo], read: Read
) -> Decomposition:
    """Find banks for the layers of a checkpoint.

    Args:
        request: which banks.
        model: the model's skeleton.
        trace: its trace.
        tensors: shapes and types of the checkpoint's tensors.
        read: returns the tensor of a name.

    Raises:
        PlanError: no layer can be cut into so many parts.
        CheckpointError: a layer holds numbers that are not finite.
    """
    weights = templatable(model, trace, tensors)
    if request.kind in ("raw", "sub_block"):
        parts = request.parts if request.kind == "sub_block" else 1
        exact = exact_form(weights, trace, parts=parts, kind=request.kind)
        if parts > 1 and all(t.rows.blocks == t.columns.blocks == 1 for t in exact.form.tensors.values()):
            raise PlanError(
                f"parts: found {parts}, which divides the channels of no layer, expected a number that does"
            )
        return _exact(exact, tensors, read)
    return _factorised(request, weights, tensors, read)


def _exact(exact: ExactForm, tensors: Mapping[str, TensorInfo], read: Read) -> Decomposition:
    """Return the decomposition by banks of layers or their parts, whose numbers are read when they are written."""
    form = exact.form
    infos = {name: info for name, info in tensors.items() if name not in form.tensors}
    makers: dict[str, Callable[[], Tensor]] = {}
    for bank in form.banks:
        (part,) = form.parts(bank)
        infos[part] = exact.info(bank, tensors)
        makers[part] = partial(exact.stacked, bank, read)
    for name, templated in form.tensors.items():
        shape = (templated.rows.blocks, templated.columns.blocks, len(exact.pieces[templated.bank]))
        infos[coefficients_of(name)] = TensorInfo(shape, coefficient_dtype(tensors[name].dtype))
        makers[coefficients_of(name)] = partial(exact.coefficients, name)

    def report(bank: str) -> BankReport:
        C = {name: exact.coefficients(name) for name in form.members(bank)}
        G = gram(exact.bank(bank, read))
        return report_bank(form, bank, G, C, stored=infos, dense=tensors, error=0.0)

    return Decomposition(form, infos, _producer(infos, makers, read), tuple(map(report, form.banks)))


def _factorised(
    request: Request, weights: Mapping[str, TensorInfo], tensors: Mapping[str, TensorInfo], read: Read
) -> Decomposition:
    """Return the decomposition by banks of directions or rank-one matrices, which are computed."""
    groups = _groups(request.kind, weights)
    factorise = shared_directions if request.kind == "svd" else low_rank_atoms
    form = Form(
        dict.fromkeys(groups, request.kind),
        {
            name: Templated(bank, Layout.whole(tensors[name].shape[0]), Layout.whole(tensors[name].shape[1]))
            for bank, names in groups.items()
            for name in names
        },
    )
    infos = {name: info for name, info in tensors.items() if name not in form.tensors}
    makers: dict[str, Callable[[], Tensor]] = {}
    reports = []

    def factors(bank: str) -> Factored:
        layers = [_finite(name, read(name)) for name in groups[bank]]
        return factorise(layers, rank=request.rank, energy=request.energy)

    # Coefficients are few and are kept. Templates are as large as layers, and are computed again when they are written.
    for bank, names in groups.items():
        made, dtype = factors(bank), tensors[names[0]].dtype
        C = {name: made.coefficients[row][None, None] for row, name in enumerate(names)}
        for place, part in enumerate(form.parts(bank)):
            infos[part] = TensorInfo(tuple(made.parts[place].shape), dtype)
            makers[part] = partial(lambda bank, place: factors(bank).parts[place], bank, place)
        for name, c in C.items():
            infos[coefficients_of(name)] = TensorInfo(tuple(c.shape), coefficient_dtype(dtype))
            makers[coefficients_of(name)] = partial(torch.clone, c)
        G = gram(made, made.parts if len(made.parts) == 2 else None)
        reports.append(report_bank(form, bank, G, C, stored=infos, dense=tensors, error=made.error))
    return Decomposition(form, infos, _producer(infos, makers, read), tuple(reports))


def _finite(name: str, W: Tensor) -> Tensor:
    """Return a weight; raise CheckpointError if it holds a number that is not finite, for which there is no SVD."""
    if not bool(is_finite(W).all()):
        raise CheckpointError(f"{name}: found a value that is not finite, expected finite ones to find templates for")
    return W


def _producer(
    infos: Mapping[str, TensorInfo], makers: Mapping[str, Callable[[], Tensor]], read: Read
) -> Callable[[str], Tensor]:
    return lambda name: in_type(name, makers[name](), infos[name].torch_dtype) if name in makers else read(name)


def _groups(kind: str, weights: Mapping[str, TensorInfo]) -> dict[str, tuple[str, ...]]:
    """Return the layers of each bank; only a bank of rank-one matrices may have a single layer."""
    groups: dict[str, tuple[str, ...]] = {}
    for group in dict.fromkeys(like_tensors(weights).values()):
        shape = weights[group[0]].shape
        if len(group) > 1 or (kind == "low_rank" and min(shape[:2]) > 1):
            groups[bank_name(group[0], shape, groups)] = group
    return groups
