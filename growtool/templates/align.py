"""Reordering the neurons of like layers, so that the layers resemble each other before their templates are looked for.

The order of the channels inside a block is arbitrary: permuting them along every tensor that carries them leaves the
function as it is. A bank holds layers of several blocks. The channels of each block are matched in turn to the mean of
the other layers by a linear assignment, until no match improves (weight matching, Ainsworth et al., arXiv 2209.04836,
section 3.2).

Axes: n channels of a group; r all other numbers that a tensor holds for a channel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from growtool.checkpoint import TensorInfo, arithmetic_dtype
from growtool.templates.grouping import Groups
from growtool.trace import Axis, ChannelGroup, Trace, groups_on, positions
from growtool.trace.axes import factor_size

_SWEEPS = 4  # passes over all channel groups, at most
Read = Callable[[str], Tensor]


@dataclass(frozen=True, slots=True)
class Alignment:
    """Orders of channels in which the layers of banks are more alike.

    Attributes:
        orders: channel group -> int64 [n], the old channel at each new place; only the groups whose order changes.
        before, after: mean cosine between layers that share a bank, as they were and aligned.
        read: returns the tensor of a name with its channels in the new order.
    """

    orders: Mapping[ChannelGroup, Tensor]
    before: float
    after: float
    read: Read


def align(trace: Trace, tensors: Mapping[str, TensorInfo], groups: Groups, read: Read) -> Alignment:
    """Find orders of channels that make the layers of banks alike.

    Args:
        trace: the model's trace.
        tensors: shapes and types of the checkpoint's tensors.
        groups: weight -> the weights that share a bank with it, itself included.
        read: returns the tensor of a name.
    """
    carried = _carriers(trace, groups)
    names = sorted({member for carriers in carried.values() for name in carriers for member in groups[name]})
    weights = {name: read(name).to(arithmetic_dtype(tensors[name].torch_dtype)) for name in names}
    before = _mean_cosine(groups, weights)
    orders = {group: torch.arange(group.size) for group in carried}
    for _ in range(_SWEEPS):  # a match moves the means that the other groups are matched to
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
    """Return the channel groups that may be reordered, each with the weights in shared banks that carry it.

    A group that two layers of one bank carry is left out: reordering it would move both alike.
    """
    carriers: dict[ChannelGroup, list[str]] = {}
    for group in trace.groups:
        if group.fixed is None:
            members = dict.fromkeys(m.tensor for m in group.members if len(groups.get(m.tensor, ())) > 1)
            if members and len({groups[name] for name in members}) == len(members):
                carriers[group.group] = list(members)
    return carriers


def _match(
    trace: Trace,
    groups: Groups,
    weights: dict[str, Tensor],
    group: ChannelGroup,
    names: list[str],
    orders: dict[ChannelGroup, Tensor],
) -> bool:
    """Reorder one group of channels if that brings its weights closer to the mean of the others; return whether it did.

    `weights` and `orders` are changed in place.
    """
    # The squared distance of a reordered weight to the mean is constant but for the inner product of the two, which is
    # a sum over channels: S[i, j] is what channel j adds to it at place i.
    S_nn = torch.zeros(group.size, group.size, dtype=torch.float64)
    for name in names:
        others = [weights[other] for other in groups[name] if other != name]
        mean = torch.stack(others).mean(0)
        for dim, axis in enumerate(trace.tensors[name]):
            channel_at = _channels_on(axis, group)
            if channel_at is not None:
                mean_nr, W_nr = (_by_channel(W, dim, channel_at, group.size) for W in (mean, weights[name]))
                S_nn += mean_nr.double() @ W_nr.double().T
    order = best_assignment(S_nn)
    gain = float(S_nn[torch.arange(group.size), order].sum() - S_nn.diagonal().sum())
    if gain <= 1e-9 * float(S_nn.abs().max()):  # as rounding makes it for channels that are equal
        return False
    orders[group] = orders[group][order]
    for name in names:
        for dim, axis in enumerate(trace.tensors[name]):
            weights[name] = _ordered(weights[name], dim, axis, {group: order})
    return True


def _by_channel(W: Tensor, dim: int, channel_at: Tensor, size: int) -> Tensor:
    """Return the numbers that a tensor holds for each channel, [n, r].

    Args:
        W: the tensor.
        dim: its dimension that carries the channels.
        channel_at: int64, the channel at each position of that dimension.
        size: n, the number of channels; each has equally many positions.
    """
    order = torch.argsort(channel_at, stable=True)
    return W.movedim(dim, 0)[order].reshape(size, -1)


def _channels_on(axis: Axis, group: ChannelGroup) -> Tensor | None:
    """Return the channel of `group` at each position of the axis, int64; None if not every position has one."""
    segments = []
    for segment in axis:
        # Positions of a segment are a row-major product. The group is in one factor at most, the others add zeros.
        channels, is_carried = torch.zeros(1, dtype=torch.int64), False
        for factor in segment:
            inner = _channels_of(factor, group)
            is_carried = is_carried or inner is not None
            inner = torch.zeros(factor_size(factor), dtype=torch.int64) if inner is None else inner
            channels = (channels[:, None] + inner).reshape(-1)
        if not is_carried:
            return None
        segments.append(channels)
    return torch.cat(segments)


def _channels_of(factor: ChannelGroup | Axis, group: ChannelGroup) -> Tensor | None:
    if isinstance(factor, ChannelGroup):
        return torch.arange(group.size) if factor is group else None
    return _channels_on(factor, group)


def _ordered(tensor: Tensor, dim: int, axis: Axis, orders: Mapping[ChannelGroup, Tensor]) -> Tensor:
    """Return a tensor with the channels along one dimension in a new order; itself if `orders` has none of them."""
    moves = not orders.keys().isdisjoint(groups_on(axis))
    return tensor.index_select(dim, positions(axis, orders)) if moves else tensor


def _mean_cosine(groups: Groups, weights: Mapping[str, Tensor]) -> float:
    """Return the mean cosine between every two layers that share a bank; 0 if there are none."""
    cosines = list[float]()
    for group in {groups[name] for name in weights}:
        stacked = torch.stack([weights[name].flatten() for name in group]).double()
        stacked /= stacked.norm(dim=1, keepdim=True).clamp(min=1e-300)  # a layer of zeros has cosine 0 with all
        products = stacked @ stacked.T
        cosines += products[~torch.eye(len(group), dtype=torch.bool)].tolist()
    return sum(cosines) / len(cosines) if cosines else 0.0


def best_assignment(score_nn: Tensor) -> Tensor:
    """Return the assignment of columns to rows with the largest sum of scores.

    Shortest augmenting paths (Jonker and Volgenant, Computing 38, 1987), in O(n^3).

    Args:
        score_nn: finite scores, [n, n].

    Returns:
        The column of each row, each column once; int64 [n].
    """
    cost = -score_nn.detach().cpu().double().numpy()
    n = len(cost)
    # Dual prices: no reduced cost `cost[i, j] - row_price[i] - column_price[j]` is negative, and that of an assigned
    # pair is zero. So the assignment has the least cost once every row has a column.
    row_price, column_price = np.zeros(n), np.zeros(n + 1)
    row_of = np.full(n + 1, -1)  # the row of each column, -1 if it is free; column n holds the row that is being placed
    for row in range(n):
        # Dijkstra's algorithm by reduced costs, from the new row to the nearest free column.
        row_of[n] = row
        column, came_from = n, np.full(n + 1, n)
        distance, done = np.full(n, np.inf), np.zeros(n + 1, dtype=bool)
        while row_of[column] != -1:
            done[column] = True
            at = row_of[column]
            reduced = cost[at] - row_price[at] - column_price[:n]
            closer = ~done[:n] & (reduced < distance)
            distance[closer], came_from[:n][closer] = reduced[closer], column
            column = int(np.argmin(np.where(done[:n], np.inf, distance)))
            # Prices move by the distance that was gained, which keeps both invariants; so distances count from here.
            step = distance[column]
            row_price[row_of[done]] += step
            column_price[done] -= step
            distance[~done[:n]] -= step
        # Each column on the path takes the row of the one before it, and the first takes the new row.
        while column != n:
            row_of[column] = row_of[came_from[column]]
            column = came_from[column]
    order = np.empty(n, dtype=np.int64)
    order[row_of[:n]] = np.arange(n)
    return torch.from_numpy(order)
