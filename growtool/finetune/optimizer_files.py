"""The state of an optimizer on disk: two files beside the weights.

- `optimizer.safetensors`: all tensors, as `PARAMETER/SLOT` (`layer1.0.conv1.weight/exp_avg`). A slot with the shape of
  its parameter is a moment of each weight and grows as the weight does; any other is a counter, such as the scalar
  `step`.
- `optimizer.json`: the optimizer's class, its groups with their options and the names of their parameters, and all
  state that is no tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from growtool.checkpoint import infos_of, json_text, write_safetensors
from growtool.checkpoint.beside import OPTIMIZER, OPTIMIZER_TENSORS
from growtool.checkpoint.documents import read_document
from growtool.checkpoint.staging import write_text
from growtool.errors import CheckpointError
from growtool.finetune.optimizer_state import OptimizerState
from growtool.finetune.state.packed import references, unpacked

FORMAT = 1  # version of optimizer.json


def write_state(folder: Path, state: OptimizerState) -> None:
    """Write both files into `folder`.

    Raises:
        OSError: the disk is full; no half-written file is left.
    """
    infos = infos_of(state.tensors)
    write_safetensors(folder / OPTIMIZER_TENSORS, infos, lambda name: state.tensors[name], {"format": "pt"})
    document = {
        "format": FORMAT,
        "optimizer": state.algorithm,
        "tensors": {key: list(tensor.shape) for key, tensor in state.tensors.items()},
        "groups": list(state.groups),
        "values": dict(state.values),
        "extra": dict(state.extra),
    }
    write_text(folder / OPTIMIZER, json_text(document))


def read_state(folder: Path) -> OptimizerState:
    """Return the state that `write_state` wrote into `folder`.

    Raises:
        CheckpointError: a file is missing, damaged or of another format, or the two are no pair.
    """

    def read(document: Any) -> OptimizerState:
        if document["format"] != FORMAT:
            raise CheckpointError(f"found format {document['format']}, expected {FORMAT}; update growtool")
        try:
            tensors = load_file(folder / OPTIMIZER_TENSORS)
        except SafetensorError as error:  # no subclass of what `read_document` takes for damage
            raise ValueError(str(error)) from error
        state = OptimizerState(
            document["optimizer"], document["groups"], tensors, document["values"], document["extra"]
        )
        _require_whole(state, document.get("tensors"))
        return state

    return read_document(
        folder / OPTIMIZER,
        read,
        what=f"{folder}: the state of the optimizer ({OPTIMIZER}, {OPTIMIZER_TENSORS})",
        expected="what a run wrote; use another checkpoint of the run",
    )


def _require_whole(state: OptimizerState, shapes: Mapping[str, Sequence[int]] | None) -> None:
    """Check that the two files are the pair that was written.

    Args:
        state: the content of both files.
        shapes: shapes of the tensors in `optimizer.json`; None for a file of an earlier growtool, which has none.

    Raises:
        ValueError, TypeError, AttributeError: they are not, or `optimizer.json` is not built as it should be.
    """
    found = {key: list(tensor.shape) for key, tensor in state.tensors.items()}
    shapes = found if shapes is None else shapes
    different = sorted(key for key in found.keys() | shapes.keys() if found.get(key) != shapes.get(key))
    if different:
        raise ValueError(f"{different[0]}: found {found.get(different[0])}, expected {shapes.get(different[0])}")
    names = [name for group in state.groups for name in (*group, *group["params"])]
    slots = [slot for values in (*state.values.values(), state.extra) for slot in dict(values)]
    if not all(isinstance(name, str) for name in (state.algorithm, *names, *slots)):
        raise TypeError("found names of parameters that are not strings")
    nested = [*state.groups, state.values, state.extra]
    missing = sorted(references(nested) - found.keys())
    if missing:
        raise ValueError(f"{missing[0]}: found no such tensor")
    unpacked(nested, state.tensors)  # raises for a tuple that is none
