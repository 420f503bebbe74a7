"""Proofs of the coupling on real architectures: with every number random, in float64.

Permutation: permuting every free group consistently leaves the outputs as they are; permuting one member alone does not.
Growth: the grown model, built by timm from its arguments, computes what the source computes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from growtool.checkpoint import Checkpoint, ModelSpec, TensorInfo, dtype_name, input_size
from growtool.coupling import Atom, Axis, Coupling
from growtool.coupling.axis import axis_size

_CACHES = ("attention_bias_cache", "ab")  # filled at evaluation, stale once weights are edited in place


@torch.no_grad()
def randomise(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """Draw every parameter and stored floating-point buffer anew, at a size that keeps signals alive."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(tensor.dtype)
        matrix = tensor.ndim >= 2 and tensor.numel() > tensor.shape[0]
        if name.endswith("running_var"):
            tensor.copy_(0.5 + noise.abs())
        elif matrix and not any(part in name for part in ("token", "pos_embed", "bias", "temperature")):
            tensor.copy_(noise / math.sqrt(tensor[0].numel()))
        elif matrix or name.endswith(("bias", "running_mean")):
            tensor.copy_(0.3 * noise)
        else:
            tensor.copy_(1 + 0.3 * noise)
    return model


def outputs(model: nn.Module, image: Tensor) -> list[Tensor]:
    """Every output tensor of one forward pass, without what an earlier pass left in caches."""
    for module in model.modules():
        for name in _CACHES:
            if isinstance(getattr(module, name, None), dict):
                setattr(module, name, {})
    with torch.no_grad():
        return [leaf for leaf in tree_leaves(model(image)) if isinstance(leaf, Tensor)]


def difference(a: list[Tensor], b: list[Tensor]) -> float:
    """Largest relative difference."""
    return max(float((x - y).abs().max() / x.abs().max().clamp(min=1e-12)) for x, y in zip(a, b, strict=True))


def permuted_index(axis: Axis, orders: Mapping[Atom, Tensor]) -> Tensor:
    """The positions of an axis after each of its atoms is permuted."""
    parts, offset = [], 0
    for segment in axis:
        index = torch.zeros(1, dtype=torch.int64)
        for factor in segment:
            if isinstance(factor, Atom):
                order = orders.get(factor, torch.arange(factor.size))
            else:
                order = permuted_index(factor, orders)
            index = (index[:, None] * len(order) + order).reshape(-1)
        parts.append(index + offset)
        offset += len(index)
    return torch.cat(parts)


@dataclass(frozen=True)
class Permutation:
    """Relative difference after permuting all groups, and how many lone permutations showed, of how many tried."""

    error: float
    detected: int
    tried: int


def permutation_proof(model: nn.Module, coupling: Coupling, *, lone: int = 4, seed: int = 0) -> Permutation:
    """Permute every free group at once; then, one at a time, single members of `lone` groups."""
    model = randomise(copy.deepcopy(model).double())
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(1, *input_size(model), generator=generator, dtype=torch.float64)
    expected = outputs(model, image)
    state = {n: t.clone() for n, t in (*model.named_parameters(), *model.named_buffers())}
    learned = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    free = [g for g in coupling.groups if g.fixed is None and any(m.tensor in learned for m in g.members)]
    orders = {g.atom: torch.randperm(g.size, generator=generator) for g in free}

    def run(orders: Mapping[Atom, Tensor], only: str | None = None) -> float:
        with torch.no_grad():
            for name, tensor in (*model.named_parameters(), *model.named_buffers()):
                value = state[name]
                if only in (None, name):
                    for dim, axis in enumerate(coupling.tensors[name]):
                        if axis_size(axis) > 1:
                            value = value.index_select(dim, permuted_index(axis, orders))
                tensor.copy_(value)
        return difference(expected, outputs(model, image))

    error = run(orders)
    chosen = [free[i] for i in torch.randperm(len(free), generator=generator)[:lone].tolist()]
    detected = 0
    for group in chosen:
        members = [m.tensor for m in group.members if m.tensor in state]
        lone_member = members[int(torch.randint(len(members), (1,), generator=generator))]
        shifted = {group.atom: torch.roll(torch.arange(group.size), 1)}
        detected += run(shifted, only=lone_member) > 1e-6
    return Permutation(error, detected, len(chosen))


@dataclass(frozen=True)
class InMemory(Checkpoint):
    """A checkpoint that was never written: the tensors of a model."""

    state: Mapping[str, Tensor] = None  # type: ignore[assignment]

    def read(self, name: str) -> Tensor:
        return self.state[name]

    @classmethod
    def of(cls, spec: ModelSpec, model: nn.Module) -> InMemory:
        state = model.state_dict()
        infos = {n: TensorInfo(tuple(t.shape), dtype_name(t.dtype)) for n, t in state.items()}
        return cls(Path("memory"), spec, infos, {}, {}, state)


def source_model(spec: ModelSpec) -> nn.Module:
    """The model of a spec with every number random, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(spec.architecture, pretrained=False, **spec.model_args)
    return randomise(model.double()).eval()


def growth_error(source: nn.Module, target: ModelSpec, grown: Mapping[str, Tensor]) -> float:
    """Relative difference between the source and the model timm builds for the target with the grown weights."""
    with torch.random.fork_rng(devices=[]):
        model = timm.create_model(target.architecture, pretrained=False, **target.model_args).double().eval()
    model.load_state_dict(dict(grown), strict=True)
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(1, *input_size(source), generator=generator, dtype=torch.float64)
    return difference(outputs(source, image), outputs(model, image))


def smaller(spec: ModelSpec, **args: object) -> ModelSpec:
    """The spec with other arguments."""
    return replace(spec, model_args={**spec.model_args, **args})
