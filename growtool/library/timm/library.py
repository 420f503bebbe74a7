"""timm as growtool asks for it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from growtool.errors import CheckpointError
from growtool.library.base import Library, leaves_of
from growtool.library.inputs import Inputs, Words
from growtool.library.published import Published
from growtool.library.spec import BUILT_IN, ModelSpec
from growtool.library.timm import loading, naming, reach
from growtool.library.timm.config import prepared_settings, read_config, written_config
from growtool.library.timm.families import INHERITED, families, larger_siblings, siblings
from growtool.library.timm.overriding import REPEATS
from growtool.library.values import Value, numbers_in

if TYPE_CHECKING:
    from torch import Tensor, nn

    from growtool.library.loaded import Loaded

_SETTINGS = (
    "input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode", "classifier", "first_conv", "license",
)  # fmt: skip


class Timm(Library):
    """Image models of timm's registry, those that users register there included."""

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

    def recognises(self, config: Mapping[str, Any]) -> bool:
        """It takes whatever no other library does, and says what is wrong with it."""
        return True

    def spec(self, config: Mapping[str, Any], *, where: str) -> ModelSpec:
        """The model of a timm `config.json`, see `read_config`."""
        return read_config(config, where=where)

    def config(self, spec: ModelSpec, model: nn.Module) -> dict[str, Any]:
        """The content of `config.json`, in timm's order of keys."""
        return written_config(spec, int(getattr(model, "num_features", 0)))

    def spec_of(self, model: nn.Module, architecture: str | None, model_args: Mapping[str, Any]) -> ModelSpec | None:
        """What a model's `pretrained_cfg` says it is; timm keeps no other arguments."""
        told: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or {}
        architecture = architecture or told.get("architecture")
        if not architecture:
            return None
        classes = getattr(model, "num_classes", None)
        arguments = ({} if classes is None else {"num_classes": classes}) | dict(model_args)
        return ModelSpec(architecture, arguments, {key: told[key] for key in _SETTINGS if told.get(key) is not None})

    def named(self, spec: ModelSpec, architecture: str, model_args: Mapping[str, Any]) -> ModelSpec:
        """Another model with the source's classes, input channels, pooling and settings."""
        kept = {key: spec.model_args[key] for key in INHERITED if key in spec.model_args}
        return ModelSpec(architecture, {**kept, **model_args}, spec.settings, spec.extra)

    def create(self, spec: ModelSpec) -> nn.Module:
        """What timm builds from a folder."""
        return reach.create(spec)

    def require_known(self, architecture: str, *, where: str) -> None:
        """Raise a CheckpointError with the nearest names unless timm's registry holds `architecture`."""
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
        """The model in eval mode, without weights, its `input_size` as the arguments have it."""
        model = super().build(spec, where=where)
        settings = cast("dict[str, Any]", model.pretrained_cfg)
        # timm leaves it as it was, whatever the arguments say, and takes this size where there is none
        channels, *size = settings.get("input_size") or (3, 224, 224)
        wanted = spec.model_args.get("img_size") or size
        size = [wanted, wanted] if isinstance(wanted, int) else wanted
        settings["input_size"] = (spec.model_args.get("in_chans") or channels, *size)
        return model

    def remedy(self, spec: ModelSpec, said: str) -> str:
        """What to do where an entry point or constructor refuses."""
        refused = re.search(r"unexpected keyword argument '(\w+)'", said)
        if refused and refused[1] not in spec.model_args:  # what timm hands to every entry point, such as `cache_dir`
            return f"the entry point of {spec.architecture} has to take `**kwargs` and drop what it does not know"
        return super().remedy(spec, said)

    def inputs(self, model: nn.Module, count: int, seed: int) -> Inputs:
        """Images [count, C, H, W] with independent standard normal values."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(count, *input_size(model), generator=generator, dtype=torch.float64)
        return Inputs({"images": images})

    def run(self, model: nn.Module, inputs: Inputs) -> tuple[Tensor, ...]:
        """Every tensor that the model returns; forward methods call their images as they like."""
        return leaves_of(model(*inputs.tensors.values()))

    def outputs_may_grow(self, model: nn.Module) -> bool:
        """Whether it is a model without a head."""
        return getattr(model, "num_classes", None) == 0

    def classes(self, model: nn.Module) -> int:
        """Number of logits; 0 for a model without a classifier."""
        return int(getattr(model, "num_classes", 0))

    def arguments(self, spec: ModelSpec, model: nn.Module) -> Mapping[str, Any]:
        """Arguments of the class and of the functions of its file that lead there."""
        from growtool.library.timm.arguments import constructor_values

        return constructor_values(model, partial(self.build, spec))

    def numbers(self, spec: ModelSpec, model: nn.Module) -> Mapping[str, Value]:
        """The constructor's numbers; by way of growtool's own entry point the blocks of each stage as well."""
        found = numbers_in(self.arguments(spec, model))
        repeats = reach.repeats_of(spec) if spec.architecture == reach.OPEN else None
        return found if repeats is None else {**found, REPEATS: repeats}

    def opened(self, spec: ModelSpec) -> ModelSpec:
        """The same model by way of `growtool_open`."""
        return reach.opened(spec)

    def inner_numbers(self, spec: ModelSpec) -> Mapping[str, Value]:
        """The numbers inside nested configurations, for `growtool_open`."""
        from growtool.library.timm.nested import nested_numbers

        return nested_numbers(spec) if spec.architecture == reach.OPEN else {}

    def entry_counts(self, spec: ModelSpec) -> Mapping[str, Value]:
        """How many times the entries of lists in configurations stand there, for `growtool_open`."""
        from growtool.library.timm.nested import repeatable_entries

        return repeatable_entries(spec) if spec.architecture == reach.OPEN else {}

    def larger(self, spec: ModelSpec, model: nn.Module) -> Iterable[str]:
        """Larger models of the same model file."""
        return larger_siblings(spec, model, siblings(spec), self.build)

    def with_eps(self, spec: ModelSpec, eps: Mapping[str, float]) -> ModelSpec:
        """By way of `growtool_open`; the spec itself if there are none."""
        if not eps:
            return spec
        return reach.opened(spec).with_args(eps_of={**spec.model_args.get("eps_of", {}), **eps})

    def kind(self, spec: ModelSpec) -> str:
        """timm's own name, also where the model is built through `growtool_open`."""
        return reach.base_architecture(spec)

    def needs(self, spec: ModelSpec) -> str | None:
        """The package that registers the model, where that is not timm itself."""
        return loading.needed_import(spec)

    def loading_line(self, path: Path, spec: ModelSpec) -> str:
        """A call of `timm.create_model`."""
        return loading.loading_line(path, spec)

    def loading_text(self, spec: ModelSpec) -> str:
        """The same for the folder that the text lies in."""
        return loading.loading_text(spec)

    def models(self) -> Mapping[str, Sequence[str]]:
        """Names by model file, those of users' files included, growtool's own left out."""
        return families()

    def fetching(self, name: str) -> Sequence[str]:
        """Downloads and saves what `timm.create_model` takes for `name`."""
        return naming.lines(name)

    def knows(self, name: str) -> bool:
        """Whether it is an architecture of timm's registry, with or without a tag."""
        return naming.knows(name)

    def published(self, name: str) -> Published:
        """What timm's pretrained configuration says of it."""
        return naming.published(name)

    def near(self, name: str) -> Sequence[str]:
        """Names of timm's registry that are most like it."""
        return naming.near(name)

    def load_folder(self, folder: Path, spec: ModelSpec) -> Loaded | None:
        """What timm loads from the folder itself."""
        return _tried(loading.call_for_folder(folder), spec)

    def load_state(self, spec: ModelSpec, state: Mapping[str, Tensor], folder: Path | None = None) -> Loaded | None:
        """What timm makes of a state dict in memory."""
        return _tried(loading.call_for_state(spec, folder), spec, state)

    def take(self, spec: ModelSpec, state: Mapping[str, Tensor]) -> Loaded:
        """What timm makes of it with its head cut as the registry says, as it is, or strictly."""
        return loading.take(spec, state)

    def prepared(
        self, spec: ModelSpec, skeleton: nn.Module, loaded: Loaded, said: Mapping[str, Any]
    ) -> tuple[ModelSpec, tuple[str, ...]]:
        """What the config says of images and head, and which of it comes from the arguments of the training script."""
        classes = self.classes(skeleton)
        settings, told = prepared_settings(spec, loaded.model, classes, input_size(skeleton), said)
        return replace(spec, settings=settings), told


def input_size(model: nn.Module) -> tuple[int, int, int]:
    """Channels, height and width of the images the model was built for."""
    channels, height, width = cast("Mapping[str, Any]", model.pretrained_cfg)["input_size"]
    height, width = getattr(getattr(model, "patch_embed", None), "img_size", None) or (height, width)
    return int(channels), int(height), int(width)


def _tried(call: loading.Call, spec: ModelSpec, state: Mapping[str, Tensor] | None = None) -> Loaded | None:
    try:
        return loading.load(call, spec, state)
    except Exception:  # whatever timm trips over
        return None
