"""Linear assignment by shortest augmenting paths (Jonker and Volgenant, Computing 38, 1987), O(n^3)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def best_assignment(score_nn: Tensor) -> Tensor:
    """The column for each row, each column once, so that the sum of the scores is largest.

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
            column = int(np.where(done[:n], np.inf, shortest).argmin())
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
