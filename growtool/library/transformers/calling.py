"""What transformers' models are called with, and how: random tokens, images and features by what a model asks for."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import threading
import typing
from collections.abc import Callable, Iterator
from functools import cache, wraps
from typing import TYPE_CHECKING, Any

from growtool.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

TOKENS = 11  # of a text
_DECODER_TOKENS = 7
_IMAGE = 32  # pixels of an image whose size the configuration leaves open
_FRAMES = 12  # of sound
_here = threading.local()
_ANSWER = "logits"  # what the names of answers begin or end with


def inputs_of(model: nn.Module, count: int, generator: Generator) -> dict[str, Tensor]:
    """Random inputs by name: tokens, images, sound or its features, those of a decoder too.

    Args:
        model: one of transformers.
        count: of the batch.
        generator: that draws them, on CPU.

    Returns:
        Tokens are int64 [count, T], images [count, C, H, W], features [count, bins, frames] and sound [count, samples]
        are float64.

    Raises:
        CheckpointError: it takes something else, or of a size that its configuration does not tell.
    """
    takes = inspect.signature(model.forward).parameters
    heard = {"input_features": _features, "input_values": _sound}
    makers = {name: maker for name, maker in {"pixel_values": _images, **heard}.items() if name in takes}
    made = {name: maker(model.config, count, generator) for name, maker in makers.items()}
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
    """What a model says: its logits where it has some, else everything that it returns."""
    takes = inspect.signature(model.forward).parameters
    flags = {"use_cache": False} if "use_cache" in takes else {}
    with _without_looking():
        returned = model(**tensors, **flags, return_dict=True)
    found = [value for name, value in returned.items() if _is_answer(name)]
    return found or returned


def answers_something(model: nn.Module) -> bool:
    """Whether a model returns logits, whose number stays, rather than features."""
    return any(_is_answer(name) for name in _returned_names(type(model)))


def _returned_names(cls: type) -> tuple[str, ...]:
    """Names of what `forward` returns, by its annotation; none where it has none."""
    try:
        returned = typing.get_type_hints(inspect.unwrap(cls.forward)).get("return")  # type: ignore[attr-defined]
    except Exception:  # whatever an annotation names that is not there
        return ()
    kinds = [kind for kind in (returned, *typing.get_args(returned)) if dataclasses.is_dataclass(kind)]
    return tuple(field.name for kind in kinds for field in dataclasses.fields(kind))


def _is_answer(name: str) -> bool:
    return name.startswith(_ANSWER) or name.endswith(_ANSWER)


def _tokens(config: Any, size: tuple[int, int], generator: Generator) -> Tensor:
    """Tokens that mean nothing to the model: neither padding nor the end."""
    import torch

    text = config.get_text_config()
    special = {value for name, value in text.to_dict().items() if name.endswith("token_id") and isinstance(value, int)}
    usual = torch.tensor([token for token in range(min(text.vocab_size, 1 << 16)) if token not in special])
    return usual[torch.randint(len(usual), size, generator=generator)]


def _images(config: Any, count: int, generator: Generator) -> Tensor:
    import torch

    vision = getattr(config, "vision_config", config)
    size = getattr(vision, "image_size", None) or _IMAGE
    height, width = (size, size) if isinstance(size, int) else size
    channels = getattr(vision, "num_channels", 3)
    return torch.randn(count, channels, height, width, generator=generator, dtype=torch.float64)


def _features(config: Any, count: int, generator: Generator) -> Tensor:
    """[count, bins, frames] for Whisper's kind, [count, frames, bins] where the configuration tells of a projection."""
    import torch

    audio = getattr(config, "audio_config", config)
    projected = getattr(audio, "feature_projection_input_dim", None)
    if projected is not None:
        return torch.randn(count, _FRAMES, projected, generator=generator, dtype=torch.float64)
    bins, positions = _told(config, audio, "features", "num_mel_bins", "max_source_positions")
    frames = 2 * positions  # a convolution of stride 2 is in front
    return torch.randn(count, bins, frames, generator=generator, dtype=torch.float64)


def _sound(config: Any, count: int, generator: Generator) -> Tensor:
    """[count, samples] for a few frames, or [count, frames, bins] where the configuration tells how many."""
    import torch

    if getattr(config, "num_mel_bins", None) is not None:
        size = _told(config, config, "features", "max_length", "num_mel_bins")
    else:
        samples = _FRAMES
        kernels, strides = _told(config, config, "sound", "conv_kernel", "conv_stride")
        for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
            samples = (samples - 1) * stride + kernel
        size = [samples]
    return torch.randn(count, *size, generator=generator, dtype=torch.float64)


def _told(config: Any, part: Any, what: str, *names: str) -> list[Any]:
    """What a configuration says under these names."""
    found = [getattr(part, name, None) for name in names]
    if None in found:
        raise CheckpointError(
            f"{config.model_type}: found a model that takes {what} of a size that its configuration does not tell, "
            f"expected {' and '.join(names)}; growtool cannot run it"
        )
    return found


@contextlib.contextmanager
def _without_looking() -> Iterator[None]:
    """While open, transformers does not look at values to find out what it is given; on the meta device are none.

    It would look whether several sequences are packed into one, and whether one ends in padding: here none is. Other
    threads go on as ever.
    """
    _install()
    _here.unseen = True
    try:
        yield
    finally:
        _here.unseen = False


@cache
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
