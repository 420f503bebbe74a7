"""Twenty small models with every number of the constructor doubled and every switch turned: is any promise false?

Some of these changes reach other ties, other orders or another flow of values, which no growth on purpose does.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from growtool.checkpoint import build
from growtool.library import library_of
from growtool.library.values import as_lists, leaves, numbers_in, scaled_at

from .attempt import Attempt, attempt
from .measure import TILED_AND_CLOSED, single_changes
from .models import Example
from .proofs import InMemory, source_model

_TOKENS = {"depth": 2, "embed_dim": 24, "num_heads": 3, "num_classes": 5}
MODELS = (
    Example("vision_transformer", "vit_tiny_patch16_224", {**_TOKENS, "img_size": 64}),
    Example("resnet", "resnet26t", {"layers": [1, 2, 1, 1], "channels": [4, 8, 8, 16], "stem_width": 8}),
    Example("deit", "deit_tiny_distilled_patch16_224", {**_TOKENS, "img_size": 64}),
    Example("beit", "beit_base_patch16_224", {**_TOKENS, "img_size": 64}),
    Example("eva", "vit_tiny_patch16_dinov3_qkvb", {**_TOKENS, "embed_dim": 48, "img_size": 64}),
    Example("cait", "cait_xxs24_224", {**_TOKENS, "num_heads": 2, "img_size": 64}),
    Example("xcit", "xcit_nano_12_p16_224", {**_TOKENS, "num_heads": 2, "img_size": 64}),
    Example("vision_transformer_relpos", "test_vit_relpos", {**_TOKENS, "img_size": 64}),
    Example("convit", "convit_tiny", {**_TOKENS, "local_up_to_layer": 1, "embed_dim": 12, "num_heads": 2}),
    Example("swin_transformer", "swin_tiny_patch4_window7_224",
            {"depths": [2, 2], "embed_dim": 12, "num_heads": [2, 2], "img_size": 56, "num_classes": 5}),
    Example("swin_transformer_v2", "swinv2_tiny_window8_256",
            {"depths": [2, 2], "embed_dim": 12, "num_heads": [2, 2], "img_size": 64, "num_classes": 5}),
    Example("convnext", "test_convnext", {"dims": [4, 8, 8, 12], "depths": [1, 2, 1, 1], "num_classes": 5}),
    Example("pvt_v2", "pvt_v2_b0", {"embed_dims": [8, 16, 20, 32], "depths": [1, 2, 1, 1], "num_classes": 5}),
    Example("resnetv2", "resnetv2_18", {"width_factor": 0.125, "num_classes": 5}),
    Example("regnet", "regnetx_002", {"depth": 6, "w0": 8, "wa": 16.0, "num_classes": 5}),
    Example("efficientnet", "test_efficientnet", {"num_classes": 5}),
    Example("densenet", "densenet121", {"growth_rate": 4, "block_config": [2, 2], "num_classes": 5}),
    Example("nfnet", "test_nfnet", {"depths": [2, 1, 1, 1], "channels": [8, 8, 16, 16], "num_classes": 5}),
    Example("mambaout", "test_mambaout", {"dims": [8, 8, 12, 16], "num_classes": 5}),
    Example("maxxvit", "test_coatnet", {"num_classes": 5}),
)  # fmt: skip


def changed_singly(example: Example) -> Iterator[Attempt]:
    """What comes of each change of a single argument; whatever is promised is measured."""
    skeleton, model = build(example.spec), source_model(example.spec)
    source = InMemory.of(example.spec, model)
    for changed in (*single_changes(example.spec, skeleton), *_of_sequences(example, skeleton)):
        made = attempt("arguments", {"model_args": changed}, TILED_AND_CLOSED, source, model)
        made.args = changed
        yield made


def _of_sequences(example: Example, skeleton: nn.Module) -> Iterator[dict[str, Any]]:
    """Each number of each sequence of the constructor doubled alone."""
    for name, value in numbers_in(library_of(example.spec).arguments(example.spec, skeleton)).items():
        places = range(len(leaves(value)))
        yield from ({name: as_lists(scaled_at(value, 2, {place}))} for place in places if len(places) > 1)


def report(examples: Iterable[Example]) -> Iterator[str]:
    """A line on each model, one on each promise that is false, needlessly lossy or broken, and one on all together."""
    total = Counter[str]()
    for example in examples:
        started, found = time.process_time(), list(changed_singly(example))
        verdicts = Counter(str(made.verdict) for made in found)
        total += verdicts
        yield f"{example.label}: {_counted(verdicts)}; {time.process_time() - started:.0f} s"
        for made in found:
            if made.verdict in ("FALSE PROMISE", "needless lossy", "crash"):
                yield f"  {made.verdict}: {made.args}: {made.error} {'; '.join(made.reasons)}"
    yield f"all: {_counted(total)}"


def _counted(verdicts: Counter[str]) -> str:
    return ", ".join([f"{verdicts.total()} changes", *(f"{number} {verdict}" for verdict, number in verdicts.items())])
