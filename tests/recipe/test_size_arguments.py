"""What `scale` turns into: the constructor's own arguments, found by trying them."""

import cProfile
from fractions import Fraction

import pytest

from growtool.checkpoint import ModelSpec, build
from growtool.errors import PlanError
from growtool.library.timm.families import larger_siblings
from growtool.library.timm.reach import with_open_arguments
from growtool.library.values import scaled_at
from growtool.plan.target import factor_text
from growtool.recipe.target.size_arguments import SizeArguments, find_size_arguments
from growtool.recipe.traced_model import TracedModel
from tests.support.models import TINY, Tiny, resolved, write_folder

RESNET = Tiny("resnet18", {"layers": [2, 2, 2, 2], "channels": [4, 8, 8, 12], "num_classes": 5})


def size_arguments(tiny: Tiny) -> SizeArguments:
    spec = ModelSpec(tiny.architecture, tiny.args, {"input_size": (3, tiny.size, tiny.size)})
    return find_size_arguments(TracedModel.of(spec, where=tiny.architecture))


@pytest.mark.parametrize(
    ("value", "factor", "result"),
    [
        (3, 2, 6),
        (27, 7 / 3, 63),
        (1024, 4 / 3, 1024 * 4 / 3),
        (3, 1.5, 4.5),
        (4, 1.5, 6),
        (4.0, 0.5, 2.0),
        ((2, 3), 2, (4, 6)),
        ((2, 3.0), 1.5, (3, 4.5)),
    ],
)
def test_products_of_whole_numbers_stay_whole(value, factor, result):
    assert scaled_at(value, factor) == result
    assert [type(part) for part in _parts(scaled_at(value, factor))] == [type(part) for part in _parts(result)]


def _parts(value) -> tuple:
    return value if isinstance(value, tuple) else (value,)


@pytest.mark.parametrize(
    ("family", "width", "depth"),
    [
        ("vit", {"embed_dim": 8, "num_heads": 2}, "depth"),
        ("vit_scaled", {"embed_dim": 8, "num_heads": 2}, "depth"),
        ("convnext", {"dims": (4, 6, 8, 8)}, "depths"),
        ("swin", {"embed_dim": 8, "num_heads": (2, 2)}, "depths"),
    ],
)
def test_arguments_that_widen_and_deepen(family, width, depth):
    found = size_arguments(TINY[family])
    assert found.width == width
    assert next(iter(found.depth)) == depth


def test_they_are_found_under_a_profiler_too():
    with cProfile.Profile():
        assert next(iter(size_arguments(TINY["vit"]).depth)) == "depth"


def test_heads_that_a_table_tells_of_grow_in_number():
    """Twice as many heads alone would halve the tables by head size; with twice the channels they stay."""
    args = {"embed_dim": 8, "depth": 2, "num_heads": 2, "img_size": 32, "neck_chans": 8}
    found = size_arguments(Tiny("samvit_base_patch16_224", args, size=32)).width
    assert found == {"embed_dim": 8, "num_heads": 2, "neck_chans": 8}


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_the_stem_of_a_resnet_stays(architecture):
    """Its 64 channels are fixed in the constructor; what is left to widen is most of the model all the same."""
    found = size_arguments(Tiny(architecture, {"layers": [2, 1, 1, 1], "channels": [16, 32, 32, 64]}))
    assert found.width == {"channels": (16, 32, 32, 64)}
    assert found.depth == {"layers": (2, 1, 1, 1)}
    assert found.stages == {"layers": frozenset({0, 1, 2, 3})}
    assert 0.9 < found.reach < 1


@pytest.mark.parametrize(
    ("family", "scale", "args"),
    [
        ("vit", {"width": 2}, {"embed_dim": 16, "num_heads": 4, "depth": 2}),
        ("vit", {"width": 1.5}, {"embed_dim": 12, "num_heads": 3}),
        ("vit", {"depth": 1.5}, {"embed_dim": 8, "depth": 3}),
        ("vit", {"width": 2, "depth": [5]}, {"embed_dim": 16, "num_heads": 4, "depth": 5}),
        ("vit", {"depth": "3/2"}, {"embed_dim": 8, "depth": 3}),
        ("convnext", {"width": "5/2", "depth": "2/1"}, {"dims": [10, 15, 20, 20], "depths": [2, 4, 2, 2]}),
        ("convnext", {"width": 1.5, "depth": [1, 3, 1, 1]}, {"dims": [6, 9, 12, 12], "depths": [1, 3, 1, 1]}),
    ],
    ids=str,
)
def test_a_scale_becomes_arguments(family, scale, args, tmp_path):
    source = write_folder(TINY[family], tmp_path / "source")
    plan = {"target": {"scale": scale}, "width": {"operator": "net2net"}, "depth": {"operator": "zero_out"}}
    target = resolved(source, plan).target
    assert target.architecture == TINY[family].architecture
    assert {name: target.model_args[name] for name in args} == args
    others = TINY[family].args.keys() - args.keys() - {"depth", "depths", "img_size"}
    assert all(target.model_args[name] == TINY[family].args[name] for name in others)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (
            {"width": 1.1},
            r"^target\.scale\.width: channels 4 x 1\.1 = 4\.4, .* are not whole numbers; nearest factors .*: 1\.25$",
        ),
        (
            {"width": 1.4},
            r"^target\.scale\.width: channels 4 x 1\.4 = 5\.6, .*; nearest factors that fit: 1\.25 or 1\.5$",
        ),
        (
            {"depth": 1.25},
            r"^target\.scale\.depth: layers 2 x 1\.25 = 2\.5.* whole numbers; nearest factors that fit: 1\.5$",
        ),
        (
            {"depth": [3, 3]},
            r"^target\.scale\.depth: found 2 numbers \[3, 3\], expected 4: .* layers = \[2, 2, 2, 2\]$",
        ),
    ],
    ids=str,
)
def test_a_scale_that_does_not_come_out_whole(scale, message, tmp_path):
    source = write_folder(RESNET, tmp_path / "source")
    with pytest.raises(PlanError, match=message):
        resolved(source, {"target": {"scale": scale}})


def test_a_factor_that_is_no_short_decimal_is_named_as_a_fraction(tmp_path):
    """As a plan takes it; 1.33333 would leave another rest."""
    source = write_folder(RESNET.with_args(channels=[3, 6, 6, 9]), tmp_path / "source")
    with pytest.raises(PlanError, match=r"nearest factors that fit: 4/3$"):
        resolved(source, {"target": {"scale": {"width": 1.33}}})
    assert (
        factor_text(Fraction(1997, 1536)) == "1997/1536" and factor_text(4 / 3) == "4/3" and factor_text(1.33) == "1.33"
    )


def test_every_problem_of_a_scale_is_named_at_once(tmp_path):
    source = write_folder(RESNET, tmp_path / "source")
    with pytest.raises(PlanError) as raised:
        resolved(source, {"target": {"scale": {"width": 1.1, "depth": 1.25}}})
    assert len(raised.value.problems) == 2


def test_what_cannot_be_scaled_names_larger_siblings(tmp_path, monkeypatch):
    monkeypatch.setattr("growtool.recipe.target.spec.find_size_arguments", lambda *_, **__: SizeArguments({}, {}))
    source = write_folder(TINY["mobilenetv3"], tmp_path / "source")
    with pytest.raises(PlanError, match=r"no argument of mobilenetv3_small_050's .* width\ntarget: .*`: .*small_100"):
        resolved(source, {"target": {"scale": {"width": 2}}, "allow_lossy": True})


def test_siblings_are_looked_for_by_the_name_of_the_model_that_was_opened(monkeypatch):
    monkeypatch.setattr("growtool.library.timm.families.TRIED", 1)
    spec = with_open_arguments(ModelSpec("mobilenetv3_small_075", {"num_classes": 5}))
    names = ["mobilenetv3_small_100", "growtool_opens"]
    assert larger_siblings(spec, build(spec), names, build) == names[:1]


def test_siblings_have_the_same_parameters_and_none_smaller():
    spec = ModelSpec("mobilenetv3_small_075", {"num_classes": 5})
    names = ["mobilenetv3_small_050", "mobilenetv3_small_075", "mobilenetv3_small_100", "mobilenetv3_large_100"]
    assert larger_siblings(spec, build(spec), names, build) == ["mobilenetv3_small_100"]


@pytest.mark.parametrize(
    ("family", "depth", "args"),
    [
        (TINY["resnet"], 2, {"layers": [4, 2, 2, 2]}),
        (TINY["mobilenetv3"], 2, {"repeats": [2, 4, 6, 4, 6, 1]}),
        (Tiny("tiny_vit_5m_224", {}, size=224), 2, {"depths": [2, 4, 12, 4]}),
    ],
)
def test_a_stage_stays_where_further_blocks_are_neither_like_it_nor_residual(tmp_path, family, depth, args):
    folder = write_folder(family, tmp_path / "source")
    plan = {"target": {"scale": {"depth": depth}}, "depth": {"operator": "zero_out"}}
    recipe = resolved(folder, plan)
    assert recipe.target.model_args.items() >= args.items()
    assert recipe.promise.kind == "exact"


def test_a_stage_without_skip_connections_stays_where_others_have_them(tmp_path):
    """Its blocks are alike, and new ones cannot start closed."""
    folder = write_folder(Tiny("efficientnet_em", {"num_classes": 5}, size=32), tmp_path / "source")
    plan = {"target": {"scale": {"depth": 2}}, "depth": {"operator": "zero_out"}}
    recipe = resolved(folder, plan)
    assert recipe.target.model_args["repeats"] == [2, 6, 10, 12, 10, 6]
    assert recipe.promise.kind == "exact"


def test_a_regnet_of_twice_the_blocks_rises_half_as_fast(tmp_path):
    """Its widths come from how much wider each block is than the one before."""
    folder = write_folder(Tiny("regnetx_002", {"num_classes": 5}, size=32), tmp_path / "source")
    recipe = resolved(folder, {"target": {"scale": {"depth": 2}}, "depth": {"operator": "zero_out"}})
    assert recipe.target.model_args.items() >= {"depth": 26, "wa": 18.22}.items()
    assert recipe.promise.kind == "exact" and not recipe.widths
    assert recipe.choices[0] == "depth: wa 36.44 becomes 18.22, so that widths rise more slowly"
    both = resolved(folder, {"target": {"scale": {"width": 2, "depth": 2}}})
    assert both.target.model_args.items() >= {"depth": 26, "wa": 36.44}.items()


def test_a_list_of_layers_of_which_some_have_no_tensors_deepens_by_the_others():
    """Twice as many poolings, too, would leave nothing of the image."""
    spec = with_open_arguments(ModelSpec("vgg13", {}))
    found = find_size_arguments(TracedModel.of(spec, where="vgg13"), ["depth"])
    assert found.stages == {"cfg.*.times": frozenset({0, 1, 3, 4, 6, 7, 9, 10, 12, 13})}


def test_a_ratio_that_the_constructor_rounds_is_set_anew(tmp_path):
    """1.1 times 16 channels are 17, of 32 they are 35: no multiple, and a norm runs over them."""
    args = {"embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 1.1, "num_classes": 5}
    folder = write_folder(Tiny("eva02_tiny_patch14_224", args, size=28), tmp_path / "source")
    recipe = resolved(folder, {"target": {"scale": {"width": 2}}, "width": {"operator": "tile"}})
    assert recipe.promise.kind == "exact"
    assert int(32 * recipe.target.model_args["mlp_ratio"]) == 34
    assert recipe.choices[0] == "width: mlp_ratio 1.1 becomes 1.06857, so that 17 channels become 34, not 35"


def test_what_else_an_argument_would_change_than_the_width_is_said(tmp_path):
    """ECA runs a convolution over channels: these are positions, which stay."""
    folder = write_folder(Tiny("eca_resnext26ts", {"num_classes": 5}, size=64), tmp_path / "source")
    expected = (
        "changes its width and keeps the rest; with twice the width_factor, .* channels that convolutions run over"
    )
    with pytest.raises(PlanError, match=expected):
        resolved(folder, {"target": {"scale": {"width": 2}}, "width": {"operator": "tile"}})


def test_arguments_that_make_other_blocks_are_weighed_with_those_that_widen():
    """Twice the `num_vit` of an EfficientFormer gives some of its tensors another number of dimensions."""
    args = {"embed_dims": [8, 8, 16, 16], "depths": [1, 1, 2, 4], "num_vit": 2, "num_classes": 5}
    assert size_arguments(Tiny("efficientformer_l1", args, size=224)).width == {"embed_dims": (8, 8, 16, 16)}
