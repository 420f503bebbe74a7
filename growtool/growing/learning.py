"""Growth that is learned: expansion maps and combinations of blocks, trained for some steps and then written out.

Every weight of the target is `W' = E (sum_j w_j W_j) R^T`, a function of the source's weights W_j, of one matrix E for
each set of channels where they are written and one matrix R where they are read, and of combinations w of the blocks
that are alike (LiGO, arXiv 2303.00980, equations 7 and 9; there R is E itself, here it starts as E's left inverse, so
that learning starts from copies that compute what the source does). E, R and w train; the source's weights do not.

Axes: n channels before, m after.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from growtool.algebra.threads import single_threaded
from growtool.calibration import recalibrate, tracking_norms
from growtool.checkpoint import all_held_as
from growtool.errors import PlanError
from growtool.growing.execute import WIDER
from growtool.growing.statistics import Told, in_memory, opened_images
from growtool.operators.base import generator_for
from growtool.plan.depth import Mixing
from growtool.plan.width import Ligo
from growtool.recipe import Recipe, TensorRecipe
from growtool.trace import GroupPair, PairedAxis, Unchanged, inside


def learns(recipe: Recipe) -> Ligo | Mixing | None:
    """The section of the plan that asks for learning, None where neither does."""
    sections = (recipe.plan.width, recipe.plan.depth)
    return next((section for section in sections if isinstance(section, Ligo | Mixing)), None)


def learned(recipe: Recipe, told: Told = lambda remark: None) -> Mapping[str, Tensor]:
    """The target's parameters after learning and its norms' statistics, by name, in the types of the file.

    Both models are in memory. One thread, so that the result does not depend on the machine's cores.

    Args:
        recipe: what to make.
        told: called with a sentence on each thing that the user should know of the images.

    Raises:
        PlanError: the images cannot be used, or learning diverges.
        CheckpointError: one of them cannot be read.
    """
    section = learns(recipe)
    assert section is not None, "a plan that learns says what"
    model = in_memory(recipe)
    images = opened_images(recipe, model, told)
    with single_threaded(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.plan.seed)  # stochastic depth and dropout, where the model has any
        maps = Maps(recipe)
        weights = _train(model, maps, itertools.cycle(list(images.batches())), section)
        model.load_state_dict(weights, strict=False, assign=True)
        recalibrate(model, (batch.to(maps.dtype) for batch, _ in images.batches()))
    state = {name: weights[t.shared] for name, t in recipe.tensors.items() if t.shared in weights}
    for name, norm in tracking_norms(model).items():
        state |= {f"{name}.{what}": getattr(norm, what) for what in ("running_mean", "running_var")}
    return {name: tensor.contiguous() for name, tensor in all_held_as(state, recipe.infos, remedy=WIDER).items()}


def _train(
    model: nn.Module, maps: Maps, batches: Iterator[tuple[Tensor, Tensor]], section: Ligo | Mixing
) -> dict[str, Tensor]:
    """The target's parameters after `section.steps` updates of the maps."""
    optimizer = torch.optim.AdamW(maps.trained, lr=section.lr, weight_decay=0.0)
    model.train()
    for step in range(section.steps):
        images, labels = next(batches)
        loss = cross_entropy(functional_call(model, maps.weights(), (images.to(maps.dtype),)), labels)
        if not bool(torch.isfinite(loss)):
            raise PlanError(
                f"learning: found a loss of {loss.item()} at step {step + 1}; lower lr (now {section.lr:g})"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        return {name: tensor.detach() for name, tensor in maps.weights().items()}


@dataclass(frozen=True)
class _Mixed:
    """A target tensor as a combination of source tensors: their names and the trained weights [count]."""

    sources: tuple[str, ...]
    w: Tensor


class Maps:
    """The trained matrices and combinations, and the target's weights as a function of them.

    Attributes:
        dtype: of the arithmetic.
        trained: every tensor that trains.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        floats = [info for info in recipe.source.tensors.values() if info.is_float]
        self.dtype = torch.float64 if any(info.dtype == "F64" for info in floats) else torch.float32
        self._parameters = {name for name, _ in recipe.models[1].named_parameters()}
        self._names = recipe.matching.target.trace.names
        self.matrices: dict[tuple[GroupPair, bool], Tensor] = {}
        self._mixed = {name: self._mix(t) for name, t in recipe.tensors.items() if self._is_learned(t)}
        self._stored = {
            source: recipe.source.read(source).to(self.dtype)
            for mixed in self._mixed.values()
            for source in mixed.sources
        }
        self.weights()  # makes every matrix that is needed
        self.trained = [*self.matrices.values(), *(m.w for m in self._mixed.values() if m.w.requires_grad)]
        if not self.trained:
            raise PlanError("learning: found nothing that grows, so there is nothing to learn; use a larger target")

    def weights(self) -> dict[str, Tensor]:
        """The target's learned tensors by name."""
        return {name: self._weight(name, mixed) for name, mixed in self._mixed.items()}

    def _is_learned(self, tensor: TensorRecipe) -> bool:
        """Whether it is a parameter under its first name, and does not close a block that starts as the identity."""
        closing = tensor.zero or tensor.paired or tensor.cancelling is not None
        return tensor.name in self._parameters and tensor.source is not None and not closing

    def _mix(self, tensor: TensorRecipe) -> _Mixed:
        """The combination of like blocks that a tensor is, trained where the depth operator is `joint`."""
        assert tensor.source is not None
        mixes = isinstance(self._recipe.plan.depth, Mixing)
        sources = self._alike(tensor) if mixes else (tensor.source,)
        w = torch.tensor([float(source == tensor.source) for source in sources], dtype=self.dtype)
        return _Mixed(sources, w.requires_grad_(len(sources) > 1))

    def _alike(self, tensor: TensorRecipe) -> tuple[str, ...]:
        """The source's tensors of the same place and shape in the other blocks of the sequence, itself included."""
        assert tensor.source is not None
        stored = self._recipe.source.tensors
        for prefix in self._recipe.blocks.placed:
            index = inside(tensor.source, prefix)
            if index is not None:
                rest = tensor.source[len(prefix) + len(str(index)) :]
                blocks = sorted({p.source for p in self._recipe.blocks.placed[prefix].values() if p.source is not None})
                others = (f"{prefix}{i}{rest}" for i in blocks)
                return tuple(n for n in others if n in stored and stored[n].shape == stored[tensor.source].shape)
        return (tensor.source,)

    def _weight(self, name: str, mixed: _Mixed) -> Tensor:
        parts = [self._stored[source] for source in mixed.sources]
        W = parts[0] if len(parts) == 1 else torch.einsum("j,j...->...", mixed.w, torch.stack(parts))
        for dim, axis in enumerate(self._recipe.matching.paired[name]):
            if not all(self._recipe.expansions[growth].is_identity for growth in axis.growths()):
                W = torch.tensordot(self._matrix(axis, name, dim), W, dims=([1], [dim])).movedim(0, dim)
        return W

    def _matrix(self, axis: PairedAxis, name: str, dim: int) -> Tensor:
        """What a dimension is multiplied by, [M, N]: blocks of Kronecker products."""
        blocks = []
        for segment in axis.segments:
            block = torch.ones(1, 1, dtype=self.dtype)
            for factor in segment:
                block = torch.kron(block, self._factor(factor, name, dim))
            blocks.append(block)
        matrix: Tensor = torch.block_diag(*blocks)
        return matrix

    def _factor(self, factor: GroupPair | Unchanged | PairedAxis, name: str, dim: int) -> Tensor:
        if isinstance(factor, PairedAxis):
            return self._matrix(factor, name, dim)
        if isinstance(factor, Unchanged):
            return torch.eye(factor.size, dtype=self.dtype)
        expansion = self._recipe.expansions[factor]
        if expansion.is_identity:
            return torch.eye(expansion.size, dtype=self.dtype)
        reads = (factor.target, name, dim) in self._recipe.matching.target.trace.consumers
        if (factor, reads) not in self.matrices:
            self.matrices[factor, reads] = self._start(factor, reads)
        return self.matrices[factor, reads]

    def _start(self, growth: GroupPair, reads: bool) -> Tensor:
        """E, or the transpose of its left inverse R, [m, n]; noise on E keeps copies from staying alike."""
        expansion = self._recipe.expansions[growth]
        E = torch.eye(expansion.size, dtype=self.dtype)[expansion.index]
        if reads:
            return (E / expansion.counts[:, None]).requires_grad_()
        width = self._recipe.plan.width
        gain = width.gain if isinstance(width, Ligo) else 0.0
        generator = generator_for(self._recipe.plan.seed, f"noise on {self._names[growth.target]}")
        noise = torch.randn(E.shape, generator=generator, dtype=E.dtype)
        return (E + gain * noise * (expansion.replica[:, None] > 0)).requires_grad_()
