"""Running a checkpoint without loading it: each weight is read when an operation needs it and dropped after.

The model is a skeleton whose parameters live on the meta device. While it runs, a mode sees every torch function before
it is carried out, puts the stored tensor where the skeleton's stands, and computes with real activations. Memory is the
activations and the weights of one operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from growtool.checkpoint import Checkpoint, build, input_size
from growtool.checkpoint.match import matched
from growtool.checkpoint.reach import set_eps
from growtool.errors import PlanError

CPU = torch.device("cpu")


def _getter(attribute: str) -> Callable[..., Any]:
    """What the mode sees as the function when `tensor.attribute` is read."""
    return getattr(Tensor, attribute).__get__  # type: ignore[no-any-return]


# Answered by the skeleton without a read; its answers are those of the stored tensor. Everything else needs the values.
_ATTRIBUTES = frozenset(_getter(name) for name in ("shape", "dtype", "ndim", "requires_grad"))
_METHODS = frozenset({Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.__len__})
_ANSWERED_BY_SKELETON = _ATTRIBUTES | _METHODS
_DEVICE = _getter("device")


class StreamedModel:
    """A checkpoint as a function from images to logits (features, without a classifier), in eval mode.

    Attributes:
        checkpoint: where the weights are.
        model: the skeleton; its floating-point tensors have the arithmetic type.
        input_size: channels, height and width of the images it was built for.
        num_classes: number of logits; 0 for a model without a classifier.
        dtype: the type of the arithmetic; stored values are cast to it as they are read.
        eps: path of a norm -> the eps it runs with, where that is not the model's own.
        device: computes; images and results are on the CPU.

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
        set_eps(skeleton, eps or {})
        checkpoint = matched(checkpoint, skeleton)
        self.checkpoint = checkpoint
        self.dtype, self.device = dtype, device
        self.input_size = input_size(skeleton)
        self.num_classes = int(getattr(skeleton, "num_classes", 0))
        self.model = _cast(skeleton, dtype)
        _place(self.model, device)
        self._weights = _Weights(checkpoint, self.model, dtype, device)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Logits [batch, classes] of `inputs` [batch, channels, height, width].

        Raises:
            PlanError: the model returns several tensors.
        """
        outputs = self.outputs(inputs)
        if len(outputs) != 1:
            raise PlanError(f"{self.checkpoint.name}: returns {len(outputs)} tensors, expected one; name a classifier")
        return outputs[0]

    def outputs(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Every tensor that the model returns for `inputs` [batch, channels, height, width]."""
        with torch.no_grad(), self._weights:
            returned = self.model(inputs.to(self.device, self.dtype))
        return tuple(leaf.cpu() for leaf in tree_leaves(returned) if isinstance(leaf, Tensor))


class _Weights(TorchFunctionMode):
    """While open, torch functions see the stored tensors in place of the skeleton's."""

    def __init__(self, checkpoint: Checkpoint, model: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self._checkpoint = checkpoint
        self._dtype, self._device = dtype, device
        held = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        # By identity: the skeleton keeps these tensors alive, so no other can take their place.
        self._names = {id(tensor): name for name, tensor in held if name in checkpoint.tensors}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _ANSWERED_BY_SKELETON:
            return func(*args, **(kwargs or {}))
        if func == _DEVICE and id(args[0]) in self._names:
            return self._device
        return func(*self._real(args), **{key: self._real(value) for key, value in (kwargs or {}).items()})

    def _real(self, argument: Any) -> Any:
        if isinstance(argument, Tensor):
            name = self._names.get(id(argument))
            return argument if name is None else self._read(name)
        if type(argument) in (tuple, list):
            return type(argument)(self._real(item) for item in argument)
        return argument

    def _read(self, name: str) -> Tensor:
        tensor = self._checkpoint.read(name)
        return tensor.to(self._device, self._dtype if tensor.is_floating_point() else tensor.dtype)


def _cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Floating-point parameters (on meta, for free) and buffers to `dtype`; counters and indices keep their type."""
    return model.double() if dtype == torch.float64 else model.float()


def _place(model: nn.Module, device: torch.device) -> None:
    """Buffers that follow from the architecture to `device`; everything else stays on meta."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if not buffer.is_meta:
                setattr(module, name, buffer.to(device))
