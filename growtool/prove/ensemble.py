"""Whether two networks side by side stay apart, and whether the output is the mean of their outputs.

Every width is twice the source's: the first half carries the first source's channels, the second half the second's.
The trace of the target is run on one word for each tensor:

- `shared`: both sources have the same values, as of the input;
- `pair`: each half carries the values of one source;
- `mean`: the mean of the values in the two sources;
- `mixed`: none of these, with the reason why.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from growtool.prove.scales.scaling import Scaling
from growtool.trace import Axis, ChannelGroup, Trace, groups_on
from growtool.trace.reading.factors import Product, product_of
from growtool.trace.reading.norms import NORMS
from growtool.trace.steps import Step
from growtool.trace.table.kinds import Kind, is_linear_per_channel

Carried = Literal["shared", "pair", "mean", "mixed"]


# Joint operations that leave channels where they are, so that the axes of the results do not tell of them.
_JOINT = {"group_norm": "GroupNorm", "softmax": "a softmax"}
_TRANSFORMED = "weights are transformed (standardised, say) over the channels of both sources"


def mixed_halves(trace: Trace, grown: frozenset[ChannelGroup], scaled: Scaling) -> list[tuple[str, str]]:
    """Return module path and reason of every place where the two halves meet, or the output is not the mean.

    Args:
        trace: the target's.
        grown: the channel groups that are twice as large as in the source.
        scaled: the joint operations, and the weights that are transformed.
    """
    run = _Run(trace, grown)
    for joint in scaled.joint:
        if joint.kind in _JOINT and run.on(joint.axis):
            run.reasons.append((joint.module, f"{_JOINT[joint.kind]} over the channels of both sources"))
    for name, module in scaled.transformed.items():
        if any(map(run.on, trace.tensors[name])):
            run.reasons.append((module, _TRANSFORMED))
    for step in trace.forward.steps:
        run.take(step)
    for number in trace.forward.outputs:
        if run.kind(number) == "pair":
            run.reasons.append(("", "the output keeps the two sources apart"))
    return list(dict.fromkeys(run.reasons))


@dataclass
class _Run:
    """The pass over the target: what is known of each tensor by its number, and the reasons found."""

    trace: Trace
    grown: frozenset[ChannelGroup]
    kinds: dict[int, Carried] = field(default_factory=dict)
    reasons: list[tuple[str, str]] = field(default_factory=list)

    def kind(self, number: int) -> Carried:
        """Return what is known of a tensor; a parameter that no half carries is the mean of the two sources'."""
        if number in self.kinds:
            return self.kinds[number]
        if number not in self.trace.forward.made_of:
            return "shared"
        return "pair" if self._paired(number) else "mean" if self.trace.forward.made_of[number] else "shared"

    def take(self, step: Step) -> None:
        """Take in one operation."""
        kind = self._after(step)
        for number in step.outs:
            # a result without halves is made of both by a linear layer that reads half of each
            self.kinds[number] = "mean" if kind == "pair" and not self._paired(number) else kind
        for number in step.overwritten:
            if self.kind(number) != kind:
                self.kinds[number] = self._mixed(step)

    def _paired(self, number: int) -> bool:
        """Return whether a tensor holds channels of both sources."""
        return any(self.on(axis) for axis in self.trace.forward.layouts[number])

    def on(self, axis: Axis) -> bool:
        """Return whether an axis holds channels of both sources."""
        return any(group in self.grown for group in groups_on(axis))

    def _mixed(self, step: Step, why: str = "") -> Carried:
        """Note a reason, and return `mixed`."""
        self.reasons.append((step.module, why or f"{step.name} reads both sources at once"))
        return "mixed"

    def _after(self, step: Step) -> Carried:
        """Return what is known of the results of an operation."""
        if all(number in self.trace.forward.made_of for number in step.ins):
            return self._of_parameters(step)
        kinds = {self.kind(number) for number in step.ins}
        if "mixed" in kinds:
            return "mixed"
        if step.op.kind in NORMS:
            normalised = self.trace.forward.axes(step.ins[0])[-len(step.args[1]) :]
            if any(map(self.on, normalised)):
                return self._mixed(step, f"{NORMS[step.op.kind]} over the channels of both sources")
        if step.op.kind is Kind.ATTENTION:
            query, key = step.args[0].number, step.args[1].number
            sums_halves = self.on(self.trace.forward.axes(query)[-1])
            return self._mixed(step) if sums_halves or self.kind(query) != self.kind(key) else self.kind(query)
        product = product_of(step, self.trace.forward)
        if product is not None:
            return self._product(step, product)
        if any(map(self._paired, step.ins)) and not any(map(self._paired, step.outs)):
            return self._mixed(step, f"{step.name} over the channels of both sources")
        if kinds == {"shared"}:
            return "shared"
        if "mean" not in kinds:
            return "pair"
        # f(mean) is the mean of f only if f is linear
        linear = is_linear_per_channel(step) or step.op.kind is Kind.ADD
        scaled = step.op.kind is Kind.MULTIPLY and len(step.ins) == 1
        if "pair" not in kinds and (linear or scaled or (step.name == "mul" and "shared" in kinds)):
            return "mean"
        return self._mixed(step, f"{step.name} with a parameter that both sources would need their own of")

    def _of_parameters(self, step: Step) -> Carried:
        """Return what is known of a function of parameters: rearranged they keep their kind.

        A nonlinear function of parameters that no half carries, which are means, is what neither source computes.
        """
        kinds = {self.kind(number) for number in step.ins}
        if kinds <= {"shared"}:
            return "pair" if any(map(self._paired, step.outs)) else "shared"
        if kinds == {"mean"} and not is_linear_per_channel(step):
            return self._mixed(step, f"{step.name} of a parameter that both sources would need their own of")
        return "pair" if "pair" in kinds else "mean"

    def _product(self, step: Step, product: Product) -> Carried:
        """Return what is known of a matrix product or a convolution."""
        kinds = set(map(self.kind, product.operands))
        activations = not any(number in self.trace.forward.made_of for number in product.operands)
        if activations and any(map(self.on, product.summed)):
            return self._mixed(step, "two activations are multiplied and summed over the channels of both sources")
        if "mean" in kinds and (kinds != {"mean", "shared"}):
            return self._mixed(step, f"{step.name} with a parameter that both sources would need their own of")
        result: Carried = "pair" if "pair" in kinds else "mean" if "mean" in kinds else "shared"
        if any(map(self._paired, step.outs)):
            shared = product.bias is not None and not self._paired(product.bias)
            return self._mixed(step, "both halves share a bias") if shared else result
        return "mean" if result == "pair" else result
