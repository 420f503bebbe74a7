"""Growth that is learned: matrices for channels and combinations of blocks, trained for some steps (LiGO).

Every weight of the target is `W' = E (sum_j w_j W_j) R^T`. The W_j are the source's weights in blocks that are alike,
and w combines them. Each group of channels has a matrix E where it is written and a matrix R where it is read, both
[m, n]. E, R and w train; the source's weights do not (arXiv 2303.00980, equations 7 and 9). In the paper R is E itself.
Here R^T starts as a left inverse of E, so that learning starts from copies that compute what the source does.

Axes: n channels before, m after; N and M positions of a dimension that carries them.
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
from growtool.calibration import recalibrate, running_statistics
from growtool.checkpoint import all_in_type
from growtool.errors import PlanError
from growtool.growing.execute import WIDER
from growtool.growing.statistics import Remark, in_memory, opened_images
from growtool.operators.base import generator_for
from growtool.plan.depth import Mixing
from growtool.plan.width import Ligo
from growtool.recipe import Recipe, TensorRecipe
from growtool.trace import GroupPair, PairedAxis, Unchanged, inside


def learns(recipe: Recipe) -> Ligo | Mixing | None:
    """Return the section of the plan that asks for learning, `width` or `depth`; None if neither does."""
    sections = (recipe.plan.width, recipe.plan.depth)
    return next((section for section in sections if isinstance(section, Ligo | Mixing)), None)


def learned(recipe: Recipe, told: Remark = lambda remark: None) -> Mapping[str, Tensor]:
    """Return the target's parameters after learning and its norms' statistics, by name, in the types of the file.

    Both models are in memory. All runs on one thread, so that the result does not depend on the machine's cores.

    Args:
        recipe: what to make.
        told: called with a sentence on each thing that the user should know of the images.

    Raises:
        PlanError: the images cannot be used, nothing grows, learning diverges, or a type cannot hold the weights.
        CheckpointError: an image cannot be read.
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
    # A tensor that the model holds under several names was learned under the first.
    state = {name: weights[t.shared] for name, t in recipe.tensors.items() if t.shared in weights}
    state |= running_statistics(model)
    return {name: tensor.contiguous() for name, tensor in all_in_type(state, recipe.infos, remedy=WIDER).items()}


def _train(
    model: nn.Module, maps: Maps, batches: Iterator[tuple[Tensor, Tensor]], section: Ligo | Mixing
) -> dict[str, Tensor]:
    """Train the maps for `section.steps` updates; return the target's learned parameters by name."""
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
    """A target tensor as a combination of source tensors: their names, and the weights w, one for each."""

    sources: tuple[str, ...]
    w: Tensor


class Maps:
    """The trained matrices and combinations, and the target's weights as a function of them.

    Attributes:
        dtype: the type of the arithmetic.
        matrices: (channel group, whether it is read) -> E, or R if it is read, [m, n].
        trained: every tensor that trains: E and R of the groups that grow, and w of the combinations.
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
        self.weights()  # makes every matrix that is needed, on the way
        self.trained = [*self.matrices.values(), *(m.w for m in self._mixed.values() if m.w.requires_grad)]
        if not self.trained:
            raise PlanError("learning: found nothing that grows, so there is nothing to learn; use a larger target")

    def weights(self) -> dict[str, Tensor]:
        """Return the target's learned tensors by name, as a function of all that trains."""
        return {name: self._weight(name, mixed) for name, mixed in self._mixed.items()}

    def _is_learned(self, tensor: TensorRecipe) -> bool:
        """Return whether a tensor is learned: a parameter, by its first name, that closes no block as the identity."""
        closing = tensor.zero or tensor.paired or tensor.cancelling is not None
        return tensor.name in self._parameters and tensor.source is not None and not closing

    def _mix(self, tensor: TensorRecipe) -> _Mixed:
        """Return a tensor as the combination it starts from: its source alone, among like blocks if depth is mixed."""
        assert tensor.source is not None
        is_mixed = isinstance(self._recipe.plan.depth, Mixing)
        sources = self._alike(tensor) if is_mixed else (tensor.source,)
        w = torch.tensor([float(source == tensor.source) for source in sources], dtype=self.dtype)
        return _Mixed(sources, w.requires_grad_(len(sources) > 1))

    def _alike(self, tensor: TensorRecipe) -> tuple[str, ...]:
        """Return the source's tensors of the same role and shape in all blocks of the sequence, a tensor's own too."""
        assert tensor.source is not None
        stored = self._recipe.source.tensors
        for prefix in self._recipe.blocks.placed:
            index = inside(tensor.source, prefix)
            if index is not None:
                rest = tensor.source[len(prefix) + len(str(index)) :]
                blocks = sorted({p.source for p in self._recipe.blocks.placed[prefix].values() if p.source is not None})
                names = (f"{prefix}{i}{rest}" for i in blocks)
                return tuple(n for n in names if n in stored and stored[n].shape == stored[tensor.source].shape)
        return (tensor.source,)

    def _weight(self, name: str, mixed: _Mixed) -> Tensor:
        """Return `E (sum_j w_j W_j) R^T`, a matrix for each dimension that grows."""
        parts = [self._stored[source] for source in mixed.sources]
        W = parts[0] if len(parts) == 1 else torch.einsum("j,j...->...", mixed.w, torch.stack(parts))
        for dim, axis in enumerate(self._recipe.matching.paired[name]):
            if not all(self._recipe.expansions[growth].is_identity for growth in axis.growths()):
                W = torch.tensordot(self._matrix(axis, name, dim), W, dims=([1], [dim])).movedim(0, dim)
        return W

    def _matrix(self, axis: PairedAxis, name: str, dim: int) -> Tensor:
        """Return what a dimension is multiplied by, [M, N]: its segments make blocks, each a Kronecker product."""
        blocks = []
        for segment in axis.segments:
            block = torch.ones(1, 1, dtype=self.dtype)
            for factor in segment:
                block = torch.kron(block, self._factor(factor, name, dim))
            blocks.append(block)
        matrix: Tensor = torch.block_diag(*blocks)
        return matrix

    def _factor(self, factor: GroupPair | Unchanged | PairedAxis, name: str, dim: int) -> Tensor:
        """Return the matrix of one factor of a dimension: E or R for a group that grows, else the identity."""
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
        """Return the matrix that learning starts from: E, or R if the group is read, [m, n]."""
        expansion = self._recipe.expansions[growth]
        E = torch.eye(expansion.size, dtype=self.dtype)[expansion.index]
        if reads:  # R^T E = 1, as each of c copies of a channel has 1/c of it
            return (E / expansion.counts[:, None]).requires_grad_()
        # Copies that are written and read alike would have equal gradients for ever: noise on all but the first copy.
        width = self._recipe.plan.width
        gain = width.gain if isinstance(width, Ligo) else 0.0
        generator = generator_for(self._recipe.plan.seed, f"noise on {self._names[growth.target]}")
        noise = torch.randn(E.shape, generator=generator, dtype=E.dtype)
        return (E + gain * noise * (expansion.replica[:, None] > 0)).requires_grad_()
