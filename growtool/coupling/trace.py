"""Coupling: which parameter axes of a model carry the same channels, found by one forward pass on the meta device."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from growtool.coupling.axis import MODEL_OUTPUT, Atom, Axis, atoms, fix, new_axis, resolve
from growtool.coupling.calls import exits_of
from growtool.coupling.constants import constant_axes
from growtool.coupling.flow import Flow, Params
from growtool.coupling.operation import Axes, Mixing, Value
from growtool.coupling.recurrence import FirstPositions
from growtool.coupling.rms_norm import with_rms_norms
from growtool.coupling.shapes import ByShape
from growtool.coupling.steps import ForwardPass
from growtool.coupling.tape import Tape
from growtool.errors import CheckpointError

_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True, slots=True)
class Member:
    """One parameter dimension that carries a group: as `consumer` (a sum runs over it), `producer` or `vector`."""

    tensor: str
    dim: int
    role: str


@dataclass(frozen=True, slots=True)
class Group:
    """Channels that grow as one, and every parameter dimension that carries them.

    `name` is the first member with the place of these channels in its layout, e.g. `blocks.0.attn.qkv.weight[0].1` for
    the head size behind the number of heads; it is stable for an architecture, whatever its widths.
    """

    name: str
    atom: Atom
    members: tuple[Member, ...]

    @property
    def size(self) -> int:
        """Number of channels."""
        return self.atom.size

    @property
    def fixed(self) -> str | None:
        """Why the channels cannot grow, or None."""
        return self.atom.fixed


@dataclass(frozen=True, eq=False)
class Coupling:
    """What one forward pass tells about a model.

    Attributes:
        tensors: parameter or buffer name -> the symbolic layout of each of its dimensions.
        consumers: (atom, name, dim) where the channels of the atom are summed over.
        mixings: operations that treat channels jointly (norms, softmax, sums).
        signatures: module path -> its operations in order, without sizes.
        exits: module path -> parameters that, set to zero, make the module return its input unchanged.
        scaled: parameter that scales a residual branch at its end -> the parameters of the last affine step before it.
        norm_eps: parameter or buffer of a BatchNorm that can pass on what it receives -> the eps of the norm.
        received: module path -> the idempotent activation that its one input comes out of (`relu()`).
        ambiguous: parameters that are summed over along different dimensions in different places.
        unknown: operations without a rule (their axes are fixed) and how often they ran.
        forward: every operation in order.
    """

    tensors: Mapping[str, Axes]
    consumers: frozenset[tuple[Atom, str, int]]
    mixings: tuple[Mixing, ...]
    signatures: Mapping[str, tuple[tuple[Any, ...], ...]]
    exits: Mapping[str, Params]
    scaled: Mapping[str, Params]
    norm_eps: Mapping[str, float]
    received: Mapping[str, str]
    ambiguous: Params
    unknown: Mapping[str, int]
    forward: ForwardPass

    @cached_property
    def growable(self) -> frozenset[Atom]:
        """The channels that parameters or buffers carry and that may grow."""
        carried = (atom for axes in self.tensors.values() for axis in axes for atom in atoms(axis))
        return frozenset(atom for atom in carried if atom.fixed is None)

    def __repr__(self) -> str:
        return f"Coupling({len(self.tensors)} tensors, {len(self.groups)} groups of channels)"

    @property
    def names(self) -> dict[Atom, str]:
        """The name of each group by its channels."""
        return {group.atom: group.name for group in self.groups}

    @property
    def groups(self) -> tuple[Group, ...]:
        """Every width group with its members, in the order of the model's parameters."""
        members: dict[Atom, list[Member]] = defaultdict(list)
        names: dict[Atom, str] = {}
        for name, axes in self.tensors.items():
            for dim, axis in enumerate(axes):
                for place, atom in enumerate(dict.fromkeys(atoms(axis))):
                    names.setdefault(atom, f"{name}[{dim}].{place}")
                    role = "vector" if len(axes) == 1 else "producer"
                    role = "consumer" if (atom, name, dim) in self.consumers else role
                    members[atom].append(Member(name, dim, role))
        return tuple(Group(names[atom], atom, tuple(found)) for atom, found in members.items())


def trace_model(model: nn.Module, *input_sizes: tuple[int, int, int]) -> Coupling:
    """Trace one forward pass of `model` on meta.

    Args:
        model: in eval mode; parameters may be on meta, buffers must be real (their values decide what may grow).
        input_sizes: channels, height, width of each image that the model takes: one for every model of timm.

    Returns:
        The coupling; the model is left as it was.

    Raises:
        CheckpointError: the model cannot run on such images.
    """
    buffers = dict(model.named_buffers(remove_duplicate=False))
    constants = {name: constant_axes(b) for name, b in buffers.items() if not name.endswith(_STATISTICS)}
    replica = copy.deepcopy(model).to("meta").eval()
    tape = Tape()
    named = _register(tape, replica, constants)
    images = [torch.zeros((2, *size), device="meta") for size in input_sizes]
    for image in images:
        tape.put(image, Value((new_axis(2), *(new_axis(n, "the input image") for n in image.shape[1:]))))
    handles = tape.watch(replica)
    try:
        with torch.no_grad(), FirstPositions(tape.recorder.repeat, tape.fix_positions), ByShape(), tape:
            output = replica(*images)
    except Exception as error:
        sizes = ", ".join(map(str, input_sizes))
        raise CheckpointError(
            f"{type(model).__name__}: the forward pass failed on images of {sizes} (channels, height, width): "
            f"{type(error).__name__}: {error}; check that input_size in pretrained_cfg is one the model takes"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    if getattr(model, "num_classes", None) != 0:  # the features of a model without a head may grow
        for leaf in leaves:
            for axis in tape.axes(leaf)[1:]:
                fix(axis, MODEL_OUTPUT)
    ends = tuple(map(id, images)), tuple(map(id, leaves))
    return _collect(tape, named, _names(replica), *ends)


def _register(tape: Tape, model: nn.Module, constants: Mapping[str, Axes]) -> dict[str, Axes]:
    named: dict[str, Axes] = {}
    seen: dict[int, Axes] = {}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    names: dict[int, list[str]] = defaultdict(list)  # a shared parameter has several, and each plays its roles
    for name, parameter in parameters.items():
        names[id(parameter)].append(name)
    for name, parameter in parameters.items():
        if id(parameter) not in seen:
            shared = names[id(parameter)]
            axes = tuple(new_axis(n, None, frozenset((s, i) for s in shared)) for i, n in enumerate(parameter.shape))
            alone = name if len(shared) == 1 else None
            tape.put(parameter, Value(axes, frozenset(shared), Flow(zeroed_by=frozenset(shared)), alone))
            seen[id(parameter)] = axes
        named[name] = seen[id(parameter)]
    held = _names(model)
    for name, buffer in model.named_buffers(remove_duplicate=False):
        if id(buffer) not in seen:
            axes = constants.get(name) or tuple(new_axis(n) for n in buffer.shape)
            alone = name if len(held[id(buffer)]) == 1 else None
            tape.put(buffer, Value(axes, frozenset([name]), stored=alone))
            seen[id(buffer)] = axes
        named[name] = seen[id(buffer)]
    return named


def _names(model: nn.Module) -> dict[int, tuple[str, ...]]:
    names: dict[int, tuple[str, ...]] = {}
    held = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    for name, tensor in held:
        names[id(tensor)] = (*names.get(id(tensor), ()), name)
    return names


def _collect(
    tape: Tape,
    named: Mapping[str, Axes],
    stored: Mapping[int, tuple[str, ...]],
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
) -> Coupling:
    consumers = frozenset(
        (atom, name, dim) for marked, (name, dim) in tape.consumers for atom in atoms(((marked,),))
    )  # fmt: skip
    mixings: dict[tuple[str, Axis, str, Params], Mixing] = {}
    for mixing in tape.mixings:
        axis = resolve(mixing.axis)
        if mixing.kind == "group_norm" or any(True for _ in atoms(axis)):  # groups of one channel count too
            mixings.setdefault(
                (mixing.kind, axis, mixing.module, mixing.params),
                Mixing(mixing.kind, axis, mixing.module, mixing.params),
            )
    tensors = {name: tuple(map(resolve, axes)) for name, axes in named.items()}
    layouts = {number: value.axes for number, value in tape.known().items()}
    _note_lengths(tape, tensors)
    return Coupling(
        tensors=tensors,
        consumers=consumers,
        mixings=tuple(mixings.values()),
        signatures={path: tuple(entries) for path, entries in tape.signatures.items()},
        exits=exits_of(tape.calls),
        scaled={name: params for name, params in tape.scaled.items() if params},
        norm_eps=tape.norm_eps,
        received={path: name for path, name in tape.received.items() if name},
        ambiguous=frozenset(name for name, uses in tape.uses.items() if len(uses) > 1),
        unknown=dict(tape.unknown),
        forward=ForwardPass(
            steps=with_rms_norms(tape.recorder.steps, layouts, stored),
            raw=tuple(tape.recorder.steps),
            calls=tuple(tape.calls),
            layouts=layouts,
            made_of={number: value.params for number, value in tape.known().items() if value.params is not None},
            stored=stored,
            inputs=inputs,
            outputs=outputs,
        ),
    )


def _note_lengths(tape: Tape, tensors: Mapping[str, Axes]) -> None:
    """Add to the signatures how many positions operations run over jointly where no tensor carries them.

    Such an axis (of an expanded or created tensor, say) is absent from every group: only its length tells of a change.
    """
    carried = {atom for axes in tensors.values() for axis in axes for atom in atoms(axis)}
    for mixing in tape.mixings:
        lengths = [atom.size for atom in atoms(mixing.axis) if atom not in carried]
        if lengths:
            tape.signatures[mixing.module].append((f"{mixing.kind} over positions", *lengths))
