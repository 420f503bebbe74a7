"""Models that only `growtool_open` reaches grow as promised, and timm loads them once growtool is imported."""

import pytest

from growtool.checkpoint import ModelSpec, open_checkpoint
from growtool.errors import PlanError
from growtool.growing import grow
from growtool.library.timm.reach import OPEN
from growtool.recipe import resolve
from growtool.recipe.target.size_arguments import find_size_arguments
from growtool.recipe.traced_model import TracedModel
from tests.support.models import Tiny, difference, grown, load, plan_of, resolved, write_folder
from tests.support.plain_timm import in_plain_timm

VGG = Tiny(OPEN, {"base": "vgg11", "cfg": [4, "M", 6, 6, "M"], "mlp_ratio": 2**-9, "num_classes": 5})
VGG_BN = Tiny(OPEN, {**VGG.args, "base": "vgg11_bn"})
GHOST = Tiny("ghostnet_050", {"num_classes": 5})
DARKNET = Tiny("cs3darknet_focus_s", {"num_classes": 5}, 64)
TIMES = {"cfgs.*.*.times": [2, 1, 2, *[1] * 11, 2, 1]}
BLOCKS = [
    {"in_chs": 64, "out_chs": 8, "stride": 2},
    {"in_chs": 8, "out_chs": 8, "stride": 1},
    {"in_chs": 8, "out_chs": [8, 12, 16], "no_skip": True, "stride": 1},
]


@pytest.mark.parametrize(
    ("tiny", "target", "sections", "args"),
    [
        (VGG, {"scale": {"depth": 3}}, {"depth": "net2deeper"}, {"cfg.*.times": [1, 1, 3, 3, 1]}),
        (VGG_BN, {"scale": {"depth": 2, "width": 2}}, {"depth": "net2deeper", "width": "tile"},
         {"cfg": [8, "M", 12, 12, "M"], "cfg.*.times": [1, 1, 2, 2, 1]}),
        pytest.param(
            DARKNET, {"scale": {"depth": 2, "width": 2}}, {"depth": "zero_out", "width": "tile"},
            {"cfg.stem.out_chs": 64, "cfg.stages.depth.*": [2, 6, 8, 2]}, marks=pytest.mark.slow),
        pytest.param(GHOST, {"model_args": TIMES}, {"depth": "zero_out"}, TIMES, marks=pytest.mark.slow),
    ],
    ids=["vgg11", "vgg11_bn", "darknet", "ghostnet"],
)  # fmt: skip
def test_what_was_reached_computes_the_same(tiny, target, sections, args, tmp_path):
    source = write_folder(tiny, tmp_path / "source")
    plan = {"target": target, **{axis: {"operator": name} for axis, name in sections.items()}}
    loaded = plan_of(tmp_path, plan)
    recipe = resolve(loaded.plan, open_checkpoint(source))
    assert recipe.promise.kind == "exact"
    assert recipe.needed_import == "growtool"
    assert recipe.target.model_args.items() >= args.items()
    grow(recipe, loaded, tmp_path / "out")
    assert difference(load(source), load(tmp_path / "out"), tiny.inputs()) < 1e-12


def test_timm_loads_it_once_growtool_is_imported(tmp_path):
    grown(write_folder(VGG, tmp_path / "source"), {"target": {"model_args": {"cfg.*.times": [1, 1, 2, 1, 1]}},
          "depth": {"operator": "net2deeper"}}, tmp_path / "out")  # fmt: skip
    load_it = "import sys, timm; timm.create_model(f'local-dir:{sys.argv[1]}', pretrained=True)"
    alone, after = (in_plain_timm(code, tmp_path / "out") for code in (load_it, f"import growtool; {load_it}"))
    assert alone.returncode and "growtool_open" in alone.stderr
    assert after.returncode == 0, after.stderr


def test_a_network_that_was_deepened_can_be_deepened_again():
    spec = ModelSpec(OPEN, {**VGG.args, "cfg.*.times": [1, 1, 1, 2, 1]}, {"input_size": (3, 32, 32)})
    found = find_size_arguments(TracedModel.of(spec, where="vgg"), ["depth"])
    assert found.depth == {"cfg.*.times": (1, 1, 1, 2, 1)}
    assert found.stages == {"cfg.*.times": frozenset({2, 3})}


def test_numbers_that_depend_on_what_is_fixed_stay():
    """Each entry of xception's list says what it reads: the first one a stem of fixed width, whose copy cannot run."""
    spec = ModelSpec(OPEN, {"base": "xception41p", "block_cfg": BLOCKS}, {"input_size": (3, 64, 64)})
    found = find_size_arguments(TracedModel.of(spec, where="xception"))
    assert found.depth == {"block_cfg.*.times": (1, 1, 1)}
    assert found.width == {"block_cfg.*.in_chs": (64, 8, 8), "block_cfg.*.out_chs": (8, 8, (8, 12, 16))}
    assert found.stages["block_cfg.*.times"] == frozenset({1})
    assert found.stages["block_cfg.*.in_chs"] == frozenset({1, 2})
    assert found.stages["block_cfg.*.out_chs"] == frozenset(range(5))


def test_layers_in_line_have_no_residual_branch_to_close(tmp_path):
    source = write_folder(VGG, tmp_path / "source")
    plan = {"target": {"scale": {"depth": 2}}, "depth": {"operator": "zero_out"}}
    with pytest.raises(PlanError, match=r"features\.\d+: zero_out needs a residual connection .* or net2deeper if"):
        resolved(source, plan)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"model_args": {"cfg.9": 8}}, r"cfg\.9: found nothing at cfg\.9, expected one of 0, 1, 2, 3, 4"),
        ({"model": "vgg13", "model_args": {"cfg.*": [8]}}, r"cfg\.\*: found 1 values, expected 15, one for each place"),
        ({"model_args": {"girth.0": 8}}, r"VGG has no argument 'girth', expected one of .*cfg"),
    ],
    ids=str,
)
def test_a_plan_with_a_wrong_path_is_told_what_is_there(target, message, tmp_path):
    source = write_folder(VGG, tmp_path / "source")
    with pytest.raises(PlanError, match=message):
        resolved(source, {"target": target})
