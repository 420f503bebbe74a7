"""The interface between growtool and a library of models."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from growtool.errors import CheckpointError
from growtool.library.building import Shapes, seeded, set_eps, without_weights
from growtool.library.inputs import Inputs, Words, leaves_of
from growtool.library.layout import Reading, Writing
from growtool.library.loaded import Loaded, load_strictly
from growtool.library.spec import ModelSpec, Published
from growtool.library.values import Value, defaults_of, numbers_in

if TYPE_CHECKING:
    from torch import Tensor, nn


class Library(ABC):
    """A library of models: reads its configurations, builds and calls its models, and says what growth may change.

    growtool knows architectures by nothing else. A library has to define `recognises`, `create`, `inputs` and
    `loading_line`; every other method has a default that fits an ordinary `nn.Module`. A method that gets both a spec
    and a model gets the model of that spec, without weights unless said otherwise.

    Attributes:
        name: the library's name in messages, model cards and `ModelSpec.library`.
        words: how messages speak of its inputs.
        tags: tags of its model cards.
        packages: packages whose versions a report names.
        tells_eps: whether growth may set an argument of the model to give norms another eps; if not, it does so only
            where the plan says `eps: told`.
        loads_shards: whether the library loads weights from several files with an index.
        towers: whether a factor for the depth applies to each of several stacks of blocks (an encoder and a decoder),
            rather than to the one that holds most.
        beside: glob patterns of further files that belong to its checkpoints, such as a tokenizer's.
    """

    name: ClassVar[str]
    words: ClassVar[Words] = Words()
    tags: ClassVar[tuple[str, ...]] = ()
    packages: ClassVar[tuple[str, ...]] = ()
    tells_eps: ClassVar[bool] = True
    loads_shards: ClassVar[bool] = False
    towers: ClassVar[bool] = False
    beside: ClassVar[tuple[str, ...]] = ()

    # What a checkpoint says

    @abstractmethod
    def recognises(self, config: Mapping[str, Any]) -> bool:
        """Return whether the content of a `config.json` is of this library.

        A name that a user typed is asked for as `{"architecture": name}`.
        """

    def spec(self, config: Mapping[str, Any], *, where: str) -> ModelSpec:
        """Return the spec of the model that a `config.json` describes.

        Raises:
            CheckpointError: the content is wrong; names `where`.
        """
        known = {"architecture", "model_args"}
        arguments = config.get("model_args", {})
        if not isinstance(arguments, Mapping):
            raise CheckpointError(f"{where}: model_args: found {type(arguments).__name__}, expected a mapping")
        extra = {key: value for key, value in config.items() if key not in known}
        return ModelSpec(str(config["architecture"]), dict(arguments), {}, extra, self.name)

    def config(self, spec: ModelSpec, model: nn.Module) -> dict[str, Any]:
        """Return the content of `config.json`, from which `spec` reads and the library itself loads the model."""
        return {"architecture": spec.architecture, "model_args": dict(spec.model_args), **spec.extra}

    def spec_of(self, model: nn.Module, architecture: str | None, model_args: Mapping[str, Any]) -> ModelSpec | None:
        """Return the spec of a model in memory, with weights; None if it is not of this library.

        The architecture and arguments are those that the plan gives, if it does; the model itself may not know them.
        """
        return None

    def named(self, spec: ModelSpec, architecture: str, model_args: Mapping[str, Any]) -> ModelSpec:
        """Return the spec of another architecture, with whatever a model of it keeps of `spec`."""
        return replace(spec, architecture=architecture, model_args=dict(model_args))

    # Building a model

    @abstractmethod
    def create(self, spec: ModelSpec) -> nn.Module:
        """Return the model with its initial weights; exceptions of its constructor pass through."""

    def require_known(self, architecture: str, *, where: str) -> None:
        """Check that an architecture is among `models`, if there are any; raise CheckpointError if not."""
        names = [name for family in self.models().values() for name in family]
        if names and architecture not in names:
            near = ", ".join(difflib.get_close_matches(architecture, names, n=3)) or ", ".join(names[:8])
            raise CheckpointError(
                f"{where}: architecture: found {architecture!r}, expected a model of {self.name}; did you mean {near}?"
            )

    def build(self, spec: ModelSpec, *, where: str = "model") -> nn.Module:
        """Return the model in eval mode, with its parameters on meta and its buffers on CPU.

        Raises:
            CheckpointError: the library does not know the architecture, or its constructor refuses the arguments.
        """
        self.require_known(spec.architecture, where=where)
        try:
            model = without_weights(partial(self.create, spec))
        except Exception as error:  # a constructor may raise anything where its arguments do not fit together
            raise CheckpointError(
                f"{where}: {self.name} cannot build {spec.described}: {type(error).__name__}: {error}; "
                f"{self.remedy(spec, str(error))}"
            ) from error
        return model.eval()

    def remedy(self, spec: ModelSpec, said: str) -> str:
        """Return advice about a constructor that refuses its arguments, by the text of its exception."""
        return f"check model_args against the constructor of {spec.architecture}"

    def initialised(self, spec: ModelSpec, seed: int) -> nn.Module:
        """Return the model with its initial weights, drawn from `seed`; the global random state stays."""
        return seeded(partial(self.create, spec), seed)

    def typed(self, spec: ModelSpec, dtype: str) -> ModelSpec:
        """Return the spec for weights of a type (`bfloat16`), if configurations of this library name the type."""
        return spec

    def loaded(self, spec: ModelSpec, folder: Path) -> nn.Module | None:
        """Return the model of a folder as the library itself loads it; None if `build` makes the same one."""
        return None

    def plain(self, model: nn.Module) -> nn.Module:
        """Return the model in a form that can compute in float64; it may be changed in place."""
        return model

    # Calling it

    @abstractmethod
    def inputs(self, model: nn.Module, count: int, seed: int) -> Inputs:
        """Return a batch of `count` random inputs on CPU; those that are no integers are float64."""

    def run(self, model: nn.Module, inputs: Inputs) -> tuple[Tensor, ...]:
        """Return every tensor that the model returns for a batch."""
        return leaves_of(model(**inputs.tensors))

    def outputs_may_grow(self, model: nn.Module) -> bool:
        """Return whether the outputs are features, which grow with the width, rather than logits."""
        return False

    def classes(self, model: nn.Module) -> int:
        """Return the number of classes in the last dimension of the one output; 0 if the output is no decision."""
        return 0

    # What growth may change

    def arguments(self, spec: ModelSpec, model: nn.Module) -> Mapping[str, Any]:
        """Return all arguments that the model was constructed with, defaults included, by their `model_args` names."""
        return defaults_of(type(model)) | dict(spec.model_args)

    def numbers(self, spec: ModelSpec, model: nn.Module) -> Mapping[str, Value]:
        """Return the numbers that `scale` may try to multiply, by their `model_args` names."""
        return numbers_in(self.arguments(spec, model))

    def with_open_arguments(self, spec: ModelSpec) -> ModelSpec:
        """Return a spec that builds the same model and takes more arguments; the spec itself if there is none."""
        return spec

    def nested_numbers(self, spec: ModelSpec) -> Mapping[str, Value]:
        """Return further numbers, which are tried where `numbers` scale too little of the model.

        Their names are paths (`growtool.library.paths`) if they lie inside arguments of an opened spec.
        """
        return {}

    def entry_repeats(self, spec: ModelSpec) -> Mapping[str, Value]:
        """Return how many times each entry of the lists inside an opened spec's arguments stands there, by path."""
        return {}

    def larger(self, spec: ModelSpec, model: nn.Module) -> Iterable[str]:
        """Return other architectures with the same parameters, none smaller and at least one larger, nearest first."""
        return ()

    def set_eps(self, model: nn.Module, eps: Mapping[str, float]) -> None:
        """Set the eps of norms, given by path, in place; raise TypeError where there is no such norm."""
        set_eps(model, eps)

    def with_eps(self, spec: ModelSpec, eps: Mapping[str, float]) -> ModelSpec | None:
        """Return the spec of the same model whose norms, by path, have these eps; None if no spec can say so."""
        return None

    # What its checkpoints are to others

    def kind(self, spec: ModelSpec) -> str:
        """Return the library's own name for the kind of model, however it is built."""
        return spec.architecture

    def needed_import(self, spec: ModelSpec) -> str | None:
        """Return the package to import before the library can load the model; None if it needs none."""
        return None

    @abstractmethod
    def loading_line(self, path: Path, spec: ModelSpec) -> str:
        """Return a line of Python that loads a written checkpoint, a folder or a single file."""

    def loading_text(self, spec: ModelSpec) -> str:
        """Return the Markdown with which a model card tells how to load the folder that it lies in."""
        return f"From inside this folder:\n\n```python\n{self.loading_line(Path(), spec)}\n```"

    def training_text(self, spec: ModelSpec) -> str:
        """Return the Markdown with which a model card tells how to train the new blocks alone.

        It is empty for a library whose models `growtool finetune` trains.
        """
        return ""

    def models(self) -> Mapping[str, Sequence[str]]:
        """Return the names of the library's architectures by family."""
        return {}

    def fetching(self, name: str) -> Sequence[str]:
        """Return lines of Python that fetch a model published in another format and save a folder of it, if any."""
        return ()

    # How its files hold tensors

    def reading(self, model: nn.Module, stored: Shapes) -> Reading | None:
        """Return how the model's tensors are read from a file with other names; None if the names have to agree.

        `stored` holds the shapes of the tensors in the file by their names.
        """
        return None

    def writing(self, model: nn.Module, source: Reading, dropped: Collection[str]) -> Writing:
        """Return how a grown model's tensors are written, under names of the kind that its source's file had.

        Only a library whose `reading` is not None has to define it.

        Args:
            model: the grown model.
            source: the result of `reading` for the source.
            dropped: second names of tied tensors, which are not written.
        """
        raise NotImplementedError

    # What is published of it

    def knows(self, name: str) -> bool:
        """Return whether the library has a model of this name; `published` tells where its weights lie."""
        return False

    def published(self, name: str) -> Published:
        """Return the spec of a published model that it `knows`, and where its weights lie.

        Raises:
            CheckpointError: there are no such weights; names the nearest.
        """
        raise NotImplementedError

    def near(self, name: str) -> Sequence[str]:
        """Return the known names that are most like `name`."""
        return ()

    # What others have saved

    def load_folder(self, folder: Path, spec: ModelSpec) -> Loaded | None:
        """Return what the library loads from a folder whose tensors are not those of its model; None if it refuses."""
        return None

    def load_state(self, spec: ModelSpec, state: Mapping[str, Tensor], folder: Path | None = None) -> Loaded | None:
        """Return what the library loads from tensors that are not those of the model; None if it refuses.

        Args:
            spec: the model.
            state: tensors by name, on meta if only names and shapes are asked for.
            folder: a folder whose `config.json` says how to load them; None if the spec does.
        """
        return None

    def take(self, spec: ModelSpec, state: Mapping[str, Tensor]) -> Loaded:
        """Return what the library loads from tensors that a training script saved.

        Raises:
            Exception: whatever the library raises if it refuses.
        """
        return load_strictly(partial(self.create, spec), state)

    def prepared(
        self, spec: ModelSpec, skeleton: nn.Module, loaded: Loaded, said: Mapping[str, Any]
    ) -> tuple[ModelSpec, tuple[str, ...]]:
        """Complete the spec of an imported checkpoint; return it, and the training script's arguments that it took.

        Args:
            spec: the spec, with or without settings.
            skeleton: its model without weights.
            loaded: the result of `take`.
            said: the arguments of the training script.
        """
        return spec, ()
