"""Computing the target's tensors on all cores, with memory for a few of them at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import MappingProxyType
from typing import TypeVar

import torch
from torch import Tensor

from growtool.algebra.layers import copy_positions, split_evenly
from growtool.algebra.threads import single_threaded
from growtool.checkpoint import Checkpoint, Stored, arithmetic_dtype, coefficients_of, file_order, in_type
from growtool.errors import PlanError
from growtool.growing.rounding import rounded_together
from growtool.operators.base import Layer, generator_for
from growtool.operators.depth.cancel_out import cancelling
from growtool.operators.table import OPERATORS
from growtool.recipe import Recipe, TensorRecipe

T = TypeVar("T")
WIDER = "set `output: {dtype: ...}` in the plan"  # advice, if a type cannot hold some numbers
_WORKERS = 8  # threads at most; more would wait for the disk
_SHOWN = 8  # tensors with numbers beyond their type that a message lists


def grown_tensors(recipe: Recipe, ready: Mapping[str, Tensor] = MappingProxyType({})) -> dict[str, Tensor]:
    """Return all tensors of the target by name; those that are `ready` were made before."""
    return dict(zip(file_order(recipe.infos), produce(recipe, lambda nbytes: None, ready), strict=True))


def unchanged(recipe: Recipe) -> dict[str, Stored]:
    """Return the places in the source's file that hold the very bytes of a target tensor, by the tensor's name."""
    copies = [
        (name, t.source)
        for name, t in recipe.tensors.items()
        if t.is_copy and t.source and name not in recipe.in_templates
    ]
    places = {name: recipe.source.place_of(source) for name, source in copies}
    return {name: place for name, place in places.items() if place and place.info == recipe.tensors[name].info}


def produce(
    recipe: Recipe, advance: Callable[[int], None], ready: Mapping[str, T] = MappingProxyType({})
) -> Iterator[Tensor | T]:
    """Yield the target's tensors in file order; the next ones are computed while the caller has the last one.

    Every tensor is made by one thread, with a random generator of its own. So sums have one order, and the bytes do not
    depend on the machine's cores.

    Args:
        recipe: what to make.
        advance: called with the bytes of each tensor once the caller is done with it.
        ready: what is yielded in place of a tensor that need not be computed, by name.

    Raises:
        PlanError: the types of the file cannot hold some numbers; one problem for each tensor.
    """
    infos, problems = recipe.infos, list[str]()
    memory, budget = memory_of(recipe), 2 * largest_bytes(recipe)
    ahead = _ahead(_makers(recipe), {name: memory[name] for name in file_order(infos) if name not in ready}, budget)
    for name in file_order(infos):
        try:
            made: Tensor | T = ready[name] if name in ready else next(ahead).result()
        except PlanError as error:
            problems += error.problems
        if not problems:  # after a problem the rest is made only to find the others
            yield made
            del made  # or it would stay in memory while the next one is waited for
        advance(infos[name].nbytes)
    if problems:
        more = [f"... and {len(problems) - _SHOWN} more tensors"] if len(problems) > _SHOWN else []
        raise PlanError([*problems[:_SHOWN], *more])


def largest_bytes(recipe: Recipe) -> int:
    """Return the bytes of the target's largest tensor as it is worked on: in float32 if its type is smaller."""
    infos = [tensor.info for tensor in recipe.tensors.values()]
    return max((info.numel * max(info.torch_dtype.itemsize, 4) for info in infos), default=0)


def memory_of(recipe: Recipe) -> dict[str, int]:
    """Return the bytes that each tensor of the file takes while it is made, by its name."""
    memory = {name: info.nbytes for name, info in recipe.infos.items()}
    for name, tensor in recipe.tensors.items():
        if name not in memory or not tensor.info.is_float:
            continue
        stored = recipe.source.tensors[tensor.source] if tensor.source is not None else tensor.info
        dtype = arithmetic_dtype(stored.torch_dtype, tensor.info.torch_dtype)
        # Selecting pairs makes another tensor of this size, and so does making their weights cancel.
        numbers = tensor.info.numel * (1 + (tensor.paired != ()) + (tensor.cancelling is not None))
        in_file = tensor.source is None or recipe.source.place_of(tensor.source) is not None
        # A source tensor that is used as it is stands on the pages of its file, which are no memory of the process.
        if stored.torch_dtype != dtype or tensor.rewrite is not None or not in_file:
            numbers += stored.numel
        memory[name] = numbers * dtype.itemsize + (tensor.info.nbytes if tensor.info.torch_dtype != dtype else 0)
    return memory


def _ahead(
    makers: Mapping[str, Callable[[], Tensor]], memory: Mapping[str, int], budget: int
) -> Iterator[Future[Tensor]]:
    """Yield tensors in the order of `memory`, while the next ones are made.

    Args:
        makers: tensor -> what computes it.
        memory: tensor -> bytes that it takes until the caller asks for the next one.
        budget: bytes that tensors may take together. One that needs more is made when no other is in memory.
    """
    waiting, under_way = deque(memory), deque[tuple[str, Future[Tensor]]]()
    workers = min(os.cpu_count() or 1, _WORKERS)
    with single_threaded(), ThreadPoolExecutor(max_workers=workers) as pool:
        try:
            while waiting or under_way:
                while waiting and (not under_way or memory[waiting[0]] <= budget) and len(under_way) <= workers:
                    name = waiting.popleft()
                    budget -= memory[name]
                    under_way.append((name, pool.submit(makers[name])))
                name, finished = under_way.popleft()
                yield finished
                del finished  # a future holds its result
                budget += memory[name]
        finally:  # also if the caller stops half-way, as on a full disk
            pool.shutdown(cancel_futures=True)


def _makers(recipe: Recipe) -> dict[str, Callable[[], Tensor]]:
    """Return the functions that compute the tensors of the file, by name."""
    infos = recipe.infos
    makers: dict[str, Callable[[], Tensor]] = {
        name: partial(make_tensor, recipe, t) for name, t in recipe.tensors.items() if name not in recipe.in_templates
    }
    if recipe.form is not None:
        makers |= {coefficients_of(name): partial(_coefficients, recipe, name) for name in recipe.in_templates}
        for bank in recipe.form.form.banks:
            for part in recipe.form.form.parts(bank):
                makers[part] = partial(recipe.templates.read_part, bank, part)

    def in_its_type(name: str, make: Callable[[], Tensor]) -> Tensor:
        return in_type(name, make(), infos[name].torch_dtype, remedy=WIDER)

    return {name: partial(in_its_type, name, make) for name, make in makers.items()}


def _coefficients(recipe: Recipe, name: str) -> Tensor:
    """Return the coefficients of a target tensor that stays in template form, [k_out, k_in, T]."""
    assert recipe.form is not None
    tensor, kept = recipe.tensors[name], recipe.in_templates[name]
    if tensor.zero:
        return torch.zeros(recipe.form.infos[coefficients_of(name)].shape)
    assert tensor.source is not None, "a templated tensor comes from one of the source"
    grid = recipe.templates.grid(tensor.source)
    assert grid is not None
    if tensor.is_copy:
        return grid.coefficients
    # A rewrite of a tensor that stays in template form is one factor, which its coefficients take.
    width, factor = tensor.width, 1.0 if tensor.rewrite is None else tensor.rewrite.factor
    if width is None:
        return grid.coefficients.double() * factor
    W = recipe.source.read(tensor.source)
    W = W.to(arithmetic_dtype(W.dtype))
    operator, layer = OPERATORS[width.operator].implementation(), _layer(recipe, tensor, tensor.source, W.dtype)
    grown: Tensor = operator.grow_coefficients(width, W, layer, kept.rows, kept.columns)
    return grown * factor


def _layer(recipe: Recipe, tensor: TensorRecipe, source: str, dtype: torch.dtype) -> Layer:
    """Return what a width operator is told of the tensor that it grows from `source`, in the type of the arithmetic."""
    return Layer(
        name=tensor.shared,
        maps=tensor.maps,
        seed=recipe.plan.seed,
        fill=tensor.fill,
        grid=partial(recipe.templates.grid, source),
        next_block=partial(_read, recipe.source, dtype, tensor.next_block) if tensor.next_block else None,
        pair_partners=tensor.pair_partners,
        second=partial(_read, recipe.second, dtype, source) if recipe.second else None,
        initial=partial(recipe.initial, tensor.shared),
    )


def _read(checkpoint: Checkpoint, dtype: torch.dtype, name: str) -> Tensor:
    return checkpoint.read(name).to(dtype)


def make_tensor(recipe: Recipe, tensor: TensorRecipe) -> Tensor:
    """Return a tensor of the target, in the type it is worked on."""
    if tensor.zero:
        return torch.zeros(tensor.info.shape)
    if tensor.implied is not None:
        return split_evenly(_rewritten(recipe, tensor, tensor.implied), tensor.maps)
    stored = recipe.initial(tensor.name) if tensor.source is None else recipe.source.read(tensor.source)
    if not stored.is_floating_point():  # counts and indices are never split or mixed
        return copy_positions(stored, tensor.maps)
    dtype = arithmetic_dtype(stored.dtype, tensor.info.torch_dtype)
    grown = stored.to(dtype)
    if tensor.source is not None:
        grown = _grown(recipe, tensor, tensor.source, grown)
    for dim, positions in tensor.paired:
        grown = grown.index_select(dim, positions)
    if tensor.cancelling is not None:
        generator = generator_for(recipe.plan.seed, f"cancelling {tensor.shared}")
        return cancelling(grown, tensor.cancelling, generator)
    # The maps describe the tensor before its pairs were selected, so they do not say which positions add up in it.
    return grown if tensor.paired else rounded_together(grown, tensor.maps, tensor.info.torch_dtype)


def _rewritten(recipe: Recipe, tensor: TensorRecipe, stored: Tensor) -> Tensor:
    """Return what a tensor grows from, in the type of `stored`: the source's tensor, or what it would hold there."""
    if tensor.rewrite is None:
        return stored
    return tensor.rewrite.apply(stored, partial(_read, recipe.source, stored.dtype))


def _grown(recipe: Recipe, tensor: TensorRecipe, source: str, stored: Tensor) -> Tensor:
    """Return a tensor after the widths have grown, in the type of `stored`, the source's tensor."""
    if tensor.rewrite is None and not tensor.remade and not tensor.grows:
        return stored
    before = _rewritten(recipe, tensor, stored)
    width = tensor.width
    if width is None:  # nothing grows wider: a factor moved into the tensor, because of the blocks before it
        return before
    operator, layer = OPERATORS[width.operator].implementation(), _layer(recipe, tensor, source, stored.dtype)
    return operator.grow(width, before, layer)  # type: ignore[no-any-return]
