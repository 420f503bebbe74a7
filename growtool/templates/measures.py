"""Measures of a bank: how alike its blocks are, and how much room its templates leave for new ones.

All follow from the inner products of the templates, `G_TT`, and the coefficients of all blocks, `A_mT`: the inner
products of the blocks `B = A T` are `A G A^T`. So no block has to be made.

Axes: T templates; m blocks of all layers of the bank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from growtool.checkpoint import Checkpoint, Form, TensorInfo, coefficients_of
from growtool.checkpoint.materialise import Bank
from growtool.errors import CheckpointError
from growtool.templates.coefficients import null_space

_CHUNK = 1 << 20  # numbers of all templates that are turned to float64 together


@dataclass(frozen=True, slots=True)
class BankReport:
    """The measures of one bank.

    Attributes:
        name: the bank's name.
        kind: how its templates were found, one of `BANK_KINDS`.
        members: the tensors made of them.
        block: the shape of a template.
        templates: T, the number of templates.
        blocks: m, the number of blocks of all members.
        spectrum: energy of the blocks along their principal directions, as parts of the whole, largest first.
        condition: largest over smallest singular value of the coefficients [m, T]; inf if they have not full rank.
        mean_cosine, max_cosine: absolute cosines between the blocks of different layers; None for a single layer.
        in_span: how much of the squared norm of a new block lies in the span of the trained blocks, if the new block's
            coefficients are orthogonal to those in use in its layer; None if no such block exists.
        stored: numbers that the bank and its coefficients take.
        dense: numbers that the tensors take.
        error: relative error of the tensors that the templates make, ||W - W'|| / ||W||; None if it is not known.
    """

    name: str
    kind: str
    members: tuple[str, ...]
    block: tuple[int, ...]
    templates: int
    blocks: int
    spectrum: tuple[float, ...]
    condition: float
    mean_cosine: float | None
    max_cosine: float | None
    in_span: float | None
    stored: int
    dense: int
    error: float | None


def gram(bank: Bank, factors: Sequence[Tensor] | None = None) -> Tensor:
    """Return the inner products of the templates, float64 [T, T].

    Args:
        bank: the templates.
        factors: the factors of rank-one templates, [T, o] and [T, p], for which far fewer products are needed.
    """
    if factors is not None:  # <l r^T, l' r'^T> = <l, l'> <r, r'>
        left, right = (factor.double().flatten(1) for factor in factors)
        return (left @ left.T) * (right @ right.T)
    stacked = torch.stack([bank.template(t).flatten() for t in range(bank.count)])
    total = torch.zeros(bank.count, bank.count, dtype=torch.float64)
    for part in stacked.split(max(1, _CHUNK // bank.count), dim=1):
        total.addmm_(part.double(), part.double().T)
    return total


def report_bank(
    form: Form,
    name: str,
    G_TT: Tensor,
    coefficients: Mapping[str, Tensor],
    *,
    stored: Mapping[str, TensorInfo],
    dense: Mapping[str, TensorInfo],
    error: float | None = None,
) -> BankReport:
    """Measure a bank.

    Args:
        form, name: the bank, by its name.
        G_TT: inner products of its templates.
        coefficients: member -> its coefficients, [k_out, k_in, T].
        stored: the tensors of the file.
        dense: the tensors of the model.
        error: relative error of the members, if it is known.

    Raises:
        CheckpointError: templates or coefficients are not finite.
    """
    C = {member: c.double().flatten(0, 1) for member, c in coefficients.items()}
    A = torch.cat(list(C.values()))
    products = A @ G_TT @ A.T
    if not bool(products.isfinite().all()):
        raise CheckpointError(f"{name}: found templates or coefficients that are not finite, expected finite ones")
    energies = torch.linalg.eigvalsh(products).flip(0).clamp(min=0)
    singular = torch.linalg.svdvals(A)
    smallest = float(singular[-1])
    mean, largest = _cosines(products, [len(c) for c in C.values()])
    return BankReport(
        name=name,
        kind=form.banks[name],
        members=tuple(coefficients),
        block=form.block(name, stored),
        templates=len(G_TT),
        blocks=len(A),
        spectrum=tuple((energies / energies.sum().clamp(min=1e-300)).tolist()),
        condition=float(singular[0]) / smallest if smallest > 1e-12 * float(singular[0]) else math.inf,
        mean_cosine=mean,
        max_cosine=largest,
        in_span=_in_span(G_TT, A, list(C.values())),
        stored=sum(stored[part].numel for part in (*form.parts(name), *map(coefficients_of, coefficients))),
        dense=sum(dense[member].numel for member in coefficients),
        error=error,
    )


def _cosines(products_mm: Tensor, sizes: Sequence[int]) -> tuple[float | None, float | None]:
    """Return the mean and the largest absolute cosine between blocks of different layers.

    Args:
        products_mm: inner products of the blocks.
        sizes: number of blocks of each layer, in the order of the blocks.
    """
    layer = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    norms = products_mm.diagonal().clamp(min=0).sqrt()
    scale = norms[:, None] * norms
    cosines = torch.where(scale > 0, products_mm.abs() / scale.clamp(min=1e-300), 0.0)
    apart = cosines[layer[:, None] != layer]
    return (float(apart.mean()), float(apart.max())) if apart.numel() else (None, None)


def _in_span(G_TT: Tensor, A_mT: Tensor, layers: Sequence[Tensor]) -> float | None:
    """Return `sum |P n T|^2 / sum |n T|^2` over coefficients n of new blocks; P projects on the trained blocks.

    The sums run over orthonormal bases of the coefficients that `new_vectors` draws from with `orthogonal`.

    Args:
        G_TT: inner products of the templates.
        A_mT: coefficients of all blocks.
        layers: coefficients of the blocks of each layer, [m of the layer, T].
    """
    # With blocks B = A T, the squared norm of P x is x B^T (B B^T)^+ B x^T, and T B^T = G A^T.
    cross_mT = A_mT @ G_TT
    projected_TT = cross_mT.T @ torch.linalg.pinv(cross_mT @ A_mT.T, rtol=1e-10, hermitian=True) @ cross_mT
    inside = total = 0.0
    for in_use in layers:
        basis = null_space(in_use)
        spaces = [basis] if len(basis) else [null_space(vector[None]) for vector in in_use]
        for space in spaces:
            inside += float((space @ projected_TT * space).sum())
            total += float((space @ G_TT * space).sum())
    return min(inside / total, 1.0) if total > 0 else None


def report_stored(checkpoint: Checkpoint) -> list[BankReport]:
    """Measure every bank of a template checkpoint, one at a time; a dense checkpoint has none."""
    form = checkpoint.form
    if form is None:
        return []
    reports = []
    for name in form.banks:
        parts = form.parts(name)
        factors = [checkpoint.read_stored(part) for part in parts] if len(parts) == 2 else None
        G = gram(checkpoint.bank(name), factors)
        C = {member: checkpoint.read_stored(coefficients_of(member)) for member in form.members(name)}
        reports.append(report_bank(form, name, G, C, stored=checkpoint.stored, dense=checkpoint.tensors))
    return reports
