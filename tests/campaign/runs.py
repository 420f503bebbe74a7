"""What the campaign trains, the most telling first. Lengths are in epochs of the images; the cost is in MACs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

SEEDS = 3
SCRATCH = (15, 30, 10, 20, 6, 3)
SOURCES = (14, 22, 38)
LENGTHS, SHARES = (20, 40, 10, 80), (0.5, 0.7, 0.9)
STARTS = {"width": "half", "depth": "one block", "both": "both"}
"""What grows -> the size of network it starts from."""
SIZES = ("large", *STARTS.values(), "three quarters")
_WARMUP, _DECAY, _LATE = 0.02, 0.15, 0.8
MIXTURE: Mapping[str, Any] = {"operator": "mixture", "gain": 0.3}
WIDTHS: Mapping[str, Mapping[str, Any]] = {
    "tile": {"operator": "tile"},
    "rms": {"operator": "tile", "keep": "rms"},
    "shrink_perturb": {"operator": "shrink_perturb"},
}
LEARNING: Mapping[str, Mapping[str, Any]] = {
    "reset": {"new_state": "reset"},
    "new_warmup": {"new_warmup": "0.25"},
    "reset+new_warmup": {"new_state": "reset", "new_warmup": "0.25"},
}
"""Ways in which what growth made learns otherwise at first."""
_FAST: Mapping[str, Any] = {"amp": True, "amp_dtype": "bfloat16", "channels_last": True}
TRAINING: Mapping[str, Mapping[str, Any]] = {
    "resnet": {"opt": "sgd", "lr": 0.1, "weight_decay": 5e-4, "batch_size": 128, "smoothing": 0.05, **_FAST},
    "vit": {"opt": "adamw", "lr": 1e-3, "weight_decay": 0.05, "batch_size": 128, "smoothing": 0.1, **_FAST},
}


@dataclass(frozen=True)
class Run:
    """One way to a trained large network, or to a source of others.

    Attributes:
        way: how it comes to its result, whatever its length.
        length: in epochs of the stages that it trains.
        family: `resnet` or `vit`.
        seed: of weights, growth and training.
        start: size of the network that it begins with, fresh; or the name of the run whose result it goes on from.
        stages: epochs of training, or a growth plan without its target, which is the large network unless `size` says
            another.
        rate: over all stages.
        lr: peak rate; None for the family's own.
        options: further ones of the training.
        second: the name of the run, with another seed, whose result is the plan's second source.
    """

    way: str
    length: float
    family: str
    seed: int
    start: str
    stages: tuple[float | Mapping[str, Any], ...]
    rate: Mapping[str, Any]
    lr: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    second: str | None = None

    @property
    def name(self) -> str:
        """Unique in the campaign, family and seed left out."""
        return f"{self.way}-{self.length:g}"

    @property
    def label(self) -> str:
        """Its name in the results and its folder."""
        return f"{self.family}/{self.name}/seed{self.seed}"


def scratch(family: str, epochs: float, seed: int = 0, *, size: str = "large") -> Run:
    """Fresh weights and one cosine cycle."""
    way = "scratch" if size == "large" else size
    return Run(way, epochs, family, seed, size, (epochs,), {"sched": "cosine", "warmup": 0.05})


def once(family: str, grows: str, epochs: float, share: float = _LATE, *, width: Mapping[str, Any] = MIXTURE) -> Run:
    """One rate schedule, grown once after a share of its updates (arXiv 2511.04981)."""
    plan = {"width": width} if grows != "depth" else {}
    plan |= {"depth": {"operator": "zero_out"}} if grows != "width" else {}
    rate = {"sched": "wsd", "warmup": _WARMUP, "decay": round(min(_DECAY, 1 - share), 6), "lr_decay_fn": "linear"}
    stages = (round(epochs * share, 6), plan, round(epochs * (1 - share), 6))
    return Run(f"{grows}-at-{share:.0%}", epochs, family, 0, STARTS[grows], stages, rate)


def otherwise(family: str) -> Iterator[Run]:
    """Other schedules for what grows both ways: a lower rate, earlier with a longer fall, one cosine, step by step."""
    late, width, depth = once(family, "both", 40), {"width": MIXTURE}, {"depth": {"operator": "zero_out"}}
    yield replace(late, way=f"{late.way}-half-the-rate", lr=TRAINING[family]["lr"] / 2)
    for small, large, share, decay in ((12, 12, 0.5, 0.4), (32, 16, 0.67, 0.28), (32, 12, 0.73, 0.22)):
        stages = (small, width | depth, large)
        way, rate = f"both-at-{share:.0%}-long-fall", {**late.rate, "decay": decay}
        yield replace(late, way=way, length=small + large, stages=stages, rate=rate)
    stages, cosine = (15, width | depth, 10), {"sched": "cosine", "warmup": _WARMUP}
    yield replace(late, way="both-at-60%-cosine", length=25, stages=stages, rate=cosine)
    stages = (12, {**depth, "size": "half"}, 12, {**width, "size": "three quarters"}, 8, width, 5)
    yield replace(late, way="step-by-step", length=37, stages=stages, rate={**late.rate, "decay": 0.13})


def regrown(family: str, source: float, epochs: float, plan: Mapping[str, Any], how: str) -> Run:
    """A source trained to its end, grown at once and trained on at a lower rate."""
    lr = 0.03 if family == "resnet" else 3e-4
    rate = {"sched": "cosine", "warmup": 0.05}
    return Run(f"{how}-from-{source:g}", epochs, family, 0, f"half-{source:g}", (plan, epochs), rate, lr)


def telling(family: str) -> Iterator[Run]:
    """What decides whether growing saves anything: scratch, and one schedule grown late."""
    yield from (scratch(family, epochs) for epochs in SCRATCH[:2])
    yield from (once(family, way, LENGTHS[0]) for way in ("both", "width", "depth"))
    yield from (scratch(family, epochs) for epochs in SCRATCH[2:])
    yield from (once(family, way, epochs) for epochs in LENGTHS[1:] for way in ("both", "width", "depth"))


def further(family: str) -> Iterator[Run]:
    """When to grow, from what, by which operator, and how new channels learn."""
    lengths = LENGTHS[:2]
    yield from (once(family, way, n, share) for n in lengths for share in SHARES for way in ("both", "width", "depth"))
    for source in SOURCES:
        yield scratch(family, source, size="half")
        yield from (regrown(family, source, epochs, {"width": MIXTURE}, "mixture") for epochs in (2, 6))
    yield from otherwise(family)
    plain = once(family, "width", LENGTHS[0])
    for name, width in WIDTHS.items():
        yield replace(once(family, "width", LENGTHS[0], width=width), way=f"{plain.way}-{name}")
    yield from (replace(plain, way=f"{plain.way}-{name}", options=options) for name, options in LEARNING.items())
    if family == "vit":  # a ResNet has no mirror image
        mirror = {"width": {"operator": "two_source"}, "second": "mirror"}
        yield regrown(family, SOURCES[0], 2, mirror, "mirror")
    second = f"half-{SOURCES[0]:g}"
    two = regrown(family, SOURCES[0], 2, {"width": {"operator": "two_source"}}, "two_source")
    yield replace(two, second=second)


def all_runs() -> list[Run]:
    """Every run in the order in which they are worth their time: both families, then what is left, then seeds."""
    first = [run for family in TRAINING for run in telling(family)]
    rest = [run for family in TRAINING for run in further(family)]
    found = [replace(run, seed=seed) for seed in range(SEEDS) for run in (*first, *rest)]
    assert len({run.label for run in found}) == len(found)
    return found
