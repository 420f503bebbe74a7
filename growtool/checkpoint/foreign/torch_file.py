"""Files of `torch.save`, read without running code of theirs, and the state dict among what trainers put beside it."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growtool.errors import CheckpointError, format_names

if TYPE_CHECKING:
    from torch import Tensor

# Keys under which trainers put a state dict, the first that is there counts; an average comes first.
_KEYS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model", "model_state_dict", "model_state", "net",
    "teacher", "network", "weights", "params_ema", "params",
)  # fmt: skip
_AVERAGED = "n_averaged"  # torch's AveragedModel counts in it


@dataclass(frozen=True, slots=True)
class StateDict:
    """A state dict as a file holds it.

    Attributes:
        tensors: by the names in the file.
        keys: where it stands in the file, from outside in.
        others: other keys beside `keys` that hold a state dict, too.
        left: names of what is no tensor of a model, and is left out.
        beside: what the outermost mapping holds.
    """

    tensors: Mapping[str, Tensor]
    keys: tuple[str, ...]
    others: tuple[str, ...]
    left: tuple[str, ...]
    beside: Mapping[str, Any]


def read_state_dict(path: Path) -> StateDict:
    """The state dict in a file of torch; nothing but tensors, plain data and plain objects is unpickled.

    Raises:
        CheckpointError: there is no such file, it needs code to be run, or holds no state dict.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected a state dict saved by torch")
    return _unwrapped(_read(path), path)


def expressions_allowing(path: Path) -> tuple[str, ...]:
    """Python for the objects that torch has to be allowed to make before it reads a file with weights_only."""
    table = _allowed()
    try:
        import torch

        needed = set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # files of the time before torch 1.6 do not tell
        needed = set() if _reads(path, []) else {"argparse.Namespace"}
    return tuple(expression for name, (expression, _) in table.items() if name in needed)


def _read(path: Path) -> Any:
    import torch

    try:
        with torch.serialization.safe_globals(_objects()), path.open("rb") as file:  # by its name torch may mistake it
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        foreign = _foreign(path)
        if foreign:
            raise CheckpointError(
                f"{path}: torch does not load it with weights_only, it holds {format_names(foreign, 4)}; growtool "
                "runs no code of a file: save `model.state_dict()` alone where it was made"
            ) from error
        said = f": {str(error).partition(chr(10))[0][:80]}" if str(error) else ""
        raise CheckpointError(
            f"{path}: torch does not load it with weights_only ({type(error).__name__}{said}); copy or download the "
            "file again, or save `model.state_dict()` alone where it was made"
        ) from error


def _reads(path: Path, objects: list[Any]) -> bool:
    import torch

    try:
        with torch.serialization.safe_globals(objects), path.open("rb") as file:
            torch.load(file, map_location="cpu", weights_only=True)
    except Exception:
        return False
    return True


def _foreign(path: Path) -> list[str]:
    """What a file holds that growtool does not make."""
    import torch

    try:
        return sorted(set(torch.serialization.get_unsafe_globals_in_checkpoint(path)) - set(_allowed()))
    except Exception:
        return []


def _objects() -> list[Any]:
    import numpy as np

    kinds = [type(np.dtype(code)) for code in "? i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8".split()]
    return [*(made for _, made in _allowed().values()), *kinds]


def _allowed() -> dict[str, tuple[str, Any]]:
    """Name of a class or function that only holds data -> Python for what torch is to be allowed, and that itself."""
    import numpy as np

    table: dict[str, tuple[str, Any]] = {
        "argparse.Namespace": ("argparse.Namespace", argparse.Namespace),
        "numpy.dtype": (
            "numpy.dtype, *(type(numpy.dtype(code)) for code in '? i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8'.split())",
            np.dtype,
        ),
        "numpy.ndarray": ("numpy.ndarray", np.ndarray),
    }
    for system, made in (("Posix", pathlib.PurePosixPath), ("Windows", pathlib.PureWindowsPath)):
        for home in ("pathlib", "pathlib._local"):  # the second: Python 3.13
            name = f"{home}.{system}Path"
            table[name] = (f"(pathlib.{made.__name__}, {name!r})", (made, name))
    makers = {"scalar": ("float64(0)", np.float64(0)), "_reconstruct": ("zeros(1)", np.zeros(1))}
    for function, (sample, value) in makers.items():
        for home in ("numpy._core.multiarray", "numpy.core.multiarray"):  # the second: numpy 1
            name = f"{home}.{function}"
            table[name] = (f"(numpy.{sample}.__reduce__()[0], {name!r})", (value.__reduce__()[0], name))
    return table


def _unwrapped(content: Any, path: Path) -> StateDict:
    beside = content if isinstance(content, Mapping) else {}
    keys: list[str] = []
    others: tuple[str, ...] = ()
    while (held := _state_dicts(content)) and (keys or not _is_state(content) or any(key in _KEYS for key in held)):
        key = next((key for key in _KEYS if key in held), held[0] if len(held) == 1 else None)
        if key is None:
            raise CheckpointError(
                f"{path}: found several state dicts, under {', '.join(held)}, expected one; save the one that is meant "
                "in a file of its own"
            )
        others = others or tuple(other for other in held if other != key)
        keys.append(key)
        content = content[key]
    if not _is_state(content):
        found = type(content).__name__
        found = f"keys {format_names([str(key) for key in content])}" if isinstance(content, Mapping) else found
        raise CheckpointError(f"{path}: found no state dict ({found}), expected names and tensors")
    kept = {name: value for name, value in content.items() if _is_tensor(value) and name != _AVERAGED}
    left = tuple(str(name) for name in content if name not in kept)
    return StateDict(kept, tuple(keys), others, left, beside)


def _state_dicts(content: Any) -> list[str]:
    """Keys of a mapping under which a state dict stands, or something that holds one under a known key."""
    if not isinstance(content, Mapping):
        return []
    return [
        key for key, value in content.items()
        if isinstance(key, str) and (_is_state(value) or (key in _KEYS and _state_dicts(value)))
    ]  # fmt: skip


def _is_state(value: Any) -> bool:
    """Whether something is a mapping of names, most of which are those of tensors."""
    if not isinstance(value, Mapping) or not value or not all(isinstance(name, str) for name in value):
        return False
    return 2 * sum(map(_is_tensor, value.values())) > len(value)


def _is_tensor(value: Any) -> bool:
    from torch import Tensor

    return isinstance(value, Tensor)
