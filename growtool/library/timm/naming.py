"""timm's names of published models, `ARCHITECTURE.TAG`, and the places of their weights."""

from __future__ import annotations

import difflib
from typing import Any

from growtool.errors import CheckpointError, format_names
from growtool.library.spec import ModelSpec, Published
from growtool.library.timm import loading
from growtool.library.timm.reach import register

_FILE = "model.safetensors"
# The safetensors files that timm prefers to these pickles (timm/models/_hub.py, _get_safe_alternatives).
_PREFERRED = {"pytorch_model.bin": _FILE, "open_clip_pytorch_model.bin": "open_clip_model.safetensors"}


def knows(name: str) -> bool:
    """Return whether timm's registry holds the architecture of `name`."""
    import timm

    register()
    return bool(timm.is_model(name.partition(".")[0]))


def near(name: str) -> list[str]:
    """Return the names of the registry that are most like `name`, with tags if it has one."""
    import timm

    return difflib.get_close_matches(name, timm.list_pretrained() if "." in name else timm.list_models(), n=3)


def published(name: str) -> Published:
    """Return the spec of a name, with or without a tag, and where timm's pretrained configuration says its weights lie.

    Raises:
        CheckpointError: there is no such tag, or there are no weights in the hub for it.
    """
    import timm
    from timm.models import filter_pretrained_cfg, get_pretrained_cfg

    architecture, _, tag = name.partition(".")
    full = timm.list_pretrained(f"{architecture}.*")
    tags = [known.partition(".")[2] for known in full]
    wanted = f"expected one of {format_names(full)}" if full else "expected another model, timm has no weights of it"
    if tag and tag not in tags:
        close = difflib.get_close_matches(tag, tags, n=3)
        hint = f"; did you mean {', '.join(f'{architecture}.{known}' for known in close)}?" if close else ""
        raise CheckpointError(f"{name}: found no tag {tag!r} of {architecture}, {wanted}{hint}")
    config: Any = get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise CheckpointError(f"{name}: found no published weights, {wanted}; or name a folder")
    if not config.hf_hub_id:
        raise CheckpointError(
            f"{name}: found weights at {config.url}, expected them in the hub; make a folder of them with timm:\n"
            + "\n".join(f"  {line}" for line in lines(name))
        )
    settings = filter_pretrained_cfg(config.to_dict(), remove_source=True, remove_null=True)
    settings.pop("architecture", None)
    # `custom_load` tells how to read the file at the registry's url, an `.npz` for one; timm, too, writes it as False.
    spec = ModelSpec(architecture, {"num_classes": config.num_classes}, settings | {"custom_load": False})
    repository, _, revision = config.hf_hub_id.partition("@")
    return Published(spec, repository, revision or None, _safe(config.hf_hub_filename or _FILE))


def lines(name: str) -> tuple[str, ...]:
    """Return the Python that downloads what `timm.create_model` takes for `name`, and saves a folder of it."""
    saving = loading.SAVING.format("'FOLDER'")
    return (f"import timm; model = timm.create_model({name!r}, pretrained=True)", saving)


def _safe(file: str) -> str:
    """Return the safetensors file that timm prefers to a pickle; another file as it is."""
    return _PREFERRED.get(file, f"{file.removesuffix('.bin')}.safetensors" if file.endswith(".bin") else file)
