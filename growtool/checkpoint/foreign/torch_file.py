"""Files of `torch.save`, read without running code in them, and the state dict among what trainers save with it.

With `weights_only` torch unpickles tensors and plain containers alone. A few more classes are allowed here that only
hold data, and that training scripts commonly save: the parsed arguments, paths, and numbers and arrays of numpy.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growtool.errors import CheckpointError, format_names

if TYPE_CHECKING:
    from torch import Tensor

# Keys under which trainers save a state dict; the first that is there counts. Averages (EMA) come before raw weights.
_KEYS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model", "model_state_dict", "model_state", "net",
    "teacher", "network", "weights", "params_ema", "params",
)  # fmt: skip
_AVERAGED = "n_averaged"  # entry of torch's AveragedModel: how many models it has averaged


@dataclass(frozen=True, slots=True)
class StateDict:
    """A state dict as a file holds it.

    Attributes:
        tensors: the tensors by their names in the file.
        keys: the keys that lead to the state dict, from outside in.
        others: other keys that hold a state dict, too, beside the first of `keys` that had a choice.
        left: names of entries that are no tensors of a model, and are left out.
        beside: the outermost mapping of the file, with the arguments of the training for example.
    """

    tensors: Mapping[str, Tensor]
    keys: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    beside: Mapping[str, Any] = field(default_factory=dict)


def read_state_dict(path: Path) -> StateDict:
    """Return the state dict in a file of `torch.save`, without running code in the file.

    Raises:
        CheckpointError: there is no such file, it cannot be read without running its code, or holds no state dict.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected a state dict saved by torch")
    return _unwrapped(_read(path), path)


def expressions_allowing(path: Path) -> tuple[str, ...]:
    """Return Python expressions for the objects that torch must be allowed to make, to read a file with weights_only.

    They are for `torch.serialization.add_safe_globals`, in lines that the user copies.
    """
    needed = _named_in(path)
    if needed is None:  # scripts mostly saved arguments
        needed = set() if _needs_none(path) else {"argparse.Namespace"}
    return tuple(expression for name, (expression, _) in _allowed().items() if name in needed)


def _read(path: Path) -> Any:
    """Return the content of a file of torch; raise CheckpointError if that takes code of the file, or it is damaged."""
    try:
        return _loaded(path, _objects())
    except Exception as error:
        foreign = sorted((_named_in(path) or set()) - _allowed().keys())
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


def _loaded(path: Path, objects: list[Any]) -> Any:
    """Return the content of a file of torch, which may make these objects; raise whatever torch raises."""
    import torch

    # Opened here: given a path that ends in .safetensors, torch reads the file as one, even if it is a pickle.
    with torch.serialization.safe_globals(objects), path.open("rb") as file:
        return torch.load(file, map_location="cpu", weights_only=True)


def _needs_none(path: Path) -> bool:
    """Return whether torch reads a file with weights_only as it is."""
    with contextlib.suppress(Exception):
        _loaded(path, [])
        return True
    return False


def _named_in(path: Path) -> set[str] | None:
    """Return the names of classes and functions in a file that torch would have to be allowed; None if it cannot tell.

    It looks into zip files alone, which it writes since 1.6.
    """
    import torch

    with contextlib.suppress(Exception):
        return set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    return None


def _objects() -> list[Any]:
    """Return the objects that torch is allowed to make, as `torch.serialization.safe_globals` takes them."""
    import numpy as np

    # A pickle names numpy.dtype alone, but torch checks the class of the dtype that it makes: one per type of numbers.
    kinds = [type(np.dtype(code)) for code in "? i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8".split()]
    return [*(made for _, made in _allowed().values()), *kinds]


def _allowed() -> dict[str, tuple[str, Any]]:
    """Return the classes and functions that only make data: name in a pickle -> (Python expression, the object itself).

    The object may be a pair with the name under which pickles know it, as `add_safe_globals` takes it.
    """
    import numpy as np

    table: dict[str, tuple[str, Any]] = {
        "argparse.Namespace": ("argparse.Namespace", argparse.Namespace),
        "numpy.dtype": (
            "numpy.dtype, *(type(numpy.dtype(code)) for code in '? i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8'.split())",
            np.dtype,
        ),
        "numpy.ndarray": ("numpy.ndarray", np.ndarray),
    }
    # Pure paths stand in for paths, as a WindowsPath cannot be made elsewhere.
    for system, pure in (("Posix", pathlib.PurePosixPath), ("Windows", pathlib.PureWindowsPath)):
        for home in ("pathlib", "pathlib._local"):  # the second is the module in Python 3.13
            name = f"{home}.{system}Path"
            table[name] = (f"(pathlib.{pure.__name__}, {name!r})", (pure, name))
    # numpy's functions for scalars and arrays are private; the first entry of a sample's `__reduce__` is one of them.
    makers = {"scalar": ("float64(0)", np.float64(0)), "_reconstruct": ("zeros(1)", np.zeros(1))}
    for function, (sample, value) in makers.items():
        for home in ("numpy._core.multiarray", "numpy.core.multiarray"):  # the second is the module in numpy 1
            name = f"{home}.{function}"
            table[name] = (f"(numpy.{sample}.__reduce__()[0], {name!r})", (value.__reduce__()[0], name))
    return table


def _unwrapped(content: Any, path: Path) -> StateDict:
    """Return the state dict in the content of a file, or in mappings inside of it."""
    beside = content if isinstance(content, Mapping) else {}
    keys: list[str] = []
    others: tuple[str, ...] = ()
    # A state dict at the top is taken as it is, even if it holds another mapping of tensors, unless under a known key.
    while (inner := _state_dicts(content)) and (keys or not _is_state(content) or any(key in _KEYS for key in inner)):
        key = next((key for key in _KEYS if key in inner), inner[0] if len(inner) == 1 else None)
        if key is None:
            raise CheckpointError(
                f"{path}: found several state dicts, under {', '.join(inner)}, expected one; save the one that is "
                "meant in a file of its own"
            )
        others = others or tuple(other for other in inner if other != key)
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
    """Return the keys of a mapping that hold a state dict, or, if known themselves, a mapping with such keys."""
    if not isinstance(content, Mapping):
        return []
    return [
        key for key, value in content.items()
        if isinstance(key, str) and (_is_state(value) or (key in _KEYS and _state_dicts(value)))
    ]  # fmt: skip


def _is_state(value: Any) -> bool:
    """Return whether a value is a mapping from strings to values of which more than half are tensors."""
    if not isinstance(value, Mapping) or not value or not all(isinstance(name, str) for name in value):
        return False
    return 2 * sum(map(_is_tensor, value.values())) > len(value)


def _is_tensor(value: Any) -> bool:
    from torch import Tensor

    return isinstance(value, Tensor)
