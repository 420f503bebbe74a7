"""A state dict as a library loads it: names, shapes and values may change on the way into the model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from growtool.errors import format_names

if TYPE_CHECKING:
    from torch import Tensor, nn

_SHOWN = 3  # tensors of each kind of change that a message names


@dataclass(frozen=True, slots=True)
class Script:
    """Lines of Python that load a checkpoint as the library does, and save it.

    Attributes:
        imports: the line that imports what the others use.
        call: an expression for the model; the state dict is the variable `state` in it.
        saving: a line that writes a folder of the variable `model`; `{}` stands for the folder's name.
    """

    imports: str
    call: str
    saving: str


Changed = tuple[str, str | None, Sequence[int], Sequence[int], bool]
"""Name in the model, name in the file or None, shape in the file, shape in the model, whether all numbers are kept."""


@dataclass(frozen=True)
class Loaded:
    """A model that a library has loaded a state dict into.

    Attributes:
        model: the model with its weights.
        given: the state dict as the library handed it to the model.
        missing: tensors of the model that the state dict had no values for.
        script: the Python that does the same and saves a folder; None if none gives the same model.
    """

    model: nn.Module
    given: Mapping[str, Tensor]
    missing: tuple[str, ...]
    script: Script | None = None

    def changes(self, found: Mapping[str, Tensor]) -> list[str]:
        """Return what the library did to the tensors `found` in the file, a phrase for each kind of change.

        A tensor that has another name in the model is recognised by its values.
        """
        same = {
            name
            for name, value in self.given.items()
            if name in found and found[name].shape == value.shape and _same_numbers(found[name], value)
        }
        left = {name: value for name, value in found.items() if name not in same}
        changed = list[Changed]()
        for name, value in self.given.items():
            if name in same:
                continue
            twin = next((old for old, before in left.items() if _same_numbers(before, value)), None)
            old = twin or (name if name in left else None)
            changed.append((name, old, left.pop(old).shape if old else (), value.shape, twin is not None))
        return told_changes(changed, left, self.missing)


def told_changes(changed: Iterable[Changed], left: Iterable[str], missing: Iterable[str] = ()) -> list[str]:
    """Return what was done to tensors while they were loaded, a phrase for each kind of change.

    Args:
        changed: tensors of the model that are not as they were in the file.
        left: names of tensors of the file that were not used.
        missing: names of tensors of the model that got no values.
    """
    kinds: dict[str, list[str]] = {"renames": [], "reshapes": [], "resamples or cuts": [], "makes": []}
    for name, old, before, after, whole in changed:
        if old is None:
            kinds["makes"].append(f"{name} from others")
            continue
        where = f"{old} to {name}" if old != name else name
        kind = "resamples or cuts" if not whole else "reshapes" if before != after else "renames"
        kinds[kind].append(where if before == after else f"{where} from {list(before)} to {list(after)}")
    kinds["leaves out"] = list(left)
    kinds["starts anew, with numbers of its own,"] = list(missing)
    return [f"{kind} {format_names(names, _SHOWN)}" for kind, names in kinds.items() if names]


@dataclass
class Recorded:
    """The state dict that `load_state_dict` was called with last, and the names that it lacked."""

    given: dict[str, Tensor] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


def load_strictly(make: Callable[[], nn.Module], state: Mapping[str, Tensor]) -> Loaded:
    """Build a model and load a state dict into it unchanged; the global random state stays.

    Raises:
        Exception: whatever the constructor or `load_state_dict` raises.
    """
    import torch

    with torch.random.fork_rng(devices=[]), recording() as recorded:
        model = make()
        model.load_state_dict(state, strict=True)
    return Loaded(model.eval(), recorded.given, recorded.missing)


def _held_against(model: nn.Module, state: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
    """Return and raise what `load_state_dict` would, by names and shapes alone, without loading anything."""
    from torch.nn.modules.module import _IncompatibleKeys

    expected = model.state_dict()
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    misshaped = [name for name in state if name in expected and state[name].shape != expected[name].shape]
    if misshaped or (strict and (missing or unexpected)):
        raise RuntimeError(f"missing {missing}, unexpected {unexpected}, of other shapes {misshaped}")
    return _IncompatibleKeys(missing, unexpected)


def _same_numbers(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors hold the same numbers in the same order, whatever their shapes, in the type of `a`."""
    import torch

    return a.numel() == b.numel() and torch.equal(a.flatten(), b.flatten().to(a.dtype))


@contextlib.contextmanager
def recording(*, dry: bool = False) -> Iterator[Recorded]:
    """While open, record the state dict of the last call of `load_state_dict` on any module.

    Whatever a library does to a state dict, it ends in that method. The method is replaced for all threads.

    Args:
        dry: compare names and shapes only and load nothing, for tensors on meta.
    """
    from torch import nn

    recorded, original = Recorded(), nn.Module.load_state_dict

    def load_state_dict(self: nn.Module, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        result = (_held_against if dry else original)(self, state_dict, *args, **kwargs)
        recorded.given, recorded.missing = dict(state_dict), tuple(result.missing_keys)
        return result

    nn.Module.load_state_dict = load_state_dict  # type: ignore[method-assign]
    try:
        yield recorded
    finally:
        nn.Module.load_state_dict = original  # type: ignore[method-assign]
