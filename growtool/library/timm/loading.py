"""Loading checkpoints with timm, and the Python that does so."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growtool.library.building import without_weights
from growtool.library.loaded import Loaded, Script, load_strictly, recording
from growtool.library.spec import ModelSpec
from growtool.library.timm.reach import home_module, register

if TYPE_CHECKING:
    from torch import Tensor

SAVING = "timm.models.save_for_hf(model, {}, safe_serialization=True)"  # `Script.saving` of every script

Call = tuple[str, Mapping[str, Any]]
"""The arguments of a call of `timm.create_model`: the name, and the others by name."""


def call_for_folder(folder: Path) -> Call:
    """Return the call of `timm.create_model` that loads a folder."""
    return f"local-dir:{folder}", {"pretrained": True}


def call_for_state(spec: ModelSpec, folder: Path | None) -> Call:
    """Return the call of `timm.create_model` that loads a state dict in memory.

    The caller adds the state dict to the `pretrained_cfg_overlay` of the call, as `state_dict`.

    Args:
        spec: the model.
        folder: a folder whose `config.json` says how to load; None if timm's registry and the spec do.
    """
    # timm takes `state_dict` only where no `source` (`local-dir`, `hf-hub`) comes first.
    if folder is not None:
        return f"local-dir:{folder}", {"pretrained": True, "pretrained_cfg_overlay": {"source": ""}}
    classes = count_classes(spec)
    overlay = {"source": ""} | ({} if classes is None else {"num_classes": classes})
    config = {"pretrained_cfg": dict(spec.settings)} if spec.settings else {}
    return spec.architecture, {"pretrained": True, **config, "pretrained_cfg_overlay": overlay, **spec.model_args}


def load(call: Call, spec: ModelSpec, state: Mapping[str, Tensor] | None = None) -> Loaded:
    """Return what a call of `timm.create_model` loads; the global random state stays, and timm logs nothing.

    Args:
        call: the result of `call_for_folder` or `call_for_state`.
        spec: the model.
        state: the state dict, for a call by `call_for_state`. If it is on meta, names and shapes are compared with a
            model without weights.

    Raises:
        RuntimeError: the state dict has values for less than half of the model's tensors.
        Exception: whatever timm raises.
    """
    import timm
    import torch

    register()
    name, arguments = call
    keywords = dict(arguments)
    dry = state is not None and all(tensor.is_meta for tensor in state.values())
    if state is not None:
        keywords["pretrained_cfg_overlay"] = {**keywords["pretrained_cfg_overlay"], "state_dict": _uncopied(state)}
    make = partial(timm.create_model, name, **keywords)
    with torch.random.fork_rng(devices=[]), _silent(), recording(dry=dry) as recorded:
        model: Any = without_weights(make, (state or {}).values()) if dry else make()
    # timm loads without `strict` where the number of classes is another, so a state dict of any model would pass.
    if not recorded.given or 2 * len(recorded.missing) > len(model.state_dict()):
        raise RuntimeError(f"{name} takes next to nothing of it")
    # `save_for_hf` writes the name in the model's configuration, and an entry point may have another one there.
    faithful = model.pretrained_cfg.get("architecture") == spec.architecture
    script = Script(_imports(spec), _python(call, state is not None), SAVING) if faithful else None
    return Loaded(model.eval(), recorded.given, recorded.missing, script)


def _uncopied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors in the same memory, in a form that `copy.deepcopy` does not copy.

    timm copies its configuration deeply, and with it the state dict. `loaded_by_library` recognises tensors by their
    memory.
    """
    views = {name: tensor.detach() for name, tensor in state.items()}  # the caller's tensors get no attribute
    for tensor in views.values():
        tensor.__deepcopy__ = partial(_itself, tensor)  # type: ignore[method-assign]
    return views


def _itself(tensor: Tensor, memo: object) -> Tensor:
    return tensor


def take(spec: ModelSpec, state: Mapping[str, Tensor]) -> Loaded:
    """Return what timm loads from a state dict: with the head cut as its registry says, else uncut, else strictly.

    Raises:
        Exception: whatever the first of these attempts raised.
    """
    import timm

    name, arguments = call_for_state(spec, None)
    # Weights of TensorFlow have a row for a background class in the head, which `label_offset` makes timm cut. A head
    # that was trained anew has none.
    uncut = {**arguments, "pretrained_cfg_overlay": {**arguments["pretrained_cfg_overlay"], "label_offset": None}}
    attempts: list[Callable[[], Loaded]] = [
        partial(load, (name, arguments), spec, state),
        partial(load, (name, uncut), spec, state),
        # The entry point of a user's own model may ignore `pretrained`.
        partial(load_strictly, partial(timm.create_model, name, **spec.model_args), state),
    ]
    problem: Exception | None = None
    for attempt in attempts:
        try:
            with _silent():
                return attempt()
        except Exception as error:
            problem = problem or error
    assert problem is not None, "an attempt that fails says why"
    raise problem


def needed_import(spec: ModelSpec) -> str | None:
    """Return the package that has to be imported before timm knows the spec's model; None if timm has it."""
    package = home_module(spec).split(".")[0]
    return None if package == "timm" else package


def loading_line(path: Path, spec: ModelSpec) -> str:
    """Return a line of Python that loads a checkpoint with timm, a folder or a single file."""
    folder = f"timm.create_model({_literal(f'local-dir:{path}')}, pretrained=True)"
    line = _of_file(path, spec) if path.suffix == ".safetensors" else folder
    needs = needed_import(spec)
    return f"import {needs}; {line}" if needs else line


def loading_text(spec: ModelSpec) -> str:
    """Return the Markdown with which a model card tells how to load the folder that it lies in."""
    needs = needed_import(spec)
    imports = f"import {needs}\nimport timm" if needs else "import timm"
    return (
        "From inside this folder, or with its path in place of the dot:\n\n"
        f'```python\n{imports}\n\nmodel = timm.create_model("local-dir:.", pretrained=True)\n```\n\n'
        "Without `pretrained=True` timm builds the model with random weights and says nothing."
    )


def count_classes(spec: ModelSpec) -> int | None:
    """Return the number of classes; None if the spec does not tell it."""
    count = spec.model_args.get("num_classes", spec.settings.get("num_classes"))
    return None if count is None else int(count)


def _imports(spec: ModelSpec) -> str:
    return f"import {', '.join(filter(None, ['timm', needed_import(spec)]))}"


def _python(call: Call, with_state: bool) -> str:
    """Return the Python of a call, with the state dict in the variable `state`."""
    name, arguments = call
    keywords = dict(arguments)
    overlay = keywords.pop("pretrained_cfg_overlay", None)
    written = [repr(name), *(f"{key}={value!r}" for key, value in keywords.items())]
    if overlay is not None:
        items = [f"{key}={value!r}" for key, value in overlay.items()] + (["state_dict=state"] if with_state else [])
        written.append(f"pretrained_cfg_overlay=dict({', '.join(items)})")
    return f"timm.create_model({', '.join(written)})"


def _literal(text: str) -> str:
    """Return a string as a literal of Python, in double quotes if nothing in it has to be escaped."""
    plain = repr(text) == f"'{text}'"
    return f'"{text}"' if plain else repr(text)


def _of_file(path: Path, spec: ModelSpec) -> str:
    """Return the call that loads a single file."""
    arguments = "".join(f", {name}={value!r}" for name, value in spec.model_args.items())
    classes = count_classes(spec)
    # timm drops the classifier's weights if the configuration, which is the registry's, has another number of classes.
    classes_of_file = f", num_classes={classes}" if classes is not None else ""
    overlay = f"pretrained_cfg_overlay=dict(file={str(path)!r}{classes_of_file})"
    return f'timm.create_model("{spec.architecture}", pretrained=True, {overlay}{arguments})'


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """While open, drop timm's log and all warnings."""
    logger = logging.getLogger("timm")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)
