"""What growtool asks of a library of models."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from growtool.errors import CheckpointError
from growtool.library.building import seeded, set_eps, without_weights
from growtool.library.inputs import Inputs, Words
from growtool.library.layout import Reading, Writing
from growtool.library.loaded import Loaded, load_strictly
from growtool.library.published import Published
from growtool.library.spec import ModelSpec
from growtool.library.values import Value, defaults_of, numbers_in

if TYPE_CHECKING:
    from torch import Tensor, nn


class Library(ABC):
    """A library of models: what its checkpoints say, how its models are built and called, and what may change in them.

    growtool knows architectures by nothing else. A library has to say which configurations are its own, how to create a
    model, and what to call it with; the rest has an answer that fits an ordinary `nn.Module`.

    Attributes:
        name: in messages, cards and `ModelSpec.library`.
        words: how messages speak of its inputs.
        tags: of model cards.
        packages: whose versions a report names.
        tells_eps: whether an argument may tell norms another eps unasked; else a plan has to say `eps: told`.
        loads_shards: whether it loads weights in several files, of which an index tells.
        towers: whether a factor for the depth is meant for each of several stacks of blocks (an encoder and a decoder,
            say) rather than for the one that holds most.
        beside: patterns of further files that belong to a checkpoint of it, such as a tokenizer's.
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
        """Whether the content of a `config.json` is of this library; also one that holds an `architecture` alone."""

    def spec(self, config: Mapping[str, Any], *, where: str) -> ModelSpec:
        """The model that a `config.json` describes.

        Raises:
            CheckpointError: what is wrong in it; names `where`.
        """
        known = {"architecture", "model_args"}
        arguments = config.get("model_args", {})
        if not isinstance(arguments, Mapping):
            raise CheckpointError(f"{where}: model_args: found {type(arguments).__name__}, expected a mapping")
        extra = {key: value for key, value in config.items() if key not in known}
        return ModelSpec(str(config["architecture"]), dict(arguments), {}, extra, self.name)

    def config(self, spec: ModelSpec, model: nn.Module) -> dict[str, Any]:
        """The content of `config.json`: what `spec` reads back, and what the library itself loads a model by."""
        return {"architecture": spec.architecture, "model_args": dict(spec.model_args), **spec.extra}

    def spec_of(self, model: nn.Module, architecture: str | None, model_args: Mapping[str, Any]) -> ModelSpec | None:
        """What a model in memory is, with what its owner says of it; None for one that is not of this library."""
        return None

    def named(self, spec: ModelSpec, architecture: str, model_args: Mapping[str, Any]) -> ModelSpec:
        """Another architecture, with what a model of it keeps of `spec`."""
        return replace(spec, architecture=architecture, model_args=dict(model_args))

    # Building a model

    @abstractmethod
    def create(self, spec: ModelSpec) -> nn.Module:
        """Construct the model with its initial weights. Whatever the constructor raises goes on."""

    def require_known(self, architecture: str, *, where: str) -> None:
        """Raise a CheckpointError, with the nearest names, where there is no such architecture among its `models`."""
        names = [name for family in self.models().values() for name in family]
        if names and architecture not in names:
            near = ", ".join(difflib.get_close_matches(architecture, names, n=3)) or ", ".join(names[:8])
            raise CheckpointError(
                f"{where}: architecture: found {architecture!r}, expected a model of {self.name}; did you mean {near}?"
            )

    def build(self, spec: ModelSpec, *, where: str = "model") -> nn.Module:
        """The model in eval mode, its parameters on meta, its buffers on CPU.

        Raises:
            CheckpointError: the library does not know the architecture, or its constructor refuses the arguments.
        """
        self.require_known(spec.architecture, where=where)
        try:
            model = without_weights(partial(self.create, spec))
        except Exception as error:  # whatever a constructor trips over when its arguments do not fit together
            raise CheckpointError(
                f"{where}: {self.name} cannot build {spec.described}: {type(error).__name__}: {error}; "
                f"{self.remedy(spec, str(error))}"
            ) from error
        return model.eval()

    def remedy(self, spec: ModelSpec, said: str) -> str:
        """What to do where a constructor refuses, by what it said."""
        return f"check model_args against the constructor of {spec.architecture}"

    def initialised(self, spec: ModelSpec, seed: int) -> nn.Module:
        """The model with the values that are drawn for it from `seed`; the global random state stays."""
        return seeded(partial(self.create, spec), seed)

    def typed(self, spec: ModelSpec, dtype: str) -> ModelSpec:
        """The spec of a model whose weights are of a type, torch's name, where a configuration says which they are."""
        return spec

    def loaded(self, spec: ModelSpec, folder: Path) -> nn.Module | None:
        """The model of a folder as the library loads it; None where that is what `build` makes, with its weights."""
        return None

    def plain(self, model: nn.Module) -> nn.Module:
        """A model, computing in a way that float64 can follow; it may be changed."""
        return model

    # Calling it

    @abstractmethod
    def inputs(self, model: nn.Module, count: int, seed: int) -> Inputs:
        """So many random inputs as the model takes them, on CPU, numbers with fractions in float64."""

    def run(self, model: nn.Module, inputs: Inputs) -> tuple[Tensor, ...]:
        """Every tensor that the model returns for a batch."""
        return leaves_of(model(**inputs.tensors))

    def outputs_may_grow(self, model: nn.Module) -> bool:
        """Whether the outputs are features, which are wider where the model is, rather than an answer."""
        return False

    def classes(self, model: nn.Module) -> int:
        """How many classes the last dimension of the one output tells apart; 0 where it decides nothing."""
        return 0

    # What growth may change

    def arguments(self, spec: ModelSpec, model: nn.Module) -> Mapping[str, Any]:
        """Everything the model was constructed with, defaults included, by the names that `model_args` may have."""
        return defaults_of(type(model)) | dict(spec.model_args)

    def numbers(self, spec: ModelSpec, model: nn.Module) -> Mapping[str, Value]:
        """The numbers that `scale` may try, by the names that `model_args` may have."""
        return numbers_in(self.arguments(spec, model))

    def opened(self, spec: ModelSpec) -> ModelSpec:
        """The same model by a way that takes more arguments; the spec itself where there is none."""
        return spec

    def inner_numbers(self, spec: ModelSpec) -> Mapping[str, Value]:
        """Further numbers, tried where those reach too little: of an opened spec inside its arguments, by paths."""
        return {}

    def entry_counts(self, spec: ModelSpec) -> Mapping[str, Value]:
        """Of an opened spec how many times entries stand in the lists inside its arguments."""
        return {}

    def larger(self, spec: ModelSpec, model: nn.Module) -> Iterable[str]:
        """Other architectures with the same parameters, none of them smaller and one larger, nearest first."""
        return ()

    def set_eps(self, model: nn.Module, eps: Mapping[str, float]) -> None:
        """Give norms, by their paths, another eps, in place.

        Raises:
            TypeError: no such module, or one without an eps.
        """
        set_eps(model, eps)

    def with_eps(self, spec: ModelSpec, eps: Mapping[str, float]) -> ModelSpec | None:
        """The spec of the same model whose norms, by their paths, have another eps; None where it cannot be told."""
        return None

    # What its checkpoints are to others

    def kind(self, spec: ModelSpec) -> str:
        """What the library itself calls the kind of model, whatever way it is built."""
        return spec.architecture

    def needs(self, spec: ModelSpec) -> str | None:
        """The package to import before the library can load the model; None where it can alone."""
        return None

    @abstractmethod
    def loading_line(self, path: Path, spec: ModelSpec) -> str:
        """The Python that loads a checkpoint that was written, a folder or a single file."""

    def loading_text(self, spec: ModelSpec) -> str:
        """How a model card says to load the folder it lies in, in Markdown."""
        return f"From inside this folder:\n\n```python\n{self.loading_line(Path(), spec)}\n```"

    def training_text(self, spec: ModelSpec) -> str:
        """How a model card says to train the new blocks alone, in Markdown; empty where `growtool finetune` does so."""
        return ""

    def models(self) -> Mapping[str, Sequence[str]]:
        """The architectures it has by name, family by family."""
        return {}

    def fetching(self, name: str) -> Sequence[str]:
        """The Python that makes a folder of a published model in another format; none where there is none."""
        return ()

    # How its files hold tensors

    def reading(self, model: nn.Module, stored: Mapping[str, tuple[int, ...]]) -> Reading | None:
        """How the model's tensors are read from a file with other names; None where names alone tell.

        Args:
            model: without weights.
            stored: shapes of the tensors in the file.
        """
        return None

    def writing(self, model: nn.Module, source: Reading, dropped: Collection[str]) -> Writing:
        """How a grown model is written under such names as its source was read by.

        Args:
            model: the grown one, without weights.
            source: from `reading`.
            dropped: tensors that are others under another name, and that are not to be written.
        """
        raise NotImplementedError

    # What is published of it

    def knows(self, name: str) -> bool:
        """Whether it knows a published model by `name`, which says nothing of where that is."""
        return False

    def published(self, name: str) -> Published:
        """The model of a name that it knows, and where its weights lie.

        Raises:
            CheckpointError: it has no such weights; names the nearest.
        """
        raise NotImplementedError

    def near(self, name: str) -> Sequence[str]:
        """The names that it knows, and that are most like `name`."""
        return ()

    # What others have saved

    def load_folder(self, folder: Path, spec: ModelSpec) -> Loaded | None:
        """What the library makes of a folder that does not hold what its model has; None where it takes none such."""
        return None

    def load_state(self, spec: ModelSpec, state: Mapping[str, Tensor], folder: Path | None = None) -> Loaded | None:
        """The same for the tensors of a file, by the `config.json` in `folder` where there is one."""
        return None

    def take(self, spec: ModelSpec, state: Mapping[str, Tensor]) -> Loaded:
        """What the library makes of the tensors that a training script saved.

        Raises:
            Exception: whatever it trips over.
        """
        return load_strictly(partial(self.create, spec), state)

    def prepared(
        self, spec: ModelSpec, skeleton: nn.Module, loaded: Loaded, said: Mapping[str, Any]
    ) -> tuple[ModelSpec, tuple[str, ...]]:
        """The spec with the settings that a checkpoint needs; which of the training script's arguments they hold.

        Args:
            spec: may be without settings.
            skeleton: its model without weights.
            loaded: what `take` made.
            said: the arguments of the training script.
        """
        return spec, ()


def leaves_of(wrapped: Any) -> tuple[Tensor, ...]:
    """Every tensor in what a model, a module or an operation takes or returns, whatever it is wrapped in."""
    from torch import Tensor
    from torch.utils._pytree import tree_leaves

    return tuple(leaf for leaf in tree_leaves(wrapped) if isinstance(leaf, Tensor))
