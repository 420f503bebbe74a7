"""What timm makes of a checkpoint while it loads it: names, shapes and values change on the way into the model."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growtool.errors import format_names

if TYPE_CHECKING:
    from torch import Tensor, nn

    from growtool.checkpoint.spec import ModelSpec

_SHOWN = 3  # tensors of a kind of change that are told by name


@dataclass(frozen=True)
class Loaded:
    """What timm made of a state dict.

    Attributes:
        model: what timm built, with the weights.
        given: the state dict it put into the model.
        missing: tensors of the model that it had no values for.
    """

    model: nn.Module
    given: Mapping[str, Tensor]
    missing: tuple[str, ...]

    def changes(self, found: Mapping[str, Tensor]) -> list[str]:
        """What timm did to the tensors `found` in the file, a phrase for each kind; none where it took them as is.

        A tensor that stands under another name is found by its values.
        """
        import torch

        same = {name for name, value in self.given.items() if name in found and _equal(found[name], value)}
        rest = {name: value for name, value in found.items() if name not in same}
        by_size: dict[int, list[str]] = {}
        for name, value in rest.items():
            by_size.setdefault(value.numel(), []).append(name)
        kinds: dict[str, list[str]] = {"renames": [], "reshapes": [], "resamples or cuts": [], "makes": []}
        for name in (name for name in self.given if name not in same):
            value = self.given[name]
            twin = next((old for old in by_size.get(value.numel(), ()) if old in rest
                         and torch.equal(rest[old].flatten(), value.flatten().to(rest[old].dtype))), None)  # fmt: skip
            old = twin or (name if name in rest else None)
            if old is None:
                kinds["makes"].append(f"{name} from others")
                continue
            before, after = list(rest.pop(old).shape), list(value.shape)
            where = f"{old} to {name}" if old != name else name
            kind = "resamples or cuts" if twin is None else "reshapes" if before != after else "renames"
            kinds[kind].append(where if before == after else f"{where} from {before} to {after}")
        kinds["leaves out"] = list(rest)
        kinds["starts anew, with numbers of its own,"] = list(self.missing)
        return [f"{kind} {format_names(names, _SHOWN)}" for kind, names in kinds.items() if names]


@dataclass
class _Recorded:
    given: dict[str, Tensor] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


def arguments_of_folder(folder: Path) -> tuple[str, dict[str, Any]]:
    """What `timm.create_model` is called with to load a timm folder."""
    return f"local-dir:{folder}", {"pretrained": True}


def arguments_of_state(spec: ModelSpec, folder: Path | None) -> tuple[str, dict[str, Any]]:
    """The same for a state dict in memory, which goes to `pretrained_cfg_overlay` with what is there.

    Args:
        spec: the model.
        folder: where its config.json is; None where timm's registry and the spec have to do.
    """
    if folder is not None:
        return f"local-dir:{folder}", {"pretrained": True, "pretrained_cfg_overlay": {"source": ""}}
    overlay = {"source": ""} | ({} if spec.num_classes is None else {"num_classes": spec.num_classes})
    config = {"pretrained_cfg": dict(spec.pretrained_cfg)} if spec.pretrained_cfg else {}
    return spec.architecture, {"pretrained": True, **config, "pretrained_cfg_overlay": overlay, **spec.model_args}


def load(name: str, arguments: Mapping[str, Any], state: Mapping[str, Tensor] | None = None) -> Loaded:
    """What `timm.create_model(name, **arguments)` loads; the global random state stays, timm's log is silent.

    Args:
        name, arguments: of one of the functions above.
        state: the state dict, for the second of them.

    Raises:
        Exception: whatever timm trips over.
    """
    import timm
    import torch

    from growtool.checkpoint.reach import register

    register()
    told = dict(arguments)
    if state is not None:
        told["pretrained_cfg_overlay"] = {**told["pretrained_cfg_overlay"], "state_dict": dict(state)}
    with torch.random.fork_rng(devices=[]), _silent(), _recording() as recorded:
        model = timm.create_model(name, **told)
    if not recorded.given or 2 * len(recorded.missing) > len(model.state_dict()):
        raise RuntimeError(f"{name} takes next to nothing of it")
    return Loaded(model.eval(), recorded.given, recorded.missing)


def load_strictly(name: str, spec: ModelSpec, state: Mapping[str, Tensor]) -> Loaded:
    """A model of a user's own that does not load weights itself, given a state dict as it is.

    Raises:
        Exception: whatever the constructor or torch trips over.
    """
    import timm
    import torch

    with torch.random.fork_rng(devices=[]), _silent(), _recording() as recorded:
        model = timm.create_model(name, **spec.model_args)
        model.load_state_dict(state, strict=True)
    return Loaded(model.eval(), recorded.given, recorded.missing)


def call(name: str, arguments: Mapping[str, Any], *, state: str | None = None) -> str:
    """The Python of such a call; `state` is the variable that holds the state dict."""
    told = dict(arguments)
    overlay = told.pop("pretrained_cfg_overlay", None)
    words = [repr(name), *(f"{key}={value!r}" for key, value in told.items())]
    if overlay is not None:
        items = [f"{key}={value!r}" for key, value in overlay.items()] + ([f"state_dict={state}"] if state else [])
        words.append(f"pretrained_cfg_overlay=dict({', '.join(items)})")
    return f"timm.create_model({', '.join(words)})"


def _equal(a: Tensor, b: Tensor) -> bool:
    import torch

    return a.shape == b.shape and torch.equal(a, b.to(a.dtype))


@contextlib.contextmanager
def _recording() -> Iterator[_Recorded]:
    """While open, the state dict that a model is given last is kept, and what it lacked."""
    from torch import nn

    recorded, original = _Recorded(), nn.Module.load_state_dict

    def load_state_dict(self: nn.Module, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        result = original(self, state_dict, *args, **kwargs)
        recorded.given, recorded.missing = dict(state_dict), tuple(result.missing_keys)
        return result

    nn.Module.load_state_dict = load_state_dict  # type: ignore[method-assign]
    try:
        yield recorded
    finally:
        nn.Module.load_state_dict = original  # type: ignore[method-assign]


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    import warnings

    logger = logging.getLogger("timm")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
