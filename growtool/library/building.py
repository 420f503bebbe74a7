"""Building a model without memory for its weights: parameters on the meta device, buffers on CPU with their values.

The values of buffers decide how the model may grow: a blur filter is the same for every channel, a table of rotary
frequencies is not.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from torch import Tensor, nn

Shapes = Mapping[str, tuple[int, ...]]
MOST_PARAMETERS = 20_000  # tensors; timm's deepest models have some 2000, and a mistyped depth would build for ever
_EPS = ("eps", "variance_epsilon")  # attributes of norms: torch and timm, and LlamaRMSNorm with its descendants
# Methods with which initialisers fill a parameter; `trunc_normal_` inverts the error function, scales and clamps.
_DRAWS = frozenset("normal_ uniform_ erfinv_ clamp_ mul_ add_".split())


def without_weights(create: Callable[[], nn.Module], loaded: Iterable[Tensor] = ()) -> nn.Module:
    """Return the model that a constructor builds, its parameters on meta, its buffers on CPU.

    The global random state stays, and warnings are dropped.

    Args:
        create: builds the model.
        loaded: meta tensors that `create` loads into the model. In-place operations on them are carried out, while
            those on other meta tensors are taken for initialisation and skipped.

    Raises:
        Exception: whatever `create` raises.
    """
    import torch

    quiet = warnings.catch_warnings(action="ignore")
    with quiet, torch.random.fork_rng(devices=[]), _without_initialisation(loaded):
        # Some modules make buffers on the device of a parameter (Swin's bias tables), some run a layer while they are
        # built (hybrid patch embeddings); those need a full build.
        with contextlib.suppress(RuntimeError), _parameters_on_meta():
            model = create()
            if not any(buffer.is_meta for buffer in model.buffers()):
                return model
        return create().apply(partial(_drop_parameters, _MovedToMeta()))


def seeded(create: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return the model that a constructor builds with weights drawn from `seed`; the global random state stays."""
    import torch

    with warnings.catch_warnings(action="ignore"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return create()


def set_eps(model: nn.Module, eps_of: Mapping[str, float]) -> None:
    """Set the eps of norms in place.

    Args:
        model: the model that is changed.
        eps_of: path of a norm -> its eps.

    Raises:
        TypeError: there is no such module, or it has no eps.
    """
    modules: dict[str, Any] = dict(model.named_modules())
    for path, eps in eps_of.items():
        name = _eps_attribute(modules.get(path))
        if name is None:
            raise TypeError(f"eps_of: {path} is not a norm of this model")
        setattr(modules[path], name, eps)


def eps_of(module: nn.Module) -> float | None:
    """Return what a norm adds to the variance; None if the module has no such attribute."""
    name = _eps_attribute(module)
    return None if name is None else getattr(module, name)


def _eps_attribute(module: nn.Module | None) -> str | None:
    return next((name for name in _EPS if isinstance(getattr(module, name, None), float)), None)


def constants_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that no checkpoint holds, by every name, as the constructor has filled them."""
    stored = model.state_dict().keys()
    buffers = model.named_buffers(remove_duplicate=False)
    return {name: buffer for name, buffer in buffers if name not in stored and not buffer.is_meta}


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's state dict by name."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def shared_names(state: Mapping[str, Tensor]) -> list[list[str]]:
    """Return the names of each tensor that a model holds under several names.

    Args:
        state: `state_dict(keep_vars=True)` of the model, in which a tied tensor is one object.
    """
    groups: dict[int, list[str]] = {}
    for name, tensor in state.items():
        groups.setdefault(id(tensor), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def places_of_ties(shared: Iterable[Iterable[str]], places: Mapping[str, str]) -> dict[str, str]:
    """Return the place in a file of each shared tensor that the file holds only under another of its names.

    Args:
        shared: the names of each shared tensor, from `shared_names`.
        places: name in the model -> name in the file.
    """
    kept = [(names, [name for name in names if name in places]) for names in shared]
    return {name: places[held[0]] for names, held in kept if held for name in names if name not in places}


class _MovedToMeta:
    """Moves parameters to meta; those that are the same view of one memory become one parameter, so that ties last."""

    def __init__(self) -> None:
        self._moved: dict[Any, nn.Parameter] = {}

    def __call__(self, parameter: nn.Parameter) -> nn.Parameter:
        from torch.multiprocessing.reductions import StorageWeakRef

        if parameter.is_meta:
            return parameter
        # A weak reference frees the numbers, but its address is not given to the next parameter, which would seem tied.
        memory = StorageWeakRef(parameter.untyped_storage())
        key = (memory, parameter.storage_offset(), parameter.shape, parameter.stride())
        if key not in self._moved:
            self._moved[key] = type(parameter)(parameter.to("meta"), requires_grad=parameter.requires_grad)
        return self._moved[key]


def _drop_parameters(on_meta: _MovedToMeta, module: nn.Module) -> None:
    for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
        setattr(module, name, on_meta(parameter))


def memory_of(tensor: Tensor) -> int:
    """Return a number that tensors in the same memory share, as long as one of them lives.

    It is the address of the storage object, as `data_ptr()` is 0 for all tensors on meta.
    """
    return int(tensor.untyped_storage()._cdata)


def _without_initialisation(loaded: Iterable[Tensor]) -> AbstractContextManager[object]:
    """While open, do not fill parameters with random numbers, which takes most of the time of a build.

    Args:
        loaded: meta tensors that are no parameters, and that operations in place are carried out on.
    """
    from torch import Tensor, nn
    from torch.overrides import TorchFunctionMode

    loaded_memories = frozenset(map(memory_of, loaded))

    def is_initialised(tensor: Any) -> bool:
        if isinstance(tensor, nn.Parameter):
            return True
        # An initialiser may fill a part or the `data` of a parameter, which is no Parameter itself.
        return isinstance(tensor, Tensor) and tensor.is_meta and memory_of(tensor) not in loaded_memories

    class Skipping(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            tensor = args[0] if args else kwargs.get("tensor")  # functions of nn.init dispatch with keywords alone
            draws = getattr(func, "__module__", "") == nn.init.__name__ or getattr(func, "__name__", "") in _DRAWS
            return tensor if draws and is_initialised(tensor) else func(*args, **kwargs)

    return Skipping()


@contextlib.contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """While open, move each parameter to meta as a module registers it, before it is initialised.

    `with torch.device("meta")` would move buffers as well.
    """
    from torch.nn.modules.module import register_module_parameter_registration_hook

    on_meta = _MovedToMeta()
    registered = 0

    def to_meta(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter:
        nonlocal registered
        registered += 1
        if registered > MOST_PARAMETERS:
            # No RuntimeError: after one, `without_weights` builds again, without a limit.
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


def empty_caches(model: nn.Module) -> None:
    """Empty the caches of the functions in the files of a model's classes, so that every pass runs all operations.

    A cached result would be a constant in the second trace of an architecture, where the first has operations.
    transformers' DINOv3 keeps the coordinates of its patches so.
    """
    homes = {sys.modules.get(type(module).__module__) for module in model.modules()}  # none of a class made by hand
    for home in homes - {None}:
        for value in list(vars(home).values()):
            for empty in _caches_of(value):
                empty()


def _caches_of(value: Any) -> Iterator[Callable[[], None]]:
    """Yield what empties the cache of a function, or of a function that it wraps.

    transformers' `compile_compatible_method_lru_cache` keeps an `lru_cache` in the closure of its wrapper.
    """
    candidates = [value]
    for cell in getattr(value, "__closure__", None) or ():
        try:
            candidates.append(cell.cell_contents)
        except ValueError:  # the variable has no value yet
            continue
    for function in candidates:
        if callable(function) and not isinstance(function, type) and callable(getattr(function, "cache_clear", None)):
            yield function.cache_clear
