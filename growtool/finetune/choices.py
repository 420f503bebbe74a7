"""Options of training that take one of a few words, as the command line wants them."""

from enum import StrEnum


class Schedule(StrEnum):
    """What `--sched` accepts."""

    cosine = "cosine"
    wsd = "wsd"
    constant = "constant"
    none = "none"


class CropMode(StrEnum):
    """What `--train-crop-mode` accepts."""

    rrc = "rrc"
    rkrc = "rkrc"
    rkrr = "rkrr"


class AmpDtype(StrEnum):
    """What `--amp-dtype` accepts."""

    bfloat16 = "bfloat16"
    float16 = "float16"


class Nonfinite(StrEnum):
    """What `--nonfinite` accepts."""

    stop = "stop"
    skip = "skip"


class Engine(StrEnum):
    """What `--engine` accepts."""

    ddp = "ddp"
    fsdp = "fsdp"
