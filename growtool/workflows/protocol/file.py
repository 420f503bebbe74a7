"""The file of a protocol.

    model: resnet18
    model_args: {channels: [24, 48, 96, 192], num_classes: 10}
    member_args: {channels: [12, 24, 48, 96]}
    train: {data: images, opt: sgd, lr: 0.1}
    member_0: {epochs: 20}
    member_1: {epochs: 20}
    grown: {epochs: 4, lr: 0.01}

Training takes the options of `growtool finetune` under their names in config.yaml. Paths start in the folder of the
file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_serializer, field_validator

from growtool.finetune.options.merging import Layer, merge, read_layer, require_sound
from growtool.finetune.options.settings import Settings
from growtool.plan.document import read_document
from growtool.plan.explain import require_valid
from growtool.plan.section import Section, problem
from growtool.plan.width import Coefficients

TRAININGS = ("member_0", "member_1", "grown")


class Training(Settings):
    """Settings of one of the trainings."""

    DECIDED = frozenset({"checkpoint", "output", "resume", "force", "train"})
    BY = "protocol"


class Protocol(Section):
    """A protocol: the model, its members, their training, and how they grow.

    Attributes:
        model: timm's name of the grown model.
        model_args: its arguments.
        member_args: arguments that replace some of these and make a member: the same model, narrower.
        input_size: channels, height and width of the images.
        templates: the number of templates for each layer of a member.
        second: the origin of member 1: `scratch`, with its own templates, or `copy`, a copy of member 0.
        noise: with `copy`, the standard deviation of the noise on its templates, relative to theirs.
        coefficients: of the new blocks.
        gain: size of the new vectors relative to the member's own.
        train, member_0, member_1, grown: options of all trainings, and of each one, which win.
        seed: of the members and of the new vectors.
    """

    model: str = Field(description="timm's name of the grown model")
    model_args: dict[str, Any] = Field(default_factory=dict)
    member_args: dict[str, Any] = Field(description="the arguments that make a member instead")
    input_size: list[int] = Field(default_factory=lambda: [3, 32, 32], min_length=3, max_length=3)
    templates: int = Field(default=2, ge=1)
    second: Literal["scratch", "copy"] = "scratch"
    noise: float | None = Field(default=None, ge=0)
    coefficients: Coefficients = "orthogonal"
    gain: float = Field(default=1.0, ge=0)
    train: Training = Training()
    member_0: Training = Training()
    member_1: Training = Training()
    grown: Training = Training()
    seed: int = Field(default=0, ge=0)

    @field_serializer("train", *TRAININGS)
    def _as_given(self, training: Training) -> dict[str, Any]:
        return training.as_given()

    @field_validator("noise")
    @classmethod
    def _has_a_copy(cls, noise: float | None, info: Any) -> float | None:
        if noise is not None and info.data.get("second") != "copy":
            raise problem("found noise without second: copy, to which it is added; drop noise or set second")
        return noise


@dataclass(frozen=True, slots=True)
class LoadedProtocol:
    """A protocol with its file and text, and the merged options of each training."""

    protocol: Protocol
    path: Path
    text: str
    trainings: Mapping[str, Layer]


def load_protocol(path: Path) -> LoadedProtocol:
    """Read a protocol.

    Raises:
        PlanError: the file is no protocol; every problem with its place.
    """
    document = read_document(
        path, what="a protocol in YAML", need="a mapping with `model`, `member_args` and `train`",
        optional=frozenset({"model_args", "member_args"}),
    )  # fmt: skip
    protocol, content = require_valid(document, Protocol), document.content
    common = merge({"seed": protocol.seed}, read_layer(document, ("train",), content.get("train")))
    trainings = {name: merge(common, read_layer(document, (name,), content.get(name))) for name in TRAININGS}
    require_sound({f"{path}: {name}": layer for name, layer in trainings.items()}, path)
    return LoadedProtocol(protocol, path, document.text, trainings)
