"""The plan: everything a user can ask of `growtool grow`, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from growtool.plan.depth import Depth
from growtool.plan.section import Learned, Section, SeesImages, ShrinkPerturb, problem
from growtool.plan.target import Target
from growtool.plan.width import TwoSource, Width

DEFAULT_INPUTS = 2  # one shows whether the function is the same; a second shows that inputs of a batch stay apart
MIRROR = "mirror"  # as `second`: the mirror image of the source


class Output(Section):
    """How the result is written.

    Attributes:
        form: `dense`, as timm loads it, or `template`: templates and coefficients. None: the form of the source.
        dtype: element type of the floating-point tensors; `same` keeps each tensor's own.
        max_shard_size: bytes of a file at most, such as `5GB`; more are written as several files with an index, where
            the model's library loads such. None: one file.
    """

    form: Literal["dense", "template"] | None = None
    dtype: Literal["same", "float32", "float64", "bfloat16", "float16"] = "same"
    max_shard_size: Annotated[str, Field(pattern=r"^[1-9]\d*(KB|MB|GB|TB)$")] | None = None


class Verify(Section):
    """The proof after writing.

    Attributes:
        inputs: number of random images both models see.
        tolerance: largest relative difference of the outputs that an exact plan may show; None: by element type.
    """

    inputs: int = Field(default=DEFAULT_INPUTS, ge=1)
    tolerance: float | None = Field(default=None, gt=0)


class Data(Section):
    """Images for what has to see some: recalibration of norms, and operators that learn or measure.

    Attributes:
        path: a folder with one subfolder of images per class, or with a `train` folder or a `train.tar` of such.
        batches: batches seen, spread evenly over the images.
        batch_size: images of a batch.
    """

    path: str = Field(description="a folder with one subfolder of images per class")
    batches: int = Field(default=8, ge=1)
    batch_size: int = Field(default=32, ge=2)


def _switch(value: Any) -> Any:
    """Return `true` as the default section and `false` as None."""
    if isinstance(value, bool):
        return Verify() if value else None
    if value is None or isinstance(value, dict | Verify):
        return value
    raise problem(f"found {value!r}, expected false or a mapping with inputs and tolerance")


class Override(Section):
    """Another way of filling in some tensors.

    Attributes:
        match: a pattern for names of the target's tensors, `*` for anything: `head.*`.
        width: how those that grow are made; channels have to grow as under the plan's own `width`.
    """

    match: str = Field(description="a pattern for names of tensors, such as 'head.*'")
    width: Width = Field(description="a mapping with an operator")


class Plan(Section):
    """A growth plan. `scale` at its top is short for `scale` in its `target`.

    Attributes:
        model: the source's timm model, where the checkpoint does not say it.
        model_args: arguments of the source's constructor, over those the checkpoint carries.
        target: what to grow to.
        width: how a target that is wider gets its channels; None leaves the choice to growtool.
        depth: how a target that is deeper gets its blocks; None leaves the choice to growtool.
        overrides: other ways of growing for tensors whose names match, the last match counts.
        second: a checkpoint of the same model, for `two_source`; `mirror`: the mirror image of the first.
        data: images for what has to see some; None where nothing does.
        recalibrate: whether the running statistics of BatchNorm are estimated anew from `data`.
        output: how the result is written.
        verify: how the result is checked; None: not at all (`verify: false`).
        seed: of everything drawn at random.
        allow_lossy: whether the plan is carried out where its operators, which keep the function elsewhere, lose it.
    """

    SHORT: ClassVar[Mapping[str, str]] = {"scale": "target"}
    model: str | None = None
    model_args: dict[str, Any] = Field(default_factory=dict)
    target: Target = Field(description="the name of a timm model, or a mapping with one of model, model_args and scale")
    width: Width | None = None
    depth: Depth | None = None
    overrides: tuple[Override, ...] = ()
    second: str | None = None
    data: Data | None = None
    recalibrate: bool = False
    output: Output = Output()
    verify: Annotated[Verify | None, BeforeValidator(_switch, json_schema_input_type=bool | Verify)] = Verify()
    seed: int = Field(default=0, ge=0)
    allow_lossy: bool = False

    @model_validator(mode="before")
    @classmethod
    def _scale_in_target(cls, content: Any) -> Any:
        if not isinstance(content, dict) or "scale" not in content:
            return content
        if "target" in content:
            raise problem("scale: found beside `target`, expected one of them; `scale: 2` is `target: {scale: 2}`")
        rest = {key: value for key, value in content.items() if key != "scale"}
        return {**rest, "target": {"scale": content["scale"]}}

    @property
    def widths(self) -> tuple[Width, ...]:
        """The width sections of the plan: its own, if it has one, and those of its overrides."""
        own = () if self.width is None else (self.width,)
        return *own, *(override.width for override in self.overrides)

    @property
    def completed(self) -> Plan:
        """The plan; an operator that makes the whole target stands under both `width` and `depth`."""
        if isinstance(self.depth, ShrinkPerturb) and self.width is None:
            return self.model_copy(update={"width": self.depth})
        if isinstance(self.width, ShrinkPerturb) and self.depth is None:
            return self.model_copy(update={"depth": self.width})
        return self

    @property
    def seeing(self) -> list[SeesImages]:
        """The sections that need the images of `data`."""
        sections = (*self.widths, self.depth)
        return [section for section in sections if isinstance(section, SeesImages)]

    @field_validator("recalibrate")
    @classmethod
    def _has_data(cls, recalibrate: bool, info: ValidationInfo) -> bool:
        if recalibrate and "data" in info.data and info.data["data"] is None:
            raise problem("found true without images to see, expected `data: {path: ...}` as well")
        return recalibrate

    @field_validator("overrides", mode="before")
    @classmethod
    def _as_tuple(cls, overrides: Any) -> Any:
        return tuple(overrides) if isinstance(overrides, list) else overrides

    @field_validator("overrides")
    @classmethod
    def _overrides_something(cls, overrides: tuple[Override, ...], info: ValidationInfo) -> tuple[Override, ...]:
        if overrides and "width" in info.data and info.data["width"] is None:
            raise problem(
                "found overrides of nothing, expected `width` as well: overrides change how some tensors grow"
            )
        return overrides

    @model_validator(mode="after")
    def _can_learn(self) -> Plan:
        learned = [section for section in (self.width, self.depth) if isinstance(section, Learned)]
        if self.overrides and (learned or any(isinstance(o.width, Learned) for o in self.overrides)):
            raise problem("overrides: what is learned is learned for all tensors together; drop the overrides")
        if self.seeing and self.data is None:
            raise problem(f"{self.seeing[0].operator} needs images, expected `data: {{path: ...}}` as well")
        if len({(section.steps, section.lr) for section in learned}) > 1:
            raise problem("ligo and mixing are learned together, expected the same steps and lr for both")
        return self

    @model_validator(mode="after")
    def _is_of_the_whole_target(self) -> Plan:
        if isinstance(self.depth, ShrinkPerturb) and self.width not in (None, self.depth):
            raise problem(
                "depth.operator shrink_perturb makes every tensor of the target, expected the same under `width`, or "
                "no `width`"
            )
        return self

    @model_validator(mode="after")
    def _has_two_sources_or_one(self) -> Plan:
        two = isinstance(self.width, TwoSource)
        if two and self.second is None:
            raise problem(
                "width.operator two_source needs `second: PATH`, another checkpoint of the same model, or "
                f"`second: {MIRROR}`"
            )
        if self.second is not None and not two:
            raise problem("second: only `width: {operator: two_source}` takes a second checkpoint")
        return self
