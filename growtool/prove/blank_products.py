"""Blank channels through sums: matrix products, convolutions, attention."""

from __future__ import annotations

from dataclasses import replace

from growtool.prove.abstract_state import AbstractPass, AbstractState, Value
from growtool.trace import groups_on
from growtool.trace.factors import bias_of, operands_of, summed_dims
from growtool.trace.steps import Step


class Products(AbstractPass):
    """What is known of the result of a product."""

    def _multiplied(self, step: Step) -> AbstractState:
        operands = operands_of(step)
        assert operands is not None
        axes = [self.trace.forward.axes(number) for number in operands]
        summed = summed_dims(step, (len(axes[0]), len(axes[1])))
        over = any(self.group in groups_on(own[dim]) for own, dim in zip(axes, summed, strict=True))
        free = [
            any(self.group in groups_on(axis) for i, axis in enumerate(own) if i != dim)
            for own, dim in zip(axes, summed, strict=True)
        ]
        return self._product(step, operands, over=over, free=free)

    def _product(self, step: Step, operands: tuple[int, int], *, over: bool, free: list[bool]) -> AbstractState:
        left, right = (self._state(number) for number in operands)
        if over:
            value = self._consumed(step, operands)
            if value == "other":
                return AbstractState("open", "other")
            # what is summed over is gone: only what an operand says of its rows remains
            left, right = (s if f else AbstractState() for s, f in zip((left, right), free, strict=True))
        carrying = [state for state, is_free in zip((left, right), free, strict=True) if is_free]
        others = [state for state, is_free in zip((left, right), free, strict=True) if not is_free]
        if any(state.value == "zero" for state in (left, right)):
            result = AbstractState("silent" if carrying else None, "zero")
        elif any(state.value != "same" for state in others) or (
            len(carrying) == 2 and any(state.value != "same" for state in carrying)
        ):
            return AbstractState("open", self._lost(step, "two activations are multiplied"))
        elif len(carrying) == 2:
            result = AbstractState("silent" if "silent" in (left.rows, right.rows) else "open")
        else:
            result = carrying[0] if carrying else AbstractState()
        return self._shifted(step, result)

    def _shifted(self, step: Step, result: AbstractState) -> AbstractState:
        bias = bias_of(step)
        if bias is None:
            return result
        if result.rows is None or bias in self._carrying:
            return self._together(step, [result, self._state(bias)])
        return self._elementwise(step, [replace(result, rows="open"), self._state(bias)])

    def _consumed(self, step: Step, operands: tuple[int, int]) -> Value:
        """A sum over these channels: by a parameter, whose new columns meet zeros or become so; or of activations."""
        forward = self.trace.forward
        for weight, read in (operands[::-1], operands):
            names = forward.made_of.get(weight)
            if not names:
                continue
            state = self._state(read)
            self.read |= names
            if state.rows != "silent":
                self.nonzero_readers |= names
            if state.value not in ("same", "zero"):
                return self._lost(step, "reads the channels themselves, not through a norm")
            return "same"
        states = [self._state(number) for number in operands]
        alone = self.expansions[self.group].copies == 1
        if alone and any(state.rows == "silent" for state in states) and all(s.value == "same" for s in states):
            return "same"
        return self._lost(step, "two activations are multiplied and summed over the new channels")

    def _grouped(self, step: Step) -> AbstractState:
        forward = self.trace.forward
        x, weight = step.args[0].number, step.args[1].number
        rows, columns = forward.axes(weight)[:2] if not step.args[6] else forward.axes(weight)[1::-1]
        over = self.group in groups_on(columns)
        return self._product(
            step, (x, weight), over=over, free=[x in self._carrying and not over, self.group in groups_on(rows)]
        )

    def _attended(self, step: Step) -> AbstractState:
        query, key, value = (step.args[i].number for i in range(3))
        axes = self.trace.forward.axes
        if self.group in groups_on(axes(query)[-1]):
            kept = self._consumed_by_attention(step, query, key)
            if kept == "other":
                return AbstractState("open", "other")
        elif any(self._state(number).value != "same" for number in (query, key)):
            return AbstractState(
                "open", self._lost(step, "attention reads the channels themselves, not through a norm")
            )
        return self._state(value)

    def _consumed_by_attention(self, step: Step, query: int, key: int) -> Value:
        states = [self._state(query), self._state(key)]
        alone = self.expansions[self.group].copies == 1
        if alone and any(state.rows == "silent" for state in states) and all(s.value == "same" for s in states):
            return "same"
        return self._lost(step, "two activations are multiplied and summed over the new channels")
