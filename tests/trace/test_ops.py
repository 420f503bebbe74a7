"""What the table says of an operation holds of the operation in torch."""

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from growtool.library import Inputs
from growtool.trace.reading.counting import counted, of_pass
from growtool.trace.record import trace_model
from growtool.trace.table.kinds import Kind, Op, is_homogeneous, keeps_zero
from growtool.trace.table.ops import OPS

NUMBERS: dict[str, tuple[Any, ...]] = {  # after the tensor, where defaults do not do
    "clamp": (-0.5, 0.5), "clamp_min": (0,), "clamp_max": (0.5,), "threshold": (0, 0), "pow": (3,),
    "_prelu_kernel": (torch.tensor(0.3, dtype=torch.float64),), "max_pool2d_with_indices": ([2, 2],),
    "adaptive_max_pool2d": ([2, 2],),
    "constant_pad_nd": ([1, 1],), "mul": (2.5,), "div": (2.5,), "amax": ([1],), "amin": ([1],),
}  # fmt: skip


@dataclass
class Operation:
    name: str
    op: Op
    args: tuple[Any, ...] = ()

    def arg(self, index: int, name: str, default: Any = None) -> Any:
        return self.args[index] if len(self.args) > index else default

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        found = getattr(torch.ops.aten, self.name)(x, *self.args[1:])
        return found if isinstance(found, torch.Tensor) else found[0]


def operation(name: str) -> Operation:
    return Operation(name, OPS[name], (None, *NUMBERS.get(name, ())))


def values() -> torch.Tensor:
    return torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


ONE_TENSOR = [name for name, row in OPS.items() if row.zero or row.homogeneous or row.idempotent]


@pytest.mark.parametrize("name", ONE_TENSOR)
def test_zero_homogeneous_and_idempotent_are_so(name):
    run, x = operation(name), values()
    if keeps_zero(run):
        assert not run(torch.zeros_like(x)).any()
    if is_homogeneous(run):
        assert torch.allclose(run(x * 7), run(x) * 7)
    if run.op.idempotent:
        assert torch.equal(run(run(x)), run(x))


@pytest.mark.parametrize(
    ("name", "numbers", "holds"),
    [
        ("clamp", (0.1, 1), False), ("clamp", (None, -1), False), ("clamp_min", (-1,), True),
        ("clamp_max", (-1,), False),
        ("hardtanh", (0.5, 1), False), ("threshold", (1, 2), False), ("pow", (0,), False), ("pow", (-1,), False),
        ("constant_pad_nd", ([1, 1], 2.0), False), ("clamp_min", (torch.tensor(0.0),), False),
    ],
)  # fmt: skip
def test_numbers_decide_whether_zeros_stay(name, numbers, holds):
    assert keeps_zero(Operation(name, OPS[name], (None, *numbers))) is holds


@pytest.mark.parametrize("name", [name for name, row in OPS.items() if row.pointwise and row.zero is True])
def test_slopes_at_zero(name):
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    run = operation(name)
    run(x).sum().backward()
    finite = x.grad is not None and bool(x.grad.isfinite().all())
    assert run.op.sloped == (finite and bool(x.grad.any()))


LINEAR = {
    "avg_pool2d": ([2, 2],), "_adaptive_avg_pool2d": ([2, 2],), "mean": ([2],), "sum": ([2],), "roll": ([1], [3]),
    "flip": ([2],), "tril": (), "triu": (1,),
    "upsample_bilinear2d": ([6, 6], False), "upsample_nearest2d": ([6, 6],), "neg": (), "unfold": (2, 2, 1),
    "constant_pad_nd": ([1, 1],), "pixel_unshuffle": (2,),
}  # fmt: skip


@pytest.mark.parametrize("name", LINEAR)
def test_each_channel_of_a_linear_operation_is_a_function_of_that_channel(name):
    run = Operation(name, OPS[name], (None, *LINEAR[name]))
    x, y = values(), values().flip(0)
    assert torch.allclose(run(2 * x - y), 2 * run(x) - run(y))
    per_channel = torch.stack([run(x[:, i : i + 1]) for i in range(3)], 1)
    assert torch.allclose(run(x).reshape(per_channel.shape), per_channel)


def test_every_row_is_an_operation_that_torch_has():
    assert [name for name in OPS if not hasattr(torch.ops.aten, name)] == []
    assert all(row.axes is not None and row.kind is not Kind.UNKNOWN for row in OPS.values())


class Counted(torch.nn.Module):
    """Every operation whose row tells its MACs, on the images and on a parameter alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Parameter(torch.randn(4, 6)), torch.nn.Parameter(torch.randn(6, 5))
        self.convolution = torch.nn.Conv2d(3, 6, 3, 2, groups=3)
        self.transposed = torch.nn.ConvTranspose2d(6, 4, 3, 2, groups=2)
        self.layer = torch.nn.Linear(4, 6)
        self.lstm = torch.nn.LSTM(6, 5, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.transposed(self.convolution(x)).flatten(2).mT  # [images, positions, 4]
        x = self.layer(x) + (self.a @ self.b).sum()
        x = torch.nn.functional.scaled_dot_product_attention(x, x @ torch.ones(6, 6), x)
        return self.lstm(x)[0].mean(1)


def test_a_trace_counts_what_torch_counts_on_one_image():
    model, counter = Counted().eval(), FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        Counted().to("meta")(torch.randn(1, 3, 12, 12, device="meta"))
    expected = counter.get_total_flops() // 2
    assert sum(count for *_, count in of_pass(trace_model(model, (3, 12, 12)).forward)) == expected
    images = Inputs({"x": torch.empty(1, 3, 12, 12, device="meta")})
    assert (
        sum(count for *_, count in counted(copy.deepcopy(model), images, lambda model, x: (model(x.tensors["x"]),)))
        == expected
    )
