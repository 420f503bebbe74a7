"""What timm makes of a checkpoint while it loads it, and how timm is told to load one."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growtool.library.building import without_weights
from growtool.library.loaded import Loaded, Script, load_strictly, recording
from growtool.library.spec import ModelSpec
from growtool.library.timm.reach import home_module, register

if TYPE_CHECKING:
    from torch import Tensor

Call = tuple[str, Mapping[str, Any]]
"""The arguments of a call of `timm.create_model`: the name and the others."""


def call_for_folder(folder: Path) -> Call:
    """What `timm.create_model` is called with to load a timm folder."""
    return f"local-dir:{folder}", {"pretrained": True}


def call_for_state(spec: ModelSpec, folder: Path | None) -> Call:
    """The same for a state dict in memory, which goes to `pretrained_cfg_overlay` with what is there.

    Args:
        spec: the model.
        folder: where its config.json is; None where timm's registry and the spec have to do.
    """
    if folder is not None:
        return f"local-dir:{folder}", {"pretrained": True, "pretrained_cfg_overlay": {"source": ""}}
    classes = count_classes(spec)
    overlay = {"source": ""} | ({} if classes is None else {"num_classes": classes})
    config = {"pretrained_cfg": dict(spec.settings)} if spec.settings else {}
    return spec.architecture, {"pretrained": True, **config, "pretrained_cfg_overlay": overlay, **spec.model_args}


def load(call: Call, spec: ModelSpec, state: Mapping[str, Tensor] | None = None) -> Loaded:
    """What `timm.create_model` loads; the global random state stays, timm's log is silent.

    Args:
        call: of one of the functions above.
        spec: the model.
        state: the state dict, for the second of them; on meta, it is held against a model without weights.

    Raises:
        Exception: whatever timm trips over.
    """
    import timm
    import torch

    register()
    name, arguments = call
    told = dict(arguments)
    dry = state is not None and all(tensor.is_meta for tensor in state.values())
    if state is not None:
        told["pretrained_cfg_overlay"] = {**told["pretrained_cfg_overlay"], "state_dict": _uncopied(state)}
    make = partial(timm.create_model, name, **told)
    with torch.random.fork_rng(devices=[]), _silent(), recording(dry=dry) as recorded:
        model: Any = without_weights(make, (state or {}).values()) if dry else make()
    if not recorded.given or 2 * len(recorded.missing) > len(model.state_dict()):
        raise RuntimeError(f"{name} takes next to nothing of it")
    # save_for_hf goes by the name in the model's configuration, which not every entry point has made its own
    faithful = model.pretrained_cfg.get("architecture") == spec.architecture
    script = Script(_imports(spec), _python(call, state is not None), SAVING) if faithful else None
    return Loaded(model.eval(), recorded.given, recorded.missing, script)


def _uncopied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors in the same memory; timm copies its configuration deeply, the state dict in it, too."""
    kept = {name: tensor.detach() for name, tensor in state.items()}
    for tensor in kept.values():
        tensor.__deepcopy__ = partial(_itself, tensor)  # type: ignore[method-assign]
    return kept


def _itself(tensor: Tensor, memo: object) -> Tensor:
    return tensor


SAVING = "timm.models.save_for_hf(model, {}, safe_serialization=True)"


def take(spec: ModelSpec, state: Mapping[str, Tensor]) -> Loaded:
    """What timm makes of a state dict; with the head cut as its registry says, as it is, or strictly.

    Raises:
        Exception: whatever timm trips over first.
    """
    import timm

    name, arguments = call_for_state(spec, None)
    whole = {**arguments, "pretrained_cfg_overlay": {**arguments["pretrained_cfg_overlay"], "label_offset": None}}
    problem: Exception | None = None
    # a user's own model may not load weights itself
    strictly = partial(load_strictly, partial(timm.create_model, name, **spec.model_args), state)
    for attempt in (partial(load, (name, arguments), spec, state), partial(load, (name, whole), spec, state), strictly):
        try:
            with _silent():
                return attempt()
        except Exception as error:  # whatever timm trips over
            problem = problem or error
    assert problem is not None, "an attempt that fails says why"
    raise problem


def needed_import(spec: ModelSpec) -> str | None:
    """The module that has to be imported before timm knows the spec's model; None where timm alone does."""
    package = home_module(spec).split(".")[0]
    return None if package == "timm" else package


def loading_line(path: Path, spec: ModelSpec) -> str:
    """The Python that loads a checkpoint in timm, a folder or a single file."""
    folder = f"timm.create_model({_literal(f'local-dir:{path}')}, pretrained=True)"
    line = _of_file(path, spec) if path.suffix == ".safetensors" else folder
    needs = needed_import(spec)
    return f"import {needs}; {line}" if needs else line


def loading_text(spec: ModelSpec) -> str:
    """How a model card says to load the folder it lies in."""
    needs = needed_import(spec)
    imports = f"import {needs}\nimport timm" if needs else "import timm"
    return (
        "From inside this folder, or with its path in place of the dot:\n\n"
        f'```python\n{imports}\n\nmodel = timm.create_model("local-dir:.", pretrained=True)\n```\n\n'
        "Without `pretrained=True` timm builds the model with random weights and says nothing."
    )


def count_classes(spec: ModelSpec) -> int | None:
    """Number of classes, where the spec says it."""
    found = spec.model_args.get("num_classes", spec.settings.get("num_classes"))
    return None if found is None else int(found)


def _imports(spec: ModelSpec) -> str:
    return f"import {', '.join(filter(None, ['timm', needed_import(spec)]))}"


def _python(call: Call, with_state: bool) -> str:
    """The Python of a call; `state` is the variable that holds the state dict."""
    name, arguments = call
    told = dict(arguments)
    overlay = told.pop("pretrained_cfg_overlay", None)
    words = [repr(name), *(f"{key}={value!r}" for key, value in told.items())]
    if overlay is not None:
        items = [f"{key}={value!r}" for key, value in overlay.items()] + (["state_dict=state"] if with_state else [])
        words.append(f"pretrained_cfg_overlay=dict({', '.join(items)})")
    return f"timm.create_model({', '.join(words)})"


def _literal(text: str) -> str:
    """A string as Python reads it, in double quotes where nothing in it has to be escaped."""
    plain = repr(text) == f"'{text}'"
    return f'"{text}"' if plain else repr(text)


def _of_file(path: Path, spec: ModelSpec) -> str:
    arguments = "".join(f", {name}={value!r}" for name, value in spec.model_args.items())
    classes = count_classes(spec)  # timm makes the classifier anew where the configuration has another number
    told = f", num_classes={classes}" if classes is not None else ""
    overlay = f"pretrained_cfg_overlay=dict(file={str(path)!r}{told})"
    return f'timm.create_model("{spec.architecture}", pretrained=True, {overlay}{arguments})'


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    logger = logging.getLogger("timm")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
