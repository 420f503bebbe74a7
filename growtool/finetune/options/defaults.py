"""What a run does where an option was left unset: decided once, when network, optimizer and images are known.

The figures are those of docs/choosing.md: a checkpoint that is trained already takes a lower rate than one with fresh
weights, a short warm-up, and mild crops of small images, which a short run does not win back otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from growtool.calibration import tracking_norms
from growtool.checkpoint import Checkpoint
from growtool.checkpoint.beside import REPORT, TRAINING
from growtool.checkpoint.documents import parse_json
from growtool.finetune.config import STATELESS, RunConfig
from growtool.library.timm import input_size

DEFAULTS = "defaults"  # the key below `resolved` in config.yaml
AUTOMATIC = ("lr", "weight_decay", "warmup_epochs", "warmup_steps", "train_crop_mode", "clip_grad")
SMALL = 96  # pixels; images of fewer lose what they show by zooming
CLIP = 1.0
_WARMUP = 0.1, 5  # of the run, at most so many epochs
_ATTENTION = re.compile(r"Attention|Attn|^XCA$")
_NO_ATTENTION = re.compile(r"Pool|Channel|Spatial|SplitAttn")
_SGD = ("SGD", "SGDW", "SGDP", "SGD8bit", "FusedSGD", "Lars")
_COUPLED = ("Adam", "NAdam", "NAdamLegacy", "RAdam", "RAdamLegacy", "Adamax", "Adagrad", "RMSprop", "RMSpropTF")

_TRAINED, _LOSSY, _FRESH, _ADAPTERS = "", "grown with losses", "never trained", "adapters"
_ADAM_RATES = {_TRAINED: 1e-4, _LOSSY: 3e-4, _FRESH: 1e-3, _ADAPTERS: 3e-4}
_SGD_RATES = {_TRAINED: 0.03, _LOSSY: 0.03, _FRESH: 0.1, _ADAPTERS: 0.03}
_WITHOUT_BATCHNORM = 1 / 3  # of the rate by SGD, whose steps nothing keeps in proportion to the weights there
_LION = 1 / 3  # of Adam's: each of its steps has the full length


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen for an option.

    Attributes:
        value: as the option takes it.
        reason: what it follows from.
        text: both in a few words.
    """

    value: Any
    reason: str
    text: str


def network_of(model: nn.Module) -> str:
    """`transformer`, `BatchNorm network`, or `network without BatchNorm`, as rates and clipping tell them apart."""
    names = {type(module).__name__ for module in model.modules()}
    if any(_ATTENTION.search(name) and not _NO_ATTENTION.search(name) for name in names):
        return "transformer"
    return "BatchNorm network" if tracking_norms(model) else "network without BatchNorm"


def choose(config: RunConfig, model: nn.Module, *, lossy: bool, steps: int, per_epoch: int) -> dict[str, Choice]:
    """The options that were left unset, by name.

    Args:
        config: of the run.
        model: of the run.
        lossy: whether it was grown with losses, and nothing has trained since.
        steps: updates in all.
        per_epoch: updates of an epoch.
    """
    network, optimizer = network_of(model), _optimizer_of(config.opt)
    found: dict[str, Choice] = {}
    if config.lr is None:
        state = _state(config, lossy=lossy)
        lr = _rate(optimizer, network, state)
        reason = ", ".join(filter(None, (optimizer, network, state)))
        found["lr"] = Choice(lr, reason, f"lr {shown(lr)} ({reason})")
    if config.weight_decay is None:
        decay = 5e-4 if optimizer in (*_SGD, *_COUPLED) else 0.05
        found["weight_decay"] = Choice(decay, optimizer, f"weight decay {shown(decay)}")
    if config.warmup_epochs is None and config.warmup_steps is None and config.sched != "none":
        part, most = _WARMUP
        warmup = round(min(part * steps, most * per_epoch))
        reason = "a tenth of the run" if part * steps <= most * per_epoch else f"{most} epochs"
        text = f"warm-up {warmup / per_epoch:.2g} epochs" if warmup else "no warm-up in so few updates"
        found["warmup_steps"] = Choice(warmup, reason, text)
    if config.train_crop_mode is None and not config.no_aug:
        found["train_crop_mode"] = _crops(config, min(input_size(model)[1:]))
    if config.clip_grad is None and network == "transformer":
        found["clip_grad"] = Choice(CLIP, network, f"clipping at norm {CLIP:g}")
    return found


def applied(config: RunConfig, choices: Mapping[str, Choice]) -> RunConfig:
    """The configuration with what was chosen."""
    return config.model_copy(update={name: choice.value for name, choice in choices.items()})


def in_words(choices: Mapping[str, Choice]) -> str:
    """All that was chosen, in one line; empty where nothing was."""
    return f"defaults: {', '.join(choice.text for choice in choices.values())}" if choices else ""


def from_document(document: Mapping[str, Mapping[str, Any]]) -> dict[str, Choice]:
    """What `as_document` wrote."""
    return {name: Choice(**entry) for name, entry in document.items()}


def as_document(choices: Mapping[str, Choice]) -> dict[str, dict[str, Any]]:
    """As it stands under `resolved` in config.yaml."""
    return {name: asdict(choice) for name, choice in choices.items()}


def shown(number: float) -> str:
    """A rate as people write it: 0.03, 1e-4."""
    return re.sub(r"\.?0*e-0?", "e-", f"{number:.2e}") if 0 < number < 1e-3 else f"{number:g}"


def _optimizer_of(name: str) -> str:
    """The class of timm's optimizer of this name, whose package need not be there."""
    from timm.optim import get_optimizer_info

    name = name.lower().removeprefix("lookahead_")
    found = "Swan" if name == STATELESS else get_optimizer_info(name).opt_class
    return found.rpartition(".")[2] if isinstance(found, str) else str(found.__name__)


def _rate(optimizer: str, network: str, state: str) -> float:
    if optimizer in _SGD:
        rate = _SGD_RATES[state] * (1 if network == "BatchNorm network" else _WITHOUT_BATCHNORM)
    else:
        rate = _ADAM_RATES[state] * (_LION if optimizer.startswith("Lion") else 1)
    return float(f"{rate:.1g}")


def _state(config: RunConfig, *, lossy: bool) -> str:
    """What has become of the weights that train, as far as the rate depends on it."""
    if config.lora_rank:
        return _ADAPTERS
    if config.from_scratch:
        return _FRESH
    return _LOSSY if lossy else _TRAINED


def grown_with_losses(source: Checkpoint) -> bool:
    """Whether growth changed the function, by the report beside the checkpoint, and nothing was trained since."""
    path = source.path.parent / REPORT
    if not path.is_file() or (path.parent / TRAINING).is_file():
        return False
    try:
        return bool(parse_json(path.read_bytes(), str(path))["promise"]["kind"] == "lossy")
    except (ValueError, KeyError, TypeError):
        return False


def _crops(config: RunConfig, pixels: int) -> Choice:
    """Mild ones for small images, unless their size was given, which is one of timm's usual crops."""
    small = pixels < SMALL and config.scale is None
    low, high = config.scale or ((0.8, 1.0) if small else (0.08, 1.0))
    reason = f"{pixels}-pixel images" if config.scale is None else "scale"
    text = f"crops of {low * 100:g} to {high * 100:g} % ({reason})"
    return Choice("rkrr" if small else "rrc", reason, text)
