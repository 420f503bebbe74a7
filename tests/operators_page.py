"""Writes `docs/operators.md` from the table of operators: `python tests/operators_page.py`."""

import inspect
import json
import re
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from growtool.operators.table import OPERATORS, OperatorInfo
from growtool.plan.depth import DEPTH_OPERATORS
from growtool.plan.section import Section
from growtool.plan.width import WIDTH_OPERATORS

PAGE = Path(__file__).parent.parent / "docs" / "operators.md"
SECTIONS: dict[str, type[Section]] = {**WIDTH_OPERATORS, **DEPTH_OPERATORS}

FORMULAS = {
    "tile": """\
A channel axis of n grows to k n by `h' = [h, h, ..., h]`. What writes the channels has its rows repeated; what
reads them shares the old weight W among the k copies: `W' = Z + (E_out W - Z E_in) R_in`, with R giving each copy
1/k. The draft Z is zero for `split: equal`. For `random_projection` it is Gaussian noise of standard deviation
`gain` times that of W; whatever it is, the copies of each column add up to W.

Heads grow in number where the target has more of them. A target with larger heads instead (`embed_dim` alone) has the
rows that write queries and keys multiplied by `sqrt(scale / (k scale'))`, `(d / d')^1/4` for head sizes d and d': for a
whole multiple exact, with every operator that copies. Rotary embeddings and learned biases of a head's channels stop
that, and the plan says so.""",
    "net2net": """\
As `tile`, but new channels are copies of old ones drawn at random, each of c copies gets 1/c of what is read. A
norm over channels then sees other statistics, unless every channel happens to be copied equally often.

Where no operator is exact, copies at random lose least: of a ConvNeXt trained on CIFAR-10 (24 to 192 channels), grown
to 4/3 and 3/2 of its width, the logits of 16 random images move by 0.12 and 0.10 (relative) with `net2net`, by 0.14 and
0.21 with `fpi`, 0.14 and 0.15 with `mixture`, 0.16 and 0.17 with `centre_zero`, as the proof of `growtool grow` reports
with `verify: {inputs: 16}`. Swin's first stage is another case: there `centre_zero` loses less than half of what
`net2net` does in a test on random numbers.""",
    "mixture": """\
A weight that grows k-fold on both sides becomes a k x k grid of blocks. Off the diagonal stand new combinations of
templates, `N_ij = gain |W| / |M_ij| M_ij` with `M_ij = sum_t c_ijt T_t` (Frobenius norms). With `bank: raw` the
templates are the trained weights of the layers of the same shape in the same stage, the layer itself among them. On
the diagonal stands `W - sum_j N_ij` with `compensate: true`, so that each row of blocks adds up to W, or W alone as
published. Widths that are no multiples have their last copy cut short.

`bank: sub_block` cuts the channels on either side of each layer into `parts`, and its templates are the blocks that
come out of it. A layer alone in its stage then has templates, too, and a width times p / `parts` grows block by
block: 3/2 with two parts is a 3 x 3 grid over templates of a 2 x 2 one.

New coefficients c: `orthogonal`: unit vectors in the null space of the coefficients the layer uses, orthogonal to
each other as long as there is room, largest entry positive; where the layer uses every direction, orthogonal to the
vector of the block beside them alone; `copy` of that vector; `zero`; `random` directions. Where the templates leave
one direction alone, as two layers do, the compensated blocks below the diagonal take it with the opposite sign: equal
ones could be exchanged with the copies, and training would never tell these apart. A layer without templates beside
its own weight has no orthogonal vector, its new blocks are zero; if that is so of all layers, growing warns that the
copies stay alike, as with `copy` and `zero`. Weights that grow on one side alone are split evenly.

A checkpoint in template form (`growtool decompose`) brings its own banks and grows in its coefficients alone.""",
    "centre_zero": """\
A LayerNorm does not see a constant over its channels. So whatever writes a residual stream of n channels (patch
embedding, class and position tokens, the last layer of every branch) is multiplied by `C = I - 11^T / n` first, which
changes nothing; a LayerScale on the way is folded into the layer before it. The stream then has mean zero, it is copied
as often as it fits, zeros stand in what remains, and each norm over it has its gain multiplied by `sqrt(s)` with s the
share of the channels that are copies. Columns that read zeros are drawn at random, so that the new channels learn from
the first step. Hidden units and heads are copied in turn, with noise that cancels over the copies.

A norm adds eps to the variance; for the same function it would have to become `eps s`. It lives in the module, not in
the weights. Where an argument of the constructor (`norm_eps`) gives just the norms over the stream another eps, the
target gets it and is exact. Else, with `eps: kept`, each norm is too small by about `(1/s - 1) eps / 2` over its
variance, and the proof shows the difference as it is and with eps adjusted. With `eps: told` the result is a
`growtool_open` model that knows.

Where the stream is read by anything but LayerNorms over all of it (a BatchNorm, a depthwise convolution, the head) its
mean cannot be taken off, and channels are copied in turn instead: exact for BatchNorm networks, lossy for ConvNeXt off
whole multiples. A norm that writes the stream itself (Swin's patch embedding) is centred but for what its gains leave,
which is lossy by little.""",
    "lemon": """\
As `centre_zero`, but nothing is centred: beside the copies of the stream stands the mean of the old channels, which a
LayerNorm turns into zero. A LayerScale is folded into the layer before it, since the mean of `gamma y` is not the mean
of gamma times the mean of y.""",
    "zero": """\
Nothing is copied. New hidden units and heads are drawn at random, and what reads them is zero there: they have a
gradient through their readers from the first step. New channels of a stream are zero, the gains of the norms over it
multiplied by `sqrt(n / n')`, and what reads them is drawn at random; under a LayerNorm the stream is centred first as
in `centre_zero`, under an RMSNorm it is left as it is. A GroupNorm takes one mean over all positions, so no centring
helps it: off whole multiples its channels are copied, which is lossy. New channels of a BatchNorm have the mean of the
old gains, no shift, the mean old variance.""",
    "fpi": """\
As `net2net`, with every channel copied as often as every other as far as that goes: whole copies first, then a
random remainder. What a transformer asks for besides (one map for a residual stream and for all that writes and reads
it, heads copied whole, each part of a packed qkv on its own) the coupling sees to for every operator. The paper splits
equally.""",
    "aki": """\
`W'_l = [W_l ; W_(l+1)[g]] R`: the rows of new channels are those of the same tensor one block on, where the next block
has one of the same shape, and copies where it has none. What reads them shares its weight equally.""",
    "variance_transfer": """\
`W1' = [W1; V; V]`, `W2' = [W2, Z, -Z]` with V and Z random: the units of a pair compute the same and are read with
opposite weights, so they cancel, and have opposite gradients from the first step. Streams are padded as in `zero`.
With `rescale: true`, as published, the weights that read grown units are multiplied by `sqrt(h / h')` too.""",
    "gradmax": """\
For hidden units between two layers, `y = W2 phi(W1 x)`, the matrix `M = sum (dL/dy) x^T` over the images of `data` says
how the loss depends on new ones. Their rows in W1 are zero, so that they change nothing; the gradient on those rows is
`phi'(0) U^T M` for their columns U in W2, and no orthonormal U makes it larger than the left singular vectors of M.
(For convolutions M is taken over every pair of kernel places that meet.) Beyond the rank of M, more units get the same
basis turned at random. Each has `scale` times the mean norm of the old units.

A ReLU has no gradient at zero, and a BatchNorm in training divides zeros by their deviation. There, and in blocks that
start closed, it is the columns that are zero, and the rows are right singular vectors of M in pairs of opposite sign,
with a bias or running statistics that centre them: such units would be dead or explode as published.

Only hidden units that one layer writes and one layer reads, with a function of each alone between them: `mlp_ratio` of
transformers and mixers, `base_width` of bottlenecks, squeeze-and-excitation. Anything else that grows in the same plan
(residual streams, heads, gated units, depthwise convolutions) is refused, with the place and the reason.""",
    "two_source": """\
`W' = [[W_a, 0], [0, W_b]]` where rows and columns grow, `[W_a; W_b]` where rows do, `[W_a, W_b] / 2` where columns do,
the mean where neither does. Exact if the halves never meet before the classifier: a BatchNorm treats each channel on
its own, a LayerNorm or RMSNorm over both does not, and a layer that cannot be widened (the stem of a plain ResNet)
would have to hold two weights at once. The proof compares with the mean of both sources' logits.

`second: mirror` takes the mirror image of the checkpoint as the second one: the same weights in the order in which
they see an image as the checkpoint sees the mirrored image, kernels and tables of positions turned around. It needs
no second training, and the mean that comes out is that over an image and its mirror image. Where strides are as long
as kernels (ViT, DeiT, BEiT, CaiT, ConvNeXt, Twins, MLP-Mixer, gMLP, ConvMixer) there is one, which is proven on a
random image, with random weights in float64, before anything is written; other networks (a kernel of 3 in strides of
2 over an even number of columns, rotary positions) are refused, with the first convolution that sees a mirrored image
otherwise. A folder of that name is `./mirror`.""",
    "ligo": """\
Every weight is `W' = E W R^T` with one matrix E for each set of channels where they are written and one matrix R where
they are read; both train for `steps` updates on the images of `data`, the weights W do not, and the products are
written out. Learning starts from copies (E) and their equal shares (R), with a little noise on the copies, so that at a
whole multiple it starts near what the source computes; LiGO itself ties R to E. BatchNorm's statistics are estimated
anew at the end. Both models are in memory while this runs.""",
    "random": """\
The values timm draws for the target, by the plan's seed. `parts: all` is what training from scratch starts with;
`parts: new` keeps the source's values where both channels of a weight are old ones.""",
    "stack": """\
`layer'_i = layer_(i mod L)`: the sequence of blocks once more, from its start. Where the first block of a stage has
a shape of its own (a projection on its skip connection), the others repeat.""",
    "interleave": "`layer'_i = layer_floor(i L / L')`: each block is followed by its copies.",
    "zero_out": """\
New blocks are copies of the block before them, with the last affine layer of each residual branch set to zero
(`attn.proj` and `mlp.fc2` of a ViT, the last norm of a ResNet's branch, a LayerScale): `x + 0 = x`, and the zeroed
layer has a gradient from the first step. `interleaved` spreads the new blocks evenly over the old ones, `end` puts
them last. Blocks of several kinds (Swin's shifted windows) keep their turns.

The sum may stand in the block or in its caller (`x = x + block(x)`), and there may be several streams (TNT). A
convolution, a linear layer, a BatchNorm (TinyViT) or a scale of each channel (PoolFormerV2) that the stream itself
goes through passes it on, as in `net2deeper`: exact in evaluation, while in training such a BatchNorm uses the
statistics of the batch. An activation or a gate on the stream cannot be passed, and the plan is refused. Where a
network divides a stream by a number that grows with its blocks (NFNet), the layers behind make up for it. Both passes
are followed value by value: whatever else reads what a new block returns makes the plan lossy, or refused.""",
    "cancel_out": """\
As `zero_out`, but the layer that ends a branch is not zero. The hidden units of a new block become copies of each
other in pairs (whole heads in attention), and that layer reads the two of a pair with opposite random weights,
`[C, -C]` for hidden units `[h, h]`: the branch adds nothing, yet every weight in it has a gradient from the first
step, and the two of a pair are pushed apart. Of an odd number of units the last is read with zeros. A LayerScale after
that layer keeps its values. A branch that ends in a norm (ResNet, EfficientNet) is refused: there LEMON zeroes the
norm, which is `zero_out`.""",
    "net2deeper": """\
New convolutions hold the identity kernel and new norms undo themselves (`weight = sqrt(1 + eps)` over a running
variance of 1): the new block passes on what it receives. The activation must be idempotent and the one that its input
went through already, `relu(relu(x)) = relu(x)`; blocks with GELU or SiLU are refused, and blocks with a residual
connection are told to use `zero_out`. The statistics of the new norms are not those of the data: exact in evaluation,
while training starts from other batch statistics; recalibrate them before training.""",
    "map": """\
`layer'_i = layer_(map[i])`. Every source block has to occur, first after its predecessor; repeats are new blocks. A
model whose blocks stand in several stages takes a list for each stage that grows, by the stage's name as
`growtool inspect` shows it: `map: {layer1: [0, 1, 1], layer3: [0, 1, 1, 1]}`.""",
    "mixing": """\
Every tensor of the grown sequence is a combination `sum_j w_j W_j` of the source's tensors of that place and shape in
the blocks of the sequence; the weights w train for `steps` updates on the images of `data`, starting from
`interleave`. With `width: {operator: ligo}` both are learned together.""",
}

EXAMPLES = {
    "tile": """\
target:
  scale: {width: 2}
width: {operator: tile, split: random_projection, gain: 0.1}
""",
    "net2net": """\
target:
  scale: {width: 1.25}
width: {operator: net2net}
""",
    "mixture": """\
target:
  scale: {width: 2}
width: {operator: mixture, coefficients: orthogonal, gain: 0.3, compensate: true}
""",
    "centre_zero": """\
target:
  scale: {width: 1.25}
width: {operator: centre_zero, eps: kept}
""",
    "lemon": """\
target:
  scale: {width: 1.25}
width: {operator: lemon}
""",
    "zero": """\
target:
  scale: {width: 1.25}
width: {operator: zero, eps: told}
""",
    "fpi": """\
target:
  scale: {width: 2}
width: {operator: fpi, split: equal}
""",
    "aki": """\
target:
  scale: {width: 2}
width: {operator: aki}
""",
    "variance_transfer": """\
target:
  scale: {width: 1.5}
width: {operator: variance_transfer, eps: told}
""",
    "gradmax": """\
target:
  model_args: {mlp_ratio: 6.0}
width: {operator: gradmax, scale: 0.5}
data: {path: images, batches: 4}
""",
    "two_source": """\
second: second
target:
  scale: {width: 2}
width: {operator: two_source}
""",
    "ligo": """\
target:
  scale: {width: 2}
width: {operator: ligo, steps: 100, lr: 1e-3}
data: {path: images, batches: 8, batch_size: 32}
""",
    "random": """\
target:
  scale: {width: 1.5}
width: {operator: random, parts: new}
""",
    "stack": """\
target:
  scale: {depth: 2}
depth: {operator: stack}
""",
    "interleave": """\
target:
  scale: {depth: 2}
depth: {operator: interleave}
""",
    "zero_out": """\
target:
  scale: {depth: 1.5}
depth: {operator: zero_out, placement: interleaved}
""",
    "cancel_out": """\
target:
  scale: {depth: 1.5}
depth: {operator: cancel_out, placement: interleaved}
""",
    "net2deeper": """\
target:
  scale: {depth: 2}  # of a MobileNetV1, which has no residual connections
depth: {operator: net2deeper}
""",
    "map": """\
target:
  scale: {depth: 2}
depth: {operator: map, map: [0, 0, 1, 1], start: copy}
""",
    "mixing": """\
target:
  scale: {depth: 2}
depth: {operator: mixing, steps: 100}
data: {path: images}
""",
}

_HEAD = """\
# Growth operators

A plan names one operator for `width`, one for `depth`, or both: `width: tile`, or `width: {operator: tile}` with
options beside it. Where it names none, growtool takes the first that keeps the function of this model at this target:
`mixture`, `centre_zero`, `net2net` for widths, `zero_out`, `cancel_out`, `net2deeper` for depth; the summary and the
copy of the plan beside the output say which.

The promise below is what the operator can keep at best; whether it holds for your model is decided from the model
itself before anything is written, and a dry run (`growtool grow CHECKPOINT PLAN --dry-run`) shows it with its reasons.
A norm over channels, attention over the channels of a head, or weights standardised without a gain behind can make an
exact operator lossy. Such a plan is refused, with the nearest plan that keeps the function, unless it says
`allow_lossy: true` (or the command `--allow-lossy`). An operator that is lossy by name, as the table says, needs no
such word.

`growtool advise CHECKPOINT --budget 2x-macs` (or `1.5x-params`) proposes plans that fit a budget, wider, deeper and
both, with the size each leads to, its promise, and what has been published about growing so; `-o DIR` writes them.

Formulas write W for a weight, W' for what it becomes, h and h' for the channels it reads or writes; E says which old
channel each new one copies, R is a left inverse of E, C takes off the mean.

| operator | grows | what it does | same function | needs |
| --- | --- | --- | --- | --- |
"""

_FAMILIES = """
## Width operators, family by family

Measured by `python tests/golden_widths.py` on tiny models whose every number is random, in float64. `tile`, `mixture`,
`fpi`, `aki`, `two_source` and `ligo` (after two steps) double every width; `gradmax` widens hidden layers alone; the
others are asked for widths between. What is exact differs by less than 1e-11; for what is lossy the number is the
largest difference of the logits relative to the largest logit. Random numbers are hard on a lossy operator: what a
trained checkpoint loses is what `growtool grow` reports of it.

- Off whole multiples a LayerNorm over copies sees other statistics. ViT takes zeros or means beside its stream instead;
  Swin's patch embedding ends in a norm, ConvNeXt's norms stand after a depthwise convolution, and the tokens of a mixer
  are mixed channel by channel: no form is exact there.
- `two_source` meets a LayerNorm over both halves everywhere but in networks of BatchNorms, and a plain ResNet's stem
  cannot be widened.
- `aki` finds no like tensor one block on in an EfficientNet this small, and copies its own rows.
- `gradmax`: no argument of ResNet, ConvNeXt or EfficientNet widens hidden layers alone (that of a bottleneck ResNet
  does, `base_width`).

"""


def page() -> str:
    """The text of `docs/operators.md`."""
    rows = "".join(
        f"| [`{o.name}`](#{o.name}) | {o.axis} | {o.summary} | {o.promise} | {o.needs} |\n" for o in OPERATORS.values()
    )
    return _HEAD + rows + "".join(_chapter(info) for info in OPERATORS.values()) + _families()


_ROUNDING = 1e-9


def _families() -> str:
    """What the golden file of width operators says of each family."""
    golden = json.loads((Path(__file__).parent / "golden" / "widths.json").read_text())
    families = list(next(iter(golden.values())))
    lines = ["operator | " + " | ".join(families), " | ".join(["---"] * (len(families) + 1))]
    lines += [
        f"`{name}` | " + " | ".join(_kept(found[family]) for family in families) for name, found in golden.items()
    ]
    return _FAMILIES + "".join(f"| {line} |\n" for line in lines)


def _kept(found: dict[str, Any]) -> str:
    """One cell: the promise, and for a lossy one how far the logits moved."""
    kind = {"refused": "not applicable", "exact up to eps": "up to eps"}.get(found["promise"], found["promise"])
    if kind != "lossy":
        return kind
    return f"lossy, {found['difference']:.2g}" if found["difference"] > _ROUNDING else "lossy in general, 0 here"


def _chapter(info: OperatorInfo) -> str:
    options = _options(SECTIONS[info.name])
    return (
        f"\n## {info.name}\n\n{info.summary[0].upper()}{info.summary[1:]}. Same function: {info.promise}.\n\n"
        f"{info.when}\n\n`{info.formula}`\n\nNeeds: {info.needs}. Source: {info.source}.\n\n{FORMULAS[info.name]}\n\n"
        + (f"| option | default | meaning |\n| --- | --- | --- |\n{options}\n" if options else "No options.\n\n")
        + f"```yaml\n{EXAMPLES[info.name]}```\n"
    )


def _options(section: type[Section]) -> str:
    described = _described(section)
    return "".join(
        f"| `{name}` | {_default(field)} | {described[name]} |\n"
        for name, field in section.model_fields.items()
        if name != "operator"
    )


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def _described(section: type[Section]) -> dict[str, str]:
    """What the docstrings of the schema say of each option."""
    found = {"placement": "`interleaved`: spread evenly over the old blocks; `end`: after all of them."}
    for cls in reversed(section.__mro__):
        text = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")[2] if issubclass(cls, Section) else ""
        for name, meaning in re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", text, re.MULTILINE):
            found[name] = " ".join(meaning.split())
    return found


if __name__ == "__main__":
    PAGE.write_text(page())
