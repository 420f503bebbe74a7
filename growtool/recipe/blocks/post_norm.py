"""New blocks that end in a norm, behind another norm (BERT: `x = norm(x + f(x))`), and how they are closed.

Closing its branches does not make such a block return what it received, since its norms stand behind the sums. But a
norm of what is normalised already changes nothing, up to eps. So the norm in front of the block, and the norms within,
get gains of one and shifts of zero. The last norm of the block takes over the gain and the shift of the one in front:

    old      y = g n(z) + b
    grown    x = n(z),  u = n(x + 0),  y = g n(u + 0) + b = g n(z) + b
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from growtool.library.building import eps_of
from growtool.prove.numbers import Renormed
from growtool.recipe.matching import Matching
from growtool.trace.module_calls import ModuleCall, Outcome, Same
from growtool.trace.reading.norms import norm_call
from growtool.trace.steps import ForwardPass, Step


@dataclass(frozen=True, slots=True)
class PostNorm:
    """A run of a block that ends in a norm, behind another norm.

    Attributes:
        received: number of the tensor that the norm in front writes.
        returned: number of the tensor that the block's last norm writes.
        summed: number of the tensor that the block's last norm normalises.
        end: the place of the last norm among all operations.
        unit_affine: gains -> one, shifts -> zero, of the norm in front and of all norms within but the last.
        heirs: gain and shift of the last norm -> those of the norm in front.
        norms: the paths of all these norms, with their eps.
    """

    received: int
    returned: int
    summed: int
    end: int
    unit_affine: Mapping[str, float]
    heirs: Mapping[str, str]
    norms: Mapping[str, float]


@dataclass(frozen=True)
class Handing:
    """What becomes of the norms of all such blocks, by the target's names.

    Attributes:
        unit_affine: gains -> one, shifts -> zero, so that they do nothing.
        heirs: gain or shift of a last norm -> the one whose values it takes over: of the norm in front of the block, or
            in front of the first of several such blocks in a row.
        norms: paths of all norms concerned, with their eps: in a chain of norms each adds its own.
        numbers: of the tensors that these norms write, and that last norms write of what is normalised already.
    """

    unit_affine: Mapping[str, float] = field(default_factory=dict)
    heirs: Mapping[str, str] = field(default_factory=dict)
    norms: Mapping[str, float] = field(default_factory=dict)
    numbers: Renormed = field(default_factory=Renormed)

    @classmethod
    def of(cls, found: Sequence[PostNorm]) -> Handing:
        """Put together blocks in the order in which they run; the last norm of one may stand in front of the next."""
        unit_affine, heirs, norms = dict[str, float](), dict[str, str](), dict[str, float]()
        for block in found:
            unit_affine |= block.unit_affine
            # a norm in front that is an heir itself hands on the values of the first in the row
            heirs |= {name: heirs.get(front, front) for name, front in block.heirs.items()}
            norms |= block.norms
        numbers = Renormed(frozenset(b.received for b in found), frozenset(b.returned for b in found))
        kept = {name: front for name, front in heirs.items() if name not in unit_affine}
        return cls(unit_affine, kept, norms, numbers)

    @property
    def fronts(self) -> frozenset[str]:
        """Paths of the norms whose values others take over."""
        return frozenset(front.rpartition(".")[0] for front in self.heirs.values())

    @cached_property
    def paths(self) -> Mapping[str, str]:
        """Names and modules of heirs -> the names and modules whose values they take over."""
        modules = {name.rpartition(".")[0]: front.rpartition(".")[0] for name, front in self.heirs.items()}
        return {**modules, **self.heirs}


def post_norm(call: ModuleCall, out: Outcome, same: Same, matching: Matching) -> PostNorm | None:
    """Return how a block hands on what a norm in front wrote.

    None if it does not, if a gain or shift of these norms is read elsewhere too, or if a norm tells no eps.

    Args:
        call: a run of a new block.
        out: what the run returned.
        same: on what terms that equals an input of the block.
        matching: source and target side by side.
    """
    model, forward = matching.target.model, matching.target.trace.forward
    places = [place for place in range(call.first, call.end) if out.number in forward.raw[place].outs]
    front, last = (_norm(forward, forward.made_by.get(number)) for number in (same.number, out.number))
    if front is None or last is None or not places:
        return None
    inner = (_norm(forward, step) for step in forward.raw[call.first : call.end])
    norms = {
        norm.module: norm for norm in (front, *inner) if norm is not None and norm.affine.keys() <= same.unit_affine
    }
    affine = {name: value for norm in norms.values() for name, value in norm.affine.items()}
    read_once = affine.keys() == same.unit_affine and all(forward.use_counts[name] == 1 for name in affine)
    if not read_once or any(eps_of(model.get_submodule(path)) is None for path in norms):
        return None
    heirs = dict(zip(last.affine, front.affine, strict=True))
    return PostNorm(
        received=same.number,
        returned=out.number,
        summed=last.x,
        end=places[-1],
        unit_affine={name: value for name, value in affine.items() if name not in heirs},
        heirs=heirs,
        norms={path: norm.eps for path, norm in norms.items()},
    )


@dataclass(frozen=True, slots=True)
class _Norm:
    """A LayerNorm of the pass.

    Attributes:
        module: its path.
        x: number of the tensor that it normalises.
        eps: as it ran.
        affine: names of its gain and shift -> the values at which they do nothing.
    """

    module: str
    x: int
    eps: float
    affine: Mapping[str, float]


def _norm(forward: ForwardPass, step: Step | None) -> _Norm | None:
    norm = norm_call(step, forward) if step is not None else None
    if step is None or norm is None or norm.eps is None:
        return None
    affine = {}
    for number, value in ((norm.gain, 1.0), (norm.shift, 0.0)):
        if number is not None:
            names = forward.stored.get(number, ())
            if len(names) != 1:  # computed from other parameters, or tied
                return None
            affine[names[0]] = value
    return _Norm(step.module, norm.x, norm.eps, affine) if affine else None
