"""Seeds of the global random generators that depend on their purpose and on nothing else.

timm's augmentation and mixup, and dropout, draw from the global generators of Python, numpy and torch. A run therefore
seeds all three from (seed, purpose, place) right before each use: an image's augmentation depends on the seed, the
epoch and the image, an update's dropout on the seed and the step. The number of workers that read images does not
matter then.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(*parts: int | str) -> int:
    """Return a number below 2**63 that `parts` alone decide, the same in every process and on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seed_generators(seed: int, device: torch.device | None = None) -> None:
    """Seed the global generators of Python, numpy, torch on the CPU and, if it is given, on the CUDA `device`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # numpy takes no larger one
    # Not torch.manual_seed: in a worker it would record a stack trace for the CUDA devices at every image.
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def isolated_generators(device: torch.device) -> Iterator[None]:
    """Restore the global generators of Python, numpy and torch to their present state on leaving."""
    python, legacy_numpy = random.getstate(), np.random.get_state()
    cuda = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=cuda):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy_numpy)
