"""Writes `docs/operators.md` from the table of operators: `python -m tests.support.operators_page`."""

from pathlib import Path

from growtool.operators.explain import Option, explain
from growtool.operators.table import OPERATORS, OperatorInfo

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"

_HEAD = """\
# Growth operators

A plan names one operator for `width`, one for `depth`, or both: `width: tile`, or `width: {operator: tile}` with
options beside it. Where it names none, growtool takes the first that keeps the function of this model at this target:
`mixture`, `centre_zero`, `net2net` for widths, `zero_out`, `cancel_out`, `net2deeper` for depth; the summary and the
copy of the plan beside the output say which.

The promise below is what the operator can keep at best; whether it holds for your model is decided from the model
itself before anything is written, and a dry run (`growtool grow CHECKPOINT PLAN --dry-run`) shows it with its reasons.
A norm over channels that are not all copied equally often, or a product of two activations that no weight makes up for,
can make an exact operator lossy. Such a plan is refused, with the nearest plan that keeps the function, unless it says
`allow_lossy: true` (or the command `--allow-lossy`). An operator that is lossy by name, as the table says, needs no
such word.

`growtool advise CHECKPOINT --budget 2x-macs` (or `1.5x-params`) proposes plans that fit a budget and keep the
function, wider, deeper and both, with the size each leads to; where none does, it shows the smallest that does.
`-o DIR` writes them.

Formulas write W for a weight, W' for what it becomes, h and h' for the channels it reads or writes; E says which old
channel each new one copies, R is a left inverse of E, C takes off the mean.

| operator | grows | what it does | same function | needs |
| --- | --- | --- | --- | --- |
"""

_FAMILIES = """
## Width operators, family by family

Measured by `python -m tests.support.golden_widths` on tiny models whose every number is random, in float64. `tile`,
`mixture`, `fpi`, `aki`, `two_source` and `ligo` (after two steps) double every width; `gradmax` widens hidden layers
alone; the others are asked for widths between. What is exact differs by less than 1e-11; for what is lossy the number
is the largest difference of the logits relative to the largest logit. Random numbers are hard on a lossy operator:
what a trained checkpoint loses is what `growtool grow` reports of it.

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


def _families() -> str:
    """What was measured of the width operators on each family."""
    found = {name: explanation.measured for name in OPERATORS if (explanation := explain(name)).measured}
    families = list(next(iter(found.values())))
    lines = ["operator | " + " | ".join(families), " | ".join(["---"] * (len(families) + 1))]
    lines += [f"`{name}` | " + " | ".join(kept[family] for family in families) for name, kept in found.items()]
    return _FAMILIES + "".join(f"| {line} |\n" for line in lines)


def _chapter(info: OperatorInfo) -> str:
    explanation = explain(info.name)
    options = "".join(f"| `{o.name}` | {_default(o)} | {o.meaning} |\n" for o in explanation.options)
    return (
        f"\n## {info.name}\n\n{info.summary[0].upper()}{info.summary[1:]}. Same function: {info.promise}.\n\n"
        f"{info.when}\n\n`{info.formula}`\n\nNeeds: {info.needs}. Source: {info.source}.\n\n{explanation.prose}\n\n"
        + (f"| option | default | meaning |\n| --- | --- | --- |\n{options}\n" if options else "No options.\n\n")
        + f"```yaml\n{explanation.example}```\n"
    )


def _default(option: Option) -> str:
    return "required" if option.default is None else f"`{option.default}`"


if __name__ == "__main__":
    PAGE.write_text(page())
