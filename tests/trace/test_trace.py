"""Channel groups, proved by permutation: one group may take any order, all of it together and not apart.

A group that lacks a member or holds a foreign one fails the first proof, channels that are tied without need fail the
second. Every number of the models is random and in float64, so that no zero or one hides an error.
"""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from growtool.checkpoint import ModelSpec, build
from growtool.library.timm import input_size
from growtool.trace import ChannelGroup, Member, NamedGroup, Trace, positions, trace_built, trace_model
from growtool.trace.reading.factors import sums_of_activations
from tests.support.models import TINY, Tiny, random_model

FAMILIES = sorted(TINY)
NO_RESIDUAL_BLOCK = ("densenet", "efficientnet")


def traced(tiny: Tiny) -> Trace:
    return trace_built(ModelSpec(tiny.architecture), tiny.create())


def group_of(trace: Trace, tensor: str, dim: int) -> NamedGroup:
    """The one group that a dimension carries."""
    found = [g for g in trace.groups if any((m.tensor, m.dim) == (tensor, dim) for m in g.members)]
    assert len(found) == 1
    return found[0]


def derangement(size: int, generator: torch.Generator) -> Tensor:
    """A random cycle through all positions: none stays where it was."""
    cycle = torch.randperm(size, generator=generator)
    order = torch.empty_like(cycle)
    order[cycle] = cycle.roll(1)
    return order


def permuted(
    state: Mapping[str, Tensor], trace: Trace, order: Mapping[ChannelGroup, Tensor], *, only: Member | None = None
) -> dict[str, Tensor]:
    """Every tensor with the channels of the ordered channel groups rearranged, or one dimension of one tensor alone."""
    result = {}
    for name, tensor in state.items():
        for dim, axis in enumerate(trace.tensors[name]):
            if only is None or (only.tensor, only.dim) == (name, dim):
                tensor = tensor.index_select(dim, positions(axis, order))
        result[name] = tensor
    return result


def logits(model: nn.Module, state: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    model.load_state_dict(state)
    model.train().eval()  # LeViT keeps the biases of its last evaluation
    with torch.no_grad():
        return model(inputs)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / a.abs().max())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_group_may_be_reordered_together_and_not_apart(family):
    model, inputs = random_model(TINY[family]), TINY[family].inputs()
    trace, generator = traced(TINY[family]), torch.Generator().manual_seed(1)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = logits(model, state, inputs)
    free = [group for group in trace.groups if group.fixed is None]
    order = {group.group: derangement(group.size, generator) for group in free}
    moved = permuted(state, trace, order)
    assert sum(not torch.equal(moved[name], state[name]) for name in state) > len(state) / 2

    assert relative(before, logits(model, moved, inputs)) < 1e-9

    for group in free:  # vectors are left out: a bias of the keys changes no softmax, so its order is free
        members = [m for m in group.members if m.tensor in state and state[m.tensor].ndim > 1]
        if len(members) < 2:
            continue
        member = members[int(torch.randint(len(members), (), generator=generator))]
        apart = permuted(state, trace, {group.group: order[group.group]}, only=member)
        assert relative(before, logits(model, apart, inputs)) > 1e-9, member


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in NO_RESIDUAL_BLOCK])
def test_zeroed_exits_turn_a_block_into_the_identity(family):
    model, inputs, trace = random_model(TINY[family]), TINY[family].inputs(), traced(TINY[family])
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert trace.exits
    for path, exits in trace.exits.items():
        seen: list[bool] = []

        def leaves_what_entered(module: nn.Module, args: tuple[Tensor, ...], output: Tensor, seen=seen) -> None:
            seen.append(any(torch.equal(entered, output) for entered in args))

        handle = model.get_submodule(path).register_forward_hook(leaves_what_entered)
        logits(model, {n: t * 0 if n in exits else t for n, t in state.items()}, inputs)
        handle.remove()
        assert seen and all(seen), path


@pytest.mark.parametrize("family", NO_RESIDUAL_BLOCK)
def test_a_net_without_residual_blocks_has_no_exits(family):
    assert not traced(TINY[family]).exits


@pytest.mark.parametrize(
    ("tiny", "path", "ends"),
    [
        (TINY["vit"], "blocks.0", {"attn.proj.weight", "attn.proj.bias", "mlp.fc2.weight", "mlp.fc2.bias"}),
        (TINY["vit_scaled"], "blocks.0", {"ls1.gamma", "ls2.gamma"}),
        (TINY["resnet"], "layer1.1", {"bn2.weight", "bn2.bias"}),
        (TINY["bottleneck"], "layer1.1", {"bn3.weight", "bn3.bias"}),
        (TINY["convnext"], "stages.1.blocks.1", {"gamma"}),
    ],
    ids=["vit", "layer scale", "basic", "bottleneck", "convnext"],
)
def test_exits_are_the_last_affine_step_of_every_branch(tiny, path, ends):
    assert traced(tiny).exits[path] == {f"{path}.{name}" for name in ends}


def test_roles_of_a_residual_stream():
    trace = traced(TINY["vit"])
    roles = {(m.tensor, m.dim): m.role for m in group_of(trace, "patch_embed.proj.weight", 0).members}
    for block in ("blocks.0", "blocks.1"):
        assert roles[f"{block}.attn.qkv.weight", 1] == "consumer"
        assert roles[f"{block}.attn.proj.weight", 0] == "producer"
        assert roles[f"{block}.mlp.fc1.weight", 1] == "consumer"
        assert roles[f"{block}.mlp.fc2.weight", 0] == "producer"
        assert roles[f"{block}.norm1.weight", 0] == "vector"
    assert roles["patch_embed.proj.weight", 0] == roles["pos_embed", 2] == "producer"
    assert roles["head.weight", 1] == "consumer"
    assert ("blocks.0.attn.proj.weight", 1) not in roles


def test_packed_queries_keys_and_values_are_three_products_of_heads_and_channels():
    model = build(ModelSpec("test_vit", {**TINY["vit"].args, "embed_dim": 12, "num_heads": 3}))
    rows, columns = trace_model(model, input_size(model)).tensors["blocks.0.attn.qkv.weight"]
    assert len(rows) == 3 and len(set(rows)) == 1
    assert [group.size for group in rows[0]] == [3, 4]
    assert [[factor.size for factor in segment] for segment in columns] == [[12]]


def test_concatenation_shows_in_what_reads_it():
    trace = traced(TINY["densenet"])
    first, second = (
        trace.tensors[f"features.denseblock1.denselayer{n}.conv2.weight"][0][0][0] for n in (1, 2)
    )  # fmt: skip
    stem = trace.tensors["features.conv0.weight"][0][0][0]
    read_by_transition = trace.tensors["features.transition1.conv.weight"][1]
    assert read_by_transition == ((stem,), (first,), (second,))


@pytest.mark.parametrize(
    ("family", "tensor", "dim", "reason"),
    [
        ("vit", "head.weight", 0, "the model's output"),
        ("vit", "patch_embed.proj.weight", 1, "the input image"),
        ("vit", "patch_embed.proj.weight", 2, "a kernel position"),
        ("resnet", "fc.bias", 0, "the model's output"),
    ],
)
def test_fixed_channels_say_why(family, tensor, dim, reason):
    assert group_of(traced(TINY[family]), tensor, dim).fixed == reason


def test_depthwise_channels_are_one_group_through_the_convolution():
    trace = traced(TINY["convnext"])
    stream = group_of(trace, "stem.0.weight", 0)
    depthwise = Member("stages.0.blocks.0.conv_dw.weight", 0, "producer")
    assert depthwise in stream.members
    assert Member("stages.0.blocks.0.mlp.fc1.weight", 1, "consumer") in stream.members


@pytest.fixture
def mystery():
    """An operation that torch knows and growtool does not: it swaps the two halves of the channels."""
    with torch.library._scoped_library("growtool_test", "FRAGMENT") as library:
        library.define("mystery(Tensor x) -> Tensor")
        library.impl("mystery", lambda x: x.roll(x.shape[1] // 2, 1), "CPU")
        library.impl("mystery", lambda x: torch.empty_like(x), "Meta")
        yield torch.ops.growtool_test.mystery


class Chain(nn.Module):
    """Two convolutions with an operation between them."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 4, 1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.between(self.first(x))).relu()).mean((2, 3))


def test_an_unknown_operation_fixes_what_it_touches_and_is_named(mystery):
    trace = trace_model(Chain(mystery), (3, 4, 4))
    assert trace.unknown == {"growtool_test.mystery.default": 1}
    for tensor, dim in (("first.weight", 0), ("first.bias", 0), ("second.weight", 1)):
        assert "mystery is not known to the trace" in (group_of(trace, tensor, dim).fixed or "")
    assert group_of(trace, "second.weight", 0).fixed is None


@pytest.mark.parametrize(
    ("between", "free"),
    [
        (torch.relu, True),
        (lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(), True),
        (lambda x: x.flip(1), False),
        (lambda x: x.roll(3, 1), False),
        (lambda x: x.tril(), True),
        (lambda x: x.transpose(1, 3).triu().transpose(1, 3), False),
        (lambda x: x[:, [1, 0, 2, 3, 4, 5, 6, 7]], False),
        (lambda x: x.cumsum(1), False),
        (lambda x: x + torch.arange(8.0, device=x.device).view(1, 8, 1, 1), False),
        (lambda x: x + torch.ones(8, device=x.device).view(1, 8, 1, 1), True),
    ],
    ids="relu gate flip roll triangle channels index cumsum uneven even".split(),
)
def test_channels_are_free_exactly_where_their_order_does_not_matter(between, free):
    trace = trace_model(Chain(between), (3, 4, 4))
    assert (group_of(trace, "first.weight", 0).fixed is None) == free
    assert group_of(trace, "second.weight", 0).fixed is None


@pytest.mark.parametrize("turn", [lambda x: x.transpose_(1, 2).transpose_(1, 2), lambda x: x.unsqueeze_(1).squeeze_(1)])
def test_a_layout_changed_in_place_is_traced_and_fixes_its_channels(turn):
    group = group_of(trace_model(Chain(turn), (3, 4, 4)), "first.weight", 0)
    assert group.fixed is not None and "in place" in group.fixed


class FusedAttention(nn.Module):
    """Attention by torch's fused operation, queries, keys and values from layers of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Linear(4, 12), nn.Linear(4, 12), nn.Linear(4, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        heads = [layer(tokens).unflatten(-1, (3, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v)]
        attended = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*heads)[0]
        return self.out(attended.transpose(1, 2).flatten(2)).mean(1)


def test_fused_attention_shares_heads_and_joins_queries_to_keys():
    trace = trace_model(FusedAttention(), (4, 3, 3))
    (q,), (k,), (v,), (read,) = (
        trace.tensors[f"{name}.weight"][dim] for name, dim in (("q", 0), ("k", 0), ("v", 0), ("out", 1))
    )
    assert q == k and read == v
    assert q[0] is v[0] and q[1] is not v[1]
    assert ((q[1],),) in {axis for _, axis in sums_of_activations(trace.forward)}


def test_tracing_leaves_the_model_and_the_global_generator_alone():
    model = random_model(TINY["vit"]).float()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    trace_model(model, input_size(model))
    drawn = torch.rand(())
    torch.manual_seed(3)
    assert drawn == torch.rand(())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
