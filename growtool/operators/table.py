"""The one table of growth operators. A new operator is a file beside this one and a line here."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Literal


@dataclass(frozen=True, slots=True)
class OperatorInfo:
    """What a user should know of an operator before choosing it.

    Attributes:
        name: as the plan spells it.
        axis: whether it changes widths or depth.
        summary: what it does.
        promise: when the grown model computes the same function.
        source: the publication.
    """

    name: str
    axis: Literal["width", "depth"]
    summary: str
    promise: str
    source: str

    def implementation(self) -> ModuleType:
        """The operator's module (imports torch)."""
        return importlib.import_module(f"growtool.operators.{self.name}")


OPERATORS: dict[str, OperatorInfo] = {
    info.name: info
    for info in (
        OperatorInfo(
            "tile", "width", "whole copies of all channels; readers share the old weight among the copies",
            "exact for integer factors", "HyperCloning, arXiv 2409.12903; bert2BERT FPI, arXiv 2110.07143",
        ),
        OperatorInfo(
            "net2net", "width", "copies of randomly chosen channels, for any width",
            "exact where no norm mixes channels (BatchNorm networks)", "Net2Net, arXiv 1511.05641, section 2.2",
        ),
        OperatorInfo(
            "mixture", "width", "copies, with new combinations of trained layers as templates between them",
            "with compensate: true exact for integer factors, for any width where no norm mixes channels; "
            "lossy as published (false)",
            "MixtureGrowth, arXiv 2311.04251; the compensation is growtool's",
        ),
        OperatorInfo(
            "centre_zero", "width", "centred residual streams with zeros beside them; hidden units and heads copied",
            "exact for any width of a pre-LayerNorm network, up to eps unless eps: told",
            "growtool's generalisation of LEMON, arXiv 2310.07999",
        ),
        OperatorInfo(
            "lemon", "width", "residual streams with their mean beside them; hidden units and heads copied",
            "exact for any width of a pre-LayerNorm network, up to eps unless eps: told", "LEMON, arXiv 2310.07999",
        ),
        OperatorInfo(
            "zero", "width", "nothing copied: new units that nothing reads yet, new stream channels that are zero",
            "exact for any width where every norm over channels can be rescaled, up to eps unless eps: told",
            "Composable function-preserving expansions, arXiv 2308.06103",
        ),
        OperatorInfo(
            "fpi", "width", "whole copies of all channels, then copies of random ones",
            "exact for integer factors, for any width where no norm mixes channels",
            "bert2BERT, arXiv 2110.07143, section 3.2",
        ),
        OperatorInfo(
            "aki", "width", "as fpi, with the new rows of a layer taken from the next block",
            "lossy", "bert2BERT, arXiv 2110.07143, section 3.3",
        ),
        OperatorInfo(
            "variance_transfer", "width", "new units in pairs that are read with opposite weights",
            "as zero, with rescale: false; lossy as published (true)", "Variance transfer, arXiv 2306.12700",
        ),
        OperatorInfo(
            "two_source", "width", "two checkpoints side by side; their mean comes out",
            "exact mean of the logits where every norm is a BatchNorm", "MixtureGrowth, arXiv 2311.04251",
        ),
        OperatorInfo(
            "random", "width", "the target as timm initialises it, or its new parts", "lossy", "the baseline",
        ),
        OperatorInfo(
            "stack", "depth", "the blocks of a stage repeated as a whole: 1 2 1 2",
            "lossy", "G_stack, arXiv 2405.15319",
        ),
        OperatorInfo(
            "interleave", "depth", "each block repeated in place: 1 1 2 2",
            "lossy", "arXiv 2405.15319; interpolation in AquilaMoE, arXiv 2408.06567",
        ),
        OperatorInfo(
            "zero_out", "depth", "copied blocks whose residual branch ends in zeros",
            "exact for blocks with a residual connection", "LLaMA Pro, arXiv 2401.02415",
        ),
        OperatorInfo(
            "cancel_out", "depth", "copied blocks whose residual branch ends in weights that cancel over paired units",
            "exact for blocks with a residual connection that ends in a matrix (transformers, ConvNeXt, mixers)",
            "LEMON, arXiv 2310.07999",
        ),
        OperatorInfo(
            "net2deeper", "depth", "layers that pass on what they receive, where there is no residual connection",
            "exact where the activation is idempotent (ReLU, ReLU6)", "Net2Net, arXiv 1511.05641, section 2.3",
        ),
        OperatorInfo(
            "map", "depth", "the plan lists the source block of every target block: [0, 0, 1, 1, 2]",
            "lossy with start: copy; as zero_out and cancel_out with those",
            "SWS, IJCAI 2024; layer lists of G_stack, arXiv 2405.15319",
        ),
    )
}  # fmt: skip
