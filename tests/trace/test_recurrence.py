"""Recurrent layers are traced by their first positions: the trace is that of all of them, unrolled."""

import pytest
import torch
from torch import Tensor, nn

from growtool.trace import recurrence, trace_model

HIDDEN = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class Recurrent(nn.Module):
    """Rows of an image, read one after the other, between two linear layers."""

    def __init__(self, kind: str, *, batch_first: bool, bidirectional: bool, layers: int) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.stem = nn.Conv2d(3, 4, 1)
        self.rows = HIDDEN[kind](
            4, 6, num_layers=layers, batch_first=batch_first, bidirectional=bidirectional, bias=kind != "rnn"
        )
        self.head = nn.Linear(12 if bidirectional else 6, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.stem(x).mean(3)
        rows = rows.transpose(1, 2) if self.batch_first else rows.permute(2, 0, 1)
        read = self.head(self.rows(rows)[0])
        return read.mean(1) if self.batch_first else read.mean(0)


def described(model):
    """Every group: its name, its size, whether it may grow, and its members."""
    trace = trace_model(model, (3, 9, 2))
    assert not trace.unknown
    return [(group.name, group.size, group.fixed is None, group.members) for group in trace.groups]


@pytest.mark.parametrize("kind", HIDDEN)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(("bidirectional", "layers"), [(False, 1), (True, 2)])
def test_the_first_positions_tell_what_all_of_them_do(monkeypatch, kind, batch_first, bidirectional, layers):
    model = Recurrent(kind, batch_first=batch_first, bidirectional=bidirectional, layers=layers)
    short = described(model)
    monkeypatch.setattr(recurrence, "POSITIONS", 100)
    assert short == described(model)


def test_the_operations_do_not_grow_with_the_positions():
    model = Recurrent("lstm", batch_first=True, bidirectional=False, layers=1)
    few, many = (len(trace_model(model, (3, height, 2)).forward.steps) for height in (8, 80))
    assert few == many


def test_packed_sequences_are_run_as_they_are():
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows, self.head = nn.GRU(3, 6, batch_first=True), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            rows = x.mean(3).transpose(1, 2)
            packed = nn.utils.rnn.PackedSequence(rows.flatten(0, 1), torch.full((rows.shape[1],), rows.shape[0]))
            return self.head(self.rows(packed)[1][0])

    assert trace_model(Packed(), (3, 9, 2)).tensors.keys() == dict(Packed().named_parameters()).keys()
