"""The library of models of transformers."""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from growtool.errors import CheckpointError
from growtool.library.base import Library
from growtool.library.inputs import Inputs, Words, leaves_of
from growtool.library.spec import ModelSpec
from growtool.library.transformers import layout
from growtool.library.transformers.calling import answers, answers_something, inputs_of
from growtool.library.transformers.configs import NAME, config_of, counts_of, fields, read_config, written_config
from growtool.library.transformers.experts import DENSE, register_dense
from growtool.library.transformers.weight_norm import make_plain
from growtool.library.values import Value, numbers_in

if TYPE_CHECKING:
    from torch import Tensor, nn

_OLDEST = 5, 22  # version; the first with the conversions that `layout.py` calls
_NOT_SCALED = ("token_id", "vocab_size")  # endings of fields that `scale` leaves: growth keeps the vocabulary


class Transformers(Library):
    """Models of transformers, described by the `config.json` that `save_pretrained` writes."""

    name: ClassVar[str] = NAME
    tags: ClassVar[tuple[str, ...]] = (NAME,)
    packages: ClassVar[tuple[str, ...]] = (NAME,)
    tells_eps: ClassVar[bool] = False  # unless a plan asks for it, no field of a configuration changes but sizes
    loads_shards: ClassVar[bool] = True
    towers: ClassVar[bool] = True
    beside: ClassVar[tuple[str, ...]] = (
        "*token*.json", "*.jinja", "additional_chat_templates/*", "vocab.*", "merges.txt", "*.model", "*.tiktoken",
        "generation_config.json", "*processor_config.json", "normalizer.json",
    )  # fmt: skip
    words: ClassVar[Words] = Words(refit="check the sizes that the configuration gives")
    reading = staticmethod(layout.reading)
    writing = staticmethod(layout.writing)

    def recognises(self, config: Mapping[str, Any]) -> bool:
        """Return whether it names a `model_type`, as every configuration of transformers does."""
        return "model_type" in config and "architecture" not in config

    def spec(self, config: Mapping[str, Any], *, where: str) -> ModelSpec:
        """Return the spec of a `config.json` of transformers; see `read_config`."""
        _require_package(where)
        return read_config(config, where=where)

    def config(self, spec: ModelSpec, model: nn.Module) -> dict[str, Any]:
        """Return the content of `config.json`: the fields that were read, with the sizes of the spec."""
        return written_config(spec)

    def spec_of(self, model: nn.Module, architecture: str | None, model_args: Mapping[str, Any]) -> ModelSpec | None:
        """Return the spec by the model's `config`, which holds all arguments; None if it has none of transformers."""
        config: Any = getattr(model, "config", None)
        if not hasattr(config, "model_type") or not hasattr(model, "save_pretrained"):
            return None
        fields_of_model = {**config.to_dict(), "architectures": [type(model).__name__]}
        return read_config({**fields_of_model, **model_args}, where=type(model).__name__)

    def require_known(self, architecture: str, *, where: str) -> None:
        """Raise a CheckpointError with the nearest names unless transformers has a class of this name."""
        import transformers

        if isinstance(getattr(transformers, architecture, None), type):
            return
        near = difflib.get_close_matches(
            architecture, [n for n in dir(transformers) if "Model" in n or "For" in n], n=3
        )
        raise CheckpointError(
            f"{where}: architectures: found {architecture!r}, expected a class of transformers; "
            + (f"did you mean {', '.join(near)}?" if near else "update transformers, or name its file with --plugin")
        )

    def create(self, spec: ModelSpec) -> nn.Module:
        """Return a model that can be traced, with its initial weights.

        Attention is written out ("eager"), every expert of a mixture sees every token (`experts.py`), and weight norms
        are replaced by plain weights (`weight_norm.py`).
        """
        import torch
        import transformers

        register_dense()
        with _quietly():
            config = config_of(spec)
            # Without `dtype` the model would have the type that the configuration says, such as bfloat16.
            model: nn.Module = getattr(transformers, spec.architecture)._from_config(
                config, attn_implementation="eager", experts_implementation=DENSE, dtype=torch.float32
            )
        make_plain(model)
        return model

    def typed(self, spec: ModelSpec, dtype: str) -> ModelSpec:
        """Return the spec with the type in `dtype`, or in `torch_dtype`, as older versions of transformers wrote it."""
        name = "torch_dtype" if "torch_dtype" in spec.extra else "dtype"
        return replace(spec, extra={**spec.extra, name: dtype})

    def loaded(self, spec: ModelSpec, folder: Path) -> nn.Module:
        """Return the model by `from_pretrained`, in the type that the configuration says; never None."""
        import transformers

        with _quietly():
            model: nn.Module = getattr(transformers, spec.architecture).from_pretrained(folder, dtype="auto")
        return model.eval()

    def plain(self, model: nn.Module) -> nn.Module:
        """Return the same model with attention and experts written out, as fast kernels take no float64."""
        held: Any = model
        held.set_attn_implementation("eager")
        held.set_experts_implementation("eager")
        return model

    def inputs(self, model: nn.Module, count: int, seed: int) -> Inputs:
        """Return random tokens, images, sound or features, by what `forward` takes; see `inputs_of`."""
        import torch

        return Inputs(inputs_of(model, count, torch.Generator().manual_seed(seed)))

    def run(self, model: nn.Module, inputs: Inputs) -> tuple[Tensor, ...]:
        """Return the logits, or everything that a model without logits returns."""
        return leaves_of(answers(model, dict(inputs.tensors)))

    def outputs_may_grow(self, model: nn.Module) -> bool:
        """Return whether the model returns no logits."""
        return not answers_something(model)

    def classes(self, model: nn.Module) -> int:
        """Return the size of the vocabulary, or the number of labels; 0 if there are no logits over either."""
        if self.outputs_may_grow(model):
            return 0
        head: Any = cast("Any", model).get_output_embeddings()
        if head is not None:
            return int(head.weight.shape[0])
        return int(cast("Any", model).config.num_labels) if "Classification" in type(model).__name__ else 0

    def arguments(self, spec: ModelSpec, model: nn.Module) -> Mapping[str, Any]:
        """Return the fields of the configuration and of its parts, by path, and the numbers of blocks."""
        return {**counts_of(spec), **dict(fields(config_of(spec).to_dict()))}

    def numbers(self, spec: ModelSpec, model: nn.Module) -> Mapping[str, Value]:
        """Return the fields that are whole numbers or lists, but for the vocabulary and private ones."""
        sizes = {
            name: value
            for name, value in self.arguments(spec, model).items()
            if isinstance(value, int | list | tuple)
            and not name.endswith(_NOT_SCALED)
            and not name.rpartition(".")[2].startswith("_")
        }
        return numbers_in(sizes)

    def nested_numbers(self, spec: ModelSpec) -> Mapping[str, Value]:
        """Return the fields that are fractions, as a factor for the width may be (MobileNet's `depth_multiplier`).

        They are tried last, because most of them are rates, which change no shape.
        """
        all_fields = fields(config_of(spec).to_dict())
        return {name: value for name, value in all_fields if isinstance(value, float) and 0 < value < math.inf}

    def kind(self, spec: ModelSpec) -> str:
        """Return the `model_type`."""
        return str(spec.extra.get("model_type", spec.architecture))

    def loading_line(self, path: Path, spec: ModelSpec) -> str:
        """Return a call of `from_pretrained`."""
        return f"transformers.{spec.architecture}.from_pretrained({str(path)!r})"

    def loading_text(self, spec: ModelSpec) -> str:
        """Return the text for a call of `from_pretrained` from inside the folder."""
        name = spec.architecture
        code = f"from transformers import {name}\n\nmodel = {name}.from_pretrained('.')"
        return f"From inside this folder:\n\n```python\n{code}\n```"

    def training_text(self, spec: ModelSpec) -> str:
        """Return the text that freezes all parameters but those that `growth.json` calls new, for any training loop."""
        return (
            "Hand the model to `transformers.Trainer`, or its parameters that want a gradient to an optimizer:\n\n"
            f"```python\nimport json; from pathlib import Path; from transformers import {spec.architecture}\n"
            f"model = {spec.architecture}.from_pretrained('.')\n"
            "grown = json.loads(Path('growth.json').read_text())['tensors']\n"
            "for name, parameter in model.named_parameters():\n"
            "    parameter.requires_grad_(grown[name]['new'])\n```"
        )

    def named(self, spec: ModelSpec, architecture: str, model_args: Mapping[str, Any]) -> ModelSpec:
        """Return the spec of another class with the same configuration."""
        return replace(spec, architecture=architecture).with_args(**model_args)


def _require_package(where: str) -> None:
    """Check that transformers is there and new enough; raise CheckpointError if not."""
    try:
        import transformers
    except ImportError as error:
        raise CheckpointError(
            f"{where}: found a checkpoint of transformers, expected that package to be there; "
            'install it with `pip install "growtool[transformers]"`'
        ) from error
    if tuple(map(int, transformers.__version__.split(".")[:2])) < _OLDEST:
        raise CheckpointError(
            f"{where}: found transformers {transformers.__version__}, expected {'.'.join(map(str, _OLDEST))} or newer; "
            'update it with `pip install --upgrade "growtool[transformers]"`'
        )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """While open, transformers logs errors alone and shows no progress; its warnings are for people who train."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
