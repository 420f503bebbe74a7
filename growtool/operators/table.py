"""The one table of growth operators.

A new one is a line here, and a file in `width/` or a case in `depth/placement.py`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from growtool.operators.base import Abilities


@dataclass(frozen=True, slots=True)
class OperatorInfo:
    """What a user should know of an operator before choosing it.

    Attributes:
        name: as the plan spells it.
        axis: whether it changes widths, depth or both.
        summary: what it does.
        promise: when the grown model computes the same function.
        source: the publication.
        formula: the weights it makes, in the notation of docs/operators.md.
        needs: what it takes besides a checkpoint and a plan.
        when: when to choose it.
        sizes: the sizes that it reaches.
    """

    name: str
    axis: Literal["width", "depth", "both"]
    summary: str
    promise: str
    source: str
    formula: str = ""
    needs: str = "nothing"
    when: str = ""
    sizes: str = "any"

    @property
    def axes(self) -> tuple[str, ...]:
        """The sections of a plan that it may stand in."""
        return ("width", "depth") if self.axis == "both" else (self.axis,)

    def implementation(self) -> ModuleType:
        """Return a width operator's module, which imports torch."""
        return importlib.import_module(f"growtool.operators.width.{self.name}")

    def abilities(self) -> Abilities:
        """Return what a width operator does besides copying channels; imports torch."""
        abilities: Abilities = self.implementation().ABILITIES
        return abilities


OPERATORS: dict[str, OperatorInfo] = {
    info.name: info
    for info in (
        OperatorInfo(
            "tile", "width", "whole copies of all channels; readers share the old weight among the copies",
            "exact for integer factors; lossy with keep: rms",
            "HyperCloning, arXiv 2409.12903; bert2BERT FPI, arXiv 2110.07143; rms: SPARKLING, arXiv 2602.02472",
            formula="W' = Z + (E W - Z E) R, E = [I; I; ...], Z noise",
            when="Doubling any network; the first choice for whole multiples.",
            sizes="whole multiples",
        ),
        OperatorInfo(
            "net2net", "width", "copies of randomly chosen channels, for any width",
            "exact where no norm mixes channels (BatchNorm networks); lossy with keep: rms",
            "Net2Net, arXiv 1511.05641, section 2.2",
            formula="W' = Z + (E W - Z E) R, E picks channels at random, Z noise",
            when="BatchNorm networks of any width; elsewhere only for hidden units.",
        ),
        OperatorInfo(
            "mixture", "width", "copies, with new combinations of trained layers as templates between them",
            "with compensate: true exact for integer factors, for any width where no norm mixes channels; "
            "lossy as published (false)",
            "MixtureGrowth, arXiv 2311.04251; the compensation is growtool's",
            formula="W'_ij = gain sum_t c_ijt T_t off the diagonal, W'_ii = W - sum_j W'_ij",
            needs="nothing; more layers of one shape give richer combinations",
            when="Doubling with new units that start from what other layers learned.",
        ),
        OperatorInfo(
            "centre_zero", "width", "centred residual streams with zeros beside them; hidden units and heads copied",
            "exact for any width of a pre-LayerNorm network, up to eps unless eps: told",
            "growtool's generalisation of LEMON, arXiv 2310.07999",
            formula="h' = [C h; 0], C = I - 11^T/n; gain sqrt(s), eps s",
            when="Any width of a pre-LayerNorm transformer, the first choice off whole multiples.",
        ),
        OperatorInfo(
            "lemon", "width", "residual streams with their mean beside them; hidden units and heads copied",
            "exact for any width of a pre-LayerNorm network, up to eps unless eps: told", "LEMON, arXiv 2310.07999",
            formula="h' = [h; mean(h)]; gain sqrt(s), eps s",
            when="As centre_zero, where the published form is wanted.",
        ),
        OperatorInfo(
            "zero", "width", "nothing copied: new units that nothing reads yet, new stream channels that are zero",
            "exact for any width where every norm over channels can be rescaled, up to eps unless eps: told",
            "Composable function-preserving expansions, arXiv 2308.06103",
            formula="W1' = [W1; V], W2' = [W2, 0]; h' = [C h; 0] for streams",
            when="Adding capacity without a trace of the old units; many small steps.",
        ),
        OperatorInfo(
            "fpi", "width", "whole copies of all channels, then copies of random ones",
            "exact for integer factors, for any width where no norm mixes channels; lossy with keep: rms",
            "bert2BERT, arXiv 2110.07143, section 3.2",
            formula="W' = E W E^+, each channel copied as often as the others",
            when="Comparing with bert2BERT; whole multiples of transformers.",
        ),
        OperatorInfo(
            "aki", "width", "as fpi, with the new rows of a layer taken from the next block",
            "lossy", "bert2BERT, arXiv 2110.07143, section 3.3",
            formula="W'_l = [W_l; W_(l+1)[g]] R",
            needs="nothing; blocks in a sequence",
            when="Training long after growing: it starts worse and learns faster (found for language models).",
        ),
        OperatorInfo(
            "variance_transfer", "width", "new units in pairs that are read with opposite weights",
            "as zero, with rescale: false; lossy as published (true)", "Variance transfer, arXiv 2306.12700",
            formula="W1' = [W1; V; V], W2' = [W2, Z, -Z]",
            when="Hidden units with a gradient in every weight at once.",
        ),
        OperatorInfo(
            "gradmax", "width", "new hidden units that change nothing yet and that the loss changes fastest",
            "exact, for hidden units alone: one layer writes them and one reads them",
            "GradMax, arXiv 2201.05125",
            formula="W1' = [W1; 0], W2' = [W2, U], U the left singular vectors of sum (dL/dy) x^T",
            needs="images",
            sizes="any, of hidden layers",
            when="Wider hidden layers (mlp_ratio, a bottleneck's width) whose new units learn from the first step.",
        ),
        OperatorInfo(
            "two_source", "width", "two checkpoints side by side; their mean comes out",
            "exact mean of the logits where every norm is a BatchNorm", "MixtureGrowth, arXiv 2311.04251",
            formula="W' = diag(W_a, W_b), classifier [W_a, W_b] / 2",
            needs="a second checkpoint of the same model, or `second: mirror`",
            sizes="twice",
            when="Two trained networks into one of their joint size, or a network and its mirror image.",
        ),
        OperatorInfo(
            "ligo", "width", "maps from old channels to new ones, learned on images and then written out",
            "lossy (learned)", "LiGO, arXiv 2303.00980",
            formula="W' = E W R^T, E and R trained",
            needs="images",
            when="When some hundred training steps buy a better start than exact copies do.",
        ),
        OperatorInfo(
            "random", "width", "the target as timm initialises it, or its new parts", "lossy", "the baseline",
            formula="W' as timm initialises it",
            when="The baseline that every other operator has to beat.",
        ),
        OperatorInfo(
            "shrink_perturb", "both", "the source shrunk and padded with zeros, the target's initial values added",
            "lossy", "When is warmstarting effective, arXiv 2605.13405",
            formula="W' = lambda pad(W) + V, V as the library initialises it",
            when="The simple baseline beside `random`: what an elaborate operator has to beat over a long training.",
        ),
        OperatorInfo(
            "stack", "depth", "the blocks of a stage repeated as a whole: 1 2 1 2",
            "lossy", "G_stack, arXiv 2405.15319",
            formula="layer'_i = layer_(i mod L)",
            when="Early in pretraining; the guidelines of G_stack are for language models.",
        ),
        OperatorInfo(
            "interleave", "depth", "each block repeated in place: 1 1 2 2",
            "lossy", "arXiv 2405.15319; interpolation in AquilaMoE, arXiv 2408.06567",
            formula="layer'_i = layer_floor(i L / L')",
            when="Continuing a network that has converged, where a loss at the start may be trained away.",
        ),
        OperatorInfo(
            "zero_out", "depth", "copied blocks whose residual branch ends in zeros",
            "exact for blocks with a residual connection, up to eps where they end in a norm",
            "LLaMA Pro, arXiv 2401.02415",
            formula="x + f(x) with f's last layer zero",
            when="Deepening a trained residual network without a loss; the first choice.",
        ),
        OperatorInfo(
            "cancel_out", "depth", "copied blocks whose residual branch ends in weights that cancel over paired units",
            "exact for blocks with a residual connection that ends in a matrix (transformers, ConvNeXt, mixers)",
            "LEMON, arXiv 2310.07999",
            formula="x + sum of opposite weights over paired units",
            when="As zero_out, where every new weight should have a gradient from the first step.",
        ),
        OperatorInfo(
            "net2deeper", "depth", "layers that pass on what they receive, where there is no residual connection",
            "exact where the activation is idempotent (ReLU, ReLU6)", "Net2Net, arXiv 1511.05641, section 2.3",
            formula="f(I f(x)) = f(x)",
            when="Plain and depthwise convolutional stacks with ReLU.",
        ),
        OperatorInfo(
            "map", "depth", "the plan lists the source block of every target block: [0, 0, 1, 1, 2]",
            "lossy with start: copy; as zero_out and cancel_out with those",
            "SWS, IJCAI 2024; layer lists of G_stack, arXiv 2405.15319",
            formula="layer'_i = layer_map(i)",
            when="Reproducing a published arrangement of blocks, or weight sharing by stage.",
        ),
        OperatorInfo(
            "mixing", "depth", "every block a combination of the source's blocks, learned on images",
            "lossy (learned)", "LiGO, arXiv 2303.00980",
            formula="W'_i = sum_j w_ij W_j, w trained",
            needs="images",
            when="As `ligo`, for depth; both are learned together.",
        ),
    )
}  # fmt: skip
