"""Numbers that are known without inputs and weights: a model may ask for them, and for no others."""

import pytest
import torch
from torch import Tensor, nn

from growtool.errors import CheckpointError
from growtool.trace import trace_model


class Asks(nn.Module):
    """Two layers; what lies between them is decided by numbers."""

    def __init__(self, between) -> None:
        super().__init__()
        self.first, self.between, self.last = nn.Linear(3, 6), between, nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))


def doubled_if(condition: Tensor, x: Tensor) -> Tensor:
    return x * 2 if condition else x


def of_ones(x: Tensor) -> Tensor:
    return doubled_if(torch.ones(x.shape[:1], device=x.device).all(), x)


def of_ones_like_an_input(x: Tensor) -> Tensor:
    return doubled_if(torch.ones_like(x[:, 0]).all(), x)


def written_in_place(x: Tensor) -> Tensor:
    mask = torch.ones(4, 4, dtype=torch.bool, device=x.device)
    mask[:, 2:] = False
    return doubled_if(mask.all(), x)


def written_through_a_view(x: Tensor) -> Tensor:
    mask = torch.zeros(4, 4, device=x.device)
    mask[1].fill_(3.0)
    return doubled_if(mask.sum() == 12, x)


def positions(x: Tensor) -> Tensor:
    longest = int(torch.arange(7, device=x.device).max())
    return x * longest


def chosen_by_a_mask(x: Tensor) -> Tensor:
    places = torch.arange(6, device=x.device)
    return x * len(places[places < 3])


def where_not_zero(x: Tensor) -> Tensor:
    return x * len(torch.eye(5, device=x.device).nonzero())


TABLE = torch.tensor([1.0, 2.0, 4.0])


def beside_a_real_constant(x: Tensor) -> Tensor:
    places = torch.ones(3, device=x.device)
    return x * int((places + TABLE.to(x.device)).sum())


KNOWN = {
    beside_a_real_constant: 10,
    of_ones: 2, of_ones_like_an_input: 2, written_in_place: 1, written_through_a_view: 2, positions: 6,
    chosen_by_a_mask: 3, where_not_zero: 5,
}  # fmt: skip


@pytest.mark.parametrize(("between", "factor"), KNOWN.items(), ids=lambda case: getattr(case, "__name__", None))
def test_what_constants_alone_decide_is_decided_as_on_a_real_device(between, factor):
    x = torch.randn(2, 6)
    assert torch.equal(between(x), factor * x)
    signature = trace_model(Asks(between), (3,)).signatures[""]
    assert [entry[1:] for entry in signature if entry[0] == "mul"] == ([] if factor == 1 else [(factor,)])


def of_the_input(x: Tensor) -> Tensor:
    return doubled_if((x > 0).all(), x)


def spoilt_in_place(x: Tensor) -> Tensor:
    mask = torch.ones(2, 6, device=x.device)
    mask[:, :6] = x
    return doubled_if(mask.all(), x)


def drawn(x: Tensor) -> Tensor:
    return doubled_if(torch.rand(3, device=x.device).all(), x)


def listed(x: Tensor) -> Tensor:
    return x * x.sum().long().tolist()


@pytest.mark.parametrize("between", [of_the_input, spoilt_in_place, drawn, listed])
def test_what_depends_on_more_is_refused(between):
    with pytest.raises(CheckpointError, match=r"the forward pass asks, on inputs of \(3,\), for numbers"):
        trace_model(Asks(between), (3,))


class Sized(nn.Module):
    """Reads one channel of what it embeds, as BART does to learn how many positions there are."""

    def __init__(self, *, reads: bool) -> None:
        super().__init__()
        self.first, self.last, self.reads = nn.Linear(3, 6), nn.Linear(6, 5), reads

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        channel = x[:, -1]
        return self.last(x + channel[:, None] if self.reads else x / len(channel))


@pytest.mark.parametrize("reads", [False, True])
def test_a_channel_of_which_the_shape_alone_is_read_stays_one_of_all(reads):
    trace = trace_model(Sized(reads=reads), (3,))
    sizes = sorted(group.size for group in trace.groups if group.fixed is None)
    assert sizes == [5 if reads else 6]


@pytest.mark.parametrize(
    "six", [lambda: torch.div(6, 1, rounding_mode="trunc"), lambda: torch.mul(3, 2), lambda: torch.add(4, 2)]
)
def test_an_operation_on_numbers_has_no_tensor_to_follow(six):
    parts = Asks(lambda x: x[:, : six()])
    assert [group.size for group in trace_model(parts, (3,)).groups if group.fixed is None] == [6]
