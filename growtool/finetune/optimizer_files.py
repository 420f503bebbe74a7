"""An optimizer's state on disk: a pair of files beside the weights.

- `optimizer.safetensors`: every tensor, as `PARAMETER/SLOT` (`layer1.0.conv1.weight/exp_avg`). A slot with the shape of
  its parameter is a moment of each weight and grows as it does; any other, such as the scalar `step`, counts.
- `optimizer.json`: the optimizer's class, its groups with the names of their parameters and their options, and what
  state there is besides tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from growtool.checkpoint import infos_of, json_text, write_safetensors
from growtool.checkpoint.beside import OPTIMIZER, OPTIMIZER_TENSORS
from growtool.checkpoint.documents import read_document
from growtool.checkpoint.staging import write_text
from growtool.errors import CheckpointError
from growtool.finetune.optimizer_state import OptimizerState
from growtool.finetune.state.packed import references, unpacked

FORMAT = 1


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
    """What `write_state` wrote.

    Raises:
        CheckpointError: a file is missing, damaged or of another format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    def read(document: Any) -> OptimizerState:
        if document["format"] != FORMAT:
            raise CheckpointError(f"found format {document['format']}, expected {FORMAT}; update growtool")
        try:
            tensors = load_file(folder / OPTIMIZER_TENSORS)
        except SafetensorError as error:
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
    """Raise ValueError, TypeError or AttributeError where the two files are not the pair that was written.

    Args:
        state: what they hold.
        shapes: of the tensors, by the document; None where it is of a growtool that did not write them down.
    """
    found = {key: list(tensor.shape) for key, tensor in state.tensors.items()}
    shapes = found if shapes is None else shapes
    other = sorted(key for key in found.keys() | shapes.keys() if found.get(key) != shapes.get(key))
    if other:
        raise ValueError(f"{other[0]}: found {found.get(other[0])}, expected {shapes.get(other[0])}")
    named = [name for group in state.groups for name in (*group, *group["params"])]
    slots = [slot for values in (*state.values.values(), state.extra) for slot in dict(values)]
    if not all(isinstance(name, str) for name in (state.algorithm, *named, *slots)):
        raise TypeError("found names of parameters that are not strings")
    lost = sorted(references([*state.groups, state.values, state.extra]) - found.keys())
    if lost:
        raise ValueError(f"{lost[0]}: found no such tensor")
    unpacked([*state.groups, state.values, state.extra], state.tensors)
