"""Calling models of transformers: random inputs by the signature of `forward`, and the outputs that count."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import threading
import typing
from collections.abc import Callable, Iterator, Sequence
from functools import cache, wraps
from typing import TYPE_CHECKING, Any

from growtool.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

TOKENS = 11  # tokens of an input text
_DECODER_TOKENS = 7  # tokens of a decoder's input
_IMAGE = 32  # pixels along the side of an image whose size the configuration leaves open
_FRAMES = 12  # frames of an input sound
_ANSWER = "logits"  # the names of answers begin or end with it (`logits_per_image`, `start_logits`)
_here = threading.local()  # `unseen`: whether this thread is in `_without_looking`


def inputs_of(model: nn.Module, count: int, generator: Generator) -> dict[str, Tensor]:
    """Return random inputs by name, as `forward` takes them: tokens, images, sound or its features, decoder tokens.

    Args:
        model: a model of transformers.
        count: inputs of the batch.
        generator: draws them, on CPU.

    Returns:
        Tokens are int64 [count, T]. Images [count, C, H, W], sound [count, samples] and features of sound, whose order
        is the model's, are float64.

    Raises:
        CheckpointError: the model takes something else, or inputs of a size that its configuration does not tell.
    """
    import torch

    takes = inspect.signature(model.forward).parameters
    heard = {"input_features": _features, "input_values": _sound}  # of speech models, whose tokens are a decoder's
    sizes = {name: size(model.config) for name, size in {"pixel_values": _image, **heard}.items() if name in takes}
    made = {name: torch.randn(count, *size, generator=generator, dtype=torch.float64) for name, size in sizes.items()}
    if "input_ids" in takes and heard.keys().isdisjoint(made):
        made["input_ids"] = _tokens(model.config, (count, TOKENS), generator)
    if not made:
        raise CheckpointError(
            f"{type(model).__name__}: found a model that takes {', '.join(list(takes)[:3])}, expected one that takes "
            f"input_ids, pixel_values, {' or '.join(heard)}; growtool cannot run it"
        )
    if "decoder_input_ids" in takes:
        made["decoder_input_ids"] = _tokens(model.config, (count, _DECODER_TOKENS), generator)
    return made


def answers(model: nn.Module, tensors: dict[str, Tensor]) -> Any:
    """Return a model's logits for a batch, or everything that it returns if it has none."""
    takes = inspect.signature(model.forward).parameters
    flags = {"use_cache": False} if "use_cache" in takes else {}  # a base model would return keys and values as well
    with _without_looking():
        returned = model(**tensors, **flags, return_dict=True)
    logits = [value for name, value in returned.items() if _is_answer(name)]
    return logits or returned


def answers_something(model: nn.Module) -> bool:
    """Return whether a model returns logits, whose number growth keeps, rather than features."""
    return any(_is_answer(name) for name in _returned_names(type(model)))


def _returned_names(cls: type) -> tuple[str, ...]:
    """Return the names of the outputs of `forward` by its annotation; none if it has none that can be read."""
    try:
        returned = typing.get_type_hints(inspect.unwrap(cls.forward)).get("return")  # type: ignore[attr-defined]
    except Exception:  # an annotation may name what is imported for type checkers alone
        return ()
    # The annotation is a `ModelOutput`, which is a dataclass, or a union of one with a tuple.
    kinds = [kind for kind in (returned, *typing.get_args(returned)) if dataclasses.is_dataclass(kind)]
    return tuple(field.name for kind in kinds for field in dataclasses.fields(kind))


def _is_answer(name: str) -> bool:
    return name.startswith(_ANSWER) or name.endswith(_ANSWER)


def _tokens(config: Any, size: tuple[int, int], generator: Generator) -> Tensor:
    """Return random tokens of this size, none of them special, such as padding or the end of a text."""
    import torch

    text = config.get_text_config()
    special = {value for name, value in text.to_dict().items() if name.endswith("token_id") and isinstance(value, int)}
    usual = torch.tensor([token for token in range(min(text.vocab_size, 1 << 16)) if token not in special])
    return usual[torch.randint(len(usual), size, generator=generator)]


def _image(config: Any) -> Sequence[int]:
    """Return channels, height and width of an image."""
    vision = getattr(config, "vision_config", config)
    size = getattr(vision, "image_size", None) or _IMAGE
    height, width = (size, size) if isinstance(size, int) else size
    return getattr(vision, "num_channels", 3), height, width


def _features(config: Any) -> Sequence[int]:
    """Return bins and frames of features as Whisper takes them.

    A model whose configuration has `feature_projection_input_dim` takes [frames, bins] (Wav2Vec2-BERT).
    """
    audio = getattr(config, "audio_config", config)
    bins_before_projection = getattr(audio, "feature_projection_input_dim", None)
    if bins_before_projection is not None:
        return _FRAMES, bins_before_projection
    bins, positions = _sizes(config, audio, "features", "num_mel_bins", "max_source_positions")
    return bins, 2 * positions  # Whisper refuses other numbers: a convolution of stride 2 stands before the positions


def _sound(config: Any) -> Sequence[int]:
    """Return the samples of a sound that gives `_FRAMES` frames, as Wav2Vec2 takes it.

    A model whose configuration has `num_mel_bins` takes features [frames, bins] under the same name (AST).
    """
    if getattr(config, "num_mel_bins", None) is not None:
        return _sizes(config, config, "features", "max_length", "num_mel_bins")
    samples = _FRAMES
    kernels, strides = _sizes(config, config, "sound", "conv_kernel", "conv_stride")
    # From the last convolution to the first: n outputs need (n - 1) * stride + kernel inputs.
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        samples = (samples - 1) * stride + kernel
    return [samples]


def _sizes(config: Any, part: Any, what: str, *names: str) -> list[Any]:
    """Return the fields of these names in a part of a configuration; raise CheckpointError if one is missing."""
    sizes = [getattr(part, name, None) for name in names]
    if None in sizes:
        raise CheckpointError(
            f"{config.model_type}: found a model that takes {what} of a size that its configuration does not tell, "
            f"expected {' and '.join(names)}; growtool cannot run it"
        )
    return sizes


@contextlib.contextmanager
def _without_looking() -> Iterator[None]:
    """While open, keep transformers from reading values of its inputs, which tensors on the meta device do not have.

    It would look whether several sequences are packed into one, and whether one ends in padding; ours never are and
    never do. Calls of other threads look as always.
    """
    _install()
    _here.unseen = True
    try:
        yield
    finally:
        _here.unseen = False


@cache  # once for the process: the functions ask each time whether their thread is in `_without_looking`
def _install() -> None:
    from transformers import PreTrainedModel, masking_utils

    for owner, name in (
        (masking_utils, "find_packed_sequence_indices"),
        (PreTrainedModel, "warn_if_padding_and_no_attention_mask"),
    ):
        setattr(owner, name, _unless_unseen(getattr(owner, name)))


def _unless_unseen(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def asked(*args: Any, **kwargs: Any) -> Any:
        return None if getattr(_here, "unseen", False) else function(*args, **kwargs)

    return asked
