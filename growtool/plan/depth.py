"""The depth operators of a plan, and their options."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from growtool.plan.section import Learned, Operator, ShrinkPerturb, by_operator, named, problem

Placement = Annotated[
    Literal["interleaved", "end"],
    Field(description="`interleaved`: spread evenly over the old blocks; `end`: after all of them."),
]
Values = Annotated[
    Literal["copy", "initial"],
    Field(
        description="what new blocks hold, but for what closes them: `copy`, what the block beside them holds; "
        "`initial`, what their library initialises them with, taken by itself where no block is one to copy."
    ),
]
INITIAL: Literal["initial"] = "initial"  # in a map: a block that comes from none
_Blocks = tuple[Annotated[int, Field(ge=0)] | Literal["initial"], ...]


class Stack(Operator):
    """The blocks of a stage repeated as a whole: 1 2 1 2."""

    LOSS = "stack runs every repeated block once more"
    operator: Literal["stack"] = "stack"


class Interleave(Operator):
    """Each block repeated in its place: 1 1 2 2."""

    LOSS = "interleave runs every repeated block once more"
    operator: Literal["interleave"] = "interleave"


class ZeroOut(Operator):
    """Copied blocks whose residual branch ends in zeros, so that they start as the identity (LLaMA Pro)."""

    operator: Literal["zero_out"] = "zero_out"
    placement: Placement = "interleaved"
    start: Values = "copy"


class CancelOut(Operator):
    """Copied blocks whose residual branch ends in weights that cancel, so that all of it learns at once (LEMON).

    Attributes:
        gain: deviation of the weights that cancel, relative to that of the layer they stand in for.
    """

    operator: Literal["cancel_out"] = "cancel_out"
    placement: Placement = "interleaved"
    start: Values = "copy"
    gain: float = Field(default=1.0, gt=0)


class Net2Deeper(Operator):
    """Layers that pass on what they receive, in networks without residual connections (Net2Net)."""

    operator: Literal["net2deeper"] = "net2deeper"
    placement: Placement = "interleaved"


def _block_lists(value: Any) -> Any:
    """Return the list of blocks, or the list of each stage, as tuples; raise one message for all that they are not."""
    if _is_block_list(value):
        return tuple(value)
    if isinstance(value, dict) and value and all(map(_is_block_list, value.values())):
        return {str(stage): tuple(blocks) for stage, blocks in value.items()}
    raise problem(
        f"found {value!r}, expected the source block of every target block, counted from 0, or initial for a block "
        "that comes from none, e.g. [0, 0, 1]; or such a list for each stage by its name, e.g. {layer3: [0, 1, 1]}"
    )


def _is_block_list(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_block, value))


def _is_block(value: object) -> bool:
    return value == INITIAL or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)


class Map(Operator):
    """The plan itself says which source block every target block is made from (SWS).

    Attributes:
        map: for every target block the source block, counted from 0, or `initial` for one that starts closed with what
            its library initialises it with; or such a list for each stage that grows, by name.
        start: what a block does that is repeated: `copy` runs it once more, `zero_out` and `cancel_out` let it start as
            the identity, as the operators of these names do.
    """

    operator: Literal["map"] = "map"
    map: Annotated[
        _Blocks | dict[str, _Blocks],
        BeforeValidator(_block_lists, json_schema_input_type=_Blocks | dict[str, _Blocks]),
    ] = Field(description="the source block of every target block, e.g. [0, 0, 1]")
    start: Literal["copy", "zero_out", "cancel_out"] = "copy"

    @property
    def loss(self) -> str | None:
        """Why the operator changes the function, or None if it does not."""
        return "map runs every repeated block once more" if self.start == "copy" else None


class Mixing(Learned):
    """Every block a learned combination of the source's blocks of its kind (LiGO)."""

    LOSS = "mixing learns its combinations on images"
    operator: Literal["mixing"] = "mixing"


_Operators = Stack | Interleave | ZeroOut | CancelOut | Net2Deeper | Map | Mixing | ShrinkPerturb
Depth = Annotated[_Operators, Field(discriminator="operator"), BeforeValidator(named)]
DEPTH_OPERATORS = by_operator(_Operators)
