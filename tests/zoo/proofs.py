"""Proofs of the trace on real architectures: with every number random, in float64.

Permutation: permuting every free group consistently leaves the outputs as they are; one member alone does not.
Growth: the grown model, built by timm from its arguments, computes what the source computes.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from growtool import checkpoint
from growtool.checkpoint import ModelSpec, TensorInfo, dtype_name
from growtool.growing.execute import grown_tensors
from growtool.growing.proof import aligned
from growtool.library import Inputs, library_of
from growtool.library.building import set_eps
from growtool.library.spec import BUILT_IN
from growtool.library.timm import input_size
from growtool.recipe import Recipe
from growtool.trace import Axis, ChannelGroup, NamedGroup, Trace, groups_on

TOLERANCE = 1e-9  # largest relative difference, in float64, that counts as equal

_LESS = (torch.float32, torch.float16, torch.bfloat16)
_CACHES = ("attention_bias_cache", "ab")  # filled at evaluation, stale once weights are edited in place


@torch.no_grad()
def randomise(model: nn.Module, *, seed: int = 0, gain: float = 1.0) -> nn.Module:
    """Draw every parameter and stored floating-point buffer anew, at a size that keeps signals alive.

    Args:
        model: changed in place.
        seed: of the draw.
        gain: factor on the matrices; a larger one drives a network further from linear.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(tensor.dtype)
        matrix = tensor.ndim >= 2 and tensor.numel() > tensor.shape[0]
        if name.endswith("running_var"):
            tensor.copy_(0.5 + noise.abs())
        elif name.endswith(("_min", "_max")):  # bounds that activations are clipped to: these should pass most of them
            tensor.copy_((2 + noise.abs()) * (-1 if name.endswith("_min") else 1))
        elif matrix and not any(part in name for part in ("token", "pos_embed", "bias", "temperature")):
            tensor.copy_(gain * noise / math.sqrt(tensor[0].numel()))
        elif matrix or name.endswith(("bias", "running_mean")):
            tensor.copy_(0.3 * noise)
        else:
            tensor.copy_(1 + 0.3 * noise)
    return model


class InFloat64(TorchDispatchMode):
    """While open, nothing computes in less than float64: some norms and attentions of timm cast to float32 and back."""

    def __enter__(self) -> InFloat64:
        self._default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        super().__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        torch.set_default_dtype(self._default)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("dtype") in _LESS:
            kwargs = {**kwargs, "dtype": torch.float64}
        return func(*args, **kwargs)


def outputs(model: nn.Module, image: Tensor) -> list[Tensor]:
    """Every output tensor of one forward pass, without what an earlier pass left in caches."""
    _clear_caches(model)
    with torch.no_grad(), InFloat64():
        return [leaf for leaf in tree_leaves(model(image)) if isinstance(leaf, Tensor)]


def _clear_caches(model: nn.Module) -> None:
    for module in model.modules():
        for name in _CACHES:
            if isinstance(getattr(module, name, None), dict):
                setattr(module, name, {})


def difference(a: list[Tensor], b: list[Tensor]) -> float:
    """Largest relative difference."""
    return max(float((x - y).abs().max() / x.abs().max().clamp(min=1e-12)) for x, y in zip(a, b, strict=True))


def permuted_index(axis: Axis, orders: Mapping[ChannelGroup, Tensor]) -> Tensor:
    """The positions of an axis after each of its channel groups is permuted."""
    parts, offset = [], 0
    for segment in axis:
        index = torch.zeros(1, dtype=torch.int64)
        for factor in segment:
            if isinstance(factor, ChannelGroup):
                order = orders.get(factor, torch.arange(factor.size))
            else:
                order = permuted_index(factor, orders)
            index = (index[:, None] * len(order) + order).reshape(-1)
        parts.append(index + offset)
        offset += len(index)
    return torch.cat(parts)


@dataclass(frozen=True)
class Permutation:
    """What permuting showed.

    Attributes:
        error: relative difference of the outputs after all free groups were permuted together.
        tried: groups of which one member was permuted alone.
        at_once: of these, how many showed with the first member that was tried.
        detected: how many showed with some member, some draw of the weights, or some order.
        silent: members that never showed, with their group's name.
    """

    error: float
    tried: int
    at_once: int
    detected: int
    silent: tuple[str, ...]


class Permuter:
    """A model with random weights whose tensors can be permuted, all together or one alone."""

    def __init__(self, model: nn.Module, trace: Trace, *, seed: int = 0, gain: float = 1.0) -> None:
        self._model = randomise(copy.deepcopy(model).double(), seed=seed, gain=gain)
        self._trace = trace
        self._tensors = dict(self._model.named_parameters()) | dict(self._model.named_buffers())
        self._state = {name: tensor.clone() for name, tensor in self._tensors.items()}
        generator = torch.Generator().manual_seed(seed)
        self._image = torch.randn(1, *input_size(model), generator=generator, dtype=torch.float64)
        self._expected = outputs(self._model, self._image)

    def members(self, group: NamedGroup) -> list[str]:
        """The tensors that carry a group."""
        return list(dict.fromkeys(m.tensor for m in group.members if m.tensor in self._state))

    def change(self, orders: Mapping[ChannelGroup, Tensor], *, only: str | None = None) -> float:
        """Relative difference of the outputs with the groups in these orders, in all tensors or in `only` one."""
        touched = [only] if only else list(self._state)
        with torch.no_grad():
            for name in touched:
                value = self._state[name]
                for dim, axis in enumerate(self._trace.tensors[name]):
                    if any(group in orders for group in groups_on(axis)):
                        value = value.index_select(dim, permuted_index(axis, orders))
                self._tensors[name].copy_(value)
            found = difference(self._expected, outputs(self._model, self._image))
            for name in touched:
                self._tensors[name].copy_(self._state[name])
        return found


def free_groups(model: nn.Module, trace: Trace) -> list[NamedGroup]:
    """The groups that may grow and that a learned tensor carries."""
    learned = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return [g for g in trace.groups if g.fixed is None and any(m.tensor in learned for m in g.members)]


def permutation_proof(model: nn.Module, trace: Trace, *, lone: int = 6, seed: int = 0) -> Permutation:
    """Permute every free group at once; then, one at a time, single members of `lone` groups.

    A member that does not show when permuted alone is tried with other weights; then other members of its group are.
    Some cannot show: the bias of an attention's keys adds the same to every logit, so softmax undoes it.
    """
    generator = torch.Generator().manual_seed(seed)
    free = free_groups(model, trace)
    permuter = Permuter(model, trace, seed=seed)
    error = permuter.change({g.group: torch.randperm(g.size, generator=generator) for g in free})
    threshold = max(1e-9, 10 * error)
    shared = [g for g in free if len(permuter.members(g)) > 1]
    chosen = [shared[i] for i in torch.randperm(len(shared), generator=generator)[:lone].tolist()]
    at_once, detected, silent = 0, 0, list[str]()
    others: list[Permuter] = []
    for group in chosen:
        names = permuter.members(group)
        order = torch.randperm(len(names), generator=generator).tolist()
        for attempt, name in enumerate(names[i] for i in order):
            rolled = {group.group: torch.arange(group.size).roll(1)}
            if permuter.change(rolled, only=name) > threshold:
                at_once += attempt == 0
                detected += 1
                break
            others = others or [Permuter(model, trace, seed=seed + 1, gain=3.0)]
            if any(other.change(rolled, only=name) > threshold for other in others):
                detected += 1
                break
            silent.append(f"{name} ({group.name})")
    return Permutation(error, len(chosen), at_once, detected, tuple(silent))


@dataclass(frozen=True)
class InMemory(checkpoint.InMemory):
    """The tensors of a model as a checkpoint."""

    @classmethod
    def of(cls, spec: ModelSpec, model: nn.Module) -> InMemory:
        state = model.state_dict()
        infos = {n: TensorInfo(tuple(t.shape), dtype_name(t.dtype)) for n, t in state.items()}
        return cls(Path("memory"), spec, infos, {}, {}, state=state)


def source_model(spec: ModelSpec) -> nn.Module:
    """The model of a spec with every number random, in float64."""
    return randomise(_created(spec).double()).eval()


def _created(spec: ModelSpec) -> nn.Module:
    if spec.library != BUILT_IN:
        return library_of(spec).initialised(spec, 0)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        return timm.create_model(spec.architecture, pretrained=False, **spec.model_args)


@dataclass(frozen=True)
class GroupPair:
    """How far source and grown model differ (relative).

    Attributes:
        error: as they are.
        spoilt: once one grown tensor is spoilt by a percent.
        told: once their norms have the eps that the promise is about.
    """

    error: float
    spoilt: float
    told: float


def growth_proof(source: nn.Module, recipe: Recipe) -> GroupPair:
    """Grow in memory, build the target with its library from its arguments, compare the outputs as they line up."""
    grown = grown_tensors(recipe)
    model = _created(recipe.target).double().eval()
    model.load_state_dict(grown, strict=True)
    del grown
    spec = recipe.source.spec
    inputs = library_of(spec).inputs(source, 1 if spec.library == BUILT_IN else 2, 1)
    before = _said(spec, source, inputs)

    def off() -> float:
        """By how much the grown model differs as it is now."""
        expected, found = aligned(recipe, before, _said(spec, model, inputs))
        return difference(list(expected), list(found))

    error, spoilt = off(), _spoilt(model, recipe, off)
    return GroupPair(error, spoilt, _told(source, model, recipe, inputs) if recipe.eps else error)


def _told(source: nn.Module, model: nn.Module, recipe: Recipe, inputs: Inputs) -> float:
    """How far both differ with the eps that the promise is about."""
    source = copy.deepcopy(source)
    set_eps(source, recipe.source_eps)
    set_eps(model, recipe.eps)
    spec = recipe.source.spec
    expected, found = aligned(recipe, _said(spec, source, inputs), _said(spec, model, inputs))
    return difference(list(expected), list(found))


def _said(spec: ModelSpec, model: nn.Module, inputs: Inputs) -> tuple[Tensor, ...]:
    """Every output with fractions, as `outputs` has them."""
    _clear_caches(model)
    with torch.no_grad(), InFloat64():
        return tuple(leaf for leaf in library_of(spec).run(model, inputs) if leaf.is_floating_point())


def _spoilt(model: nn.Module, recipe: Recipe, off: Callable[[], float]) -> float:
    """The largest change that some grown tensors (any, if none grew) make when alone they are off; zeros are opened.

    What closed blocks hold behind what closes them changes nothing alone.
    """
    state = model.state_dict()
    floats = [n for n in recipe.tensors if state[n].is_floating_point()]
    shut = {n for n, t in recipe.tensors.items() if t.initial and not t.zero and t.cancelling is None}
    changed = [n for n in floats if not recipe.tensors[n].is_copy and n not in shut] or floats
    generator = torch.Generator().manual_seed(2)
    found = 0.0
    for i in torch.randperm(len(changed), generator=generator)[:4].tolist():
        tensor = state[changed[i]]
        kept = tensor.clone()
        noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        tensor.add_(0.01 * noise * (kept.abs().mean() if kept.any() else 1))
        found = max(found, off())
        tensor.copy_(kept)
        if found > TOLERANCE:
            break
    return found
