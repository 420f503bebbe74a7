"""The width operators of a plan, and their options."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from growtool.plan.section import Learned, Operator, SeesImages, ShrinkPerturb, by_operator, named, problem

Split = Literal["equal", "random_projection"]
Coefficients = Literal["orthogonal", "copy", "zero", "random"]


class Copies(Operator):
    """Copies of channels whose readers share the old weight between them.

    Attributes:
        split: `equal` shares in equal parts; `random_projection` adds noise that cancels over the copies, so that they
            can learn different things.
        gain: standard deviation of that noise, relative to the weight's own.
        keep: `function` keeps what the model computes. `rms` keeps the root mean square of every activation instead:
            copies read noise of size `gain` that nothing cancels, so that each is a channel of its own at once.
    """

    split: Split = "random_projection"
    gain: float = Field(default=0.1, gt=0)
    keep: Literal["function", "rms"] = "function"

    @field_validator("gain")
    @classmethod
    def _has_noise_to_scale(cls, gain: float, info: ValidationInfo) -> float:
        if info.data.get("split") == "equal":
            raise problem(
                "found a gain with split equal, which adds no noise; drop gain or set split: random_projection"
            )
        return gain

    @field_validator("keep")
    @classmethod
    def _has_noise_that_stays(cls, keep: str, info: ValidationInfo) -> str:
        if keep == "rms" and info.data.get("split") == "equal":
            raise problem("found rms with split equal, which leaves copies equal; drop split or keep")
        return keep

    @property
    def noise(self) -> float | None:
        """Standard deviation of the noise relative to the weight's own, None for equal parts."""
        return self.gain if self.split == "random_projection" else None

    @property
    def loss(self) -> str | None:
        """Why the operator changes the function, or None if it does not."""
        return "keep: rms keeps the size of activations, not the function" if self.keep == "rms" else None


class Tile(Copies):
    """Every width a whole number of times over (HyperCloning, FPI)."""

    operator: Literal["tile"] = "tile"


class Net2Net(Copies):
    """Copies of channels drawn at random, for any width (Net2WiderNet)."""

    operator: Literal["net2net"] = "net2net"


class Fpi(Copies):
    """Whole copies and a random remainder (bert2BERT)."""

    operator: Literal["fpi"] = "fpi"


class Aki(Operator):
    """As fpi, with new rows taken from the next block (bert2BERT)."""

    LOSS = "aki takes the new rows of a layer from the next block, which computes something else"
    operator: Literal["aki"] = "aki"


class Random(Operator):
    """The baseline: timm's own initialisation.

    Attributes:
        parts: `all` starts the whole target anew, the baseline that any growth has to beat; `new` keeps the source's
            values where they were and starts the rest anew.
    """

    operator: Literal["random"] = "random"
    parts: Literal["all", "new"] = "all"

    @property
    def loss(self) -> str:
        """Why the operator changes the function."""
        all_anew = self.parts == "all"
        return "random starts the target anew" if all_anew else "random sets new weights beside the old ones"


class TwoSource(Operator):
    """The checkpoint and that of the plan's `second` side by side, in a net twice as wide.

    Attributes:
        gain: size of random combinations of both sources' weights between the halves, relative to the first's; 0 leaves
            zeros, and the two apart.
    """

    operator: Literal["two_source"] = "two_source"
    gain: float = Field(default=0.0, ge=0)

    @property
    def loss(self) -> str | None:
        """Why the operator changes the function, or None if it does not."""
        return "a gain mixes the two sources" if self.gain else None


class Mixture(Operator):
    """Tiled, with new linear combinations of trained layers between the copies (MixtureGrowth).

    Attributes:
        bank: the templates: `raw`, the same-shape layers of the stage; `sub_block`, equal parts of them. null: those of
            a checkpoint in template form, else `raw`.
        parts: with `sub_block`, into how many parts the channels on either side of a layer are cut.
        coefficients: how the combinations are drawn.
        gain: scale of the combinations; 0 leaves only the tiles.
        compensate: take the combinations off the diagonal blocks, which keeps the function; `false` is as published.
    """

    operator: Literal["mixture"] = "mixture"
    bank: Literal["raw", "sub_block"] | None = None
    parts: int | None = Field(default=None, ge=2)
    coefficients: Coefficients = "orthogonal"
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

    @property
    def loss(self) -> str | None:
        """Why the operator changes the function, or None if it does not."""
        if self.compensate or self.gain == 0 or self.coefficients == "zero":
            return None
        return "mixture without compensation adds the new blocks to what each channel receives, as published"


class _Blanks(Operator):
    """New channels that copy none, beside a norm that is told of them.

    Attributes:
        eps: `kept` leaves the eps of every norm, so that timm alone loads the result, which differs by as little as eps
            matters; `told` changes it through `growtool_open`, so that the function is the same wherever growtool is
            imported.
    """

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

    @property
    def loss(self) -> str | None:
        """Why the operator changes the function, or None if it does not."""
        return "rescale multiplies the trained weights by sqrt(h / h')" if self.rescale else None


class Gradmax(SeesImages):
    """New hidden units that the loss changes fastest, measured on the images of `data` (GradMax).

    Attributes:
        scale: norm of the weights of a new unit, relative to the mean of the old ones.
    """

    operator: Literal["gradmax"] = "gradmax"
    scale: float = Field(default=0.5, gt=0)


class Ligo(Learned):
    """Learned maps from old channels to new ones (LiGO).

    Attributes:
        gain: deviation of the noise on the maps of copied channels at the start, which keeps copies from staying alike.
    """

    LOSS = "ligo learns its maps on images"
    operator: Literal["ligo"] = "ligo"
    gain: float = Field(default=0.03, ge=0)


_Operators = (
    Tile | Net2Net | Mixture | CentreZero | Lemon | Zero | Fpi | Aki | VarianceTransfer | Gradmax | TwoSource | Ligo
    | Random | ShrinkPerturb
)  # fmt: skip
Width = Annotated[_Operators, Field(discriminator="operator"), BeforeValidator(named)]
WIDTH_OPERATORS = by_operator(_Operators)
