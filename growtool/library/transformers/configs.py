"""`config.json` of transformers as a spec, and a spec as a configuration that its models are built from."""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from growtool.errors import CheckpointError
from growtool.library.paths import set_at
from growtool.library.spec import ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

NAME = "transformers"
DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers")
# What a file says of itself, not of its model.
_ABOUT = frozenset("architectures model_type transformers_version dtype torch_dtype _name_or_path auto_map".split())
_PART = "_config"  # the names of configurations within a configuration end so


def read_config(config: Mapping[str, Any], *, where: str) -> ModelSpec:
    """The model of a `config.json`: its class, and everything else that the file says.

    `settings` keeps which of its lists have an entry for each block, and which fields it has.

    Raises:
        CheckpointError: it names no class that transformers has, or is not a configuration of that class.
    """
    kind = config.get("model_type")
    classes = config.get("architectures") or []
    if not isinstance(kind, str) or not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
        raise CheckpointError(
            f"{where}: found model_type {kind!r} and architectures {classes!r}, expected the name of a type and a list "
            "with the name of a class, as `model.save_pretrained(folder)` writes them"
        )
    if not _known_type(kind):
        raise CheckpointError(f"{where}: {_unknown_type(kind, own_code=bool(config.get('auto_map')))}")
    architecture = classes[0] if classes else _base_class(kind)
    arguments = {key: value for key, value in config.items() if key not in _ABOUT}
    about = {key: value for key, value in config.items() if key in _ABOUT}
    settings = {"per_block": dict(_per_block(arguments)), "fields": [name for name, _ in fields(arguments)]}
    return ModelSpec(architecture, arguments, settings, about, NAME)


def written_config(spec: ModelSpec) -> dict[str, Any]:
    """What `config.json` says of a spec: as it was read, with the sizes that have changed."""
    return {**spec.extra, **arguments_of(spec)}


def config_of(spec: ModelSpec) -> PreTrainedConfig:
    """The configuration that a model is built from.

    Raises:
        TypeError: an argument that its class does not have.
        ValueError: a path that leads nowhere, or whatever the class refuses.
    """
    from transformers import AutoConfig

    arguments = copy.deepcopy(arguments_of(spec))  # configurations take apart what they are given
    config = AutoConfig.for_model(spec.extra["model_type"], **arguments)
    known = {*inspect.signature(type(config)).parameters, *spec.settings["fields"], *arguments_of(_as_read(spec))}
    unknown = [name for name in arguments if name not in known]
    if unknown:
        raise TypeError(f"{', '.join(unknown)}: no field of {type(config).__name__}")
    return config


def _as_read(spec: ModelSpec) -> ModelSpec:
    return replace(spec, model_args={n: v for n, v in spec.model_args.items() if n in spec.settings["fields"]})


def arguments_of(spec: ModelSpec) -> dict[str, Any]:
    """`model_args` as a configuration takes them: paths set within their parts, lists by block as long as the model.

    A field may have two names, of which the later one counts: `hidden_size` is `n_embd` to GPT-2.
    """
    aliases = _aliases(spec.extra["model_type"])
    plain = {aliases.get(name, name): value for name, value in spec.model_args.items() if "." not in name}
    paths = {name: value for name, value in spec.model_args.items() if "." in name}
    for root in dict.fromkeys(name.partition(".")[0] for name in paths):
        inner = {name: value for name, value in paths.items() if name.partition(".")[0] == root}
        plain[root] = set_at(plain.get(root, {}), inner)
    for path, count in spec.settings.get("per_block", {}).items():
        _fit_list(plain, path.split("."), count)
    return plain


def fields(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The fields of a configuration by path, those of its parts as `text_config.hidden_size`."""
    for name, value in config.items():
        if name.endswith(_PART) and isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", v) for inner, v in fields(value))
        else:
            yield name, value


def _per_block(arguments: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Paths of the lists that have an entry for each block, and the name of the number of blocks beside them."""
    for part, found in _parts(arguments):
        for count in DEPTHS:
            for name, value in found.items():
                listed = isinstance(value, list) and len(value) == found.get(count)
                if listed and not name.endswith("token_id") and not name.endswith("token_ids"):
                    yield f"{part}{name}", count


def _parts(arguments: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield prefix, arguments
    for name, value in arguments.items():
        if name.endswith(_PART) and isinstance(value, Mapping):
            yield from _parts(value, f"{prefix}{name}.")


def _fit_list(arguments: dict[str, Any], path: list[str], count: str) -> None:
    """Give a list by block an entry for each, in place: the pattern goes on from its start."""
    *parts, name = path
    for part in parts:
        arguments[part] = dict(arguments[part])
        arguments = arguments[part]
    number, old = arguments.get(count), arguments[name]
    if isinstance(number, int) and number > 0 and len(old) != number:
        arguments[name] = [old[i % len(old)] for i in range(number)]


def _known_type(kind: str) -> bool:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return kind in CONFIG_MAPPING


def _unknown_type(kind: str, *, own_code: bool) -> str:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if own_code:
        return (
            "auto_map: found a model whose code lies in the checkpoint, expected one of transformers' own; growtool "
            "runs no code of a checkpoint: register its classes in a file, and name that with --plugin"
        )
    near = difflib.get_close_matches(kind, CONFIG_MAPPING_NAMES, n=3)
    return f"model_type: found {kind!r}, expected a type that transformers has; " + (
        f"did you mean {', '.join(near)}?" if near else "update transformers, or correct it"
    )


def _aliases(kind: str) -> Mapping[str, str]:
    """Other name of a field -> its name in configurations of a type."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    found: Mapping[str, str] = CONFIG_MAPPING[kind].attribute_map
    return found


def _base_class(kind: str) -> str:
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    found = MODEL_MAPPING_NAMES[kind]
    return found if isinstance(found, str) else found[0]
