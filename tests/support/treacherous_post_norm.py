"""Small timm models whose blocks end in a norm (`x = norm(x + f(x))`), behind another or what looks like one.

A part is a function of (block, tokens [images, places, channels]); a walk takes the tokens through all blocks. The eps
of the norms is large, so that what is wrong by it shows.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tests.support.treacherous import name_of, register
from tests.support.treacherous_callers import Part, Walk, Walked, added, chain, kept

Run = Callable[["Normed", Tensor], Tensor]


class Normed(Part):
    """A block with norms of its own."""

    def __init__(self, run: Run, dim: int) -> None:
        super().__init__(run, dim)
        self.one, self.two = nn.LayerNorm(dim, eps=0.1), nn.LayerNorm(dim, eps=0.03)
        self.bare = nn.LayerNorm(dim, elementwise_affine=False)


class Behind(Walked):
    """A sequence of such blocks behind a norm."""

    part = Normed

    def __init__(self, run: Run, walk: Walk, depth: int = 2, width: int = 1) -> None:
        super().__init__(run, walk, depth, width)
        if run is _tied:
            for block in self.blocks:
                block.one.weight = self.norm.weight
        if run is _by_one_norm:
            for block in self.blocks:
                block.shared = self.norm


def _one(s: Normed, x: Tensor) -> Tensor:
    return s.one(x + s.branch(x))


def _two(s: Normed, x: Tensor) -> Tensor:
    x = s.one(x + s.branch(x))
    return s.two(x + s.c(torch.tanh(x)))


def _tied(s: Normed, x: Tensor) -> Tensor:
    return s.one(x + s.branch(x))


def _by_one_norm(s: Normed, x: Tensor) -> Tensor:
    return s.shared(x + s.branch(x))


def _chain(s: Behind, x: Tensor) -> Tensor:
    return chain(s, s.norm(x))


def _behind(change: Callable[[Behind, Tensor], Tensor]) -> Walk:
    """With something between the norm in front and the blocks, and between the blocks."""

    def walk(s: Behind, x: Tensor) -> Tensor:
        x = s.norm(x)
        for block in s.blocks:
            x = block(change(s, x))
        return x

    return walk


def _kept(use: Callable[[list[Tensor]], Tensor]) -> Walk:
    return lambda s, x: kept(use)(s, s.norm(x))


def _gain_read_twice(s: Behind, x: Tensor) -> Tensor:
    return _chain(s, x) * s.blocks[0].one.weight * s.blocks[-1].one.weight


def _front_written(s: Behind, x: Tensor) -> Tensor:
    x = s.norm(x)
    for block in s.blocks:
        x = block(x)
        x.mul_(2.0)
    return x


def _written_beside(s: Behind, x: Tensor) -> Tensor:
    x = s.norm(x)
    for block in s.blocks:
        y = block(x)
        x.add_(1.0)
        x = y + x.tanh()
    return x


def _normed_sums(s: Behind, x: Tensor) -> Tensor:
    x = s.norm(x)
    for block in s.blocks:
        x = s.norm(x + block.branch(x))
    return x


def _run_twice(s: Behind, x: Tensor) -> Tensor:
    return chain(s, _chain(s, x))


def _from_the_front(s: Behind, x: Tensor) -> Tensor:
    first = x = s.norm(x)
    for block in s.blocks:
        x = block(x) + 0.0 * first
    return x + first


CLOSED: dict[str, tuple[Run, Walk]] = {
    "one norm": (_one, _chain),
    "two norms": (_two, _chain),
    "two norms, read by a third": (_two, lambda s, x: F.layer_norm(_chain(s, x), (s.dim,))),
    "read by several": (_one, lambda s, x: (y := _chain(s, x)) * torch.sigmoid(s.fc2(y))),
    "places in another order in front": (_one, lambda s, x: _chain(s, x.flip(1))),
    "a copy in front": (_one, lambda s, x: _chain(s, x).clone()),
}
DOUBTFUL: dict[str, tuple[Run, Walk]] = {
    "no norm in front": (_one, chain),
    "no norm in front, two norms": (_two, chain),
    "activated between": (_one, _behind(lambda s, x: x.relu())),
    "scaled between": (_one, _behind(lambda s, x: 2 * x)),
    "shifted between": (_two, _behind(lambda s, x: x + 1)),
    "read between": (_one, _behind(lambda s, x: s.fc2(x))),
    "places turned between": (_one, _behind(lambda s, x: x.flip(1))),
    "channels as places": (_one, _behind(lambda s, x: x.transpose(1, 2).reshape(x.shape))),
    "normed between": (_one, _behind(lambda s, x: F.layer_norm(x, (s.dim,)))),
    "last two returned": (_one, _kept(lambda kept: kept[-1] + kept[-2].tanh())),
    "all returned": (_two, _kept(lambda kept: torch.stack(kept).mean(0))),
    "all joined": (_two, _kept(lambda kept: torch.cat(kept, 1).max(1, keepdim=True).values)),
    "front kept": (_one, _from_the_front),
    "a gain read elsewhere": (_one, _gain_read_twice),
    "written in place": (_one, _front_written),
    "written beside": (_one, _written_beside),
    "added by the caller": (_one, added()),
    "one norm for all": (_by_one_norm, _chain),
    "one gain for all": (_tied, _chain),
    "the owner's norm": (_one, _normed_sums),
    "run twice": (_two, _run_twice),
    "a norm without a gain": (lambda s, x: s.bare(x + s.branch(x)), _chain),
    "a norm without a gain within": (lambda s, x: s.one(s.bare(x + s.branch(x))), _chain),
    "a norm of the branch": (lambda s, x: s.one(x) + s.branch(x), _chain),
    "a norm of the branch alone": (lambda s, x: x + s.one(s.branch(x)), _chain),
    "a norm on both": (lambda s, x: s.one(x) + s.two(s.branch(x)), _chain),
    "one norm twice": (lambda s, x: s.one(s.one(x) + s.branch(x)), _chain),
    "a norm over places": (lambda s, x: F.layer_norm((x + s.branch(x)).mT, (x.shape[1],)).mT, _chain),
    "a norm over both": (lambda s, x: F.layer_norm(x + s.branch(x), x.shape[1:]), _chain),
    "a norm over places within": (
        lambda s, x: s.one(F.layer_norm((x + s.branch(x)).mT, (x.shape[1],)).mT), _chain),
    "the stream twice": (lambda s, x: s.one(x + x + s.branch(x)), _chain),
    "the stream halved": (lambda s, x: s.one(0.5 * x + s.branch(x)), _chain),
    "the stream subtracted": (lambda s, x: s.one(s.branch(x) - x), _chain),
    "the stream without its mean": (lambda s, x: s.one(x - x.mean(-1, keepdim=True) + s.branch(x)), _chain),
    "the stream behind a layer": (lambda s, x: s.one(s.c(x) + s.branch(x)), _chain),
    "activated before the norm": (lambda s, x: s.one((x + s.branch(x)).relu()), _chain),
    "activated behind the norm": (lambda s, x: s.one(x + s.branch(x)).relu(), _chain),
    "its gain in the branch": (lambda s, x: s.one(x + s.branch(x) * s.one.weight), _chain),
    "its shift as a bias": (lambda s, x: s.one(x + F.linear(x.relu(), s.b.weight, s.one.bias)), _chain),
    "a gain of its own making": (
        lambda s, x: F.layer_norm(x + s.branch(x), x.shape[-1:], s.one.weight.exp(), s.one.bias), _chain),
    "gain and shift exchanged": (
        lambda s, x: F.layer_norm(x + s.branch(x), x.shape[-1:], s.one.bias, s.one.weight), _chain),
    "a gain for both": (
        lambda s, x: F.layer_norm(x + s.branch(x), x.shape[-1:], s.one.weight, s.one.weight), _chain),
    "a norm of another place": (lambda s, x: s.one(x.roll(1, 1) + s.branch(x)), _chain),
    "norms in a row": (lambda s, x: s.two(s.one(x + s.branch(x))), _chain),
    "halves normed": (
        lambda s, x: s.one(x + s.branch(x)).unflatten(-1, (2, -1)).flip(2).flatten(2), _chain),
}  # fmt: skip

for _case, (_run, _walk) in {**CLOSED, **DOUBTFUL}.items():
    register(name_of("behind", _case), lambda run=_run, walk=_walk, **kwargs: Behind(run, walk, **kwargs))
