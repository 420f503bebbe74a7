"""Random numbers that depend on what they are for and on nothing else.

timm's augmentation, mixup and dropout draw from the global generators of Python, numpy and torch. A run therefore sets
all three from (seed, purpose, place) right before each use: an image's augmentation depends on the seed, the epoch and
the image, an update's dropout on the seed and the step. How many workers read the images changes nothing then.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(*parts: int | str) -> int:
    """A number below 2**63 that `parts` decide, the same in every process and on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seed_generators(seed: int, device: torch.device | None = None) -> None:
    """Set the global generators of Python, numpy, torch on CPU and, where `device` is one, the CUDA device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # Not torch.manual_seed: in a worker it would record a stack trace for the CUDA devices at every image.
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def isolated_generators(device: torch.device) -> Iterator[None]:
    """While open the global generators may be set at will; the caller gets them back as they were."""
    python, legacy_numpy = random.getstate(), np.random.get_state()
    cuda = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=cuda):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy_numpy)
