"""Identity shortcuts: projections of the target where the source passes its channels on unchanged.

A ResNet whose first stage becomes wider than its stem gains a 1x1 convolution on the shortcut, because the shortcut
can no longer be the identity. Growth fills such a projection so that it computes what the identity did. It grows from
what the source would hold there if it had an identity convolution, and a norm that does nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from torch import nn

from growtool.trace import Axis, Trace, within
from growtool.trace.axes import ONE
from growtool.trace.reading.wiring import Place, Wiring, Written
from growtool.trace.steps import ForwardPass
from growtool.trace.table.ops import RUNNING_NORMS

_PASSING = {"convolution", *RUNNING_NORMS}


@dataclass(frozen=True, slots=True)
class IdentityShortcut:
    """A projection of the target where the source passes its channels on.

    Attributes:
        path: the module, e.g. `layer1.0.downsample`.
        tensors: its weight, rows [0] and columns [1], a 1x1 kernel; then those of its norm, or its own bias.
        columns: the channels it reads.
        rows: the channels it writes; in the source they are those it reads.
    """

    path: str
    tensors: tuple[str, ...]
    columns: Axis
    rows: Axis


def find_identity_shortcuts(
    model: nn.Module, target: Trace, source: Trace, added: Sequence[str]
) -> list[IdentityShortcut]:
    """Return the projections among the modules of the `added` tensors that can pass on what they read.

    Args:
        model: the target.
        target: its trace.
        source: the source's trace.
        added: tensors of the target without counterpart in the source.
    """
    modules: dict[str, list[str]] = {}
    old = {".".join(parts[:end]) for parts in (n.split(".") for n in source.tensors) for end in range(1, len(parts))}
    for name in added:
        modules.setdefault(_outermost_new(name, old), []).append(name)
    bridges = (_bridge(_holding(names), names, model, target) for names in modules.values())
    return [bridge for bridge in bridges if bridge]


def in_place_of_nothing(
    bridges: Sequence[IdentityShortcut], target: ForwardPass, source: ForwardPass, source_path: Callable[[str], str]
) -> list[IdentityShortcut]:
    """Return the projections that stand where the source has nothing.

    Their results are read by operations whose counterparts in the source read, at the same places, what they project.

    Args:
        bridges: of the target.
        target, source: both passes.
        source_path: path of a module of the target -> that of its counterpart.
    """
    if not bridges:
        return []
    new, old = Wiring.of(target), Wiring.of(source)
    return [bridge for bridge in bridges if _passes_on(bridge.path, new, old, target, source_path)]


def _passes_on(path: str, new: Wiring, old: Wiring, target: ForwardPass, source_path: Callable[[str], str]) -> bool:
    """Return whether the source reads what the projection at `path` reads wherever the target reads its result."""
    # the projection has to be a chain: each operation reads what the one before it wrote, the first something outside
    chain = [place for place, step in new.steps.items() if within(place.module, path) and step.ins]
    origin, *between = (new.reads[place][0] for place in chain)
    results = [Written(place, 0) for place in chain]
    numbers = {number for place in chain for number in new.steps[place].outs}
    if origin is None or between != results[:-1] or not numbers.isdisjoint(target.outputs):
        return False
    outside = [place for place in new.steps if place not in chain]
    if any(numbers & {*new.steps[place].outs, *new.steps[place].overwritten} for place in outside):
        return False  # its results are overwritten in place before they are read
    readers = [place for place in outside if not set(results).isdisjoint(new.reads[place])]
    modules = {origin.place.module, *(place.module for place in readers)}
    if not readers or any(new.names(module) != old.names(source_path(module)) for module in modules):
        return False

    # each operand that is a result of the projection has to be, in the source, what the projection reads
    def counterpart(place: Place) -> Place:
        return place._replace(module=source_path(place.module))

    in_source = origin._replace(place=counterpart(origin.place))
    pairs = [zip(new.reads[place], old.reads[counterpart(place)], strict=False) for place in readers]
    return all(there == in_source for pair in pairs for here, there in pair if here in results)


def _outermost_new(name: str, old: Collection[str]) -> str:
    """Return the outermost module around the tensor that is none of the old ones."""
    parts = name.split(".")
    for end in range(1, len(parts)):
        path = ".".join(parts[:end])
        if path not in old:
            return path
    return name


def _holding(names: Sequence[str]) -> str:
    """Return the innermost module that holds all of these tensors."""
    steps = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return ".".join(parts[0] for parts in itertools.takewhile(lambda parts: len(set(parts)) == 1, steps))


def _bridge(path: str, names: Sequence[str], model: nn.Module, target: Trace) -> IdentityShortcut | None:
    """Return the projection that a module is, or None if it is anything but a 1x1 convolution and a BatchNorm."""
    inner = [entry for inside in target.modules_in(path) for entry in target.signatures[inside]]
    operations = [entry for entry in inner if entry[0] != "call"]
    kernels = [entry for entry in operations if entry[0] == "convolution"]
    weights = [name for name in names if len(target.tensors[name]) == 4]
    norms = [module for module in model.get_submodule(path).modules() if isinstance(module, nn.BatchNorm2d)]
    # `True` among the numbers of a norm: it normalises by the statistics of the batch, which nothing undoes
    if (
        any(entry[0] not in _PASSING or (entry[0] in RUNNING_NORMS and True in entry) for entry in operations)
        or len(weights) != 1
        or kernels != [("convolution", (1, 1), (0, 0), (1, 1), False)]
        or len(norms) > 1
    ):
        return None
    rows, columns, *kernel = target.tensors[weights[0]]
    values = [name for name in names if name != weights[0]]
    if kernel != [ONE, ONE] or any(target.tensors[name] not in ((rows,), ()) for name in values):
        return None
    return IdentityShortcut(path, (weights[0], *values), columns=columns, rows=rows)
