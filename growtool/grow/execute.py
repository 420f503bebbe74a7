"""Computing target tensors one after the other, with memory for a few of them at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from growtool.algebra.layers import copy_positions, split_evenly
from growtool.checkpoint import file_order
from growtool.operators.base import Layer, generator_for
from growtool.operators.cancel_out import cancelling
from growtool.operators.table import OPERATORS
from growtool.recipe import Recipe, TensorRecipe


def produce(
    recipe: Recipe, advance: Callable[[int], None], replaced: Mapping[str, Tensor] | None = None
) -> Iterator[Tensor]:
    """The target's tensors in file order, the next one being computed while the last one is written.

    Every operation runs on one thread: sums then have one order, and the bytes do not depend on the machine's cores.

    Args:
        recipe: what to make.
        advance: told the bytes of each tensor once it is made.
        replaced: tensors of the target that were made before, by name.
    """
    tensors = [recipe.tensors[name] for name in file_order(recipe.infos)]
    with single_threaded(), ThreadPoolExecutor(max_workers=1) as pool:
        following = pool.submit(_made, recipe, tensors[0])
        for tensor, after in zip(tensors, [*tensors[1:], None], strict=True):
            made = following.result()
            if after is not None:
                following = pool.submit(_made, recipe, after)
            yield (replaced or {}).get(tensor.name, made)
            advance(tensor.info.nbytes)


def _made(recipe: Recipe, tensor: TensorRecipe) -> Tensor:
    if tensor.zero:
        return torch.zeros(tensor.info.shape, dtype=tensor.info.torch_dtype)
    if tensor.source is None:
        assert tensor.implied is not None, "a tensor comes from the source or is implied by it"
        implied = tensor.implied
        if tensor.rewrite is not None:
            implied = tensor.rewrite.apply(implied, lambda name: recipe.source.read(name).to(implied.dtype))
        return split_evenly(implied, tensor.maps).to(tensor.info.torch_dtype)
    stored = recipe.source.read(tensor.source)
    if not stored.is_floating_point():
        return copy_positions(stored, tensor.maps).to(tensor.info.torch_dtype)
    # float64 where either side is, else float32
    dtype = torch.promote_types(torch.promote_types(stored.dtype, tensor.info.torch_dtype), torch.float32)
    grown = _grown(recipe, tensor, tensor.source, stored.to(dtype))
    for dim, positions in tensor.paired:
        grown = grown.index_select(dim, positions)
    if tensor.cancelling is not None:
        generator = generator_for(recipe.plan.seed, f"cancelling {tensor.shared}")
        grown = cancelling(grown, tensor.cancelling, generator)
    return grown.to(tensor.info.torch_dtype)


def _grown(recipe: Recipe, tensor: TensorRecipe, source: str, stored: Tensor) -> Tensor:
    """The tensor after the widths have grown, in the type of `stored`, what the source holds."""
    if tensor.rewrite is None and all(axis.is_identity for axis in tensor.maps):
        return stored
    width = recipe.plan.width
    assert width is not None, "a recipe with growing widths has a width operator"
    operator = OPERATORS[width.operator].implementation()

    def read(name: str) -> Tensor:
        return recipe.source.read(name).to(stored.dtype)

    before = stored if tensor.rewrite is None else tensor.rewrite.apply(stored, read)
    layer = Layer(
        name=tensor.shared,
        maps=tensor.maps,
        templates=tensor.templates,
        own=tensor.templates.index(source),
        seed=recipe.plan.seed,
        fill=tensor.fill,
    )
    return operator.grow(width, before, layer, read)  # type: ignore[no-any-return]


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """torch computes on one thread while this is open."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
