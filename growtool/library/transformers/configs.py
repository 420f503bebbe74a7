"""`config.json` of transformers as a spec, and a spec as a configuration that its models are built from."""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from growtool.errors import CheckpointError
from growtool.library.spec import ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

NAME = "transformers"
DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers")
# What a file says of itself, not of its model.
_ABOUT = frozenset(
    "architectures model_type transformers_version dtype torch_dtype _name_or_path auto_map growtool".split()
)
# Lists that may be as long as a small model has blocks, and have none of their entries for one.
_NO_LISTS = ("token_id", "token_ids", "_limit", "image_size", "patch_size", "kernel_size", "stride")
_PART = "_config"  # the names of configurations within a configuration end so


def read_config(config: Mapping[str, Any], *, where: str) -> ModelSpec:
    """The model of a `config.json`: its class, and everything else that the file says.

    `settings` keeps which of its lists have an entry for each block, and which fields it has.

    Raises:
        CheckpointError: it names no class that transformers has, or is not a configuration of that class.
    """
    config = _plain_floats(config)
    kind = config.get("model_type")
    classes = config.get("architectures") or []
    if not isinstance(kind, str) or not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
        raise CheckpointError(
            f"{where}: found model_type {kind!r} and architectures {classes!r}, expected the name of a type and a list "
            "with the name of a class, as `model.save_pretrained(folder)` writes them"
        )
    if not _known_type(kind):
        raise CheckpointError(f"{where}: {_unknown_type(kind, own_code=bool(config.get('auto_map')))}")
    _require_plain(config, where)
    architecture = classes[0] if classes else _base_class(kind)
    arguments = {key: value for key, value in config.items() if key not in _ABOUT}
    about = {key: value for key, value in config.items() if key in _ABOUT}
    derived = _derived(kind, arguments)
    per_block = dict(_per_block(arguments, derived))
    ignored = derived.keys() & arguments.keys() & set(per_block.values())  # by the class, which counts for itself
    arguments |= {name: derived[name] for name in ignored}
    settings = {"per_block": per_block, "fields": list(arguments)}
    return ModelSpec(architecture, arguments, settings, about, NAME)


def _require_plain(config: Mapping[str, Any], where: str) -> None:
    """Raise a CheckpointError where weights are quantised: what grows are numbers, no codes of them."""
    for part, found in _parts(config):
        told = found.get("quantization_config")
        if told:
            method = told.get("quant_method") if isinstance(told, Mapping) else None
            raise CheckpointError(
                f"{where}: {part}quantization_config: found weights quantised{f' by {method}' if method else ''}, "
                "expected plain ones; name the checkpoint that they were made from, or one that transformers has "
                "dequantised and saved"
            )


def _plain_floats(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Infinities, which JSON has none of, as numbers."""
    from transformers import PreTrainedConfig

    plain: Mapping[str, Any] = PreTrainedConfig._decode_special_floats(dict(config))
    return plain


def written_config(spec: ModelSpec) -> dict[str, Any]:
    """What `config.json` says of a spec: as it was read, with the sizes that have changed."""
    from transformers import PreTrainedConfig

    told: dict[str, Any] = PreTrainedConfig._encode_special_floats({**spec.extra, **arguments_of(spec)})
    return told


def config_of(spec: ModelSpec) -> PreTrainedConfig:
    """The configuration that a model is built from.

    Raises:
        TypeError: an argument that its class does not have.
        Exception: whatever the class refuses.
    """
    from transformers import AutoConfig

    arguments = copy.deepcopy(arguments_of(spec))  # configurations take apart what they are given
    config = AutoConfig.for_model(spec.extra["model_type"], **arguments)
    known = {*spec.settings["fields"], *_computed(spec)}
    unknown = [name for name in spec.model_args if name not in known and not _has(config, name)]
    if unknown:
        raise TypeError(f"{', '.join(unknown)}: no field of {type(config).__name__}")
    return config


def _has(config: Any, path: str) -> bool:
    """Whether the class of a configuration, or of one of its parts, has a field."""
    *parts, name = path.split(".")
    for part in parts:
        config = getattr(config, part, None)
    return config is not None and (name in inspect.signature(type(config)).parameters or name in config.attribute_map)


def arguments_of(spec: ModelSpec) -> dict[str, Any]:
    """`model_args` as a configuration takes them: paths set within their parts, lists by block as long as the model.

    A field may have two names, of which the later one counts: `hidden_size` is `n_embd` to GPT-2.
    """
    aliases = _aliases(spec.extra["model_type"])
    plain = {aliases.get(name, name): value for name, value in spec.model_args.items() if "." not in name}
    for path, value in spec.model_args.items():
        if "." in path:
            *parts, name = path.split(".")
            _part(plain, parts)[name] = value
    for path, count in spec.settings["per_block"].items():
        *parts, name = path.split(".")
        _fit_list(_part(plain, parts), name, count)
    computed = _computed(spec)
    return {name: value for name, value in plain.items() if name not in computed}


def _computed(spec: ModelSpec) -> set[str]:
    """Numbers of blocks that are no fields of a file, but how many entries a list of it has."""
    return {count for path, count in spec.settings["per_block"].items() if "." not in path} - {*spec.settings["fields"]}


def counts_of(spec: ModelSpec) -> dict[str, int]:
    """Numbers of blocks by how many entries the lists of a configuration have; not all of them are fields of it."""
    arguments, per_block = arguments_of(spec), spec.settings["per_block"]
    return {count: len(_entries(arguments[path])) for path, count in per_block.items() if "." not in path}


def _part(arguments: dict[str, Any], parts: list[str]) -> dict[str, Any]:
    """A configuration within one, which may be changed: it is a copy put in its place."""
    for part in parts:
        arguments[part] = dict(arguments.get(part) or {})
        arguments = arguments[part]
    return arguments


def fields(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The fields of a configuration by path, those of its parts as `text_config.hidden_size`."""
    for name, value in config.items():
        if name.endswith(_PART) and isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", v) for inner, v in fields(value))
        else:
            yield name, value


def _per_block(arguments: Mapping[str, Any], derived: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Paths of the lists that have an entry for each block, and the name of the number of blocks beside them."""
    for part, found in _parts(arguments):
        counts: dict[str, Any] = {name: found[name] for name in DEPTHS if name in found}
        counts |= {} if part else derived
        for count, number in counts.items():
            for name, value in found.items():
                if not name.endswith(_NO_LISTS) and _lists(name, value) and len(_entries(value)) == number:
                    yield f"{part}{name}", count


def _derived(kind: str, arguments: Mapping[str, Any]) -> dict[str, int]:
    """Numbers of blocks that the class of a configuration computes (Nemotron-H), as it is without them."""
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    names = [name for name in DEPTHS if isinstance(getattr(CONFIG_MAPPING[kind], name, None), property)]
    try:
        config = AutoConfig.for_model(kind, **copy.deepcopy(dict(arguments))) if names else None
    except Exception:  # whoever builds the model is told what its class refuses
        return {}
    return {name: getattr(config, name) for name in names}


def _lists(name: str, value: Any) -> bool:
    """Whether a field holds a list; a pattern is one of letters."""
    return isinstance(value, list) or (isinstance(value, str) and name.endswith("_pattern"))


def _entries(value: Any) -> list[Any]:
    """The entries of a list; of one of runs, as GPT-Neo has it (`[[["global", "local"], 12]]`), those of all runs."""
    return [entry for kinds, times in value for entry in kinds * times] if _is_runs(value) else list(value)


def _is_runs(value: Any) -> bool:
    return bool(value) and all(
        isinstance(run, list) and len(run) == 2 and isinstance(run[0], list) and isinstance(run[1], int)
        for run in value
    )


def _parts(arguments: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield prefix, arguments
    for name, value in arguments.items():
        if name.endswith(_PART) and isinstance(value, Mapping):
            yield from _parts(value, f"{prefix}{name}.")


def _fit_list(arguments: dict[str, Any], name: str, count: str) -> None:
    """Give a list by block an entry for each, in place: the pattern goes on from its start."""
    number, value = arguments.get(count), arguments[name]
    old = _entries(value)
    if isinstance(number, int) and number > 0 and len(old) != number:
        new = [old[i % len(old)] for i in range(number)]
        arguments[name] = [[new, 1]] if _is_runs(value) else "".join(new) if isinstance(value, str) else new


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
