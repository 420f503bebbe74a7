"""Small timm models whose sequences of blocks are more than a chain: what callers do with what blocks return.

A part is a function of (block, tokens [images, places, channels]); a walk takes the tokens through all blocks. Several
look as if a block could be closed and are not so.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tests.support.treacherous import Net, name_of, register

SIDE = 2  # of the square that the places form
Run = Callable[..., Any]
Walk = Callable[["Walked", Tensor], Tensor]


class Part(nn.Module):
    """A block; `run` is a function of (block, tensors)."""

    def __init__(self, run: Run, dim: int) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(dim, dim) for _ in range(3))
        self.local, self.other = nn.Conv2d(dim, dim, 3, padding=1, groups=dim), nn.Conv2d(dim, dim, 3, padding=1)
        self.norm = nn.BatchNorm2d(dim)
        self.g = nn.Parameter(torch.ones(dim))
        self.run = run

    def forward(self, *tensors: Tensor) -> Any:
        return self.run(self, *tensors)

    def branch(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


class Walked(Net):
    """A sequence of `depth` blocks, of the kind `part`, that its owner walks through."""

    part: type[Part] = Part

    def __init__(self, run: Run, walk: Walk, depth: int = 2, width: int = 1) -> None:
        super().__init__(walk, width)
        self.blocks = nn.ModuleList([self.part(run, self.dim) for _ in range(depth)])
        if run in (_sharing, _sharing_weights):
            for block in self.blocks:
                block.shared = self.fc2


def _branch(s: Part, x: Tensor) -> Tensor:
    return s.branch(x)


def _residual(s: Part, x: Tensor) -> Tensor:
    return x + s.branch(x)


def _sharing(s: Part, x: Tensor) -> Tensor:
    return x + s.shared(s.branch(x).relu())


def _sharing_weights(s: Part, x: Tensor) -> Tensor:
    return x + F.linear(s.branch(x).relu(), s.shared.weight, s.shared.bias)


def chain(s: Walked, x: Tensor) -> Tensor:
    for block in s.blocks:
        x = block(x)
    return x


def added(change: Callable[[Walked, Tensor], Tensor] = lambda s, y: y) -> Walk:
    def walk(s: Walked, x: Tensor) -> Tensor:
        for block in s.blocks:
            x = x + change(s, block(x))
        return x

    return walk


def _added_in_place(s: Walked, x: Tensor) -> Tensor:
    for block in s.blocks:
        x += block(x)
    return x


def _onto_what_was_returned(s: Walked, x: Tensor) -> Tensor:
    for block in s.blocks:
        y = block(x)
        y += x
        x = y
    return x


def _in_parts(s: Walked, x: Tensor) -> Tensor:
    for block in s.blocks:
        x = x + block.b(torch.relu(block.a(x)))
    return x


def _both(s: Walked, x: Tensor) -> Tensor:
    for block in s.blocks:
        x = x + block(x)
        x = x + block.c(torch.tanh(x))
    return x


def _two_streams(turn: int) -> Walk:
    def walk(s: Walked, x: Tensor) -> Tensor:
        streams = [x, s.fc2(x)]
        for block in s.blocks:
            streams = list(block(*streams))[::turn]
        return streams[0] + streams[1].tanh()

    return walk


def _halves(s: Walked, x: Tensor) -> Tensor:
    streams = list(torch.stack([x, s.fc2(x)]).unbind())
    for block in s.blocks:
        streams = list(block(*streams))
    return streams[0] + streams[1].tanh()


def kept(use: Callable[[list[Tensor]], Tensor]) -> Walk:
    def walk(s: Walked, x: Tensor) -> Tensor:
        kept = [x]
        for block in s.blocks:
            kept.append(block(kept[-1]))
        return use(kept)

    return walk


def _first_stream(s: Walked, x: Tensor) -> Tensor:
    first = x
    for block in s.blocks:
        x = first + block(x)
    return x


def _also_read(s: Walked, x: Tensor) -> Tensor:
    beside = torch.zeros_like(x)
    for block in s.blocks:
        y = block(x)
        x, beside = x + y, beside + y.exp()
    return x + beside


def _read_by_the_next(s: Walked, x: Tensor) -> Tensor:
    y = x
    for block in s.blocks:
        y = block(y)
        x = x + y
    return x


def _scaled_stream(s: Walked, x: Tensor) -> Tensor:
    for block in s.blocks:
        x = 0.5 * x + block(x)
    return x


def _normed(s: Walked, x: Tensor) -> Tensor:
    for block in s.blocks:
        x = s.norm(x + block(x))
    return x


def _subtracted(s: Walked, x: Tensor) -> Tensor:
    for block in s.blocks:
        x = block(x) - x
    return x


def _twice_the_stream(s: Walked, x: Tensor) -> Tensor:
    for block in s.blocks:
        x = torch.add(block(x), x, alpha=2)
    return x


def _broadcast(s: Walked, x: Tensor) -> Tensor:
    for block in s.blocks:
        x = x.mean(1, keepdim=True) + block(x)
    return x


def _shared_beside(s: Walked, x: Tensor) -> Tensor:
    for block in s.blocks:
        x = s.fc2(x) + block(x)
    return x


def _remembered(s: Walked, x: Tensor) -> Tensor:
    x = chain(s, x)
    return x + s.blocks[-1].seen


def _remembering(s: Part, x: Tensor) -> Tensor:
    s.seen = s.branch(x).exp()
    return x + s.branch(x)


def _weight_used_elsewhere(s: Walked, x: Tensor) -> Tensor:
    return chain(s, x) @ s.blocks[-1].b.weight


def _writing(s: Part, x: Tensor) -> Tensor:
    y = x + s.branch(x)
    x.mul_(2.0)
    return y


def _kept_input(s: Walked, x: Tensor) -> Tensor:
    for block in s.blocks:
        x = x.clone()
        x = block(x) * x.tanh()
    return x


def _image(x: Tensor) -> Tensor:
    return x.transpose(1, 2).unflatten(2, (SIDE, SIDE))


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def _by_depth(read: Callable[[Walked, Tensor], Tensor], power: float = -0.5) -> Walk:
    """What reads the stream times a number that changes with the depth."""
    return lambda s, x: read(s, chain(s, x) * len(s.blocks) ** power)


def _twice_by_depth(s: Walked, x: Tensor) -> Tensor:
    x = chain(s, x * len(s.blocks) ** -0.5)
    return s.fc2(x * len(s.blocks))


def _weight_read_before(s: Walked, x: Tensor) -> Tensor:
    return s.fc2(chain(s, s.fc2(x)) * len(s.blocks) ** -0.5)


def _product_written(s: Walked, y: Tensor) -> Tensor:
    out = s.fc2(y)
    y.add_(1.0)
    return out + y


def _cut(s: Part, x: Tensor) -> Tensor:
    x = torch.cat([x[:, :1], x[:, 1:3] + s.branch(x[:, 1:3]), x[:, 3:]], 1)
    return x + s.c(x.tanh())


def _by_channel(s: Part, x: Tensor) -> Tensor:
    return torch.cat([x[..., :2] + s.branch(x)[..., :2], x[..., 2:]], -1)


def _cut_and_local(s: Part, x: Tensor) -> Tensor:
    x = x + s.branch(x)
    rest = s.c(x[:, 1:])
    return torch.cat([x[:, :1], rest], 1)


def _two(s: Part, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x = x + s.branch(x)
    return x, y + s.c(torch.tanh(x))


def _exchanged(s: Part, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return y + s.branch(x), x + s.c(torch.tanh(y))


CLOSED: dict[str, tuple[Run, Walk]] = {
    "added by the caller": (_branch, added()),
    "scaled by the caller": (_branch, added(lambda s, y: 0.5 * y)),
    "layer scale of the caller": (_branch, added(lambda s, y: s.g * y)),
    "turned by the caller": (_branch, added(lambda s, y: y.mT.contiguous().mT)),
    "added in place by the caller": (_branch, _added_in_place),
    "added onto what was returned": (_branch, _onto_what_was_returned),
    "a block run in parts": (_branch, _in_parts),
    "a block and a part of it": (_branch, _both),
    "residual inside and passed on": (_residual, chain),
    "two streams": (_two, _two_streams(1)),
    "two streams, one as it was": (lambda s, x, y: (x + s.branch(y), y), _two_streams(1)),
    "two halves of a tensor": (_two, _halves),
    "a part of the places": (_cut, chain),
    "a part of the channels": (_by_channel, chain),
    "a linear layer on some places": (_cut_and_local, chain),
    "a linear layer on the stream": (lambda s, x: s.c(x + s.branch(x)), chain),
    "a convolution on the stream": (lambda s, x: _tokens(s.other(_image(x + s.branch(x)))), chain),
    "depthwise and norm on the stream": (lambda s, x: _tokens(s.norm(s.local(_image(x + s.branch(x))))), chain),
    "a number by depth, read by a layer": (_residual, _by_depth(lambda s, y: s.fc2(y))),
    "a number by depth, read by two": (_residual, _by_depth(lambda s, y: s.fc2(y) + s.back(y @ s.few.T).tanh())),
    "a number by depth, in a cut": (_residual, _by_depth(lambda s, y: s.fc2(y[:, 1:].mean(1, keepdim=True)))),
    "two convolutions in parallel": (lambda s, x: _tokens(s.local(_image(x)) + s.other(_image(x))), chain),
    "a scale on the stream": (lambda s, x: x * s.g + s.branch(x), chain),
    "a scale in another shape": (lambda s, x: _tokens(_image(x) * s.g.view(-1, 1, 1)) + s.branch(x), chain),
}
DOUBTFUL: dict[str, tuple[Run, Walk]] = {
    "a chain": (_branch, chain),
    "first stream kept": (_branch, _first_stream),
    "one layer in all blocks": (_sharing, chain),
    "one weight in all blocks": (_sharing_weights, chain),
    "returned and read": (_branch, _also_read),
    "returned to the next": (_branch, _read_by_the_next),
    "stream halved": (_branch, _scaled_stream),
    "sum normed": (_branch, _normed),
    "stream subtracted": (_branch, _subtracted),
    "stream doubled": (_branch, _twice_the_stream),
    "stream averaged": (_branch, _broadcast),
    "stream transformed": (_branch, _shared_beside),
    "residual and added": (_residual, added()),
    "exponential added": (_branch, added(lambda s, y: y.exp())),
    "one more added": (_branch, added(lambda s, y: y + 1)),
    "last two returned": (_residual, kept(lambda kept: kept[-1] + kept[-2].tanh())),
    "last but two returned": (_residual, kept(lambda kept: kept[-1] + kept[-3].tanh())),
    "all returned": (_residual, kept(lambda kept: torch.stack(kept).mean(0))),
    "all joined": (_residual, kept(lambda kept: torch.cat(kept, 1).max(1, keepdim=True).values)),
    "remembered": (_remembering, _remembered),
    "weight used elsewhere": (_residual, _weight_used_elsewhere),
    "input written": (_writing, _kept_input),
    "streams change places": (_two, _two_streams(-1)),
    "streams exchanged": (_exchanged, _two_streams(1)),
    "streams exchanged, halves": (_exchanged, _halves),
    "streams exchanged twice": (_exchanged, _two_streams(-1)),
    "a number by depth, activated": (_residual, _by_depth(lambda s, y: s.fc2(y.tanh()))),
    "a number by depth, read and added": (_residual, _by_depth(lambda s, y: s.fc2(y) + y)),
    "a number by depth, shifted": (_residual, _by_depth(lambda s, y: s.fc2(y + 1.0))),
    "a number by depth, joined": (
        _residual, _by_depth(lambda s, y: s.fc2(torch.cat([y, y.tanh()], 1).mean(1, keepdim=True)))),
    "a number by depth, returned": (_residual, _by_depth(lambda s, y: y)),
    "a number by depth, written": (_residual, _by_depth(_product_written)),
    "a number by depth, squared weights": (_residual, _by_depth(lambda s, y: F.linear(y, s.fc2.weight**2))),
    "a number by depth, weight read twice": (_residual, _by_depth(lambda s, y: s.fc2(s.fc2(y)))),
    "a number by depth, weight read before": (_residual, _weight_read_before),
    "a number by depth, weight of blocks": (_residual, _by_depth(lambda s, y: y @ s.blocks[-1].b.weight)),
    "a number by depth, weight of the first": (_residual, _by_depth(lambda s, y: y @ s.blocks[0].b.weight)),
    "a number by depth, gram matrix": (_residual, _by_depth(lambda s, y: y @ (y.mT @ y))),
    "two numbers by depth": (_residual, _twice_by_depth),
    "places in another order": (lambda s, x: torch.cat([x[:, 1:], x[:, :1]], 1) + s.branch(x), chain),
    "places missing": (lambda s, x: torch.cat([x[:, :1], x[:, :1], x[:, 2:]], 1) + s.branch(x), chain),
    "places from behind": (lambda s, x: torch.cat([x[:, -1:], x[:, 1:]], 1) + s.branch(x), chain),
    "every other place": (lambda s, x: torch.cat([x[:, ::2], x[:, 1::2]], 1) + s.branch(x), chain),
    "activation on the stream": (lambda s, x: s.c(x + s.branch(x)).tanh(), chain),
    "a scale that is added, too": (lambda s, x: x * s.g + s.g + s.branch(x), chain),
    "a scale through a gate": (lambda s, x: x * s.g.sigmoid() + s.branch(x), chain),
    "a scale in its own branch": (lambda s, x: x * s.g + s.branch(x * s.g) * s.g, chain),
    "a row of a matrix as a scale": (lambda s, x: x * s.c.weight[0] + s.branch(x), chain),
    "a scale by a norm's name": (lambda s, x: x * s.norm.weight + s.branch(_tokens(s.norm(_image(x)))), chain),
    "a divisor": (lambda s, x: x / s.g + s.branch(x), chain),
    "one layer twice on the stream": (lambda s, x: s.c(s.c(x)) + s.branch(x), chain),
    "one layer on the stream and beside": (lambda s, x: s.c(x) + s.b(s.c(x).relu()), chain),
    "one layer to pass on and to close": (lambda s, x: s.b(x) + s.b(x.relu()), chain),
    "batch statistics": (
        lambda s, x: _tokens(F.batch_norm(_image(x + s.branch(x)), None, None, s.g, s.g, training=True)), chain),
    "strange names": (lambda s, x: F.linear(x, s.c.weight, s.norm.weight) + s.branch(x), chain),
    "a weight turned": (
        lambda s, x: _tokens(F.conv2d(_image(x), s.other.weight.flip(3), s.other.bias, padding=1)) + s.branch(x),
        chain),
    "a weight scaled": (lambda s, x: F.linear(x, s.c.weight * 0.5, s.c.bias) + s.branch(x), chain),
    "padding of ones": (
        lambda s, x: _tokens(F.conv2d(F.pad(_image(x), (2, 0, 1, 1), value=1.0), s.other.weight)) + s.branch(x),
        chain),
    "a weight through a function": (lambda s, x: x + F.linear(s.a(x).relu(), s.b.weight.abs(), s.b.bias), chain),
    "a weight squared": (lambda s, x: x + F.linear(s.a(x).relu(), s.b.weight * s.b.weight, s.b.bias), chain),
    "a weight over its length": (
        lambda s, x: x + F.linear(s.a(x).relu(), s.b.weight / s.b.weight.norm(dim=1, keepdim=True)), chain),
    "a weight over its largest": (lambda s, x: x + F.linear(s.a(x).relu(), s.b.weight / s.b.weight.amax()), chain),
    "a scale over its length": (lambda s, x: x + s.branch(x) * s.g / s.g.norm(), chain),
    "a branch over its length": (lambda s, x: x + F.normalize(s.branch(x), dim=-1), chain),
    "a branch by one over its size": (
        lambda s, x: x + (y := s.branch(x)) * y.pow(2).mean((1, 2), keepdim=True).rsqrt(), chain),
    "a scale that divides beside": (lambda s, x: x + s.branch(x) * s.g + (x / s.g).tanh() * 0, chain),
    "a branch over its deviation": (lambda s, x: x + s.branch(x) / s.branch(x).std(1, keepdim=True), chain),
    "a norm with another eps": (
        lambda s, x: _tokens(F.batch_norm(
            _image(x), s.norm.running_mean, s.norm.running_var, s.norm.weight, s.norm.bias, eps=0.5)) + s.branch(x),
        chain),
}  # fmt: skip

for _case, (_run, _walk) in {**CLOSED, **DOUBTFUL}.items():
    register(name_of("called", _case), lambda run=_run, walk=_walk, **kwargs: Walked(run, walk, **kwargs))
