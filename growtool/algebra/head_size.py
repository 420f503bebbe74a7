"""Heads that become larger: what keeps the products of queries and keys when the channels of a head are copied.

Attention computes `scale * sum_d q_d k_d`. With m copies of every channel of a head the sum grows m-fold, and scale, a
function of the head size, becomes another. So the rows that write q and those that write k are multiplied by
`sqrt(scale / (m scale'))` each: for scale = d^-1/2 that is `(d / d')^1/4` (HyperCloning, arXiv 2409.12903). Which rows
those are is found by following channel numbers from the layer that writes them to the product.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from growtool.algebra.blank_norms import norm_call
from growtool.algebra.expansion import Expansion
from growtool.algebra.linear import bias_of, is_convolution, operands_of, summed_dims
from growtool.coupling import Atom, Coupling, atoms
from growtool.coupling.axis import axis_size
from growtool.coupling.steps import Ref, Step

Entry = tuple[object, ...]
_VIEWS = frozenset(
    "view _unsafe_view reshape permute transpose t unbind select slice split split_with_sizes unsqueeze squeeze expand "
    "clone detach alias".split()
)


@dataclass(frozen=True, slots=True)
class HeadSizes:
    """What makes up for larger heads.

    Attributes:
        atoms: the channels of a head, of the target, whose products are kept.
        rows: the source's parameter -> bool [rows], those to multiply, and by what.
        entries: module path of the target -> an entry of its signature and that of the source which it stands for.
    """

    atoms: frozenset[Atom] = frozenset()
    rows: Mapping[str, tuple[Tensor, float]] = field(default_factory=dict)
    entries: Mapping[str, Mapping[Entry, Entry]] = field(default_factory=dict)


def head_sizes(
    source: Coupling, target: Coupling, expansions: Mapping[Atom, Expansion], source_path: Callable[[str], str]
) -> HeadSizes:
    """Find what keeps the products over every set of channels that is copied evenly, where something does.

    Args:
        source: the source's coupling.
        target: the target's.
        expansions: how each set of channels grows; those that stay may be absent.
        source_path: path of a module of the target -> that of its counterpart.
    """
    kept = set[Atom]()
    rows: dict[str, tuple[Tensor, float]] = {}
    entries: dict[str, Mapping[Entry, Entry]] = {}
    for atom, expansion in expansions.items():
        if expansion.is_identity or expansion.multiplicity is None:
            continue
        try:
            found = [
                _kept(source, target, place, expansion.multiplicity, source_path)
                for place in _products(target)
                if _sums_over(target, place, atom)
            ]
        except _UnknownError:
            continue
        if found:
            kept.add(atom)
            for own_rows, module, own_entries in found:
                rows |= own_rows
                entries[module] = {**entries.get(module, {}), **own_entries}
    return HeadSizes(frozenset(kept), rows, entries)


class _UnknownError(Exception):
    """The product is reached in a way that is not known."""


@dataclass
class _Product:
    """A product of two activations.

    Attributes:
        scale: what the sum over channels is multiplied by, before and after.
        scalars: the numbers on the way, as entries of the module's signature.
        rows: parameter -> bool [rows], those that write its operands.
    """

    scale: float
    scalars: list[tuple[str, Entry]]
    rows: dict[str, Tensor]


def _kept(
    source: Coupling, target: Coupling, place: int, copies: int, source_path: Callable[[str], str]
) -> tuple[dict[str, tuple[Tensor, float]], str, dict[Entry, Entry]]:
    """Rows of the source and the factor for one product, its module, and the numbers that differ there."""
    module = target.forward.steps[place].module
    number = [p for p in _products(target) if target.forward.steps[p].module == module].index(place)
    counterparts = [p for p in _products(source) if source.forward.steps[p].module == source_path(module)]
    if number >= len(counterparts):
        raise _UnknownError
    before, after = _Pass(source).product(counterparts[number]), _Pass(target).product(place)
    if [name for name, _ in before.scalars] != [name for name, _ in after.scalars]:
        raise _UnknownError
    if min(before.scale, after.scale) <= 0:
        raise _UnknownError
    factor = (before.scale / (copies * after.scale)) ** 0.5
    pairs = {(new, old) for (_, new), (_, old) in zip(after.scalars, before.scalars, strict=True)}
    changed = {new: old for new, old in pairs if new != old}
    if len(pairs) != len({new for new, _ in pairs}):
        raise _UnknownError
    for entry in changed:  # nothing else in the module may hide behind a number of this product
        if target.signatures[module].count(entry) != sum(own == entry for _, own in after.scalars):
            raise _UnknownError
    return {name: (mask, factor) for name, mask in before.rows.items()}, module, changed


def _products(coupling: Coupling) -> list[int]:
    """Places of the products of two activations."""
    forward = coupling.forward
    found = []
    for place, step in enumerate(forward.steps):
        operands = operands_of(step)
        if operands is not None and not any(number in forward.made_of for number in operands):
            found.append(place)
    return found


def _sums_over(coupling: Coupling, place: int, atom: Atom) -> bool:
    """Whether a product of two activations sums over the channels; they have to be all it sums over."""
    step = coupling.forward.steps[place]
    operands = operands_of(step)
    assert operands is not None
    axes = [coupling.forward.axes(number) for number in operands]
    dims = summed_dims(step, (len(axes[0]), len(axes[1])))
    summed = [own[dim] for own, dim in zip(axes, dims, strict=True)]
    if not any(atom in atoms(axis) for axis in summed):
        return False
    if summed != [((atom,),)] * 2:
        raise _UnknownError
    return True


class _Pass:
    """The recorded pass of one model, followed against and along the flow."""

    def __init__(self, coupling: Coupling) -> None:
        self._forward, self._tensors = coupling.forward, coupling.tensors
        self._uses = Counter(name for _, number in self._forward.uses() for name in self._forward.made_of[number])
        self._made_by: dict[int, int] = {}
        self._read_by = defaultdict[int, list[int]](list)
        for place, step in enumerate(self._forward.steps):
            for number in (*step.outs, *step.overwritten):
                self._made_by[number] = -1 if number in self._made_by else place  # written twice: not followed
            for number in dict.fromkeys(step.ins):
                self._read_by[number].append(place)

    def product(self, place: int) -> _Product:
        """What is known of the product at a place."""
        step = self._forward.steps[place]
        operands = operands_of(step)
        assert operands is not None
        found = _Product(1.0, [], {})
        for number in operands:
            origin = self._back(number, found)
            for name, mask in self._writers(origin, number, place).items():
                found.rows[name] = found.rows.get(name, torch.zeros_like(mask)) | mask
        self._on(step.outs[0], found)
        return found

    def _back(self, number: int, found: _Product) -> int:
        """The tensor that views and scalars lead back to."""
        while True:
            place = self._made_by.get(number, -1)
            if place < 0:
                raise _UnknownError
            step = self._forward.steps[place]
            if not self._scaled(step, found) and not _is_view(step):
                return number
            number = step.ins[0]

    def _on(self, number: int, found: _Product) -> None:
        """Take in the scalars that follow."""
        while len(self._read_by[number]) == 1:
            step = self._forward.steps[self._read_by[number][0]]
            if (not self._scaled(step, found) and not _is_view(step)) or len(step.outs) != 1:
                return
            number = step.outs[0]

    def _scaled(self, step: Step, found: _Product) -> bool:
        if not _is_scalar(step):
            return False
        scalar = float(step.args[1])
        found.scale *= scalar if step.name == "mul" else 1 / scalar
        found.scalars.append((step.name, (step.name, float(f"{scalar:.9g}"))))
        return True

    def _writers(self, origin: int, operand: int, product: int) -> dict[str, Tensor]:
        """The parameters behind a tensor, and which of their rows reach the operand and nothing but the product."""
        step = self._forward.steps[self._made_by[origin]]
        norm = norm_call(step, self._forward)
        if norm is not None:
            names = [self._one(number) for number in (norm.gain, norm.shift) if number is not None]
            if norm.gain is None or len(norm.dims) != 1:
                raise _UnknownError
            channels = norm.dims[0]
        else:
            names, channels = self._affine(step)
        written = self._forward.axes(origin)[channels]
        if any(self._uses[name] != 1 or self._tensors[name][0] != written for name in names):
            raise _UnknownError
        reached, elsewhere = self._reached(origin, channels, operand, product)
        if bool((reached & elsewhere).any()):
            raise _UnknownError
        return dict.fromkeys(names, reached)

    def _affine(self, step: Step) -> tuple[list[str], int]:
        """Weight and bias of a layer, and the dimension of what it writes that holds its rows."""
        operands, bias = operands_of(step), None
        if step.name == "add" and len(step.ins) == 2:
            bias = next((number for number in step.ins if number in self._forward.made_of), None)
            x = next((number for number in step.ins if number not in self._forward.made_of), -1)
            product = self._made_by.get(x, -1)
            while product >= 0 and self._forward.steps[product].name in ("_unsafe_view", "view"):
                product = self._made_by.get(self._forward.steps[product].ins[0], -1)
            if bias is None or product < 0 or self._forward.steps[product].name != "mm":
                raise _UnknownError
            step, operands = self._forward.steps[product], operands_of(self._forward.steps[product])
        if operands is None:
            raise _UnknownError
        weights = [number for number in operands if number in self._forward.made_of]
        if len(weights) != 1:
            raise _UnknownError
        bias = bias_of(step) if bias is None else bias
        names = [self._one(weights[0]), *([] if bias is None else [self._one(bias)])]
        return names, 1 if is_convolution(step) else -1

    def _one(self, number: int) -> str:
        """The one parameter a tensor is."""
        names = self._forward.made_of.get(number, frozenset())
        if len(names) != 1:
            raise _UnknownError
        return next(iter(names))

    def _reached(self, origin: int, channels: int, operand: int, product: int) -> tuple[Tensor, Tensor]:
        """bool [channels] twice: which of a tensor's channels reach the operand, and which anything but the product."""
        sizes = [axis_size(axis) for axis in self._forward.axes(origin)]
        count = sizes[channels]
        order = torch.arange(count).reshape(-1, *[1] * (len(sizes) - channels % len(sizes) - 1))
        known: dict[int, Tensor] = {origin: order.expand(sizes)}
        elsewhere = torch.zeros(count, dtype=torch.bool)
        for place in range(self._made_by[origin] + 1, len(self._forward.steps)):
            step = self._forward.steps[place]
            inside = [number for number in step.ins if number in known]
            if known.keys() & set(step.overwritten):
                raise _UnknownError
            if not inside or place == product:
                continue
            if _is_scalar(step):
                known[step.outs[0]] = known[inside[0]]
            elif _is_view(step):
                known |= zip(step.outs, _replayed(step, known), strict=True)
            else:
                for number in inside:
                    elsewhere[known[number].unique()] = True
        reached = torch.zeros(count, dtype=torch.bool)
        reached[known[operand].unique()] = True
        return reached, elsewhere


def _is_view(step: Step) -> bool:
    return step.name in _VIEWS and len(step.ins) == 1 and step.outs != step.ins


def _is_scalar(step: Step) -> bool:
    return (
        step.name in ("mul", "div") and len(step.ins) == 1 and isinstance(step.args[0], Ref)
        and isinstance(step.args[1], int | float) and step.outs != step.ins
    )  # fmt: skip


def _replayed(step: Step, known: Mapping[int, Tensor]) -> list[Tensor]:
    """The same view of channel numbers."""
    args = tree_map(lambda leaf: known[leaf.number] if isinstance(leaf, Ref) else leaf, step.args)
    kwargs = {name: value for name, value in step.kwargs.items() if name != "memory_format"}
    name = "reshape" if step.name in ("view", "_unsafe_view") else step.name  # strides may be others here
    result = getattr(torch.ops.aten, name)(*args, **kwargs)
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
