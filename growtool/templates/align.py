"""Putting the neurons of like layers into the same order before their templates are looked for.

The channels inside a block are in an order of their own: permuting them along every tensor that carries them changes
nothing in the function. Where a bank holds layers of several blocks, one order per block can make them alike: each is
matched to the mean of the others by a linear assignment (weight matching, Ainsworth et al., arXiv 2209.04836, section
3.2), in turn, until no match improves.

Axes: n channels of a set; r what else a tensor holds for each of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from growtool.checkpoint import TensorInfo, arithmetic_dtype
from growtool.templates.grouping import Groups
from growtool.trace import Axis, ChannelGroup, Trace, groups_on, positions
from growtool.trace.axes import factor_size

_SWEEPS = 4
Read = Callable[[str], Tensor]


@dataclass(frozen=True, slots=True)
class Alignment:
    """An order of channels in which layers are more alike.

    Attributes:
        orders: set of channels -> int64 [n], the old channel at each new place.
        before, after: mean cosine between the layers of banks, as they were and aligned.
        read: gives the tensors in the new order.
    """

    orders: Mapping[ChannelGroup, Tensor]
    before: float
    after: float
    read: Read


def align(trace: Trace, tensors: Mapping[str, TensorInfo], groups: Groups, read: Read) -> Alignment:
    """Match the channels that belong to one layer of a bank alone.

    Args:
        trace: of the model.
        tensors: of the checkpoint.
        groups: for each weight the weights that share a bank with it.
        read: gives the values.
    """
    carried = _carriers(trace, groups)
    names = sorted({member for carriers in carried.values() for name in carriers for member in groups[name]})
    weights = {name: read(name).to(arithmetic_dtype(tensors[name].torch_dtype)) for name in names}
    before = _mean_cosine(groups, weights)
    orders = {group: torch.arange(group.size) for group in carried}
    for _ in range(_SWEEPS):
        moved = [_match(trace, groups, weights, group, names, orders) for group, names in carried.items()]
        if not any(moved):
            break
    changed = {group: order for group, order in orders.items() if not torch.equal(order, torch.arange(group.size))}

    def permuted(name: str) -> Tensor:
        tensor = read(name)
        for dim, axis in enumerate(trace.tensors.get(name, ())):
            tensor = _ordered(tensor, dim, axis, changed)
        return tensor

    return Alignment(changed, before, _mean_cosine(groups, weights), permuted)


def _carriers(trace: Trace, groups: Groups) -> dict[ChannelGroup, list[str]]:
    """The sets of channels that may be reordered for the sake of a bank, with the weights of banks that carry them.

    A set that several layers of one bank carry would move all of them together.
    """
    found: dict[ChannelGroup, list[str]] = defaultdict(list)
    for group in trace.groups:
        if group.fixed is None:
            members = dict.fromkeys(m.tensor for m in group.members if len(groups.get(m.tensor, ())) > 1)
            if members and len({groups[name] for name in members}) == len(members):
                found[group.group] = list(members)
    return found


def _match(
    trace: Trace,
    groups: Groups,
    weights: dict[str, Tensor],
    group: ChannelGroup,
    names: list[str],
    orders: dict[ChannelGroup, Tensor],
) -> bool:
    """Reorder one set of channels if that brings its weights closer to the mean of the others; whether it did."""
    S_nn = torch.zeros(group.size, group.size, dtype=torch.float64)
    for name in names:
        others = [weights[other] for other in groups[name] if other != name]
        mean = torch.stack(others).mean(0)
        for dim, axis in enumerate(trace.tensors[name]):
            places = _places(axis, group)
            if places is not None:
                rows, columns = (_by_channel(W, dim, places, group.size) for W in (mean, weights[name]))
                S_nn += rows.double() @ columns.double().T
    order = best_assignment(S_nn)
    gain = float(S_nn[torch.arange(group.size), order].sum() - S_nn.diagonal().sum())
    if gain <= 1e-9 * float(S_nn.abs().max()):
        return False
    orders[group] = orders[group][order]
    for name in names:
        for dim, axis in enumerate(trace.tensors[name]):
            weights[name] = _ordered(weights[name], dim, axis, {group: order})
    return True


def _by_channel(W: Tensor, dim: int, places: Tensor, size: int) -> Tensor:
    """[n, r]: what a tensor holds for each channel."""
    order = torch.argsort(places, stable=True)
    return W.movedim(dim, 0)[order].reshape(size, -1)


def _places(axis: Axis, group: ChannelGroup) -> Tensor | None:
    """int64: the channel of `group` at each position of the axis; None where a position has none."""
    parts = []
    for segment in axis:
        part = torch.zeros(1, dtype=torch.int64)
        found = False
        for factor in segment:
            inner = _inner_places(factor, group)
            size = factor_size(factor)
            found = found or inner is not None
            part = (part[:, None] + (torch.zeros(size, dtype=torch.int64) if inner is None else inner)).reshape(-1)
        if not found:
            return None
        parts.append(part)
    return torch.cat(parts)


def _inner_places(factor: ChannelGroup | Axis, group: ChannelGroup) -> Tensor | None:
    if isinstance(factor, ChannelGroup):
        return torch.arange(group.size) if factor is group else None
    return _places(factor, group)


def _ordered(tensor: Tensor, dim: int, axis: Axis, orders: Mapping[ChannelGroup, Tensor]) -> Tensor:
    moves = not orders.keys().isdisjoint(groups_on(axis))
    return tensor.index_select(dim, positions(axis, orders)) if moves else tensor


def _mean_cosine(groups: Groups, weights: Mapping[str, Tensor]) -> float:
    """Mean cosine between every two layers that share a bank; 0 without any."""
    found = []
    for group in {groups[name] for name in weights}:
        stacked = torch.stack([weights[name].flatten() for name in group]).double()
        stacked /= stacked.norm(dim=1, keepdim=True).clamp(min=1e-300)
        products = stacked @ stacked.T
        found += products[~torch.eye(len(group), dtype=torch.bool)].tolist()
    return sum(found) / len(found) if found else 0.0


def best_assignment(score_nn: Tensor) -> Tensor:
    """The column for each row, each column once, so that the sum of the scores is largest.

    By shortest augmenting paths (Jonker and Volgenant, Computing 38, 1987), in O(n^3).

    Args:
        score_nn: [n, n].

    Returns:
        int64 [n].
    """
    cost = -score_nn.detach().cpu().double().numpy()
    n = len(cost)
    row_price, column_price = np.zeros(n), np.zeros(n + 1)
    row_of = np.full(n + 1, -1)  # of each column; the last column stands for the row that is being placed
    for row in range(n):
        row_of[n] = row
        column, path = n, np.full(n + 1, n)
        shortest, done = np.full(n, np.inf), np.zeros(n + 1, dtype=bool)
        while row_of[column] != -1:
            done[column] = True
            at = row_of[column]
            reduced = cost[at] - row_price[at] - column_price[:n]
            closer = ~done[:n] & (reduced < shortest)
            shortest[closer], path[:n][closer] = reduced[closer], column
            column = int(np.argmin(np.where(done[:n], np.inf, shortest)))
            step = shortest[column]
            row_price[row_of[done]] += step
            column_price[done] -= step
            shortest[~done[:n]] -= step
        while column != n:
            row_of[column] = row_of[path[column]]
            column = path[column]
    order = np.empty(n, dtype=np.int64)
    order[row_of[:n]] = np.arange(n)
    return torch.from_numpy(order)
