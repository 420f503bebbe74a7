"""What a library makes of tensors while it loads them: names, shapes and values change on the way into the model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from growtool.errors import format_names

if TYPE_CHECKING:
    from torch import Tensor, nn

_SHOWN = 3  # tensors of a kind of change that are told by name


@dataclass(frozen=True, slots=True)
class Script:
    """The Python that does the same.

    Attributes:
        imports: the line that it begins with.
        call: makes the model; a state dict is called `state` in it.
        saving: writes a folder of `model`, `{}` for its name.
    """

    imports: str
    call: str
    saving: str


Changed = tuple[str, str | None, Sequence[int], Sequence[int], bool]
"""A tensor of a model, the one of the file that it comes from, both shapes, and whether it has all of its numbers."""


@dataclass(frozen=True)
class Loaded:
    """What a library made of a state dict.

    Attributes:
        model: what it built, with the weights.
        given: the state dict it put into the model.
        missing: tensors of the model that it had no values for.
        script: the Python that does the same and saves a folder; None where none gives the same model.
    """

    model: nn.Module
    given: Mapping[str, Tensor]
    missing: tuple[str, ...]
    script: Script | None = None

    def changes(self, found: Mapping[str, Tensor]) -> list[str]:
        """What the library did to the tensors `found` in the file, a phrase for each kind; none where they stay.

        A tensor that stands under another name is found by its values.
        """
        import torch

        same = {name for name, value in self.given.items() if name in found and _equal(found[name], value)}
        rest = {name: value for name, value in found.items() if name not in same}
        by_size: dict[int, list[str]] = {}
        for name, value in rest.items():
            by_size.setdefault(value.numel(), []).append(name)
        made = list[Changed]()
        for name in (name for name in self.given if name not in same):
            value = self.given[name]
            twin = next((old for old in by_size.get(value.numel(), ()) if old in rest
                         and torch.equal(rest[old].flatten(), value.flatten().to(rest[old].dtype))), None)  # fmt: skip
            old = twin or (name if name in rest else None)
            made.append((name, old, rest.pop(old).shape if old else (), value.shape, twin is not None))
        return told_changes(made, rest, self.missing)


def told_changes(made: Iterable[Changed], left: Iterable[str], missing: Iterable[str] = ()) -> list[str]:
    """What was done to tensors while they were loaded, a phrase for each kind.

    Args:
        made: those that are not as they were in the file.
        left: of the file, and of no use.
        missing: of the model, without values.
    """
    kinds: dict[str, list[str]] = {"renames": [], "reshapes": [], "resamples or cuts": [], "makes": []}
    for name, old, before, after, whole in made:
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
    """The state dict that a model was given last, and what it lacked."""

    given: dict[str, Tensor] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


def load_strictly(make: Callable[[], nn.Module], state: Mapping[str, Tensor]) -> Loaded:
    """A model that takes a state dict as it is; the global random state stays.

    Raises:
        Exception: whatever the constructor or torch trips over.
    """
    import torch

    with torch.random.fork_rng(devices=[]), recording() as recorded:
        model = make()
        model.load_state_dict(state, strict=True)
    return Loaded(model.eval(), recorded.given, recorded.missing)


def _held_against(model: nn.Module, state: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
    """What `load_state_dict` finds, and raises, by names and shapes alone."""
    from torch.nn.modules.module import _IncompatibleKeys

    own = model.state_dict()
    missing, unexpected = [name for name in own if name not in state], [name for name in state if name not in own]
    misshaped = [name for name in state if name in own and state[name].shape != own[name].shape]
    if misshaped or (strict and (missing or unexpected)):
        raise RuntimeError(f"missing {missing}, unexpected {unexpected}, of other shapes {misshaped}")
    return _IncompatibleKeys(missing, unexpected)


def _equal(a: Tensor, b: Tensor) -> bool:
    import torch

    return a.shape == b.shape and torch.equal(a, b.to(a.dtype))


@contextlib.contextmanager
def recording(*, dry: bool = False) -> Iterator[Recorded]:
    """While open, the state dict that a model is given last is kept, and what it lacked.

    Args:
        dry: only hold it against the model, for tensors without numbers.
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
