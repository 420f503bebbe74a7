"""Where transformers keeps tensors: by its own table of names and conversions, both ways.

Checkpoints keep the names under which they were published; models of today may call their tensors otherwise, and hold
as one what is several in a file (the experts of a mixture). transformers converts while it loads, and back while it
saves. The same is done here tensor by tensor.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from growtool.library.building import shared_names
from growtool.library.layout import Conversion, Reading, Writing
from growtool.library.transformers.weight_norm import combining, part_names, separating

if TYPE_CHECKING:
    from torch import Tensor, nn

# Constants that older versions saved, and that every version computes; it passes over them, too.
_ONCE_SAVED = (r"rotary_emb\.inv_freq", r"(^|\.)position_ids$")

Shapes = Mapping[str, tuple[int, ...]]
_Collected = dict[
    str, tuple[Any, list[tuple[str, str]]]
]  # first result -> converter, and pattern and name of each part


def reading(model: Any, stored: Shapes) -> Reading:
    """How transformers finds a model's tensors among those of a file.

    Args:
        model: without weights.
        stored: shapes of the tensors in the file.
    """
    from transformers.core_model_loading import dot_natural_key, rename_source_key

    renamings, converters = _table(model)
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    own, prefix = model.state_dict(), model.base_model_prefix
    normed = {part: weight for weight, parts in part_names(model).items() for part in parts}
    own |= dict.fromkeys(normed, True)  # transformers takes a name whose value is None for none of the model's
    places, unused = dict[str, str](), list[str]()
    collected: _Collected = {}
    for name in sorted(stored, key=dot_natural_key):
        found, pattern = rename_source_key(name, renamings, converters, prefix, own)
        if found not in own and name in own:
            found, pattern = name, None
        if found not in own:
            unused.append(name)
        elif pattern is None:
            places[found] = name
        else:
            collected.setdefault(found, (by_pattern[pattern], []))[1].append((pattern, name))
    made = {result: one for one in _conversions(model, collected, stored) for result in one.results}
    made |= combining(model, {part: places.pop(part) for part in normed if part in places})
    ignored = (*(model._keys_to_ignore_on_load_unexpected or ()), *_ONCE_SAVED)
    passed = tuple(name for name in unused if any(re.search(pattern, name) for pattern in ignored))
    ties = _ties(model, places)
    return Reading(places | ties, made, passed, frozenset(ties))


def writing(model: Any, source: Reading, dropped: Collection[str]) -> Writing:
    """How the tensors of a grown model are written: under such names as its source had.

    Args:
        model: the grown one, without weights.
        source: how its source was read.
        dropped: tensors of the model that are others under another name, and that are not to be written.
    """
    from transformers.core_model_loading import apply_converters, apply_renamings

    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in dropped}
    stripped = _without_prefix(model, source)
    normed = {
        weight: source.made[weight].parts if weight in source.made else tuple(map(stripped, parts))
        for weight, parts in part_names(model).items()
        if weight in own and weight not in source.places
    }
    separated = list(separating(model, normed))
    source = replace(source, made={name: one for name, one in source.made.items() if name not in normed})
    own = {name: shape for name, shape in own.items() if name not in normed}
    if not _converts(model, source):
        return Writing({name: stripped(name) for name in own}, separated)
    renamings, converters = ([one.reverse_transform() for one in table[::-1]] for table in _table(model, saving=True))
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    names: dict[str, str] = {}
    collected: _Collected = {}
    for name in own:
        found, pattern = apply_converters(name, converters)
        if pattern is None:
            names[name] = stripped(apply_renamings(name, renamings))
        else:
            collected.setdefault(found, (by_pattern[pattern], []))[1].append((pattern, name))
    conversions = separated
    for one in _conversions(model, collected, own):
        renamed = {result: stripped(apply_renamings(result, renamings)) for result in one.results}
        conversions.append(Conversion(one.parts, tuple(renamed.values()), partial(_renamed, one.convert, renamed)))
    return Writing(names, tuple(conversions))


def _table(model: Any, *, saving: bool = False) -> tuple[list[Any], list[Any]]:
    """The renamings and the converters of a model, in order."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import PrefixChange, WeightConverter, WeightRenaming

    table = get_model_conversion_mapping(model, add_legacy=not saving)
    if saving:
        table = [one for one in table if not isinstance(one, PrefixChange)]
    return (
        [one for one in table if isinstance(one, WeightRenaming)],
        [one for one in table if isinstance(one, WeightConverter)],
    )


def _converts(model: Any, source: Reading) -> bool:
    """Whether the source's file had the names that transformers converts."""
    from transformers.core_model_loading import rename_source_key

    renamings, converters = _table(model, saving=True)
    return bool(source.made) or any(
        rename_source_key(place, renamings, converters)[0] != place for place in source.places.values()
    )


def _without_prefix(model: Any, source: Reading) -> Any:
    """What takes the name of the base model off the names of the file, where the source's file had none."""
    prefix = f"{model.base_model_prefix}."
    plain = any(name.startswith(prefix) and not place.startswith(prefix) for name, place in source.places.items())
    return (lambda name: name.removeprefix(prefix)) if plain else (lambda name: name)


def _ties(model: nn.Module, places: Mapping[str, str]) -> dict[str, str]:
    """Tensors that the file does not hold, as they are others under another name."""
    found = dict[str, str]()
    for names in shared_names(model.state_dict(keep_vars=True)):
        kept = next((name for name in names if name in places), None)
        found |= {name: places[kept] for name in names if kept is not None and name not in places}
    return found


def _conversions(model: Any, collected: _Collected, shapes: Shapes) -> Iterator[Conversion]:
    """What becomes of the tensors that each converter takes."""
    for first, (converter, parts) in collected.items():
        convert = partial(_converted, model, converter, first, parts)
        names = tuple(name for _, name in parts)
        yield Conversion(names, tuple(convert({name: _empty(shapes[name]) for name in names})), convert)


def _converted(
    model: Any, converter: Any, first: str, parts: list[tuple[str, str]], tensors: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """What a converter of transformers makes of tensors, by the names that it gives."""
    own = copy.deepcopy(converter)
    for pattern, name in parts:
        own.add_tensor(first, name, pattern, tensors[name])
    made = own.convert(first, model=model, config=model.config)
    return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}


def _renamed(convert: Any, names: Mapping[str, str], tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return {names[name]: tensor for name, tensor in convert(tensors).items()}


def _empty(shape: tuple[int, ...]) -> Tensor:
    import torch

    return torch.empty(shape, device="meta")
