"""Small timm models, each with one construction on which a careless rule would promise too much.

Every model is a stem, a body under test between two linear layers, and a head; `width` scales all channels, `depth`
repeats a block. A body is a function of (model, tokens [images, places, channels]).
"""

from collections.abc import Callable

import torch
from timm.models import register_model
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

CHANNELS, PLACES = 6, 4
Body = Callable[["Net", Tensor], Tensor]
Values = Callable[[int], Tensor]


class Net(nn.Module):
    """A stem, a body, a head, and whatever a body may need."""

    def __init__(self, body: Body, width: int = 1, num_classes: int = 5, values: Values | None = None) -> None:
        super().__init__()
        dim = CHANNELS * width
        self.pretrained_cfg = self.default_cfg = {"input_size": (3, 8, 8), "num_classes": num_classes}
        self.num_classes, self.num_features, self.dim = num_classes, dim, dim
        self.stem, self.head = nn.Conv2d(3, dim, 4, 4), nn.Linear(dim, num_classes)
        self.fc, self.fc2, self.norm = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.LayerNorm(dim)
        self.g, self.q = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.ones(dim))
        self.few, self.back = nn.Parameter(torch.ones(3, dim)), nn.Linear(3, dim)
        self.kernel = nn.Conv1d(1, 1, 3, padding=1)
        self.along, self.across = nn.GRU(dim, dim, batch_first=True), nn.GRU(PLACES, PLACES, batch_first=True)
        self.places = nn.Parameter(torch.ones(PLACES, 1))
        self.one = nn.Parameter(torch.ones(1))
        self.register_buffer("stored", torch.ones(dim))
        if values is not None:
            self.register_buffer("values", values(dim), persistent=False)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.fc(self.stem(x).flatten(2).transpose(1, 2)))
        return self.head((self.body(self, x) * self.places).mean(1))


def _written(s: Net, x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, :, :] = x
    return x * (out * s.dim**-0.5)


def _view_of_a_branch(s: Net, x: Tensor) -> Tensor:
    y = s.fc2(x)
    y[..., : s.dim // 2].add_(1.0)
    return x + y


def _tied(s: Net, x: Tensor) -> Tensor:
    return (x @ s.fc2.weight.T).relu() @ s.fc2.weight


# What must be found exact, since copying channels plainly passes through it.
EXACT: dict[str, Body] = {
    "plain": lambda s, x: x + s.fc2(x),
    "mean over channels fed back": lambda s, x: x * torch.sigmoid(x.mean(-1, keepdim=True)),
    "population variance": lambda s, x: x / (x.var(-1, keepdim=True, correction=0) + 1),
    "layer norm": lambda s, x: s.norm(x) + x,
    "group norm, larger groups": lambda s, x: F.group_norm(x.mT, 2).mT,
    "group norm, more groups": lambda s, x: F.group_norm(x.mT, s.dim // 3).mT,
    "group norm, one group": lambda s, x: F.group_norm(x.mT, 1).mT,
    "group norm, one group for each copy": lambda s, x: F.group_norm(x.mT, s.dim // CHANNELS).mT,
    "largest channel": lambda s, x: x - x.amax(-1, keepdim=True),
    "heads by view": lambda s, x: x.view(*x.shape[:2], s.dim // 3, 3).mean(2).repeat(1, 1, s.dim // 3),
    "tied weights": lambda s, x: s.fc2(torch.tanh(x)) + s.fc2(x),
    "stored buffer": lambda s, x: x * s.stored,
    "projection to few and back": lambda s, x: s.back(x @ s.few.T),
    "in-place addition": lambda s, x: x.add_(s.fc2(x)),
    "maximum over places": lambda s, x: x + x.amax(1, keepdim=True),
    "sum over places": lambda s, x: x * x.sum(1, keepdim=True),
    "recurrence over places": lambda s, x: s.along(x)[0],
}

# What no copying of channels keeps exact, or what the trace need not be clever enough to see through.
OTHER: dict[str, Body] = {
    "unbiased variance": lambda s, x: x / (x.var(-1, keepdim=True) + 1),
    "unbiased standard deviation": lambda s, x: x / (x.std(-1, keepdim=True) + 1),
    "first channel": lambda s, x: x + x[..., :1],
    "last channel": lambda s, x: x + x[..., -1:],
    "picked channels": lambda s, x: x + x[..., [0, 2]].mean(-1, keepdim=True),
    "every second channel": lambda s, x: x + x[..., ::2].mean(-1, keepdim=True),
    "softmax over channels": lambda s, x: x.softmax(-1),
    "log softmax over channels": lambda s, x: x.log_softmax(-1),
    "recurrence over channels": lambda s, x: x + s.across(x.mT)[0].mT,
    "last state of a recurrence over channels": lambda s, x: x * s.across(x.mT)[1][0][..., None],
    "running sum": lambda s, x: x.cumsum(-1),
    "running product": lambda s, x: x.cumprod(-1),
    "running maximum": lambda s, x: x.cummax(-1).values,
    "roll": lambda s, x: x + x.roll(1, -1),
    "flip": lambda s, x: x + x.flip(-1),
    "shift by padding": lambda s, x: x + F.pad(x, (1, 0))[..., :-1],
    "padding": lambda s, x: x + F.pad(x, (0, 2)).amax(-1, keepdim=True),
    "channel shuffle": lambda s, x: x + x.view(*x.shape[:-1], 3, s.dim // 3).transpose(-1, -2).flatten(-2),
    "pixel shuffle": lambda s, x: x + F.pixel_shuffle(x.transpose(1, 2)[:, : s.dim // 4 * 4, :, None], 2).sum(),
    "reshaped across": lambda s, x: x + x.transpose(1, 2).reshape(x.shape),
    "l2 norm": lambda s, x: F.normalize(x, dim=-1),
    "l1 norm": lambda s, x: F.normalize(x, p=1.0, dim=-1),
    "vector norm": lambda s, x: x / (torch.linalg.vector_norm(x, 3, dim=-1, keepdim=True) + 1),
    "cosine similarity": lambda s, x: x * F.cosine_similarity(x, s.fc2(x), dim=-1)[..., None],
    "distance": lambda s, x: x * torch.cdist(x, s.fc2(x)).sum(-1, keepdim=True),
    "sum over channels": lambda s, x: x * x.sum(-1, keepdim=True),
    "product over channels": lambda s, x: x + x.prod(-1, keepdim=True),
    "logsumexp over channels": lambda s, x: x - x.logsumexp(-1, keepdim=True),
    "count of channels": lambda s, x: x * (x > 0).sum(-1, keepdim=True),
    "median": lambda s, x: x - x.median(-1, keepdim=True).values,
    "sorted": lambda s, x: s.fc2(x.sort(-1).values),
    "ranked": lambda s, x: x * x.argsort(-1),
    "topk": lambda s, x: x * x.topk(2, -1).values.sum(-1, keepdim=True),
    "kth value": lambda s, x: x - x.kthvalue(2, -1).values[..., None],
    "argmax": lambda s, x: x * x.argmax(-1, keepdim=True),
    "one hot": lambda s, x: s.fc2(F.one_hot(x.argmax(-1), s.dim).to(x.dtype)),
    "sum over expanded channels": lambda s, x: x[..., None].expand(*x.shape, s.dim).sum(-1),
    "sum over expanded rows": lambda s, x: x[..., None, :].expand(*x.shape, s.dim).sum(-2),
    "sum over repeats": lambda s, x: x[..., None, :].repeat(1, 1, s.dim, 1).sum(-2),
    "sum of ones": lambda s, x: x * torch.ones_like(x).sum(-1, keepdim=True),
    "sum of new ones": lambda s, x: x * x.new_ones(s.dim).sum(),
    "matrix of ones": lambda s, x: x + x @ x.new_ones(s.dim, s.dim),
    "expanded weight": lambda s, x: x + x @ s.one.expand(s.dim)[:, None],
    "weights beside rows of ones": lambda s, x: (
        x + torch.tanh(x @ torch.cat([s.few, torch.ones_like(s.few)]).T).mean(-1, keepdim=True)
    ),
    "written over weights": lambda s, x: (
        x + torch.tanh(x @ (s.few * 1).add_(1).mul_(2).T).mean(-1, keepdim=True)
    ),
    "ones beside weights": lambda s, x: (
        x + torch.tanh(x @ torch.cat([torch.ones_like(s.few), s.few]).T).mean(-1, keepdim=True)
    ),
    "two weights multiplied": lambda s, x: torch.tanh(x @ (s.fc.weight * s.fc2.weight).T),
    "a gain for columns": lambda s, x: torch.tanh(x @ (s.fc2.weight * s.g).T),
    "a gain under columns": lambda s, x: torch.tanh(x @ (s.fc2.weight / (s.g.square() + 1)).T),
    "weights in two sums": lambda s, x: torch.tanh(x @ s.few.T @ s.few),
    "gram matrix": lambda s, x: x @ (x.transpose(1, 2) @ x),
    "attention over channels": lambda s, x: (x.transpose(1, 2) @ x).softmax(-1).matmul(x.transpose(1, 2)).mT,
    "attention": lambda s, x: F.scaled_dot_product_attention(x, s.fc2(x), x),
    "unscaled attention": lambda s, x: (x @ s.fc2(x).mT).softmax(-1) @ x,
    "outer product": lambda s, x: s.fc2((x[..., :, None] * x[..., None, :]).sum(-1)),
    "einsum": lambda s, x: x * torch.einsum("bnc,bnc->bn", x, s.fc2(x))[..., None],
    "three-way einsum": lambda s, x: torch.einsum("bnc,dc,d->bnd", x, s.fc2.weight, s.g),
    "bilinear": lambda s, x: x + torch.einsum("bnc,cd,bnd->bn", x, s.fc2.weight, x)[..., None],
    "tied and transposed": _tied,
    "squared weights": lambda s, x: F.linear(x, s.fc2.weight**2),
    "normalised weights": lambda s, x: F.linear(x, F.normalize(s.fc2.weight, dim=1)),
    "standardised weights": lambda s, x: F.linear(x, (s.fc2.weight - s.fc2.weight.mean(1, keepdim=True))
                                                  / s.fc2.weight.std(1, keepdim=True)),
    "softmax of weights": lambda s, x: s.back(x @ s.few.softmax(-1).T),
    "weights shifted": lambda s, x: F.linear(x, s.fc2.weight + 1.0),
    "sum of weights": lambda s, x: x * s.fc2.weight.sum(),
    "norm of weights": lambda s, x: x * s.g.norm(),
    "mean of weights": lambda s, x: x * s.fc2.weight.mean(),
    "read as a vector and as a matrix": lambda s, x: x * torch.sigmoid(x @ s.q)[..., None] + s.q,
    "weights beside ones": lambda s, x: s.back(torch.cat([x, x], -1) @ torch.cat([s.few, torch.ones_like(s.few)], 1).T),
    "weights divided by": lambda s, x: s.back(x @ (1 / s.few).T),
    "written constant": _written,
    "convolution over channels": lambda s, x: x * s.kernel(x.mean(1, keepdim=True)).sigmoid(),
    "pooled channels": lambda s, x: F.avg_pool1d(x, 3, 1, 1),
    "largest neighbours": lambda s, x: F.max_pool1d(x, 3, 1, 1),
    "resampled channels": lambda s, x: F.interpolate(x, size=s.dim, mode="linear") + F.interpolate(
        F.interpolate(x, size=4, mode="linear"), size=s.dim),
    "unfolded channels": lambda s, x: x + x.unfold(-1, 3, 1).mean((-1, -2))[..., None],
    "local response": lambda s, x: F.local_response_norm(x.transpose(1, 2), 3).transpose(1, 2),
    "ramp of constants": lambda s, x: x * s.values,
    "constant by width": lambda s, x: x * s.values,
    "python number by width": lambda s, x: x * s.dim**-0.5,
    "integer by width": lambda s, x: x * s.dim,
    "integer divisor by width": lambda s, x: x / s.dim,
    "tensor number by width": lambda s, x: x * torch.tensor(s.dim**-0.5),
    "filled by width": lambda s, x: x * torch.full((1,), s.dim, device=x.device, dtype=x.dtype),
    "power by width": lambda s, x: x.abs() ** (s.dim / 6),
    "leaky slope by width": lambda s, x: F.leaky_relu(x, 1 / s.dim),
    "elu by width": lambda s, x: F.elu(x, alpha=s.dim),
    "celu by width": lambda s, x: F.celu(x, alpha=s.dim),
    "softplus by width": lambda s, x: F.softplus(x, beta=s.dim),
    "clamp by width": lambda s, x: x.clamp(-1 / s.dim, 1 / s.dim),
    "hardtanh by width": lambda s, x: F.hardtanh(x, -1 / s.dim, 1 / s.dim),
    "threshold by width": lambda s, x: F.threshold(x, 1 / s.dim, 0.0),
    "norm order by width": lambda s, x: x * torch.linalg.vector_norm(x, s.dim, dim=1, keepdim=True),
    "attention scale by width": lambda s, x: F.scaled_dot_product_attention(x[..., :1], x[..., :1], x, scale=s.dim),
    "causal by width": lambda s, x: F.scaled_dot_product_attention(
        x.mean(-1, keepdim=True), x.mean(-1, keepdim=True), x, is_causal=s.dim > CHANNELS),
    "addition scaled by width": lambda s, x: torch.add(x, s.fc2(x), alpha=s.dim),
    "product added by width": lambda s, x: torch.addcmul(x, x, x, value=s.dim),
    "matrix product scaled by width": lambda s, x: x + torch.addmm(s.g, x[:, 0], s.fc2.weight, beta=s.dim)[:, None],
    "lerp by width": lambda s, x: torch.lerp(x, s.fc2(x), 1 / s.dim),
    "roll of places by width": lambda s, x: x + x.roll(s.dim // 6, 1) * x[:, :1],
    "dropped in place": lambda s, x: x.masked_fill(x > 1 / s.dim, 0.0),
    "masked by range": lambda s, x: x * (torch.arange(s.dim, device=x.device) < 3),
    "embedding by range": lambda s, x: x + torch.arange(s.dim, device=x.device).to(x.dtype),
    "lower triangle": lambda s, x: x @ torch.ones(s.dim, s.dim, device=x.device, dtype=x.dtype).tril(),
    "triangle of weights": lambda s, x: F.linear(x, s.fc2.weight.tril()),
    "diagonal of weights": lambda s, x: x * s.fc2.weight.diagonal(),
    "identity matrix": lambda s, x: x @ torch.eye(s.dim, device=x.device, dtype=x.dtype),
    "interleaved": lambda s, x: torch.stack([x, s.fc2(x)], -1).flatten(-2)[..., : s.dim],
    "repeat interleave": lambda s, x: x[..., : s.dim // 2].repeat_interleave(2, -1),
    "half swapped": lambda s, x: torch.cat([x[..., s.dim // 2 :], x[..., : s.dim // 2]], -1) * x,
    "half negated": lambda s, x: torch.cat([-x[..., s.dim // 2 :], x[..., : s.dim // 2]], -1) + x,
    "chunks of three": lambda s, x: torch.cat([part * (i + 1) for i, part in enumerate(x.split(3, -1))], -1),
    "fourier over channels": lambda s, x: torch.fft.fft(x, dim=-1).real,
    "group norm, as many groups by width": lambda s, x: F.group_norm(x.mT, s.dim).mT,
    "group norm, groups by parity": lambda s, x: F.group_norm(x.mT, 1 if s.dim > CHANNELS else 2).mT,
    "group norm, fewer channels a group": lambda s, x: F.group_norm(x.mT, 6 if s.dim > CHANNELS else 2).mT,
    "group norm, single channels": lambda s, x: F.group_norm(x.mT, 12 if s.dim > CHANNELS else 1).mT,
    "instance norm over channels": lambda s, x: F.instance_norm(x),
    "batch statistics": lambda s, x: F.batch_norm(x.transpose(1, 2), None, None, training=True).transpose(1, 2),
    "rms norm": lambda s, x: F.rms_norm(x, (s.dim,)),
    "view of a branch": _view_of_a_branch,
    "scatter": lambda s, x: x.scatter(-1, x.argmax(-1, keepdim=True), 1.0),
    "gather": lambda s, x: x * x.gather(-1, x.argmin(-1, keepdim=True)),
    "kronecker": lambda s, x: x + torch.kron(s.g[:3], s.q[: s.dim // 3]),
    "size of the channels": lambda s, x: x * x.shape[-1],
    "count by elements": lambda s, x: x * x.numel(),
    "difference along channels": lambda s, x: x + F.pad(x.diff(dim=-1), (1, 0)),
    "nonlinear in a sum": lambda s, x: x * (x * s.g).sum(-1, keepdim=True),
    "sum of squares": lambda s, x: x * x.square().sum(-1, keepdim=True).rsqrt(),
}  # fmt: skip

# Buffers that the constructor fills by itself, from the number of channels.
FILLED: dict[str, Values] = {
    "ramp of constants": lambda dim: torch.linspace(1, 2, dim),
    "constant by width": lambda dim: torch.full((dim,), dim**-0.5),
}


class Block(nn.Module):
    """A block of a sequence; `run` is a function of (block, tokens)."""

    def __init__(self, run: Callable[["Block", Tensor], Tensor], shared: nn.Linear | None) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(CHANNELS, CHANNELS), shared or nn.Linear(CHANNELS, CHANNELS)
        self.g = nn.Parameter(torch.ones(CHANNELS))
        self.register_buffer("ones", torch.ones(CHANNELS), persistent=False)
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


class Deep(Net):
    """A sequence of `depth` blocks."""

    def __init__(self, run: Callable[[Block, Tensor], Tensor], depth: int = 2, *, tied: bool = False) -> None:
        super().__init__(lambda s, x: s.blocks(x))
        shared = nn.Linear(CHANNELS, CHANNELS) if tied else None
        self.blocks = nn.Sequential(*[Block(run, shared) for _ in range(depth)])


def _written_after(s: Block, x: Tensor) -> Tensor:
    y = x + s.b(x)
    y[..., :2].add_(1.0)
    return y


def _written_before(s: Block, x: Tensor) -> Tensor:
    y = s.b(s.a(x).relu())
    y[..., :2].add_(1.0)
    return x + y


def _written_input(s: Block, x: Tensor) -> Tensor:
    x[..., :2].mul_(2.0)
    return x + s.b(x)


def _written_whole_input(s: Block, x: Tensor) -> Tensor:
    x.mul_(2.0)
    return x + s.b(x)


def _written_through_a_view(s: Block, x: Tensor) -> Tensor:
    y = x + s.b(x)
    y.transpose(1, 2).mul_(2.0)
    return y


def _written_base(s: Block, x: Tensor) -> Tensor:
    y = x + s.b(x)
    z = y.transpose(1, 2)
    y.mul_(2.0)
    return z.transpose(1, 2)


def _copied_into(s: Block, x: Tensor) -> Tensor:
    y = x + s.b(x)
    y[:, 0] = s.a(x[:, 0])
    return y


def _set_by_mask(s: Block, x: Tensor) -> Tensor:
    y = x + s.b(x)
    y[y > 0] = 0.5
    return y


def _as_square(x: Tensor) -> Tensor:
    return x.unflatten(1, (2, 2))


CLOSABLE: dict[str, Callable[[Block, Tensor], Tensor]] = {
    "residual": lambda s, x: x + s.b(s.a(x).relu()),
    "layer scale": lambda s, x: x + s.g * s.b(s.a(x).relu()),
    "branch first": lambda s, x: s.b(s.a(x).relu()) + x,
    "transposed and back": lambda s, x: _as_square(x).transpose(1, 2).transpose(1, 2).flatten(1, 2) + s.b(x),
    "in place": lambda s, x: x.clone().add_(s.b(x)),
    "side by side": lambda s, x: x + torch.cat([s.a(x)[..., :2], s.b(x)[..., 2:]], -1),
}
OPEN: dict[str, Callable[[Block, Tensor], Tensor]] = {
    "no residual": lambda s, x: s.b(x),
    "written after": _written_after,
    "written before": _written_before,
    "written input": _written_input,
    "written whole input": _written_whole_input,
    "written through a view": _written_through_a_view,
    "written base": _written_base,
    "copied into": _copied_into,
    "set by mask": _set_by_mask,
    "sigmoid of what is zeroed": lambda s, x: x + torch.sigmoid(s.b(x)),
    "one plus": lambda s, x: x + (s.b(x) + 1),
    "padded by one": lambda s, x: x + F.pad(s.b(x)[..., 1:], (1, 0), value=1.0),
    "clamped above zero": lambda s, x: x + s.b(x).clamp_min(1.0),
    "softmax of the branch": lambda s, x: x + s.b(x).softmax(-1),
    "half the stream": lambda s, x: 0.5 * x + s.b(x),
    "normalised afterwards": lambda s, x: F.layer_norm(x + s.b(x), (CHANNELS,)),
    "rectified afterwards": lambda s, x: (x + s.b(x)).relu(),
    "rolled stream": lambda s, x: x.roll(1, 1) + s.b(x),
    "flipped and added": lambda s, x: x.flip(-1) + s.b(x),
    "transposed stream": lambda s, x: x.mT.reshape(x.shape) + s.b(x),
    "transposed square": lambda s, x: _as_square(x).transpose(1, 2).flatten(1, 2) + s.b(x),
    "transposed square, branch first": lambda s, x: s.b(x) + _as_square(x).transpose(1, 2).flatten(1, 2),
    "sum of two branches": lambda s, x: x + s.b(x) + s.a(x).tanh().cosh(),
    "divided by zero": lambda s, x: x + s.a(x) / s.b(x),
    "gated by a buffer": lambda s, x: x + s.a(x).tanh().cosh() * s.ones,
    "subtracted stream": lambda s, x: s.b(x) - x,
    "difference": lambda s, x: x - s.b(x),
    "maximum": lambda s, x: torch.maximum(x, s.b(x)),
    "doubled": lambda s, x: torch.add(s.b(x), x, alpha=2),
    "log of the branch": lambda s, x: x + (s.b(x) + 1).log().exp(),
    "exponential": lambda s, x: x + s.b(x).exp(),
    "power zero": lambda s, x: x + s.b(x) ** 0,
    "slope": lambda s, x: x + F.hardsigmoid(s.b(x)),
    "beside what stays": lambda s, x: x + torch.cat([s.b(x)[..., :3], s.a(x)[..., 3:].exp()], -1),
    "beside ones": lambda s, x: x + torch.cat([s.b(x)[..., :3], torch.ones_like(x)[..., 3:]], -1),
    "threshold value": lambda s, x: x + F.threshold(s.b(x), 0.5, 7.0),
    "threshold at zero": lambda s, x: x + F.threshold(s.b(x), 0.0, 7.0),
    "bounded below zero": lambda s, x: x + s.b(x).clamp(max=-0.5),
    "bounded above zero": lambda s, x: x + s.b(x).clamp(min=0.5),
    "bounded beside zero": lambda s, x: x + F.hardtanh(s.b(x), 0.5, 1.0),
}  # fmt: skip
TIED = "shared layer"


class Line(nn.Module):
    """Layers in line, `depth` convolutions each with what follows it; `run` is a function of (model, image)."""

    def __init__(
        self,
        run: Callable[["Line", Tensor], Tensor],
        depth: int = 2,
        *,
        after: Callable[[], list[nn.Module]] = lambda: [nn.ReLU()],
        container: type[nn.Sequential] = nn.Sequential,
        kernel: int = 3,
    ) -> None:
        super().__init__()
        self.pretrained_cfg = self.default_cfg = {"input_size": (3, 8, 8), "num_classes": 5}
        self.num_classes, self.num_features, self.run = 5, CHANNELS, run
        self.stem, self.head = nn.Conv2d(3, CHANNELS, 3), nn.Linear(CHANNELS, 5)
        convs = (nn.Conv2d(CHANNELS, CHANNELS, kernel, padding=kernel // 2) for _ in range(depth))
        self.line = container(*(layer for conv in convs for layer in (conv, *after())), nn.MaxPool2d(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.run(self, self.stem(x).relu()).mean((2, 3)))


class Skipping(nn.Sequential):
    """Looks like layers in line and is none."""

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self):
            x = x + layer(x) if i % 4 == 2 else layer(x)
        return x


class Detour(nn.Sequential):
    """Calls its layers in order, one of them on something else than what the layer before it returned."""

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for i, layer in enumerate(self):
            out = layer(x if i == 4 else out)
        return out


class Unheard(nn.Sequential):
    """Calls its layers in order, and hands on what went into the last unit."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self[:-3]:
            x = layer(x)
        heard = x
        for layer in self[-3:]:
            x = layer(x)
        return heard


def _plain(s: Line, x: Tensor) -> Tensor:
    return s.line(x)


def _one_by_one(s: Line, x: Tensor) -> Tensor:
    for layer in s.line:
        x = layer(x)
    return x


IN_LINE: dict[str, Callable[..., nn.Module]] = {
    "plain": lambda **kwargs: Line(_plain, **kwargs),
    "with norms": lambda **kwargs: Line(_plain, after=lambda: [nn.BatchNorm2d(CHANNELS), nn.ReLU()], **kwargs),
    "activation first": lambda **kwargs: Line(_plain, after=lambda: [nn.ReLU(), nn.Identity()], **kwargs),
}
NOT_IN_LINE: dict[str, Callable[..., nn.Module]] = {
    "other activation": lambda **kwargs: Line(_plain, after=lambda: [nn.GELU()], **kwargs),
    "norm by the layer": lambda **kwargs: Line(_plain, after=lambda: [nn.GroupNorm(2, CHANNELS), nn.ReLU()], **kwargs),
    "scaled after": lambda **kwargs: Line(_plain, after=lambda: [nn.ReLU(), nn.Hardtanh(0, 1)], **kwargs),
    "pooled after": lambda **kwargs: Line(_plain, after=lambda: [nn.ReLU(), nn.AvgPool2d(3, 1, 1)], **kwargs),
    "even kernel": lambda **kwargs: Line(_plain, kernel=2, **kwargs),
    "another forward": lambda **kwargs: Line(_plain, container=Skipping, **kwargs),
    "a detour": lambda **kwargs: Line(_plain, container=Detour, **kwargs),
    "unheard": lambda **kwargs: Line(_plain, container=Unheard, **kwargs),
    "one by one": lambda **kwargs: Line(_one_by_one, **kwargs),
    "twice": lambda **kwargs: Line(lambda s, x: s.line(nn.functional.interpolate(s.line(x), (6, 6))), **kwargs),
    "by number of layers": lambda **kwargs: Line(lambda s, x: (s.line(x).tanh() / len(s.line)).tanh(), **kwargs),
    "one layer again": lambda **kwargs: Line(lambda s, x: s.line[2](s.line(x)), **kwargs),
    "last but one": lambda **kwargs: Line(lambda s, x: s.line[:-3](x), **kwargs),
}  # fmt: skip


def name_of(kind: str, case: str) -> str:
    """The registered name of a case."""
    return f"treacherous_{kind}_" + case.replace(" ", "_").replace("-", "_")


def register(name: str, make: Callable[..., nn.Module]) -> None:
    def entrypoint(pretrained: bool = False, **kwargs: object) -> nn.Module:
        own = {key: value for key, value in kwargs.items() if key in ("width", "depth", "num_classes", "turned")}
        return make(**own)

    entrypoint.__name__, entrypoint.__module__ = name, __name__
    globals()[name] = entrypoint
    register_model(entrypoint)


for _case, _body in {**EXACT, **OTHER}.items():
    _values = FILLED.get(_case)
    register(name_of("wide", _case), lambda body=_body, values=_values, **kwargs: Net(body, values=values, **kwargs))
for _case, _run in {**CLOSABLE, **OPEN}.items():
    register(name_of("deep", _case), lambda run=_run, **kwargs: Deep(run, **kwargs))
register(name_of("deep", TIED), lambda **kwargs: Deep(CLOSABLE["residual"], tied=True, **kwargs))
for _case, _make in {**IN_LINE, **NOT_IN_LINE}.items():
    register(name_of("line", _case), _make)
