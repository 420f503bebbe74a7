"""transformers' `config.json` as a `ModelSpec`, and a `ModelSpec` as the configuration that a model is built from.

A field is one entry of `config.json`, and a part is a configuration within it (`text_config`). The fields of parts have
paths, `text_config.hidden_size`. A list by block has an entry for each block (`layer_types`), and so has to follow the
number of blocks.
"""

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
DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers")  # of blocks
# Fields that describe the file, and are no arguments of the model.
_ABOUT = frozenset(
    "architectures model_type transformers_version dtype torch_dtype _name_or_path auto_map growtool".split()
)
# Endings of fields whose lists are not by block, even if they are as long as the model has blocks (Bamba of two blocks:
# `time_step_limit` holds a least and a greatest value).
_NOT_BY_BLOCK = ("token_id", "token_ids", "_limit", "image_size", "patch_size", "kernel_size", "stride")
_PART = "_config"  # ending of the names of parts


def read_config(config: Mapping[str, Any], *, where: str) -> ModelSpec:
    """Return the spec of the model that a `config.json` describes.

    Its `model_args` are the fields of the model, its `extra` those in `_ABOUT`. Its `settings` hold `per_block`, the
    path of each list by block with the name of the number of blocks, and `fields`, the names of the top fields.

    Raises:
        CheckpointError: the file names no class or no type that transformers has, or its weights are quantised; names
            `where`.
    """
    from transformers import PreTrainedConfig

    config = PreTrainedConfig._decode_special_floats(dict(config))  # it writes infinity as `{"__float__": "Infinity"}`
    kind = config.get("model_type")
    classes = config.get("architectures") or []
    if not isinstance(kind, str) or not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
        raise CheckpointError(
            f"{where}: found model_type {kind!r} and architectures {classes!r}, expected the name of a type and a list "
            "with the name of a class, as `model.save_pretrained(folder)` writes them"
        )
    _require_known_type(kind, where, own_code=bool(config.get("auto_map")))
    _require_plain(config, where)
    architecture = classes[0] if classes else _base_class(kind)
    arguments = {key: value for key, value in config.items() if key not in _ABOUT}
    about = {key: value for key, value in config.items() if key in _ABOUT}
    derived = _derived(kind, arguments)
    per_block = dict(_per_block(arguments, derived))
    # A class that counts the entries of a list ignores the number beside it, which may be another one (Nemotron-H).
    ignored = derived.keys() & arguments.keys() & set(per_block.values())
    arguments |= {name: derived[name] for name in ignored}
    settings = {"per_block": per_block, "fields": list(arguments)}
    return ModelSpec(architecture, arguments, settings, about, NAME)


def _require_plain(config: Mapping[str, Any], where: str) -> None:
    """Check that weights are not quantised; raise CheckpointError if they are, as their codes cannot be grown."""
    for part, fields_of_part in _parts(config):
        quantization = fields_of_part.get("quantization_config")
        if quantization:
            method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
            raise CheckpointError(
                f"{where}: {part}quantization_config: found weights quantised{f' by {method}' if method else ''}, "
                "expected plain ones; name the checkpoint that they were made from, or one that transformers has "
                "dequantised and saved"
            )


def written_config(spec: ModelSpec) -> dict[str, Any]:
    """Return the content of `config.json` for a spec: the fields that were read, with the sizes of the spec."""
    from transformers import PreTrainedConfig

    config: dict[str, Any] = PreTrainedConfig._encode_special_floats({**spec.extra, **arguments_of(spec)})
    return config


def config_of(spec: ModelSpec) -> PreTrainedConfig:
    """Return the configuration that a model is built from.

    Raises:
        TypeError: an argument is no field of the class. transformers itself takes any word, and ignores it.
        Exception: whatever the class raises.
    """
    from transformers import AutoConfig

    arguments = copy.deepcopy(arguments_of(spec))  # classes change the mappings that they are given
    config = AutoConfig.for_model(spec.extra["model_type"], **arguments)
    known = {*spec.settings["fields"], *_computed(spec)}
    unknown = [name for name in spec.model_args if name not in known and not _has(config, name)]
    if unknown:
        raise TypeError(f"{', '.join(unknown)}: no field of {type(config).__name__}")
    return config


def _has(config: Any, path: str) -> bool:
    """Return whether the class of a configuration, or of the part that a path leads into, has a field."""
    *parts, name = path.split(".")
    for part in parts:
        config = getattr(config, part, None)
    return config is not None and (name in inspect.signature(type(config)).parameters or name in config.attribute_map)


def arguments_of(spec: ModelSpec) -> dict[str, Any]:
    """Return `model_args` as the class of a configuration takes them.

    Paths are set within their parts, and lists by block get as many entries as there are blocks. A field may stand
    there under two names (GPT-2 calls `hidden_size` `n_embd`); the later one counts.
    """
    aliases: Mapping[str, str] = _configuration_class(spec.extra["model_type"]).attribute_map
    plain = {aliases.get(name, name): value for name, value in spec.model_args.items() if "." not in name}
    for path, value in spec.model_args.items():
        if "." in path:
            part, name = _home(plain, path)
            part[name] = value
    for path, count in spec.settings["per_block"].items():
        _fit_list(*_home(plain, path), count)
    computed = _computed(spec)
    return {name: value for name, value in plain.items() if name not in computed}


def _computed(spec: ModelSpec) -> set[str]:
    """Return the names of numbers of blocks that the class counts in a list, and that are no fields of the file.

    A plan may set one, which lengthens the list. The class does not take it as an argument.
    """
    return {count for path, count in spec.settings["per_block"].items() if "." not in path} - {*spec.settings["fields"]}


def counts_of(spec: ModelSpec) -> dict[str, int]:
    """Return the numbers of blocks by the lengths of the top lists by block, also those that are no fields."""
    arguments, per_block = arguments_of(spec), spec.settings["per_block"]
    return {count: len(_entries(arguments[path])) for path, count in per_block.items() if "." not in path}


def _home(arguments: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """Return the part that holds the field of a path, and the field's name; the part is a copy that may be changed."""
    *parts, name = path.split(".")
    for part in parts:
        arguments[part] = dict(arguments.get(part) or {})
        arguments = arguments[part]
    return arguments, name


def fields(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the path and the value of each field of a configuration and its parts."""
    for name, value in config.items():
        if name.endswith(_PART) and isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", v) for inner, v in fields(value))
        else:
            yield name, value


def _per_block(arguments: Mapping[str, Any], derived: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Yield the path of each list by block, and the name of the number of blocks beside it.

    A list is taken for one by block if it is as long as its part has blocks.

    Args:
        arguments: the fields of the model.
        derived: numbers of blocks from `_derived`, which count at the top.
    """
    for part, fields_of_part in _parts(arguments):
        counts: dict[str, Any] = {name: fields_of_part[name] for name in DEPTHS if name in fields_of_part}
        counts |= {} if part else derived
        for count, number in counts.items():
            for name, value in fields_of_part.items():
                if not name.endswith(_NOT_BY_BLOCK) and _is_list(name, value) and len(_entries(value)) == number:
                    yield f"{part}{name}", count


def _derived(kind: str, arguments: Mapping[str, Any]) -> dict[str, int]:
    """Return the numbers of blocks that the class of a configuration computes as a property (Nemotron-H), by name."""
    from transformers import AutoConfig

    cls = _configuration_class(kind)
    names = [name for name in DEPTHS if isinstance(getattr(cls, name, None), property)]
    try:
        config = AutoConfig.for_model(kind, **copy.deepcopy(dict(arguments))) if names else None
    except Exception:  # `build` refuses the same configuration, and says why
        return {}
    return {name: getattr(config, name) for name in names}


def _is_list(name: str, value: Any) -> bool:
    """Return whether a field holds a list, or a string with a letter per entry (Nemotron-H's `ME*-` pattern)."""
    return isinstance(value, list) or (isinstance(value, str) and name.endswith("_pattern"))


def _entries(value: Any) -> list[Any]:
    """Return the entries of a list, written out where it is in runs (GPT-Neo's `[[["global", "local"], 12]]`)."""
    return [entry for kinds, times in value for entry in kinds * times] if _is_runs(value) else list(value)


def _is_runs(value: Any) -> bool:
    return bool(value) and all(
        isinstance(run, list) and len(run) == 2 and isinstance(run[0], list) and isinstance(run[1], int)
        for run in value
    )


def _parts(arguments: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a configuration and all of its parts, each behind the prefix of its paths: `""`, `text_config.`."""
    yield prefix, arguments
    for name, value in arguments.items():
        if name.endswith(_PART) and isinstance(value, Mapping):
            yield from _parts(value, f"{prefix}{name}.")


def _fit_list(arguments: dict[str, Any], name: str, count: str) -> None:
    """Give a list by block as many entries as there are blocks, in place: after its end it starts again."""
    number, value = arguments.get(count), arguments[name]
    old = _entries(value)
    if not isinstance(number, int) or number <= 0 or len(old) == number:
        return
    new = [old[i % len(old)] for i in range(number)]
    if _is_runs(value):
        arguments[name] = [[new, 1]]
    else:
        arguments[name] = "".join(new) if isinstance(value, str) else new


def _require_known_type(kind: str, where: str, *, own_code: bool) -> None:
    """Check that transformers has a type; raise CheckpointError if not.

    Args:
        kind: the type.
        where: the file, for the message.
        own_code: whether the file says that the code of the model lies beside it.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

    if kind in CONFIG_MAPPING:
        return
    if own_code:
        raise CheckpointError(
            f"{where}: auto_map: found a model whose code lies in the checkpoint, expected one of transformers' own; "
            "growtool runs no code of a checkpoint: register its classes in a file, and name that with --plugin"
        )
    near = difflib.get_close_matches(kind, CONFIG_MAPPING_NAMES, n=3)
    advice = f"did you mean {', '.join(near)}?" if near else "update transformers, or correct it"
    raise CheckpointError(f"{where}: model_type: found {kind!r}, expected a type that transformers has; {advice}")


def _configuration_class(kind: str) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING[kind]


def _base_class(kind: str) -> str:
    """Return the name of the class that `AutoModel` would build."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    names = MODEL_MAPPING_NAMES[kind]
    return names if isinstance(names, str) else names[0]  # some types have several base classes (Funnel)
