"""Building a timm model without memory for its weights: parameters on the meta device, buffers real.

Buffers have to be real because their values decide how the model may grow: a blur filter is the same for every channel,
a table of rotary frequencies is not.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from growtool.checkpoint.reach import register
from growtool.errors import CheckpointError

if TYPE_CHECKING:
    from torch import nn

    from growtool.checkpoint.spec import ModelSpec

MOST_PARAMETERS = 20_000  # tensors; timm's deepest models have some 2000, and a mistyped depth would build for ever
# What initialisers do in place to a parameter.
_DRAWS = frozenset("normal_ uniform_ erfinv_ clamp_ mul_ add_".split())


def build(spec: ModelSpec, *, where: str = "model") -> nn.Module:
    """The model of `spec` in eval mode, its parameters on meta, its buffers on CPU.

    Raises:
        CheckpointError: timm does not know the architecture, or its constructor refuses the arguments.
    """
    require_known(spec.architecture, where=where)
    try:
        model = _create(spec)
    except Exception as error:  # whatever a constructor trips over when its arguments do not fit together
        raise CheckpointError(
            f"{where}: timm cannot build {spec.described}: {type(error).__name__}: {error}; {_remedy(spec, str(error))}"
        ) from error
    config = cast("dict[str, Any]", model.pretrained_cfg)
    # timm leaves it as it was, whatever the arguments say, and takes this size where there is none
    channels, *size = config.get("input_size") or (3, 224, 224)
    wanted = spec.model_args.get("img_size") or size
    size = [wanted, wanted] if isinstance(wanted, int) else wanted
    config["input_size"] = (spec.model_args.get("in_chans") or channels, *size)
    return model.eval()


def initialised(spec: ModelSpec, seed: int) -> nn.Module:
    """The model of `spec` with the values timm draws for it from `seed`, in memory; the global random state stays."""
    import torch

    register()
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        return _created(spec)


def require_known(architecture: str, *, where: str) -> None:
    """Raise a CheckpointError with the nearest names unless timm's registry holds `architecture`."""
    import timm

    register()
    if timm.is_model(architecture):
        return
    near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "see `timm.list_models()`"
    raise CheckpointError(f"{where}: architecture: found {architecture!r}, expected a name of timm's registry; {hint}")


def input_size(model: nn.Module) -> tuple[int, int, int]:
    """Channels, height and width of the images the model was built for."""
    channels, height, width = cast("Mapping[str, Any]", model.pretrained_cfg)["input_size"]
    height, width = getattr(getattr(model, "patch_embed", None), "img_size", None) or (height, width)
    return int(channels), int(height), int(width)


def runs(model: nn.Module) -> bool:
    """Whether a model on meta takes the images it was built for."""
    import torch

    replica = copy.deepcopy(model).to("meta").eval()
    try:
        with torch.no_grad():
            replica(torch.zeros((2, *input_size(model)), device="meta"))
    except Exception:  # whatever a forward pass trips over when its layers do not fit together
        return False
    return True


def _created(spec: ModelSpec) -> nn.Module:
    """What timm builds from a folder: there an argument that is null is handed on, while `create_model` drops it."""
    from timm.models import model_entrypoint

    name, _, tag = spec.architecture.partition(".")
    model: nn.Module = model_entrypoint(name)(
        pretrained=False,
        pretrained_cfg=dict(spec.pretrained_cfg) or tag or None,
        pretrained_cfg_overlay=None,
        cache_dir=None,
        **spec.model_args,
    )
    return model


def _create(spec: ModelSpec) -> nn.Module:
    import torch

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), _without_initialisation():
        warnings.simplefilter("ignore")
        # Some modules make buffers on the device of a parameter (Swin's bias tables), some run a layer while they are
        # built (hybrid patch embeddings); those need a full build.
        with contextlib.suppress(RuntimeError), _parameters_on_meta():
            model = _created(spec)
            if not any(buffer.is_meta for buffer in model.buffers()):
                return model
        return _created(spec).apply(partial(_drop_parameters, _MovedToMeta()))


def _remedy(spec: ModelSpec, said: str) -> str:
    refused = re.search(r"unexpected keyword argument '(\w+)'", said)
    if refused and refused[1] not in spec.model_args:  # what timm hands to every entry point, such as `cache_dir`
        return f"the entry point of {spec.architecture} has to take `**kwargs` and drop what it does not know"
    return f"check model_args against the constructor of {spec.architecture}"


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


def _without_initialisation() -> AbstractContextManager[object]:
    """While open, parameters are not filled with random numbers, which takes most of the time of a build."""
    from torch import Tensor, nn
    from torch.overrides import TorchFunctionMode

    def _is_drawn(tensor: Any) -> bool:
        return isinstance(tensor, nn.Parameter) or (isinstance(tensor, Tensor) and tensor.is_meta)

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
