"""`growtool.verify_checkpoints`: everything `growtool verify` does, from Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from growtool.checkpoint import Checkpoint, open_checkpoint
from growtool.finetune.parallel.device import in_use, resolve_device
from growtool.images import EVAL_SPLITS, ImageFormat, LabelledImages, require_images
from growtool.library import Inputs
from growtool.notebook import Show, as_html, shown
from growtool.verify import (
    Comparison,
    ImageComparison,
    StreamedModel,
    common_inputs,
    compare,
    compare_images,
    default_tolerance,
)


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of comparing two checkpoints.

    Attributes:
        source, target: names of the checkpoints.
        inputs: the comparison on random or given inputs.
        images: the comparison on labelled images; None without images.
        tolerance: the largest relative difference that rounding explains.
    """

    source: str
    target: str
    inputs: Comparison
    images: ImageComparison | None
    tolerance: float

    @property
    def agree(self) -> bool:
        """Whether every difference is within the tolerance."""
        return all(found.within(self.tolerance) for found in self._comparisons().values())

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        document: dict[str, Any] = {
            "source": self.source,
            "target": self.target,
            "tolerance": self.tolerance,
            "agree": self.agree,
            "random_inputs": asdict(self.inputs),
        }
        return document | ({} if self.images is None else {"images": asdict(self.images)})

    def _comparisons(self) -> dict[str, Comparison]:
        return {"inputs": self.inputs, **({} if self.images is None else {"images": self.images.logits})}

    def _repr_html_(self) -> str:
        facts = {"largest difference allowed": f"{self.tolerance:g}, of max|a - b| / max|a|"}
        rows = [
            (
                name, f"{found.count:,}", f"{found.relative_difference:.2e}", f"{found.max_abs:.2e}",
                "features" if found.argmax_agreement is None else f"{found.argmax_agreement:.2%}", found.dtype,
            )
            for name, found in self._comparisons().items()
        ]  # fmt: skip
        if self.images is not None:
            facts["top-1"] = f"{self.images.source_top1:.2%} and {self.images.target_top1:.2%}"
            facts["decided differently"] = f"{len(self.images.changed):,} images"
        verdict = "compute the same function" if self.agree else "compute different functions"
        header = ("", "number", "max|a - b| / max|a|", "max|a - b|", "same decision", "arithmetic")
        return as_html(f"{self.source} and {self.target} {verdict}", facts, (header, rows))


def verify_checkpoints(
    source: Checkpoint | str | Path,
    target: Checkpoint | str | Path,
    inputs: Inputs | Tensor | int = 8,
    *,
    data: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    tolerance: float | None = None,
    device: str | torch.device = "cpu",
    batch_size: int = 64,
    seed: int = 0,
    told: Callable[[str], None] = lambda line: None,
    show: Show = shown,
) -> Verification:
    """Run two checkpoints on the same inputs and compare what they return.

    Weights are read when they are needed, so files larger than memory can be compared.

    Args:
        source: an opened checkpoint, a path, or a name in the hub.
        target: the checkpoint to compare with, likewise.
        inputs: the number of random inputs, or inputs as the library makes them, or the tensor that the models take.
        data: labelled images to compare decisions on, too: a folder or a tar file.
        dtype: the type of the arithmetic.
        tolerance: the largest relative difference to accept; by default that of rounding to the coarsest type.
        device: runs both models: auto, cpu, cuda or cuda:N.
        batch_size: images of `data` at a time.
        seed: of random inputs.
        told: called with each remark on the images.
        show: context manager for progress; called with a title and a total, it yields a function that advances.

    Raises:
        CheckpointError: the weights of a checkpoint do not fit its architecture, or an image cannot be read.
        PlanError: the checkpoints cannot be compared, or the data do not fit them.
    """
    a, b = (side if isinstance(side, Checkpoint) else open_checkpoint(side) for side in (source, target))
    place = resolve_device(str(device))
    limit = default_tolerance(a, b, dtype) if tolerance is None else tolerance
    if data is not None:
        require_images(a.spec, a.name)
    given = common_inputs(a, b, inputs, seed, decide=data is not None) if isinstance(inputs, int) else inputs
    with in_use(place, tf32=False):
        found, images = compare(a, b, given, dtype=dtype, device=place), None
        if data is not None:
            labelled = _labelled(a, Path(data), told)
            with show("images", len(labelled)) as advance:
                images = compare_images(
                    a, b, labelled, dtype=dtype, batch_size=batch_size, device=place, advance=advance
                )
    return Verification(a.name, b.name, found, images, limit)


def _labelled(source: Checkpoint, data: Path, told: Callable[[str], None]) -> LabelledImages:
    """Open the labelled images."""
    model = StreamedModel(source)
    images = LabelledImages.of(
        data,
        EVAL_SPLITS,
        channels=ImageFormat.of(model.model).input_size[0],
        num_classes=model.classes,
        label_names=source.spec.label_names,
        checkpoint=source.name,
    )
    for text in images.split.remarks:
        told(text)
    return images
