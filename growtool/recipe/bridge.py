"""Projections that the target has where the source passes its channels on.

A ResNet whose first stage becomes wider than its stem gains a 1x1 convolution on the shortcut, because the shortcut
can no longer be the identity. Growth fills such a projection so that it computes what the identity did: as if the
source had had an identity convolution there, and a norm that does nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from growtool.algebra.passing import passing_value
from growtool.coupling import Atom, Coupling, atoms

_PASSING = {"convolution", "native_batch_norm", "_native_batch_norm_legit_no_training"}


@dataclass(frozen=True, slots=True)
class Bridge:
    """Attributes:

    path: the module, e.g. `layer1.0.downsample`.
    weight: the projection's weight, rows [0] and columns [1], a 1x1 kernel.
    values: buffers and parameters of its norm, or the projection's own bias.
    eps: of its norm, None without.
    columns: the channels it reads.
    rows: the channels it writes; in the source the same.
    """

    path: str
    weight: str
    values: tuple[str, ...]
    eps: float | None
    columns: Atom
    rows: Atom

    def source_value(self, name: str, size: int) -> Tensor:
        """What the source would hold under this name if it had the projection; float64, or int64 for counters.

        Args:
            name: a tensor of the bridge.
            size: channels of the source there.
        """
        shape = (size, size, 1, 1) if name == self.weight else (size,)
        return passing_value(name, shape, self.eps)


def find_bridges(model: nn.Module, target: Coupling, source: Coupling, added: Sequence[str]) -> list[Bridge]:
    """The modules among those of the `added` tensors that are projections around which the source has an identity.

    Args:
        model: the target.
        target: its coupling.
        source: the source's coupling.
        added: tensors of the target without counterpart in the source.
    """
    modules: dict[str, list[str]] = {}
    for name in added:
        modules.setdefault(_outermost_new(name, source), []).append(name)
    found = (_bridge(path, names, model, target) for path, names in modules.items())
    return [
        bridge
        for bridge in found
        # it has to stand where the source passes its stream on, and to read that stream itself, not a norm of it
        if bridge and bridge.path.rpartition(".")[0] in source.exits and bridge.path in target.passed_on
    ]


def _outermost_new(name: str, source: Coupling) -> str:
    """The outermost module of the tensor that holds nothing in the source."""
    parts = name.split(".")
    for end in range(1, len(parts)):
        path = ".".join(parts[:end])
        if not any(other.startswith(f"{path}.") for other in source.tensors):
            return path
    return name


def _bridge(path: str, names: Sequence[str], model: nn.Module, target: Coupling) -> Bridge | None:
    inner = [entry for p, entries in target.signatures.items() if _within(p, path) for entry in entries]
    operations = [entry for entry in inner if entry[0] != "call"]
    kernels = [entry for entry in operations if entry[0] == "convolution"]
    weights = [name for name in names if len(target.tensors[name]) == 4]
    norms = [m for p, m in model.named_modules() if _within(p, path) and isinstance(m, nn.BatchNorm2d)]
    if (
        any(entry[0] not in _PASSING for entry in operations)
        or len(weights) != 1
        or kernels != [("convolution", (1, 1), (0, 0), (1, 1), False)]
        or len(norms) > 1
    ):
        return None
    rows, columns, *kernel = target.tensors[weights[0]]
    lone = [list(atoms(axis)) for axis in (rows, columns)]
    if any(len(found) != 1 for found in lone) or any(True for axis in kernel for _ in atoms(axis)):
        return None
    values = tuple(name for name in names if name != weights[0])
    return Bridge(path, weights[0], values, norms[0].eps if norms else None, columns=lone[1][0], rows=lone[0][0])


def _within(path: str, module: str) -> bool:
    return path == module or path.startswith(f"{module}.")
