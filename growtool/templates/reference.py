"""Reading state dicts of the public implementation of MixtureGrowth (chaudatascience/mixturegrowth).

A templated layer at PATH holds sets of templates, `PATH.trainable_parameters.template_set_S` [T, o, i, ...], and for
each block of its grid, a member M, `PATH.coefficients.coefs_member_M` [T of its set]. Member 0 stands top left, member
1 bottom right, the others row by row. Members take the sets in turn: member M combines the templates of set M modulo
the number of sets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from growtool.checkpoint import Form, Layout, Templated, coefficients_of
from growtool.checkpoint.tensors import require_finite
from growtool.errors import CheckpointError

_SET = "{}.trainable_parameters.template_set_{}"
_COEFFICIENTS = "{}.coefficients.coefs_member_{}"


def from_reference(
    state: Mapping[str, Tensor], model: nn.Module, names: Mapping[str, str], *, where: str
) -> tuple[dict[str, Tensor], Form]:
    """Return the tensors and the form of a template checkpoint.

    Args:
        state: the state dict of the reference.
        model: the skeleton of the model it becomes.
        names: tensor of the model -> path of the templated layer, or name of the tensor, in the reference. A tensor
            that is not listed has the same name there.
        where: the file, for the message.

    Raises:
        CheckpointError: tensors are missing or have other shapes (a problem for each), or hold numbers that are not
            finite.
    """
    tensors: dict[str, Tensor] = {}
    templated: dict[str, Templated] = {}
    problems: list[str] = []
    for name, expected in model.state_dict().items():
        there = names.get(name, name)
        if _SET.format(there, 0) in state:
            try:
                sets, C_ooT = _grid(state, there, tuple(expected.shape))
            except ValueError as error:
                problems.append(f"{where}: {there}: {error}")
                continue
            bank = re.sub(r"\W", "_", name)
            tensors[f"banks.{bank}.templates"], tensors[coefficients_of(name)] = torch.cat(sets), C_ooT
            sides = (
                Layout.consecutive(size, block) for size, block in zip(expected.shape, sets[0].shape[1:3], strict=False)
            )
            templated[name] = Templated(bank, *sides)
        elif there not in state:
            problems.append(f"{where}: {there}: not in the file, expected it for {name}; correct the plugin's names")
        elif state[there].shape != expected.shape:
            problems.append(
                f"{where}: {there}: found {list(state[there].shape)}, expected {list(expected.shape)} for {name}; "
                "correct the plugin's names or the arguments of the model"
            )
        else:
            tensors[name] = state[there]
    if problems:
        raise CheckpointError(problems)
    require_finite(where, tensors, {})
    return tensors, Form(dict.fromkeys((t.bank for t in templated.values()), "trained"), templated)


def _grid(state: Mapping[str, Tensor], path: str, shape: tuple[int, ...]) -> tuple[list[Tensor], Tensor]:
    """Return the template sets of a layer, and its coefficients over all of them, [k_out, k_in, T].

    Raises:
        ValueError: templates do not fit the weight, or a member is missing or lacks coefficients.
    """
    sets: list[Tensor] = []
    while (key := _SET.format(path, len(sets))) in state:
        sets.append(state[key])
    block = sets[0].shape[1:]
    if len(block) != len(shape) or any(s.shape[1:] != block for s in sets) or block[2:] != torch.Size(shape[2:]):
        raise ValueError(f"found templates of {list(block)} for a weight of {list(shape)}, expected blocks of it")
    rows, columns = -(-shape[0] // block[0]), -(-shape[1] // block[1])
    starts = [sum(len(s) for s in sets[:number]) for number in range(len(sets))]
    C_ooT = torch.zeros(rows, columns, sum(map(len, sets)), dtype=sets[0].dtype)  # zero for templates of other sets
    for member, (i, j) in enumerate(member_places(rows, columns)):
        number = member % len(sets)
        vector = state.get(_COEFFICIENTS.format(path, member))
        if vector is None or vector.shape != (len(sets[number]),):
            found = "none" if vector is None else f"{list(vector.shape)}"
            raise ValueError(f"coefs_member_{member}: found {found}, expected [{len(sets[number])}]")
        C_ooT[i, j, starts[number] : starts[number] + len(vector)] = vector
    return sets, C_ooT


def member_places(rows: int, columns: int) -> list[tuple[int, int]]:
    """Return the (row, column) of each member: 0 first, 1 last, the others row by row; `[[0, 2], [3, 1]]` for 2 x 2."""
    places = [(i, j) for i in range(rows) for j in range(columns)]
    return places if len(places) < 2 else [places[0], places[-1], *places[1:-1]]
