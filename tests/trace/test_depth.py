"""Sequences of blocks, which of them are alike, and where their copies go."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from growtool.checkpoint import ModelSpec
from growtool.library.timm import input_size
from growtool.trace import Trace, inside, shortened, stretches, trace_built, trace_model
from growtool.trace.pairing.sequential_blocks import layers_in_line
from growtool.trace.pairing.stretches import sequences
from tests.support.models import TINY, Tiny, resolved, write_folder

RESNET = Tiny("resnet18", {"layers": [2, 2, 2, 2], "channels": [4, 8, 8, 12], "num_classes": 5})


def traced(tiny: Tiny) -> Trace:
    model = tiny.create()
    return trace_model(model, input_size(model))


def test_sequences_are_numbered_modules_with_modules_inside():
    names = [
        "layer1.0.conv1.weight", "layer1.1.conv1.weight", "layer2.0.conv1.weight", "downsample.0.weight",
        "stages.0.blocks.0.fc.weight", "stages.0.blocks.3.fc.weight", "stages.1.blocks.0.fc.weight", "conv1.weight",
    ]  # fmt: skip
    found = {prefix: sequence.indices for prefix, sequence in sequences(names).items()}
    assert found == {
        "layer1.": (0, 1), "layer2.": (0,), "layer": (1, 2), "stages.": (0, 1), "stages.0.blocks.": (0, 3),
        "stages.1.blocks.": (0,),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "prefix", "index"),
    [
        ("blocks.3.attn.qkv.weight", "blocks.", 3), ("blocks.12", "blocks.", 12), ("blocks.3x.weight", "blocks.", None),
        ("head.weight", "blocks.", None), ("layer1.0.conv1.weight", "layer", 1), ("blocks.attn", "blocks.", None),
    ],
)  # fmt: skip
def test_the_block_a_path_lies_in(path, prefix, index):
    assert inside(path, prefix) == index


def test_blocks_with_another_way_around_them_are_not_alike():
    """The first block of a stage has a projection on its skip connection; new blocks copy the others."""
    found = {s.prefix: s for s in stretches(traced(RESNET), traced(RESNET.with_args(layers=[3, 2, 4, 2])))}
    assert found.keys() == {"layer1.", "layer3."}
    assert found["layer3."].source == (0, 1) and found["layer3."].target == (0, 1, 2, 3)
    assert found["layer3."].alike == {0: (0,), 1: (1,), 2: (1,), 3: (1,)}


def test_shifted_windows_are_another_kind_of_block():
    source, target = TINY["swin"], TINY["swin"].with_args(depths=[4, 2])
    (stretch,) = stretches(traced(source), traced(target))
    assert stretch.alike == {0: (0,), 1: (1,), 2: (0,), 3: (1,)}


def test_equal_blocks_are_all_alike_and_nothing_stretches_by_itself():
    (stretch,) = stretches(traced(TINY["vit"]), traced(TINY["vit"].with_args(depth=3)))
    assert stretch.alike == {0: (0, 1), 1: (0, 1), 2: (0, 1)}
    assert stretches(traced(TINY["vit"]), traced(TINY["vit"])) == []


def test_what_became_shorter_is_named():
    lines = shortened(traced(TINY["vit"]), traced(TINY["vit"].with_args(depth=1)))
    assert lines == ["blocks.*: 2 blocks in the source, 1 in the target; growth never removes blocks"]


@pytest.mark.parametrize(
    ("depth", "sources"),
    [
        ({"operator": "stack"}, [0, 1, 0, 1, 0]),
        ({"operator": "interleave"}, [0, 0, 0, 1, 1]),
        ({"operator": "zero_out"}, [0, 0, 1, 1, 1]),
        ({"operator": "zero_out", "placement": "end"}, [0, 1, 1, 1, 1]),
    ],
    ids=str,
)
def test_blocks_of_the_recipe_are_those_of_the_operator(depth, sources, tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    recipe = resolved(source, {"target": {"model_args": {"depth": 5}}, "depth": depth})
    assert [recipe.blocks.placed["blocks."][i].source for i in range(5)] == sources
    for name, tensor in recipe.tensors.items():
        index = inside(name, "blocks.")
        expected = name if index is None else name.replace(f"blocks.{index}.", f"blocks.{sources[index]}.", 1)
        assert tensor.source == expected
        assert tensor.new == (index is not None and recipe.blocks.placed["blocks."][index].new)
    closing = {name for name, tensor in recipe.tensors.items() if tensor.zero}
    ends = ("attn.proj.weight", "attn.proj.bias", "mlp.fc2.weight", "mlp.fc2.bias")
    new = recipe.blocks.new if depth["operator"] == "zero_out" else []
    assert closing == {f"{block}.{end}" for block in new for end in ends}


def test_a_block_that_changes_the_width_is_none_to_copy():
    """With a projection on its skip connection (ResNet), or with the same parameters in other sizes (EfficientNet)."""
    (stretch,) = stretches(traced(TINY["resnet"]), traced(TINY["resnet"].with_args(layers=[2, 3, 1, 1])))
    assert stretch.prefix == "layer2." and stretch.alike == {0: (0,), 1: (), 2: ()}
    small = TINY["efficientnet"]
    found = {s.prefix: s.alike for s in stretches(traced(small), traced(small.with_args(depth_multiplier=2)))}
    assert found["blocks.2."] == {0: (0,), 1: ()}


class Branch(nn.Module):
    """Adds to what it receives; `out` channels of it where that is another number."""

    def __init__(self, channels: int, out: int, act: nn.Module, hidden: int = 6, groups: int = 1) -> None:
        super().__init__()
        self.first, self.act = nn.Conv1d(channels, hidden, 1, groups=groups), act
        self.second = nn.Conv1d(hidden, out, 1)
        self.passes_on = channels == out

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.act(self.first(x)))
        return x + y if self.passes_on else y


class Line(nn.Module):
    """Blocks in one sequence."""

    def __init__(self, width: int, blocks: list[nn.Module], out: int) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Conv1d(2, width, 1), nn.ModuleList(blocks), nn.Conv1d(out, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def line_of_stages(stages: list[int], factor: int = 1) -> Line:
    """Stages of so many blocks: one begins with a block that makes it wider. All blocks share an activation."""
    act, widths = nn.GELU(), [factor * width for width in (4, 8, 12)]
    before = [widths[0], *widths]
    blocks = [Branch(before[s + (i > 0)], widths[s], act) for s, n in enumerate(stages) for i in range(n)]
    return Line(widths[0], blocks, widths[-1])


def alike(small: nn.Module, large: nn.Module) -> Mapping[int, tuple[int, ...]]:
    (stretch,) = stretches(trace_model(small, (2, 5)), trace_model(large, (2, 5)))
    return stretch.alike


@pytest.mark.parametrize("factor", [1, 2])
def test_blocks_of_several_stages_in_one_sequence_are_told_apart_by_their_sizes(factor):
    """Those of a later stage are large enough for a block of an earlier one, too."""
    found = alike(line_of_stages([2, 2, 2]), line_of_stages([3, 3, 3], factor))
    assert found == {0: (0, 1), 1: (0, 1), 2: (0, 1), 3: (2,), 4: (3,), 5: (3,), 6: (4,), 7: (5,), 8: (5,)}


def test_an_output_that_shrinks_to_one_says_nothing_of_blocks():
    """Axes of size 1 are all the same, those of kernels too."""
    small, large = (Line(4, [Branch(4, 4, nn.GELU()) for _ in range(n)], 4) for n in (2, 3))
    large.head = nn.Conv1d(4, 1, 1)
    assert alike(small, large) == {0: (0, 1), 1: (0, 1), 2: (0, 1)}


def test_blocks_are_made_from_those_with_as_many_hidden_units():
    """As in GhostNet; those with fewer would do, too, if the target were wider."""
    act = nn.GELU()
    small, large = (Line(4, [Branch(4, 4, act, n) for n in hidden], 4) for hidden in ([8, 6, 6], [8, 8, 6, 6, 6, 6]))
    assert alike(small, large) == {0: (0,), 1: (0,), **dict.fromkeys(range(2, 6), (1, 2))}


def test_grouped_blocks_are_another_kind():
    """As in RepVGG of that kind; their kernels are smaller, and would fit."""
    small, large = (
        Line(8, [Branch(8, 8, nn.GELU(), 8, groups) for groups in kinds], 8) for kinds in ([1, 4], [1, 4] * 2)
    )
    assert alike(small, large) == {0: (0,), 1: (1,), 2: (0,), 3: (1,)}


def test_a_module_without_tensors_between_blocks_is_one_of_them():
    """EfficientFormer flattens its image before the last ones, at a place that depends on how many blocks there are."""
    small, large = (
        Line(4, [*[Branch(4, 4, nn.GELU()) for _ in range(n)], nn.Tanh(), Branch(4, 4, nn.GELU())], 4) for n in (1, 2)
    )
    assert alike(small, large)[2] == (1,)


def test_an_activation_that_blocks_share_runs_in_each():
    trace = trace_model(line_of_stages([2, 2, 2]), (2, 5))
    assert [trace.signatures[f"blocks.{i}.act"] for i in range(6)] == [trace.signatures["blocks.0.act"]] * 6
    assert len(trace.signatures["blocks.0.act"]) == 1


def test_kinds_that_would_leave_their_order_stay_in_it(tmp_path):
    """Two new blocks of one kind and one of the other, spread out, would put an old block before its predecessor."""
    source = write_folder(TINY["swin"].with_args(depths=[6, 2]), tmp_path / "source")
    plan = {"target": {"model_args": {"depths": [9, 2]}}, "depth": {"operator": "zero_out"}}
    recipe = resolved(source, plan)
    assert recipe.promise.kind == "exact"
    assert recipe.blocks.new == [f"layers.0.blocks.{index}" for index in (6, 7, 8)]
    assert [p.source for p in recipe.blocks.placed["layers.0.blocks."].values()] == [0, 1, 2, 3, 4, 5, 4, 5, 4]


def test_a_line_without_layers_that_compute_has_no_units():
    """Activations in line are neither repeated nor in the way."""

    def line(layers: int) -> nn.Module:
        return nn.Sequential(nn.Sequential(*(nn.ReLU() for _ in range(layers))), nn.Flatten())

    models = [line(count).eval() for count in (1, 2)]
    assert layers_in_line(*((model, trace_model(model, (3, 4, 4))) for model in models)) == []


class TiedNorms(nn.Module):
    """Two BatchNorms with one gain."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)
        self.a, self.b = nn.BatchNorm2d(4, eps=1e-3), nn.BatchNorm2d(4, eps=1e-3)
        self.b.weight = self.a.weight
        self.num_classes, self.pretrained_cfg = 2, {"input_size": (3, 8, 8)}

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.b(torch.relu(self.a(self.stem(image)))).mean((2, 3)))


def test_the_eps_of_a_norm_is_known_under_all_names_of_its_tensors():
    found = trace_built(ModelSpec("test_vit"), TiedNorms().eval()).norm_eps
    own = ("weight", "bias", "running_mean", "running_var")
    assert found == {f"{norm}.{name}": 1e-3 for norm in "ab" for name in own}
