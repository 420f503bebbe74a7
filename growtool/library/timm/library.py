"""The library of timm's models."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from growtool.errors import CheckpointError
from growtool.library.base import Library
from growtool.library.inputs import Inputs, Words, leaves_of
from growtool.library.spec import BUILT_IN, ModelSpec
from growtool.library.timm import arguments, loading, naming, reach
from growtool.library.timm.config import prepared_settings, read_config, written_config
from growtool.library.timm.families import families, inherited, larger_siblings, siblings
from growtool.library.timm.overriding import REPEATS
from growtool.library.values import Value, numbers_in

if TYPE_CHECKING:
    from torch import Tensor, nn

    from growtool.library.loaded import Loaded

# Keys of a model's `pretrained_cfg` that a checkpoint of it keeps; the others say where timm's own weights lie.
_SETTINGS = (
    "input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode", "classifier", "first_conv", "license",
)  # fmt: skip


def _noted_args(model: nn.Module) -> dict[str, Any]:
    """Return the arguments that timm noted on a model, as `config.json` holds them.

    A model that an entry point or a class built directly has only the classes, input channels and pooling. Arguments
    that are no plain values (layers, say) are left out. Whoever uses the spec has to check that it makes this model.
    """
    from timm.models import get_model_args

    noted = {}
    for name, value in get_model_args(model).items():
        with suppress(TypeError, ValueError):
            noted[name] = json.loads(json.dumps(value))  # tuples become lists
    return noted


class Timm(Library):
    """Image models of timm's registry, also those that users register there."""

    name: ClassVar[str] = BUILT_IN
    tags: ClassVar[tuple[str, ...]] = ("image-classification", "timm")
    packages: ClassVar[tuple[str, ...]] = ("timm",)
    words: ClassVar[Words] = Words(
        one="image",
        many="images",
        axes="channels, height, width",
        refit="check that input_size in pretrained_cfg is one the model takes",
        keep="set img_size and in_chans alike",
        alike="name two checkpoints with the same input_size (and img_size in model_args)",
        classes="num_classes",
    )

    create = staticmethod(reach.create)
    with_open_arguments = staticmethod(reach.with_open_arguments)
    nested_numbers = staticmethod(arguments.nested_numbers)
    entry_repeats = staticmethod(arguments.entry_repeats)
    kind = staticmethod(reach.base_architecture)
    models = staticmethod(families)
    needed_import = staticmethod(loading.needed_import)
    loading_line = staticmethod(loading.loading_line)
    loading_text = staticmethod(loading.loading_text)
    take = staticmethod(loading.take)
    fetching = staticmethod(naming.lines)
    knows = staticmethod(naming.knows)
    published = staticmethod(naming.published)
    near = staticmethod(naming.near)

    def recognises(self, config: Mapping[str, Any]) -> bool:
        """Return True: it is asked last, and its `spec` says what is wrong with a configuration that is not timm's."""
        return True

    def spec(self, config: Mapping[str, Any], *, where: str) -> ModelSpec:
        """Return the spec of a timm `config.json`; see `read_config`."""
        return read_config(config, where=where)

    def config(self, spec: ModelSpec, model: nn.Module) -> dict[str, Any]:
        """Return the content of `config.json`, in timm's order of keys."""
        return written_config(spec, int(getattr(model, "num_features", 0)))

    def spec_of(self, model: nn.Module, architecture: str | None, model_args: Mapping[str, Any]) -> ModelSpec | None:
        """Return the spec by the model's `pretrained_cfg` and the arguments that `create_model` noted on it."""
        settings: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or {}
        architecture = architecture or settings.get("architecture")
        if not architecture:
            return None
        kept = {key: settings[key] for key in _SETTINGS if settings.get(key) is not None}
        return ModelSpec(architecture, _noted_args(model) | dict(model_args), kept)

    def named(self, spec: ModelSpec, architecture: str, model_args: Mapping[str, Any]) -> ModelSpec:
        """Return the spec of another model with the source's classes, input channels, pooling and settings."""
        return ModelSpec(architecture, {**inherited(spec), **model_args}, spec.settings, spec.extra)

    def require_known(self, architecture: str, *, where: str) -> None:
        """Check that timm's registry holds an architecture; raise CheckpointError with the nearest names if not."""
        import timm

        reach.register()
        if timm.is_model(architecture):
            return
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise CheckpointError(
            f"{where}: architecture: found {architecture!r}, expected a name of timm's registry; {hint}"
            "--plugin FILE.py registers a model of your own"
        )

    def build(self, spec: ModelSpec, *, where: str = "model") -> nn.Module:
        """Return the model in eval mode, without weights, with the `input_size` that its arguments give."""
        model = super().build(spec, where=where)
        settings = cast("dict[str, Any]", model.pretrained_cfg)
        # timm keeps the configured `input_size` whatever `img_size` and `in_chans` are, and has this one by default.
        channels, *size = settings.get("input_size") or (3, 224, 224)
        wanted = spec.model_args.get("img_size") or size
        size = [wanted, wanted] if isinstance(wanted, int) else wanted
        settings["input_size"] = (spec.model_args.get("in_chans") or channels, *size)
        return model

    def remedy(self, spec: ModelSpec, said: str) -> str:
        """Return advice about an entry point or constructor that refuses its arguments."""
        refused = re.search(r"unexpected keyword argument '(\w+)'", said)
        # timm hands every entry point further arguments, such as `cache_dir`; one in a plugin may not take them.
        if refused and refused[1] not in spec.model_args:
            return f"the entry point of {spec.architecture} has to take `**kwargs` and drop what it does not know"
        return super().remedy(spec, said)

    def inputs(self, model: nn.Module, count: int, seed: int) -> Inputs:
        """Return images [count, C, H, W] with independent standard normal values."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(count, *input_size(model), generator=generator, dtype=torch.float64)
        return Inputs({"images": images})

    def run(self, model: nn.Module, inputs: Inputs) -> tuple[Tensor, ...]:
        """Return every tensor that the model returns; the images are handed over by position, as their name differs."""
        return leaves_of(model(*inputs.tensors.values()))

    def outputs_may_grow(self, model: nn.Module) -> bool:
        """Return whether the model has no head (`num_classes=0`)."""
        return getattr(model, "num_classes", None) == 0

    def classes(self, model: nn.Module) -> int:
        """Return the number of logits; 0 for a model without a classifier."""
        return int(getattr(model, "num_classes", 0))

    def arguments(self, spec: ModelSpec, model: nn.Module) -> Mapping[str, Any]:
        """Return the arguments of the class and of the functions of its file that lead there."""
        return arguments.constructor_values(model, partial(self.build, spec))

    def numbers(self, spec: ModelSpec, model: nn.Module) -> Mapping[str, Value]:
        """Return the constructor's numbers; for `growtool_open` also the numbers of blocks that `repeats` sets."""
        numbers = numbers_in(self.arguments(spec, model))
        repeats = reach.repeats_of(spec) if spec.architecture == reach.OPEN else None
        return numbers if repeats is None else {**numbers, REPEATS: repeats}

    def larger(self, spec: ModelSpec, model: nn.Module) -> Iterable[str]:
        """Return larger models of the same model file."""
        return larger_siblings(spec, model, siblings(spec), self.build)

    def with_eps(self, spec: ModelSpec, eps: Mapping[str, float]) -> ModelSpec:
        """Return the spec that sets these eps through `growtool_open`; the spec itself if there are none."""
        if not eps:
            return spec
        return reach.with_open_arguments(spec).with_args(eps_of={**spec.model_args.get("eps_of", {}), **eps})

    def load_folder(self, folder: Path, spec: ModelSpec) -> Loaded | None:
        """Return what timm loads from the folder by its `config.json`; None if it refuses."""
        return _tried(loading.call_for_folder(folder), spec)

    def load_state(self, spec: ModelSpec, state: Mapping[str, Tensor], folder: Path | None = None) -> Loaded | None:
        """Return what timm loads from a state dict in memory; None if it refuses."""
        return _tried(loading.call_for_state(spec, folder), spec, state)

    def prepared(
        self, spec: ModelSpec, skeleton: nn.Module, loaded: Loaded, said: Mapping[str, Any]
    ) -> tuple[ModelSpec, tuple[str, ...]]:
        """Return the spec with settings for images and head, and the script's arguments that they took."""
        classes = self.classes(skeleton)
        settings, told = prepared_settings(spec, loaded.model, classes, input_size(skeleton), said)
        return replace(spec, settings=settings), told


def input_size(model: nn.Module) -> tuple[int, int, int]:
    """Return channels, height and width of the images that a model was built for."""
    channels, height, width = cast("Mapping[str, Any]", model.pretrained_cfg)["input_size"]
    # A ViT refuses images of another size than its patch embedding has, whatever its configuration says.
    height, width = getattr(getattr(model, "patch_embed", None), "img_size", None) or (height, width)
    return int(channels), int(height), int(width)


def _tried(call: loading.Call, spec: ModelSpec, state: Mapping[str, Tensor] | None = None) -> Loaded | None:
    """Return what a call of timm loads; None if it raises."""
    with suppress(Exception):  # filters of timm's model files may raise anything on a state dict that is not theirs
        return loading.load(call, spec, state)
    return None
