"""How transformers' files hold the tensors of a model, by transformers' own table of conversions, in both directions.

A checkpoint keeps the names under which it was published. The model's tensors may be called otherwise, and one of them
may be several in the file (the experts of Mixtral). transformers converts a whole state dict while it loads and back
while it saves (`convert_and_load_state_dict_in_model` and `revert_weight_conversion` in its `core_model_loading`).
`reading` and `writing` follow the same steps, and yield conversions that can run on a few tensors at a time.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from growtool.library.building import Shapes, places_of_ties, shared_names
from growtool.library.layout import Conversion, Convert, Reading, Writing
from growtool.library.transformers.weight_norm import combining, part_names, separating

if TYPE_CHECKING:
    from torch import Tensor

# Buffers that old versions of transformers saved and that models compute themselves; `from_pretrained` ignores them.
_ONCE_SAVED = (r"rotary_emb\.inv_freq", r"(^|\.)position_ids$")

_Collected = dict[str, tuple[Any, list[tuple[str, str]]]]
"""First result of a converter -> the converter, and (matched pattern, name) of each tensor that it takes."""


def reading(model: Any, stored: Shapes) -> Reading:
    """Return how transformers makes a model's tensors of those in a file.

    Args:
        model: the model without weights, from `Transformers.create`.
        stored: shapes of the tensors in the file by their names.
    """
    from transformers.core_model_loading import dot_natural_key, rename_source_key

    renamings, converters = _table(model)
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    # The model has plain weights where transformers' own has two parts of a weight norm, which the table speaks of.
    norm_parts = [part for parts in part_names(model).values() for part in parts]
    # `rename_source_key` takes a name whose value is None for none of the model's.
    known = model.state_dict() | dict.fromkeys(norm_parts, True)
    places, unknown = dict[str, str](), list[str]()
    collected: _Collected = {}
    # Sorted by number, since a converter stacks experts in the order in which it is given them.
    for name in sorted(stored, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, known)
        if target not in known and name in known:  # a rule for old checkpoints leads a name of today astray
            target, pattern = name, None
        if target not in known:
            unknown.append(name)
        elif pattern is None:
            places[target] = name
        else:
            collected.setdefault(target, (by_pattern[pattern], []))[1].append((pattern, name))
    made = {result: one for one in _conversions(model, collected, stored) for result in one.results}
    made |= combining(model, {part: places.pop(part) for part in norm_parts if part in places})
    ignored = (*(model._keys_to_ignore_on_load_unexpected or ()), *_ONCE_SAVED)
    unused = tuple(name for name in unknown if any(re.search(pattern, name) for pattern in ignored))
    ties = places_of_ties(shared_names(model.state_dict(keep_vars=True)), places)
    return Reading(places | ties, made, unused, frozenset(ties))


def writing(model: Any, source: Reading, dropped: Collection[str]) -> Writing:
    """Return how a grown model's tensors are written, under names of the kind that its source's file had.

    Args:
        model: the grown model without weights.
        source: how the source's tensors were read.
        dropped: second names of tied tensors, which are not written.
    """
    from transformers.core_model_loading import apply_converters, apply_renamings

    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in dropped}
    stripped = _prefix_remover(model, source)
    # Names of the two parts of a weight norm: those in the source's file, and for new blocks those that torch gives. A
    # file that holds the plain weight (in `places`) keeps it.
    normed = {
        weight: source.made[weight].parts if weight in source.made else tuple(map(stripped, parts))
        for weight, parts in part_names(model).items()
        if weight in shapes and weight not in source.places
    }
    conversions = list(separating(model, normed))
    shapes = {name: shape for name, shape in shapes.items() if name not in normed}
    # Weights made of their two parts do not tell whether the file has names that the table converts.
    source = replace(source, made={name: one for name, one in source.made.items() if name not in normed})
    if not _has_published_names(model, source):
        return Writing({name: stripped(name) for name in shapes}, conversions)
    # What loading does last is undone first; converters run before renamings, as in `revert_weight_conversion`.
    renamings, converters = ([one.reverse_transform() for one in table[::-1]] for table in _table(model, saving=True))
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    names: dict[str, str] = {}
    collected: _Collected = {}
    for name in shapes:
        result, pattern = apply_converters(name, converters)
        if pattern is None:
            names[name] = stripped(apply_renamings(name, renamings))
        else:
            collected.setdefault(result, (by_pattern[pattern], []))[1].append((pattern, name))
    for one in _conversions(model, collected, shapes):
        renamed = {result: stripped(apply_renamings(result, renamings)) for result in one.results}
        conversions.append(Conversion(one.parts, tuple(renamed.values()), partial(_renamed, one.convert, renamed)))
    return Writing(names, tuple(conversions))


def _table(model: Any, *, saving: bool = False) -> tuple[list[Any], list[Any]]:
    """Return the renamings and the converters that transformers has for a model, each in its order.

    Args:
        model: a model of transformers.
        saving: leave out what only loading may apply.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import PrefixChange, WeightConverter, WeightRenaming

    table = get_model_conversion_mapping(model, add_legacy=not saving)
    # As in `revert_weight_conversion`: reversed, such a rule would add a prefix that the file may never have had.
    if saving:
        table = [one for one in table if not isinstance(one, PrefixChange)]
    return (
        [one for one in table if isinstance(one, WeightRenaming)],
        [one for one in table if isinstance(one, WeightConverter)],
    )


def _has_published_names(model: Any, source: Reading) -> bool:
    """Return whether the source's file has published names, which transformers converts, rather than the model's."""
    from transformers.core_model_loading import rename_source_key

    renamings, converters = _table(model, saving=True)
    return bool(source.made) or any(
        rename_source_key(place, renamings, converters)[0] != place for place in source.places.values()
    )


def _prefix_remover(model: Any, source: Reading) -> Callable[[str], str]:
    """Return a function that drops the base model's prefix (`transformer.`) if the source's file is without it.

    GPT-2 was published so: a file of the base model, loaded into a model with a head.
    """
    prefix = f"{model.base_model_prefix}."
    bare = any(name.startswith(prefix) and not place.startswith(prefix) for name, place in source.places.items())
    return (lambda name: name.removeprefix(prefix)) if bare else (lambda name: name)


def _conversions(model: Any, collected: _Collected, shapes: Shapes) -> Iterator[Conversion]:
    """Yield a conversion for each converter and the tensors that it takes, of these shapes."""
    import torch

    for first, (converter, parts) in collected.items():
        convert = partial(_converted, model, converter, first, parts)
        names = tuple(name for _, name in parts)
        # A converter tells the names of its results by running alone, on meta tensors.
        yield Conversion(
            names, tuple(convert({name: torch.empty(shapes[name], device="meta") for name in names})), convert
        )


def _converted(
    model: Any, converter: Any, first: str, parts: list[tuple[str, str]], tensors: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """Return the tensors that a converter of transformers makes of others, by the names that it gives them."""
    used = copy.deepcopy(converter)  # it keeps the tensors that are added
    for pattern, name in parts:
        used.add_tensor(first, name, pattern, tensors[name])
    made = used.convert(first, model=model, config=model.config)
    return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}


def _renamed(convert: Convert, names: Mapping[str, str], tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return {names[name]: tensor for name, tensor in convert(tensors).items()}
