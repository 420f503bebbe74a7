"""What the trace must not believe: small modules on which a careless rule would promise too much.

Exits: whatever parameters the trace names as a block's exits, zeroing them makes the block the identity, to the bit.
Signatures: models that differ only in order, in a constant or in the position they pick have different signatures.
Uses: parameters read in two ways are noticed.
"""

import copy

import pytest
import torch
from torch import nn

from growtool.trace import trace_model

WIDTH, IMAGE = 6, (3, 8, 8)


class Net(nn.Module):
    """A stem, one block under test, a head."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, WIDTH, 1), block, nn.Linear(WIDTH, 2)

    def forward(self, x):
        return self.head(self.block(self.stem(x).mean((2, 3))))


class Block(nn.Module):
    """A linear layer, a vector of parameters, and a forward given as a function of (self, x)."""

    def __init__(self, forward) -> None:
        super().__init__()
        self.fc, self.norm, self.g = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.Parameter(torch.rand(WIDTH) + 1)
        self.q = nn.Parameter(torch.rand(WIDTH))
        self.run = forward

    def forward(self, x):
        return self.run(self, x)


def traced(forward):
    torch.manual_seed(0)
    model = Net(Block(forward)).eval()
    return model, trace_model(model, IMAGE)


def turned(x, by):
    return (x * torch.tensor([1, by, 1, by, 1, by]).to(x.device)).abs()


RESIDUAL = {
    "plain": lambda s, x: x + s.fc(x),
    "scaled": lambda s, x: x + s.g * s.fc(x),
    "negated": lambda s, x: x + (-s.g) * s.fc(x),
    "sigmoid gate": lambda s, x: x + torch.sigmoid(s.g) * s.fc(x),
    "one plus": lambda s, x: x + (1 + s.g) * s.fc(x),
    "divided": lambda s, x: x + s.fc(x) / s.g,
    "clamped above zero": lambda s, x: x + s.fc(x).clamp_min(0.5),
    "hardtanh above zero": lambda s, x: x + nn.functional.hardtanh(s.fc(x), 0.25, 1.0),
    "shifted": lambda s, x: x + (s.fc(x) + 1.0),
    "normed": lambda s, x: x + s.norm(s.fc(x)),
    "normed, with a shift alone": lambda s, x: x + nn.functional.layer_norm(s.fc(x), (WIDTH,), None, s.q),
    "difference": lambda s, x: x + (s.fc(x) - s.norm(x)),
    "doubled stream": lambda s, x: 2 * x + s.fc(x),
    "transposed and back": lambda s, x: (x.t() + s.fc(x).t()).t(),
}


@pytest.mark.parametrize("name", RESIDUAL)
def test_exits_close_the_block(name):
    model, trace = traced(RESIDUAL[name])
    exits = trace.exits.get("block")
    if name in ("plain", "scaled", "negated", "normed", "sigmoid gate", "one plus", "divided"):
        assert exits, "a residual branch that can be closed"
    if exits:
        closed = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in (p for n, p in closed.named_parameters() if n in exits):
                parameter.zero_()
            x = torch.randn(4, WIDTH)
            assert closed.block(x).equal(x)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda s, x: s.norm(s.fc(x)), lambda s, x: s.fc(s.norm(x))),
        (lambda s, x: s.fc(x) * torch.tensor(0.5), lambda s, x: s.fc(x) * torch.tensor(0.25)),
        (lambda s, x: (s.fc(x) * torch.tensor(0.5 + 1j)).abs(), lambda s, x: (s.fc(x) * torch.tensor(0.5 - 1j)).abs()),
        (lambda s, x: turned(s.fc(x), 1j), lambda s, x: turned(s.fc(x), 2j)),
        (
            lambda s, x: s.fc(x) * torch.full((1,), 0.5, device=x.device),
            lambda s, x: s.fc(x) * torch.full((1,), 0.25, device=x.device),
        ),
        (lambda s, x: x * (s.g * 0.5), lambda s, x: x * (s.g * 0.25)),
        (lambda s, x: x.var(1, keepdim=True), lambda s, x: x.var(1, keepdim=True, correction=0)),
    ],
    ids=["order", "constant", "complex constant", "complex constants", "filled", "scale of a weight", "divisor"],
)
def test_what_differs_has_another_signature(one, other):
    assert traced(lambda s, x: x + one(s, x))[1].signatures != traced(lambda s, x: x + other(s, x))[1].signatures


def test_a_parameter_read_in_two_ways_is_noticed():
    assert "block.q" in traced(lambda s, x: x + (x @ s.q)[:, None] + s.q)[1].read_in_several_ways
    assert "block.q" not in traced(lambda s, x: x + (x @ s.q)[:, None])[1].read_in_several_ways


@torch.library.custom_op("growtool_tests::relu", mutates_args=())
def foreign_relu(x: torch.Tensor) -> torch.Tensor:
    """No relu: it sums over the channels."""
    return x - x.sum(-1, keepdim=True)


@foreign_relu.register_fake
def _(x):
    return torch.empty_like(x)


def test_an_operation_of_another_library_is_not_taken_for_that_of_torch_with_its_name():
    _, trace = traced(lambda s, x: s.fc(foreign_relu(x)))
    assert trace.unknown == {"growtool_tests.relu.default": 1}
    fixed = {group.name: group.fixed for group in trace.groups}
    assert fixed["stem.weight[0].0"] and fixed["block.fc.weight[1].0"]
