"""Small programs drawn at random: whatever is promised to be exact is, in float64, every number random."""

import random

import pytest
import torch
from torch import Tensor, nn

from tests.support.random_steps import Rule, RuleOfTwo, drawn_step
from tests.support.stream_nets import wrong

# Kinds of values: channels [N, heads, tokens, d], one [.., 1], scores [.., tokens, tokens], ...

OF_CHANNELS: list[tuple[str, Rule]] = [
    ("channels", lambda s, x: x.relu()),
    ("channels", lambda s, x: nn.functional.leaky_relu(x)),
    ("channels", lambda s, x: x.tanh()),
    ("channels", lambda s, x: x.abs()),
    ("channels", lambda s, x: x * s.gain),
    ("channels", lambda s, x: s.norm(x)),
    ("channels", lambda s, x: s.bare(x)),
    ("channels", lambda s, x: nn.functional.normalize(x, dim=-1)),
    ("channels", lambda s, x: x.softmax(-1)),
    ("channels", lambda s, x: x * s.d**-0.5),
    ("channels", lambda s, x: x / s.d),
    ("channels", lambda s, x: x + s.gain),
    ("channels", lambda s, x: x + 1 / s.d),
    ("channels", lambda s, x: torch.cat([x, x * s.gain], -1).unflatten(-1, (2, -1))[..., 1, :]),
    ("channels", lambda s, x: torch.stack([x, -x]).sum(0) + torch.stack([x, x.relu()], -1).unbind(-1)[1]),
    ("channels", lambda s, x: x.mT.cumsum(-1).mT / 4),
    ("channels", lambda s, x: x.clone().mul_(s.d**-0.5)),
    ("channels", lambda s, x: x @ (s.other.mT @ s.rel).softmax(-1)),
    ("channels", lambda s, x: x @ (s.other.mT @ s.rel)),
    ("channels", lambda s, x: (x @ s.rel.mT).tanh() @ s.other),
    ("channels", lambda s, x: (x @ torch.cat([s.rel, torch.ones_like(s.rel)]).mT) @ torch.cat([s.other, s.rel])),
    ("channels", lambda s, x: (x @ (s.rel * s.gain).mT) @ s.norm(s.other)),
    ("one", lambda s, x: x.mean(-1, keepdim=True)),
    ("one", lambda s, x: x.sum(-1, keepdim=True)),
    ("one", lambda s, x: x.amax(-1, keepdim=True)),
    ("one", lambda s, x: x.var(-1, keepdim=True)),
    ("one", lambda s, x: x.norm(dim=-1, keepdim=True)),
    ("one", lambda s, x: x @ s.rel[:1].mT),
    ("mixed", lambda s, x: x.mT @ x / 4),
]
OF_ONE: list[tuple[str, Rule]] = [
    ("one", lambda s, x: x.sigmoid()),
    ("one", lambda s, x: x * s.d**-0.5),
    ("one", lambda s, x: x.relu()),
]
OF_SCORES: list[tuple[str, Rule]] = [
    ("scores", lambda s, x: x.softmax(-1)),
    ("scores", lambda s, x: x * s.d**-0.5),
    ("scores", lambda s, x: x.relu()),
    ("scores", lambda s, x: x.tanh()),
]
OF_MIXED: list[tuple[str, Rule]] = [
    ("mixed", lambda s, x: x.softmax(-1)),
    ("mixed", lambda s, x: x.softmax(-2)),
    ("mixed", lambda s, x: x.tanh()),
    ("mixed", lambda s, x: x * s.d**-1),
]
RULES = {"channels": OF_CHANNELS, "one": OF_ONE, "scores": OF_SCORES, "mixed": OF_MIXED}
OF_TWO: dict[tuple[str, str], list[tuple[str, RuleOfTwo]]] = {
    ("channels", "channels"): [
        ("channels", lambda s, x, y: x + y),
        ("channels", lambda s, x, y: x * y),
        ("scores", lambda s, x, y: x @ y.mT),
        ("one", lambda s, x, y: (x * y).sum(-1, keepdim=True)),
        ("mixed", lambda s, x, y: x.mT @ y / 4),
    ],
    ("channels", "one"): [("channels", lambda s, x, y: x * y), ("channels", lambda s, x, y: x / (y.square() + 1))],
    ("scores", "channels"): [("channels", lambda s, x, y: x @ y)],
    ("channels", "mixed"): [("channels", lambda s, x, y: x @ y), ("channels", lambda s, x, y: x @ y.mT)],
    ("scores", "scores"): [("scores", lambda s, x, y: x + y)],
}


class Program(nn.Module):
    """Two heads of `width` channels between a stem and a head; a random program of `length` steps between them."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        self.d, self.seed, self.num_classes, self.pretrained_cfg = width, seed, 3, {"input_size": (3, 8, 8)}
        self.stem, self.head, self.out = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 3), nn.Linear(2 * width, 6)
        self.q, self.k, self.v = (nn.Linear(6, 2 * width) for _ in "qkv")
        self.norm, self.bare = nn.LayerNorm(width), nn.LayerNorm(width, elementwise_affine=False)
        self.gain = nn.Parameter(torch.ones(width))
        self.rel, self.other = (nn.Parameter(torch.ones(5, width)) for _ in "ab")

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image).flatten(2).transpose(1, 2)
        values = [
            ("channels", layer(x).unflatten(2, (2, self.d)).transpose(1, 2)) for layer in (self.q, self.k, self.v)
        ]
        draw = random.Random(self.seed)
        for _ in range(draw.randint(3, 9)):
            values.append(drawn_step(self, values, draw, RULES, OF_TWO, 0.5))
        total = sum(y for kind, y in values[3:] if kind == "channels") + values[2][1]
        if draw.random() < 0.7:
            total = total.tanh()
        return self.head((x + self.out(total.transpose(1, 2).flatten(2))).mean(1))


@pytest.mark.parametrize("operator", ["tile", "mixture", "net2net", "zero"])
@pytest.mark.parametrize("seed", range(15))
def test_no_program_is_promised_too_much(seed, operator):
    found = wrong(seed, operator, 4, 6 if operator in ("net2net", "zero") else 8, Program)
    assert found is None or found < 1e-9


def test_many_programs_are_exact():
    assert sum(wrong(seed, "tile", 4, 8, Program) is not None for seed in range(15)) >= 3
