"""Building a model without memory for its weights: parameters on the meta device, buffers real.

Buffers have to be real because their values decide how the model may grow: a blur filter is the same for every channel,
a table of rotary frequencies is not.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from torch import Tensor, nn

Shapes = Mapping[str, tuple[int, ...]]
MOST_PARAMETERS = 20_000  # tensors; timm's deepest models have some 2000, and a mistyped depth would build for ever
_EPS = ("eps", "variance_epsilon")  # how norms call it
# What initialisers do in place to a parameter.
_DRAWS = frozenset("normal_ uniform_ erfinv_ clamp_ mul_ add_".split())


def without_weights(create: Callable[[], nn.Module], loaded: Iterable[Tensor] = ()) -> nn.Module:
    """What a constructor builds, its parameters on meta, its buffers on CPU; the global random state stays.

    Args:
        create: the constructor.
        loaded: tensors that it loads, which it changes in place as it likes; its own it only initialises so.

    Raises:
        Exception: whatever the constructor trips over.
    """
    import torch

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), _without_initialisation(loaded):
        warnings.simplefilter("ignore")
        # Some modules make buffers on the device of a parameter (Swin's bias tables), some run a layer while they are
        # built (hybrid patch embeddings); those need a full build.
        with contextlib.suppress(RuntimeError), _parameters_on_meta():
            model = create()
            if not any(buffer.is_meta for buffer in model.buffers()):
                return model
        return create().apply(partial(_drop_parameters, _MovedToMeta()))


def seeded(create: Callable[[], nn.Module], seed: int) -> nn.Module:
    """What a constructor builds with the numbers drawn from `seed`; the global random state stays."""
    import torch

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        return create()


def set_eps(model: nn.Module, eps_of: Mapping[str, float]) -> None:
    """Give norms another eps.

    Args:
        model: changed in place.
        eps_of: path of a norm -> its eps.

    Raises:
        TypeError: no such module, or one without an eps.
    """
    modules: dict[str, Any] = dict(model.named_modules())
    for path, eps in eps_of.items():
        name = _eps_attribute(modules.get(path))
        if name is None:
            raise TypeError(f"eps_of: {path} is not a norm of this model")
        setattr(modules[path], name, eps)


def eps_of(module: nn.Module) -> float | None:
    """What a norm adds to the variance; None where it does not say."""
    name = _eps_attribute(module)
    return None if name is None else getattr(module, name)


def _eps_attribute(module: nn.Module | None) -> str | None:
    return next((name for name in _EPS if isinstance(getattr(module, name, None), float)), None)


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every stored tensor by name."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def shared_names(state: Mapping[str, Tensor]) -> list[list[str]]:
    """The names of each tensor that the model holds under several."""
    groups: dict[int, list[str]] = {}
    for name, tensor in state.items():
        groups.setdefault(id(tensor), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


class _MovedToMeta:
    """Moves parameters to meta, those in one memory to one parameter, so that ties last."""

    def __init__(self) -> None:
        self._moved: dict[Any, nn.Parameter] = {}

    def __call__(self, parameter: nn.Parameter) -> nn.Parameter:
        from torch.multiprocessing.reductions import StorageWeakRef

        if parameter.is_meta:
            return parameter
        memory = StorageWeakRef(parameter.untyped_storage())  # holds the address, not the numbers
        key = (memory, parameter.storage_offset(), parameter.shape, parameter.stride())
        if key not in self._moved:
            self._moved[key] = type(parameter)(parameter.to("meta"), requires_grad=parameter.requires_grad)
        return self._moved[key]


def _drop_parameters(on_meta: _MovedToMeta, module: nn.Module) -> None:
    for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
        setattr(module, name, on_meta(parameter))


def memory_of(tensor: Tensor) -> int:
    """The same number for tensors in the same memory, on meta too, while one of them lives."""
    return int(tensor.untyped_storage()._cdata)


def _without_initialisation(loaded: Iterable[Tensor]) -> AbstractContextManager[object]:
    """While open, parameters are not filled with random numbers, which takes most of the time of a build."""
    from torch import Tensor, nn
    from torch.overrides import TorchFunctionMode

    others = frozenset(map(memory_of, loaded))

    def _is_drawn(tensor: Any) -> bool:
        if isinstance(tensor, nn.Parameter):
            return True
        return isinstance(tensor, Tensor) and tensor.is_meta and memory_of(tensor) not in others

    class Skipping(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            tensor = args[0] if args else kwargs.get("tensor")  # by name from the functions of nn.init
            draws = getattr(func, "__module__", "") == nn.init.__name__ or getattr(func, "__name__", "") in _DRAWS
            return tensor if draws and _is_drawn(tensor) else func(*args, **kwargs)

    return Skipping()


@contextlib.contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """While open, each parameter moves to meta as a module registers it, before it is initialised."""
    from torch.nn.modules.module import register_module_parameter_registration_hook

    on_meta = _MovedToMeta()

    held = 0

    def to_meta(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter:
        nonlocal held
        held += 1
        if held > MOST_PARAMETERS:
            raise ValueError(
                f"found more than {MOST_PARAMETERS} tensors, expected a number of blocks that can be built"
            )
        return on_meta(parameter)

    # torch annotates the hook as returning None, yet registers what it returns.
    hook = register_module_parameter_registration_hook(cast("Callable[..., None]", to_meta))
    try:
        yield
    finally:
        hook.remove()
