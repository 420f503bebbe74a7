"""Operators that make the whole target, wider or deeper, and so stand under `width` and `depth` alike."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from growtool.plan.section import Section


class ShrinkPerturb(Section):
    """The source shrunk, padded with zeros, and the target's initial values added.

    Attributes:
        shrink: lambda, what the source's matrices are multiplied by; 1 only adds the initial values, 0 leaves nothing
            else of matrices.
    """

    operator: Literal["shrink_perturb"] = "shrink_perturb"
    shrink: float = Field(default=0.4, ge=0, le=1)
