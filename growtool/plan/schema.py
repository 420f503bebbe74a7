"""The plan: everything a user can ask of `growtool grow`, and nothing else.

Values are taken literally: no string becomes a number and no number a truth value. Unknown keys are refused.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

Split = Literal["equal", "random_projection"]
Placement = Literal["interleaved", "end"]
DEFAULT_INPUTS = 4


class Section(BaseModel):
    """A mapping of the plan."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def problem(text: str) -> PydanticCustomError:
    """An error whose message is `text`, braces and all."""
    return PydanticCustomError("plan", "{text}", {"text": text})


def _stage_depths(value: Any) -> Any:
    def whole(item: object) -> bool:
        return isinstance(item, int) and not isinstance(item, bool) and item >= 1

    if isinstance(value, list | tuple) and value and all(map(whole, value)):
        return tuple(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value < math.inf:
        return float(value)
    raise problem(
        f"found {value!r}, expected a number of at least 1, or a list with the number of blocks of each stage"
    )


class Scale(Section):
    """A target by factors of the source.

    Attributes:
        width: factor for every width, at least 1.
        depth: factor for the number of blocks of every stage, at least 1; or the number of blocks of each stage.
    """

    width: float | None = Field(default=None, ge=1)
    depth: Annotated[float | tuple[int, ...] | None, BeforeValidator(_stage_depths)] = None

    @model_validator(mode="after")
    def _says_something(self) -> Scale:
        if self.width is None and self.depth is None:
            raise problem("found neither width nor depth, expected at least one of them")
        return self


class Target(Section):
    """What to grow to: a timm model, other arguments for the source's constructor (or for `model`'s), or factors."""

    model: str | None = None
    model_args: dict[str, Any] = {}
    scale: Scale | None = None

    @model_validator(mode="after")
    def _is_one_target(self) -> Target:
        named = [name for name, value in (("model", self.model), ("model_args", self.model_args)) if value]
        if self.scale is not None and named:
            raise problem(f"found scale together with {' and '.join(named)}, expected scale alone")
        if self.scale is None and not named:
            raise problem("found none of model, model_args and scale, expected one of them")
        return self


class _Copies(Section):
    """Copies of channels whose readers share the old weight between them.

    Attributes:
        split: `equal` shares in equal parts; `random_projection` adds noise that cancels over the copies, so that they
            can learn different things.
        gain: standard deviation of that noise, relative to the weight's own.
    """

    operator: Literal["tile", "net2net", "fpi"]
    split: Split = "random_projection"
    gain: float = Field(default=0.1, gt=0)

    @field_validator("gain")
    @classmethod
    def _has_noise_to_scale(cls, gain: float, info: ValidationInfo) -> float:
        if info.data.get("split") == "equal":
            raise problem(
                "found a gain with split equal, which adds no noise; drop gain or set split: random_projection"
            )
        return gain


class Tile(_Copies):
    """Every width a whole number of times over (HyperCloning, FPI)."""

    operator: Literal["tile"] = "tile"


class Net2Net(_Copies):
    """Copies of channels drawn at random, for any width (Net2WiderNet)."""

    operator: Literal["net2net"] = "net2net"


class Fpi(_Copies):
    """Whole copies and a random remainder (bert2BERT)."""

    operator: Literal["fpi"] = "fpi"


class Aki(Section):
    """As fpi, with new rows taken from the next block (bert2BERT)."""

    operator: Literal["aki"] = "aki"


class Random(Section):
    """The baseline: timm's own initialisation.

    Attributes:
        parts: `all` starts the whole target anew, the baseline that any growth has to beat; `new` keeps the source's
            values where they were and starts the rest anew.
    """

    operator: Literal["random"] = "random"
    parts: Literal["all", "new"] = "all"


class TwoSource(Section):
    """The checkpoint and that of the plan's `second` side by side, in a net twice as wide.

    Attributes:
        gain: size of random combinations of both sources' weights between the halves, relative to the first's; 0 leaves
            zeros, and the two apart.
    """

    operator: Literal["two_source"] = "two_source"
    gain: float = Field(default=0.0, ge=0)


class Mixture(Section):
    """Tiled, with new linear combinations of trained layers between the copies (MixtureGrowth).

    Attributes:
        bank: the templates: `raw`, the same-shape layers of the stage; `sub_block`, equal parts of them. None: those of
            a checkpoint in template form, else `raw`.
        parts: with `sub_block`, into how many parts the channels on either side of a layer are cut.
        coefficients: how the combinations are drawn.
        gain: scale of the combinations; 0 leaves only the tiles.
        compensate: take the combinations off the diagonal blocks, which keeps the function; `false` is as published.
    """

    operator: Literal["mixture"] = "mixture"
    bank: Literal["raw", "sub_block"] | None = None
    parts: int | None = Field(default=None, ge=2)
    coefficients: Literal["orthogonal", "copy", "zero", "random"] = "orthogonal"
    gain: float = Field(default=0.3, ge=0)
    compensate: bool = True

    @field_validator("parts")
    @classmethod
    def _has_layers_to_cut(cls, parts: int | None, info: ValidationInfo) -> int | None:
        if parts is not None and info.data.get("bank") != "sub_block":
            raise problem("found parts without bank sub_block, which alone cuts layers; drop parts or set the bank")
        return parts

    @field_validator("gain")
    @classmethod
    def _has_combinations_to_scale(cls, gain: float, info: ValidationInfo) -> float:
        if info.data.get("coefficients") == "zero":
            raise problem("found a gain with coefficients zero, which leave nothing to scale; drop gain")
        return gain


class _Blanks(Section):
    """New channels that copy none, beside a norm that is told of them.

    Attributes:
        eps: `kept` leaves the eps of every norm, so that timm alone loads the result, which differs by as little as eps
            matters; `told` changes it through `growtool_open`, so that the function is the same wherever growtool is
            imported.
    """

    operator: Literal["centre_zero", "lemon", "zero", "variance_transfer"]
    eps: Literal["kept", "told"] = "kept"


class CentreZero(_Blanks):
    """Centred residual streams with zeros beside them, for any width of a pre-LayerNorm network.

    Attributes:
        gain: of the noise that cancels over the copies of hidden units and heads, relative to the weight's own size.
    """

    operator: Literal["centre_zero"] = "centre_zero"
    gain: float = Field(default=0.1, ge=0)


class Lemon(_Blanks):
    """Residual streams with their mean beside them (LEMON).

    Attributes:
        gain: of the noise that cancels over the copies of hidden units and heads, relative to the weight's own size.
    """

    operator: Literal["lemon"] = "lemon"
    gain: float = Field(default=0.1, ge=0)


class Zero(_Blanks):
    """Nothing copied: new units that nothing reads yet, new stream channels that are zero (composable expansions)."""

    operator: Literal["zero"] = "zero"


class VarianceTransfer(_Blanks):
    """New units in pairs that cancel.

    Attributes:
        rescale: multiply the trained weights that read them by sqrt(h / h') as published, for the variance of a wider
            layer; changes the function.
    """

    operator: Literal["variance_transfer"] = "variance_transfer"
    rescale: bool = False


class Stack(Section):
    """The blocks of a stage repeated as a whole: 1 2 1 2."""

    operator: Literal["stack"] = "stack"


class Interleave(Section):
    """Each block repeated in its place: 1 1 2 2."""

    operator: Literal["interleave"] = "interleave"


class ZeroOut(Section):
    """Copied blocks whose residual branch ends in zeros, so that they start as the identity (LLaMA Pro)."""

    operator: Literal["zero_out"] = "zero_out"
    placement: Placement = "interleaved"


class CancelOut(Section):
    """Copied blocks whose residual branch ends in weights that cancel, so that all of it learns at once (LEMON).

    Attributes:
        gain: deviation of the weights that cancel, relative to that of the layer they stand in for.
    """

    operator: Literal["cancel_out"] = "cancel_out"
    placement: Placement = "interleaved"
    gain: float = Field(default=1.0, gt=0)


class Net2Deeper(Section):
    """Layers that pass on what they receive, in networks without residual connections (Net2Net)."""

    operator: Literal["net2deeper"] = "net2deeper"
    placement: Placement = "interleaved"


def _block_lists(value: Any) -> Any:
    def is_list(item: object) -> bool:
        return (
            isinstance(item, list | tuple)
            and bool(item)
            and all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in item)
        )

    if is_list(value):
        return tuple(value)
    if isinstance(value, dict) and value and all(map(is_list, value.values())):
        return {str(stage): tuple(blocks) for stage, blocks in value.items()}
    raise problem(
        f"found {value!r}, expected the source block of every target block, counted from 0, e.g. [0, 0, 1]; or such a "
        "list for each stage by its name, e.g. {layer3: [0, 1, 1]}"
    )


class Map(Section):
    """The plan itself says which source block every target block is made from (SWS).

    Attributes:
        map: for every target block the source block, counted from 0; or such a list for each stage that grows, by name.
        start: what a block does that is repeated: `copy` runs it once more, `zero_out` and `cancel_out` let it start as
            the identity, as the operators of these names do.
    """

    operator: Literal["map"] = "map"
    map: Annotated[tuple[int, ...] | dict[str, tuple[int, ...]], BeforeValidator(_block_lists)] = Field(
        description="the source block of every target block, e.g. [0, 0, 1]"
    )
    start: Literal["copy", "zero_out", "cancel_out"] = "copy"


class _Learned(Section):
    """What is learned on the images of `data`, and then written out as weights.

    Attributes:
        steps: updates, each on one batch of `data`; the batches come round again.
        lr: learning rate of AdamW.
    """

    operator: Literal["ligo", "mixing"]
    steps: int = Field(default=100, ge=1)
    lr: float = Field(default=1e-3, gt=0)


class Ligo(_Learned):
    """Learned maps from old channels to new ones (LiGO).

    Attributes:
        gain: deviation of the noise on the maps of copied channels at the start, which keeps copies from staying alike.
    """

    operator: Literal["ligo"] = "ligo"
    gain: float = Field(default=0.03, ge=0)


class Mixing(_Learned):
    """Every block a learned combination of the source's blocks of its kind (LiGO)."""

    operator: Literal["mixing"] = "mixing"


class Output(Section):
    """How the result is written.

    Attributes:
        form: `dense`, as timm loads it, or `template`: templates and coefficients. None: the form of the source.
        dtype: element type of the floating-point tensors; `same` keeps each tensor's own.
    """

    form: Literal["dense", "template"] | None = None
    dtype: Literal["same", "float32", "float64", "bfloat16", "float16"] = "same"


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
        path: a folder with one subfolder of images per class, or with a `train` folder of such.
        batches: batches seen, spread evenly over the images.
        batch_size: images of a batch.
    """

    path: str = Field(description="a folder with one subfolder of images per class")
    batches: int = Field(default=8, ge=1)
    batch_size: int = Field(default=32, ge=2)


def _switch(value: Any) -> Any:
    if isinstance(value, bool):
        return Verify() if value else None
    if value is None or isinstance(value, dict | Verify):
        return value
    raise problem(f"found {value!r}, expected false or a mapping with inputs and tolerance")


Width = Annotated[
    Tile | Net2Net | Mixture | CentreZero | Lemon | Zero | Fpi | Aki | VarianceTransfer | TwoSource | Ligo | Random,
    Field(discriminator="operator"),
]
Depth = Annotated[Stack | Interleave | ZeroOut | CancelOut | Net2Deeper | Map | Mixing, Field(discriminator="operator")]


class Override(Section):
    """Another way of filling in some tensors.

    Attributes:
        match: a pattern for names of the target's tensors, `*` for anything: `head.*`.
        width: how those that grow are made; channels have to grow as under the plan's own `width`.
    """

    match: str = Field(description="a pattern for names of tensors, such as 'head.*'")
    width: Width = Field(description="a mapping with an operator")


class Plan(Section):
    """A growth plan.

    Attributes:
        model: the source's timm model, where the checkpoint does not say it.
        model_args: arguments of the source's constructor, over those the checkpoint carries.
        target: what to grow to.
        width: how a target that is wider gets its channels; None where the plan does not say.
        depth: how a target that is deeper gets its blocks; None where the plan does not say.
        overrides: other ways of growing for tensors whose names match, the last match counts.
        second: a checkpoint of the same model, for `two_source`.
        data: images for what has to see some; None where nothing does.
        recalibrate: whether the running statistics of BatchNorm are estimated anew from `data`.
        output: how the result is written.
        verify: how the result is checked; None: not at all (`verify: false`).
        seed: of everything drawn at random.
    """

    model: str | None = None
    model_args: dict[str, Any] = {}
    target: Target = Field(description="a mapping with one of model, model_args and scale")
    width: Width | None = None
    depth: Depth | None = None
    overrides: tuple[Override, ...] = ()
    second: str | None = None
    data: Data | None = None
    recalibrate: bool = False
    output: Output = Output()
    verify: Annotated[Verify | None, BeforeValidator(_switch)] = Verify()
    seed: int = Field(default=0, ge=0)

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
        learned = [section for section in (self.width, self.depth) if isinstance(section, _Learned)]
        if self.overrides and (learned or any(isinstance(o.width, _Learned) for o in self.overrides)):
            raise problem("overrides: what is learned is learned for all tensors together; drop the overrides")
        if learned and self.data is None:
            raise problem(f"{learned[0].operator} learns on images, expected `data: {{path: ...}}` as well")
        if len({(section.steps, section.lr) for section in learned}) > 1:
            raise problem("ligo and mixing are learned together, expected the same steps and lr for both")
        return self

    @model_validator(mode="after")
    def _has_two_sources_or_one(self) -> Plan:
        two = isinstance(self.width, TwoSource)
        if two and self.second is None:
            raise problem("width.operator two_source needs `second: PATH`, another checkpoint of the same model")
        if self.second is not None and not two:
            raise problem("second: only `width: {operator: two_source}` takes a second checkpoint")
        return self


WIDTH_OPERATORS: dict[str, type[Section]] = {
    "tile": Tile,
    "net2net": Net2Net,
    "mixture": Mixture,
    "centre_zero": CentreZero,
    "lemon": Lemon,
    "zero": Zero,
    "fpi": Fpi,
    "aki": Aki,
    "variance_transfer": VarianceTransfer,
    "two_source": TwoSource,
    "ligo": Ligo,
    "random": Random,
}
DEPTH_OPERATORS: dict[str, type[Section]] = {
    "stack": Stack,
    "interleave": Interleave,
    "zero_out": ZeroOut,
    "cancel_out": CancelOut,
    "net2deeper": Net2Deeper,
    "map": Map,
    "mixing": Mixing,
}

# Where each mapping stands, spelled as pydantic spells it: an operator's options lie one level below its section.
SECTIONS: dict[tuple[str, ...], type[Section]] = {
    (): Plan,
    ("target",): Target,
    ("target", "scale"): Scale,
    **{("width", name): section for name, section in WIDTH_OPERATORS.items()},
    **{("depth", name): section for name, section in DEPTH_OPERATORS.items()},
    ("data",): Data,
    ("overrides",): Override,
    ("output",): Output,
    ("verify",): Verify,
}
