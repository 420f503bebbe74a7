"""Larger heads: copies of the channels of queries and keys, scaled so that attention stays what it was.

The small networks attend in every way that must or must not be believed; where `exact` is promised it is compared with
what comes out, in float64, every number random.
"""

import math

import pytest
import torch
from torch import nn

from tests.support.models import TINY, Tiny, difference, grown, load, resolved, write_folder
from tests.support.stream_nets import apart, recipe_between

EXACT = 1e-11


class Attention(nn.Module):
    """Two heads of `width` channels; `forward` attends, a function of (self, stream [N, tokens, 6])."""

    def __init__(self, width: int, forward) -> None:
        super().__init__()
        self.d, self.run, self.num_classes, self.pretrained_cfg = width, forward, 3, {"input_size": (3, 8, 8)}
        self.stem, self.head, self.out = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 3), nn.Linear(2 * width, 6)
        self.q, self.k, self.v = (nn.Linear(6, 2 * width) for _ in "qkv")
        self.norm, self.rms, self.bare = nn.LayerNorm(width), nn.RMSNorm(width), nn.RMSNorm(width, None, False)
        self.both = nn.Linear(6, 4 * width)
        self.alone = nn.Linear(6, 2 * width, bias=False)
        self.gain = nn.Parameter(torch.ones(width))
        self.rel, self.other = (nn.Parameter(torch.ones(7, width)) for _ in "ab")
        self.batch, self.places = nn.BatchNorm1d(2 * width), torch.arange(4)[:, None] - torch.arange(4) + 3

    def forward(self, image):
        x = self.stem(image).flatten(2).transpose(1, 2)
        y = self.run(self, x)  # [N, heads, tokens, d]
        return self.head((x + self.out(y.transpose(1, 2).flatten(2))).mean(1))

    def heads(self, x):
        return x.unflatten(2, (2, self.d)).transpose(1, 2)

    def attend(self, q, k, v, scale=True):
        a = q @ k.transpose(2, 3)
        return (a * self.d**-0.5 if scale else a).softmax(-1) @ v


def attended(function, *, scale=True):
    """Attention with what `function` (of self, q, k, v) makes of queries, keys and values."""

    def forward(s, x):
        q, k, v = (s.heads(layer(x)) for layer in (s.q, s.k, s.v))
        return s.attend(*function(s, q, k, v), scale)

    return forward


def with_tables(function, *, scale="after"):
    """Attention with a bias that `function` (of self, q, k, v) makes of tables."""

    def forward(s, x):
        q, k, v = (s.heads(layer(x)) for layer in (s.q, s.k, s.v))
        if scale == "before":
            q = q * s.d**-0.5
        a, bias = q @ k.mT, function(s, q, k, v)
        a = (a + bias) * s.d**-0.5 if scale == "last" else a * s.d**-0.5 + bias if scale == "after" else a + bias
        return a.softmax(-1) @ v

    return forward


def half_scaled(s, x):
    """A table that queries and values of one layer meet in one product."""
    both = s.both(x).unflatten(2, (2, 2, s.d))  # [N, tokens, q and v, heads, d]
    q, v = both.transpose(1, 3).unbind(2)
    return s.attend(q, s.heads(s.k(x)), v) + (both @ s.rel[:4].mT).mean((1, 2, 4))[:, :, None, None]


def batch_normed(s, x):
    q = s.batch(s.q(x).mT).mT
    return s.attend(s.heads(q), s.heads(s.k(x)), s.heads(s.v(x)))


def packed(s, x):
    """A layer made of the weights of two."""
    q, k = nn.functional.linear(x, torch.cat([s.q.weight, s.k.weight])).chunk(2, -1)
    return s.attend(s.heads(q), s.heads(k), s.heads(s.v(x)))


def scaled_within(s, x):
    """The product itself is told its factor, as in attention by `baddbmm`."""
    q, k, v = (s.heads(layer(x)) for layer in (s.q, s.k, s.v))
    a = torch.baddbmm(x.new_zeros(1), q.flatten(0, 1), k.flatten(0, 1).mT, beta=0, alpha=s.d**-0.5)
    return a.unflatten(0, q.shape[:2]).softmax(-1) @ v


def by_torch(s, x):
    return nn.functional.scaled_dot_product_attention(*(s.heads(layer(x)) for layer in (s.q, s.k, s.v)))


KEPT = {
    "scaled after": attended(lambda s, q, k, v: (q, k, v)),
    "scaled before": attended(lambda s, q, k, v: (q * s.d**-0.5, k, v), scale=False),
    "divided": attended(lambda s, q, k, v: (q / s.d**0.5, k, v), scale=False),
    "unscaled": attended(lambda s, q, k, v: (q, k, v), scale=False),
    "scaled within": scaled_within,
    "by torch": by_torch,
    "of one layer": attended(lambda s, q, k, v: (q, q, v)),
    "no bias": lambda s, x: s.attend(s.heads(s.alone(x)), s.heads(s.k(x)), s.heads(s.v(x))),
    "normalised": attended(lambda s, q, k, v: (s.norm(q), k, v)),
    "by its root mean square": attended(lambda s, q, k, v: (s.rms(q), k, v)),
    "normalised twice": attended(lambda s, q, k, v: (s.norm(q), s.rms(k), v)),
    "normalised by the batch": batch_normed,
    "padded and unfolded keys": attended(
        lambda s, q, k, v: (q, nn.functional.pad(k, (0, 0, 1, 1)).unfold(2, 4, 2)[:, :, 0].mT, v)
    ),
    "a table": with_tables(lambda s, q, k, v: q @ s.rel[:4].mT),
    "a table after the scale": with_tables(lambda s, q, k, v: q @ s.rel[:4].mT, scale="before"),
    "places of a table": with_tables(lambda s, q, k, v: torch.einsum("nhqd,qkd->nhqk", q, s.rel[s.places])),
    "a table resampled": with_tables(
        lambda s, q, k, v: q @ nn.functional.interpolate(s.rel.mT[None], size=4, mode="linear")[0]
    ),
    "a table, halved": with_tables(lambda s, q, k, v: q @ (s.rel[:4] / 2).mT),
    "two tables": with_tables(lambda s, q, k, v: q @ s.rel[:4].mT + s.other[:4] @ k.mT),
    "a table that values meet": with_tables(lambda s, q, k, v: v @ s.rel[:4].mT),
    "the value is the query": attended(lambda s, q, k, v: (q, k, q)),
    "the value is the key": attended(lambda s, q, k, v: (q, k, k)),
    "the query goes on": attended(lambda s, q, k, v: (q, k, v + q)),
    "a gain between": attended(lambda s, q, k, v: (q * s.gain, k, v)),
    "rectified": attended(lambda s, q, k, v: (q.relu(), k, v)),
    "without a gain": attended(lambda s, q, k, v: (s.bare(q), k, v)),
    "the same number elsewhere": attended(lambda s, q, k, v: (q, k, v * s.d**-0.5)),
    "a layer used twice": lambda s, x: KEPT["scaled after"](s, x) + s.heads(s.q(x)),
    "one norm for all": attended(lambda s, q, k, v: (s.norm(q), s.norm(k), s.norm(v))),
    "of other sizes": attended(lambda s, q, k, v: (q + k, k, v)),
    "packed by hand": packed,
    "a table inside the scale": with_tables(lambda s, q, k, v: q @ s.rel[:4].mT, scale="last"),
    "a table used twice": with_tables(lambda s, q, k, v: q @ s.rel[:4].mT + k @ s.rel[:4].mT),
    "a table that values meet as well": with_tables(lambda s, q, k, v: q @ s.rel[:4].mT + v @ s.rel[:4].mT),
    "a softmax of a table": with_tables(lambda s, q, k, v: q @ s.rel[:4].softmax(0).mT),
    "a table beside ones": with_tables(lambda s, q, k, v: q @ torch.cat([s.rel[:2], torch.ones_like(s.rel[:2])]).mT),
    "a table, shifted": with_tables(lambda s, q, k, v: q @ (s.rel[:4] + 1).mT),
    "a table with the head size in it": with_tables(lambda s, q, k, v: q @ s.rel[:4].mT * s.d),
    "a table by its norm": with_tables(lambda s, q, k, v: q @ s.norm(s.rel[:4]).mT),
    "a table that queries meet together with values": half_scaled,
    "a table for rectified queries": with_tables(lambda s, q, k, v: q.relu() @ s.rel[:4].mT),
    "by their length": attended(
        lambda s, q, k, v: (nn.functional.normalize(q, dim=-1), nn.functional.normalize(k, dim=-1), v), scale=False
    ),
    "by the sum of their sizes, and by the largest": attended(
        lambda s, q, k, v: (nn.functional.normalize(q, p=1, dim=-1), nn.functional.normalize(k, p=math.inf, dim=-1), v),
        scale=False,
    ),
}
LOST = {
    "by their length and elsewhere": attended(
        lambda s, q, k, v: (q.tanh() / q.tanh().norm(dim=-1, keepdim=True).clamp_min(0.1), k.tanh(), v)
    ),
    "by the largest": attended(
        lambda s, q, k, v: (q / q.norm(p=math.inf, dim=-1, keepdim=True), s.bare(k), v), scale=False
    ),
    "without gains": attended(lambda s, q, k, v: (s.bare(q), s.bare(k), v)),
    "bounded": attended(lambda s, q, k, v: (q.tanh(), k.tanh(), v)),
    "one softmax for both": attended(lambda s, q, k, v: (q.softmax(-1), k.softmax(-1), v)),
    "the queries' own sums": attended(
        lambda s, q, k, v: (s.bare(q), k, v * (s.bare(q) * s.bare(v)).sum(-1, True).tanh())
    ),
    "tables for both inside the scale": with_tables(
        lambda s, q, k, v: s.bare(q) @ s.rel[:4].mT + s.bare(q) @ s.bare(k).mT, scale="last"
    ),
    "fused": lambda s, x: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        *(s.heads(layer(x)) for layer in (s.q, s.k, s.v))
    )[0],
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept(name):
    small, large, recipe = recipe_between(KEPT[name], "tile", 4, 8, net=Attention)
    assert recipe.promise.kind == "exact", recipe.promise
    assert apart(small, large, recipe) < EXACT


@pytest.mark.parametrize("name", LOST)
def test_what_is_not_is_not_promised(name):
    *_, recipe = recipe_between(LOST[name], "tile", 4, 8, net=Attention)
    assert recipe.promise.kind == "lossy" and recipe.promise.reasons


def test_uneven_copies_are_lossy():
    *_, recipe = recipe_between(KEPT["scaled after"], "net2net", 4, 6, net=Attention)
    assert recipe.promise.kind == "lossy"


def test_the_published_factor():
    """From 4 to 8 channels queries and keys are multiplied by (4 / 8)^(1/4) = 0.8409 each, values are not."""
    *_, recipe = recipe_between(KEPT["scaled after"], "tile", 4, 8, net=Attention)
    found = {name: t.rewrite for name, t in recipe.tensors.items() if t.rewrite is not None}
    assert found.keys() == {"q.weight", "q.bias", "k.weight", "k.bias"}
    for rewrite in found.values():
        assert rewrite.factor == pytest.approx(0.8409, abs=1e-4) and rewrite.rows is None


FAMILIES: dict[str, tuple[Tiny, dict]] = {
    "vit": (TINY["vit"], {"embed_dim": 16}),
    "vit, more and larger heads": (TINY["vit"], {"embed_dim": 32, "num_heads": 4}),
    "normalised q and k": (TINY["vit"].with_args(qk_norm=True), {"embed_dim": 16}),
    "layer scale": (TINY["vit_scaled"], {"embed_dim": 16}),
    "cait": (TINY["cait"], {"embed_dim": 16}),
    "swin": (TINY["swin"], {"embed_dim": 16}),
}


@pytest.mark.parametrize("operator", ["tile", "fpi", "mixture", "centre_zero", "zero"])
@pytest.mark.parametrize("family", FAMILIES)
def test_families(family, operator, tmp_path):
    tiny, args = FAMILIES[family]
    source = write_folder(tiny, tmp_path / "source")
    eps = {"eps": "told"} if operator in ("centre_zero", "zero") else {}
    result = grown(source, {"target": {"model_args": args}, "width": {"operator": operator, **eps}}, tmp_path / "out")
    assert result.summary.promise == "exact", result.summary.reasons
    assert difference(load(source), load(result.out), tiny.inputs()) < EXACT


def test_rows_of_packed_queries_and_keys_alone_are_scaled(tmp_path):
    recipe = resolved(
        write_folder(TINY["vit"], tmp_path / "source"),
        {"target": {"model_args": {"embed_dim": 16}}, "width": {"operator": "tile"}},
    )
    rewrite = recipe.tensors["blocks.0.attn.qkv.weight"].rewrite
    assert rewrite is not None and rewrite.rows.tolist() == pytest.approx([2**-0.25] * 16 + [1] * 8)


def test_copies_in_heads_part(tmp_path):
    """After some steps of Adam no two rows of a query are alike."""
    tiny = TINY["vit"]
    source = write_folder(tiny, tmp_path / "source")
    grown(source, {"target": {"model_args": {"embed_dim": 16}}, "width": {"operator": "tile"}}, tmp_path / "out")
    model = load(tmp_path / "out").train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tiny.inputs(8)), torch.arange(8) % 5).backward()
        optimizer.step()
    rows = model.get_parameter("blocks.0.attn.qkv.weight").detach()[:16]
    with torch.no_grad():
        seen = nn.functional.linear(torch.randn(50, 16, generator=torch.Generator().manual_seed(0)).double(), rows)
    assert nn.functional.pdist(seen.T).min() / seen.norm(dim=0).mean() > 1e-3
