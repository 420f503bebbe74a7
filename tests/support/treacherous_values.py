"""Small timm models that run the same operations on other values, or tie other parameters, once a switch is turned.

A body is a function of (model, tokens [images, places, channels], turned).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tests.support.treacherous import PLACES, Net, name_of, register

Body = Callable[["Turned", Tensor, bool], Tensor]
Ties = Callable[["Turned"], None]


class Turned(Net):
    """A net with two more layers, whose body may depend on a switch."""

    def __init__(self, body: Body, *, turned: bool = False, ties: Ties | None = None, **kwargs: int) -> None:
        super().__init__(lambda s, x: body(s, x, turned), **kwargs)
        self.a, self.b = nn.Linear(self.dim, self.dim), nn.Linear(self.dim, self.dim)
        self.halves = nn.Linear(self.dim // 2, self.dim, bias=False)
        self.rows = nn.Parameter(torch.ones(2, PLACES, 1))
        self.inner = nn.LayerNorm(self.dim)
        self.register_buffer("other", torch.ones(self.dim))
        self.far, self.near = torch.tensor(0.25), torch.tensor(4.0)
        if ties is not None:
            ties(self)


def _swapped(x: Tensor, y: Tensor, turned: bool) -> tuple[Tensor, Tensor]:
    return (y, x) if turned else (x, y)


def _residual(s: Turned, x: Tensor, turned: bool) -> Tensor:
    y = s.a(x).tanh()
    return _swapped(x, y, turned)[0] + s.b(y)


def _layers(s: Turned, x: Tensor, turned: bool) -> Tensor:
    """Layers of two types, each with a mask of its own; the types may come in another order."""
    for layer, kind in zip((s.a, s.b), _swapped(*s.rows.unbind(), turned), strict=True):
        x = x + layer(x * kind).tanh()
    return x


def _written_place(s: Turned, x: Tensor, turned: bool) -> Tensor:
    y = s.a(x)
    first, second = _swapped(y[:, :1], y[:, 1:2], turned)
    first.mul_(second)
    return y


def _weight(s: Turned, x: Tensor, turned: bool) -> Tensor:
    return x + torch.tanh(x @ (s.a.weight if turned else s.a.weight.t()))


def _square(s: Turned, x: Tensor, turned: bool) -> Tensor:
    """Places in another order: rows and columns of the square that they form exchanged, or not."""
    y = s.a(x).unflatten(1, (PLACES, 1) if turned else (PLACES // 2, 2))
    return x * y.transpose(1, 2).flatten(1, 2).sigmoid()


def _constants(s: Turned, x: Tensor, turned: bool) -> Tensor:
    x = (x * s.far + s.a(x) * s.near).tanh()
    return x * _swapped(s.far, s.near, turned)[0]


def _attention(s: Turned, x: Tensor, turned: bool) -> Tensor:
    q, k = _swapped(s.a(x), s.b(x), turned)
    return F.scaled_dot_product_attention(q[..., :1], k[..., :1], x, scale=1.0)


def _channels(s: Turned, x: Tensor, turned: bool) -> Tensor:
    """One half of the channels, or the other, where nothing else tells them apart."""
    y = s.a(x).view(*x.shape[:2], 2, s.dim // 2)
    return s.halves(y[:, :, 1 if turned else 0].tanh())


OTHER_VALUES: dict[str, Body] = {
    "a residual from another place": _residual,
    "layer types in another order": _layers,
    "operands exchanged": lambda s, x, t: torch.sub(*_swapped(s.a(x), s.b(x), t)),
    "one of them activated": lambda s, x, t: (lambda p, q: p.sigmoid() * q)(*_swapped(s.a(x), s.b(x), t)),
    "queries and keys exchanged": _attention,
    "joined the other way round": lambda s, x, t: x * torch.stack(_swapped(s.a(x), s.b(x), t)).cumsum(0)[0].tanh(),
    "parameters exchanged": lambda s, x, t: (lambda p, q: (x * p).tanh() * q)(*_swapped(s.g, s.q, t)),
    "buffers exchanged": lambda s, x, t: (lambda p, q: (x * p).tanh() * q)(*_swapped(s.stored, s.other, t)),
    "constants exchanged": _constants,
    "weights of another layer": lambda s, x, t: F.linear(x, *_swapped(s.a, s.b, t)[0].parameters()),
    "a weight for another bias": lambda s, x, t: F.linear(x, s.a.weight, _swapped(s.a.bias, s.b.bias, t)[0]),
    "a weight turned": _weight,
    "parts of an unbound tensor": lambda s, x, t: (lambda p, q: x * p + q.exp())(*_swapped(*s.rows.unbind(), t)),
    "places split elsewhere": lambda s, x, t: x * s.a(x).split([3, 1] if t else [1, 3], 1)[0].amax(1, keepdim=True),
    "places cut elsewhere": lambda s, x, t: x * (s.a(x)[:, 2:] if t else s.a(x)[:, :2]).amax(1, keepdim=True),
    "another place": lambda s, x, t: x * s.a(x)[:, 2 if t else 1].sigmoid()[:, None],
    "another stride": lambda s, x, t: x * (s.a(x)[:, :2] if t else s.a(x)[:, ::2]).amax(1, keepdim=True),
    "more places": lambda s, x, t: x * s.a(x)[:, : 3 if t else 2].amax(1, keepdim=True),
    "a place written to": _written_place,
    "a square read by columns": _square,
    "repeated more often": lambda s, x, t: x * s.a(x).repeat(1, 3 if t else 2, 1).cumsum(1)[:, -1:],
    "halves of the channels exchanged": lambda s, x, t: torch.cat(_swapped(*s.a(x).chunk(2, -1), t), -1) + x,
    "the other half of the channels": _channels,
    "bounded on the other side": lambda s, x, t: x.clamp(max=0.1) if t else x.clamp(min=0.1),
    "cut to whole numbers": lambda s, x, t: s.a(x) + (9 * x).to(torch.int64 if t else torch.float32).to(x.dtype),
    "broadcast along another dimension": lambda s, x, t: x * (x[:, :, :1].mT if t else x[:, :, :1]).mean(-1)[..., None],
}  # fmt: skip


def _tie(s: Turned) -> None:
    s.b.weight = s.a.weight


def _tie_vectors(s: Turned) -> None:
    s.q = s.g


def _tie_buffers(s: Turned) -> None:
    s.other = s.stored


def _register_twice(s: Turned) -> None:
    both = nn.Parameter(torch.ones(s.dim, s.dim))
    s.a.weight = both
    s.b.weight = both


def _tie_memory(s: Turned) -> None:
    both = torch.ones(s.dim, s.dim)
    s.a.weight, s.b.weight = nn.Parameter(both), nn.Parameter(both)


def _tie_module(s: Turned) -> None:
    s.b = s.a


def _tie_crosswise(s: Turned) -> None:
    s.b.weight, s.fc2.weight = s.a.weight, s.fc.weight


def _tie_norms(s: Turned) -> None:
    s.inner.weight, s.inner.bias = s.norm.weight, s.norm.bias


def _plain(s: Turned, x: Tensor, turned: bool) -> Tensor:
    y = torch.tanh(s.a(x) * s.g * s.stored) + s.fc2(x)
    return x + s.b(y * s.q * s.other)


def _normed(s: Turned, x: Tensor, turned: bool) -> Tensor:
    return x + s.b(s.inner(s.a(s.norm(x)).tanh()))


def _tie_gain(s: Turned) -> None:
    s.g = s.norm.weight


def _scaled(s: Turned, x: Tensor, turned: bool) -> Tensor:
    return x + s.b(s.norm(x)) * s.g


TIES: dict[str, tuple[Ties, Body]] = {
    "weights": (_tie, _plain),
    "vectors": (_tie_vectors, _plain),
    "buffers": (_tie_buffers, _plain),
    "one parameter registered twice": (_register_twice, _plain),
    "parameters in one memory": (_tie_memory, _plain),
    "two pairs": (_tie_crosswise, _plain),
    "norms": (_tie_norms, _normed),
    "a gain and a scale": (_tie_gain, _scaled),
}
TIED_MODULES = "modules"  # that are called by one path where they are one, by two where they are not

for _case, _body in OTHER_VALUES.items():
    register(name_of("values", _case), lambda body=_body, **kwargs: Turned(body, **kwargs))


def _tied(case: str, kind: str, *, turned: bool = False, **kwargs: int) -> Turned:
    """Ties where the switch is turned (`tied`), where it is not (`untied`), or always (`kept`)."""
    ties, body = (_tie_module, _plain) if case == TIED_MODULES else TIES[case]
    return Turned(body, ties=ties if kind == "kept" or turned == (kind == "tied") else None, **kwargs)


for _case in (*TIES, TIED_MODULES):
    for _kind in ("tied", "untied", "kept"):
        register(name_of(_kind, _case), lambda case=_case, kind=_kind, **kwargs: _tied(case, kind, **kwargs))
