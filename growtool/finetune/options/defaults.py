"""The values of options that were left unset, chosen once network, optimizer and images are known.

The figures are those of docs/choosing.md. A checkpoint that is trained already takes a lower rate than fresh weights, a
short warm-up, and mild crops of small images: a short run would not win back what others cost.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from growtool.calibration import tracking_norms
from growtool.finetune.config import RunConfig
from growtool.finetune.update.optimizer import stepping_class
from growtool.library.timm import input_size

DEFAULTS = "defaults"  # the key below `resolved` in config.yaml
AUTOMATIC = ("lr", "weight_decay", "warmup_epochs", "warmup_steps", "train_crop_mode", "clip_grad")
SMALL = 96  # pixels; zooming crops of smaller images lose what these show
CLIP = 1.0  # norm of the gradient
_WARMUP = 0.1, 5  # share of the run, but at most so many epochs
_ATTENTION = re.compile(r"Attention|Attn|^XCA$")  # classes of a transformer's modules
_NO_ATTENTION = re.compile(r"Pool|Channel|Spatial|SplitAttn")  # attention of convolutional networks
_SGD = ("SGD", "SGDW", "SGDP", "SGD8bit", "FusedSGD", "Lars")
_COUPLED = ("Adam", "NAdam", "NAdamLegacy", "RAdam", "RAdamLegacy", "Adamax", "Adagrad", "RMSprop", "RMSpropTF")
"""Optimizers besides SGD that add the weight decay to the gradient."""

_TRAINED, _LOSSY, _FRESH, _ADAPTERS = "", "grown with losses", "never trained", "adapters"  # as messages call it
_ADAM_RATES = {_TRAINED: 1e-4, _LOSSY: 3e-4, _FRESH: 1e-3, _ADAPTERS: 3e-4}
_SGD_RATES = {_TRAINED: 0.03, _LOSSY: 0.03, _FRESH: 0.1, _ADAPTERS: 0.03}
_WITHOUT_BATCHNORM = 1 / 3  # of SGD's rate: nothing keeps its steps in proportion to the weights there
_LION = 1 / 3  # of Adam's rate: each of its steps has the full length


@dataclass(frozen=True, slots=True)
class Choice:
    """The value chosen for an option.

    Attributes:
        value: as the option takes it.
        reason: what the value follows from, in words.
        text: value and reason in a few words, for the line that tells all choices.
    """

    value: Any
    reason: str
    text: str


def network_of(model: nn.Module) -> str:
    """Return the kind of a network, by which rates and clipping are chosen.

    Returns:
        `transformer`, `BatchNorm network` or `network without BatchNorm`.
    """
    names = {type(module).__name__ for module in model.modules()}
    if any(_ATTENTION.search(name) and not _NO_ATTENTION.search(name) for name in names):
        return "transformer"
    return "BatchNorm network" if tracking_norms(model) else "network without BatchNorm"


def choose(config: RunConfig, model: nn.Module, *, lossy: bool, steps: int, per_epoch: int) -> dict[str, Choice]:
    """Return the choice for each option that was left unset, by the option's name.

    Args:
        lossy: whether the model was grown with losses, and not trained since.
        steps: updates of the rate's whole course.
        per_epoch: updates of an epoch.
    """
    network, optimizer = network_of(model), stepping_class(config.opt)
    choices: dict[str, Choice] = {}
    if config.lr is None:
        state = _state(config, lossy=lossy)
        lr = _rate(optimizer, network, state)
        reason = ", ".join(filter(None, (optimizer, network, state)))
        choices["lr"] = Choice(lr, reason, f"lr {shown(lr)} ({reason})")
    if config.weight_decay is None:
        decay = 5e-4 if optimizer in (*_SGD, *_COUPLED) else 0.05
        choices["weight_decay"] = Choice(decay, optimizer, f"weight decay {shown(decay)}")
    if config.warmup_epochs is None and config.warmup_steps is None and config.sched != "none":
        share, most_epochs = _WARMUP
        warmup = round(min(share * steps, most_epochs * per_epoch))
        reason = "a tenth of the run" if share * steps <= most_epochs * per_epoch else f"{most_epochs} epochs"
        text = f"warm-up {warmup / per_epoch:.2g} epochs" if warmup else "no warm-up in so few updates"
        choices["warmup_steps"] = Choice(warmup, reason, text)
    if config.train_crop_mode is None and not config.no_aug:
        choices["train_crop_mode"] = _crops(config, min(input_size(model)[1:]))
    if config.clip_grad is None and network == "transformer":
        choices["clip_grad"] = Choice(CLIP, network, f"clipping at norm {CLIP:g}")
    return choices


def applied(config: RunConfig, choices: Mapping[str, Choice]) -> RunConfig:
    """Return the configuration with the chosen values."""
    return config.model_copy(update={name: choice.value for name, choice in choices.items()})


def in_words(choices: Mapping[str, Choice]) -> str:
    """Return all choices in one line, or "" without any."""
    return f"defaults: {', '.join(choice.text for choice in choices.values())}" if choices else ""


def from_document(document: Mapping[str, Mapping[str, Any]]) -> dict[str, Choice]:
    """Return the choices that `as_document` wrote down."""
    return {name: Choice(**entry) for name, entry in document.items()}


def as_document(choices: Mapping[str, Choice]) -> dict[str, dict[str, Any]]:
    """Return the choices as plain data for config.yaml, where they stand under `resolved`."""
    return {name: asdict(choice) for name, choice in choices.items()}


def shown(number: float) -> str:
    """Return a rate as people write it: 0.03, 1e-4."""
    return re.sub(r"\.?0*e-0?", "e-", f"{number:.2e}") if 0 < number < 1e-3 else f"{number:g}"


def _rate(optimizer: str, network: str, state: str) -> float:
    """Return the learning rate, rounded to one digit."""
    if optimizer in _SGD:
        rate = _SGD_RATES[state] * (1 if network == "BatchNorm network" else _WITHOUT_BATCHNORM)
    else:
        rate = _ADAM_RATES[state] * (_LION if optimizer.startswith("Lion") else 1)
    return float(f"{rate:.1g}")


def _state(config: RunConfig, *, lossy: bool) -> str:
    """Return the state of the weights that train, a key of the tables of rates."""
    if config.lora_rank:
        return _ADAPTERS
    if config.from_scratch:
        return _FRESH
    return _LOSSY if lossy else _TRAINED


def _crops(config: RunConfig, pixels: int) -> Choice:
    """Return the choice of crops for images whose shorter side has so many pixels: mild ones for small images.

    A given `scale` is meant for timm's usual crops (rrc), whatever the size of the images.
    """
    mild = pixels < SMALL and config.scale is None
    low, high = config.scale or ((0.8, 1.0) if mild else (0.08, 1.0))
    reason = f"{pixels}-pixel images" if config.scale is None else "scale"
    text = f"crops of {low * 100:g} to {high * 100:g} % ({reason})"
    return Choice("rkrr" if mild else "rrc", reason, text)
