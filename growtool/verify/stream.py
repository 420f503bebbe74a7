"""Running a checkpoint without loading it: each weight is read when an operation needs it, and dropped afterwards.

The model is a skeleton whose parameters live on the meta device. While it runs, a `TorchFunctionMode` sees every torch
function before it is carried out, puts the stored tensor in the place of the skeleton's, and computes with real
activations. So there is never more in memory than the activations and the weights of one operation.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from growtool.checkpoint import Checkpoint
from growtool.checkpoint.match import matched
from growtool.errors import PlanError
from growtool.library import Inputs, ModelSpec, build, library_of, meta_inputs

CPU = torch.device("cpu")
Outputs = tuple[Tensor, ...]
_AT_A_TIME = 2  # models that run at once; each holds activations and a weight


def _getter(attribute: str) -> Callable[..., Any]:
    """Return the function that a mode is given when `tensor.attribute` is read."""
    return getattr(Tensor, attribute).__get__  # type: ignore[no-any-return]


# Questions that the skeleton answers as the stored tensor would, without a read. All else needs the values.
_ATTRIBUTES = frozenset(_getter(name) for name in ("shape", "dtype", "ndim", "requires_grad"))
_METHODS = frozenset({Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.__len__})
_ANSWERED_BY_SKELETON = _ATTRIBUTES | _METHODS
_DEVICE = _getter("device")  # the skeleton would answer `meta`


class StreamedModel:
    """A checkpoint as a function from inputs to logits (to features, without a classifier), in eval mode.

    Args:
        checkpoint: holds the weights.
        dtype: the type of the arithmetic; stored values are cast to it as they are read.
        eps: path of a norm -> the eps that it runs with in place of its own.
        device: computes; inputs and results are on the CPU.

    Attributes:
        checkpoint: the checkpoint, its tensors under the names of the architecture.
        model: the skeleton; its floating-point tensors have the type of the arithmetic.
        library: builds and calls the model.
        input_sizes: the size of each tensor that the model takes, by name.
        classes: number of classes; 0 for a model that decides nothing.

    Raises:
        CheckpointError: the weights are not those of the architecture.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        dtype: torch.dtype = torch.float32,
        *,
        eps: Mapping[str, float] | None = None,
        device: torch.device = CPU,
    ) -> None:
        skeleton = build(checkpoint.spec, where=checkpoint.name)
        self.library = library_of(checkpoint.spec)
        self.library.set_eps(skeleton, eps or {})
        checkpoint = matched(checkpoint, skeleton)
        self.checkpoint = checkpoint
        self.dtype, self.device = dtype, device
        self.input_sizes = meta_inputs(checkpoint.spec, skeleton, 1).sizes
        self.classes = self.library.classes(skeleton)
        # parameters on meta for free, and buffers; counters and indices keep their type
        self.model = skeleton.double() if dtype == torch.float64 else skeleton.float()
        _place(self.model, device)
        self._weights = _Weights(checkpoint, self.model, dtype, device)

    def __call__(self, inputs: Inputs | Tensor) -> Tensor:
        """Return the logits [batch, ..., classes] of inputs.

        Raises:
            PlanError: the model returns several tensors.
        """
        outputs = self.outputs(inputs)
        if len(outputs) != 1:
            raise PlanError(f"{self.checkpoint.name}: returns {len(outputs)} tensors, expected one; name a classifier")
        return outputs[0]

    def outputs(self, inputs: Inputs | Tensor) -> Outputs:
        """Return every tensor that the model returns for inputs; a tensor stands for the first that it takes."""
        if isinstance(inputs, Tensor):
            inputs = Inputs({next(iter(self.input_sizes)): inputs})
        with torch.no_grad(), self._weights:
            returned = self.library.run(self.model, inputs.to(self.dtype, self.device))
        return tuple(output.cpu() for output in returned)

    def stop(self) -> None:
        """End a run in another thread at its next operation. The model cannot run again."""
        self._weights.stopped = True


def outputs_of(models: Sequence[StreamedModel], inputs: Inputs | Tensor) -> list[Outputs]:
    """Return the outputs of each model for the same inputs.

    If torch computes on one thread of a CPU, two models run at a time, each on a core of its own; their outputs do not
    depend on it.
    """
    in_parallel = torch.get_num_threads() == 1 and all(model.device.type == "cpu" for model in models)
    workers = min(os.cpu_count() or 1, _AT_A_TIME)
    if not in_parallel or workers == 1:
        return [model.outputs(inputs) for model in models]
    with ThreadPoolExecutor(max_workers=workers) as pool:
        try:
            return list(pool.map(lambda model: model.outputs(inputs), models))
        except BaseException:  # leaving the pool waits for its threads, after an interrupt as well: end them
            for model in models:
                model.stop()
            raise


def random_inputs(spec: ModelSpec, model: nn.Module, count: int, seed: int) -> Inputs:
    """Return random inputs as the model of `spec` takes them, floating-point numbers in float64.

    The global random state is not touched.

    Raises:
        PlanError: memory does not hold that many.
    """
    try:
        return library_of(spec).inputs(model, count, seed)
    except RuntimeError as error:  # the allocator refuses, or the number of bytes overflows
        sizes = meta_inputs(spec, model, 1).sizes.values()
        raise PlanError(
            f"found {count} random inputs of {', '.join('x'.join(map(str, size)) for size in sizes)}, expected "
            "as many as fit in memory; lower `verify: {inputs: ...}` in the plan, or --inputs of `growtool verify`"
        ) from error


class _Weights(TorchFunctionMode):
    """A mode in which torch functions are given the stored tensors in place of the skeleton's."""

    def __init__(self, checkpoint: Checkpoint, model: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self._checkpoint = checkpoint
        self._dtype, self._device = dtype, device
        self.stopped = False
        held = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        # By identity: the skeleton keeps these tensors alive, so that no other tensor gets the id of one.
        self._names = {id(tensor): name for name, tensor in held if name in checkpoint.tensors}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if self.stopped:
            raise RuntimeError("the run was ended")
        if func in _ANSWERED_BY_SKELETON:
            return func(*args, **(kwargs or {}))
        if func == _DEVICE and id(args[0]) in self._names:
            return self._device
        return func(*self._real(args), **{key: self._real(value) for key, value in (kwargs or {}).items()})

    def _real(self, argument: Any) -> Any:
        """Return an argument with the stored tensor in place of each of the skeleton's."""
        if isinstance(argument, Tensor):
            name = self._names.get(id(argument))
            return argument if name is None else self._read(name)
        if type(argument) in (tuple, list):
            return type(argument)(self._real(item) for item in argument)
        return argument

    def _read(self, name: str) -> Tensor:
        tensor = self._checkpoint.read(name)
        return tensor.to(self._device, self._dtype if tensor.is_floating_point() else tensor.dtype)


def _place(model: nn.Module, device: torch.device) -> None:
    """Move buffers that the architecture fills to `device`; all else stays on meta."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if not buffer.is_meta:
                setattr(module, name, buffer.to(device))
