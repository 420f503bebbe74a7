"""Models whose entry points refuse arguments, built through `growtool_open`; and models of a user's own file.

The invariants: with no arguments it builds what timm builds; with arguments it builds what timm's own larger sibling
is, where there is one; an argument nobody takes is an error; the model file is left as it was.
"""

import sys

import pytest

from growtool.checkpoint import ModelSpec, build
from growtool.errors import CheckpointError, PlanError
from growtool.library.plugin import load_plugin
from growtool.library.timm.reach import (
    OPEN,
    base_architecture,
    configuration,
    growtool_open,
    repeats_of,
    with_open_arguments,
)
from tests.support.plain_timm import in_plain_timm


def shapes(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "gmlp_ti16_224", "convmixer_768_32", "vgg11", "test_vit"])
def test_without_arguments_it_is_the_model_itself(name):
    assert shapes(build(with_open_arguments(ModelSpec(name)))) == shapes(build(ModelSpec(name)))


@pytest.mark.parametrize(
    ("small", "large", "args"),
    [
        ("ghostnet_050", "ghostnet_130", {"width": 1.3}),
        ("mixer_s32_224", "mixer_b32_224", {"embed_dim": 768, "num_blocks": 12}),
        ("efficientnet_b0", "efficientnet_b2", {"channel_multiplier": 1.1, "depth_multiplier": 1.2}),
        ("resnetv2_50x1_bit", "resnetv2_50x3_bit", {"width_factor": 3}),
        ("vgg11", "vgg13", {"cfg.*.times": [2, 1, 2, *[1] * 10]}),
        (
            "cs3darknet_focus_s",
            "cs3darknet_focus_m",
            {"cfg.stem.out_chs": 48, "cfg.stages.out_chs.*": [96, 192, 384, 768], "cfg.stages.depth.*": [2, 4, 6, 2]},
        ),
        (
            "hgnetv2_b0",
            "hgnetv2_b1",
            {
                "cfg.stem_chs.*": [24, 32],
                "cfg.stage1.0": 32,
                "cfg.stage2.1": 48,
                "cfg.stage3.1": 96,
                "cfg.stage4.1": 192,
                "cfg.stage1.1": 32,
            },
        ),
        (
            "hrnet_w18_small",
            "hrnet_w18_small_v2",
            {
                "cfg.stage1.num_blocks": [2],
                "cfg.stage1.num_channels": [64],
                "cfg.stage*.num_modules": [1, 1, 3, 2],
                "cfg.stage2.num_channels": [18, 36],
                "cfg.stage3.num_channels": [18, 36, 72],
                "cfg.stage4.num_channels": [18, 36, 72, 144],
            },
        ),
        ("vgg11", "vgg13", {"cfg": [64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"]}),
    ],
)
def test_arguments_reach_the_larger_sibling(small, large, args):
    with pytest.raises(CheckpointError):
        build(ModelSpec(small, args))
    assert shapes(build(ModelSpec(OPEN, {"base": small, **args}))) == shapes(build(ModelSpec(large)))


def test_repeats_reach_any_depth():
    spec = ModelSpec("mobilenetv3_small_050")
    assert repeats_of(spec) == repeats_of(with_open_arguments(spec)) == (1, 2, 3, 2, 3, 1)
    deeper = ModelSpec(OPEN, {"base": "mobilenetv3_small_050", "repeats": [1, 4, 3, 2, 5, 1]})
    found, own = shapes(build(deeper)), shapes(build(spec))
    assert found.items() >= own.items()
    assert {name.rsplit(".", 1)[0][:10] for name in found.keys() - own.keys()} == {
        "blocks.1.2",
        "blocks.1.3",
        "blocks.4.3",
        "blocks.4.4",
    }
    assert repeats_of(deeper) == (1, 4, 3, 2, 5, 1)
    assert repeats_of(ModelSpec("test_vit")) is None


def test_paths_name_the_places_of_the_model_as_timm_registers_it():
    """However often blocks are repeated beside, and in whatever order the arguments stand."""
    base = {"base": "mobilenetv3_small_050"}
    wide = {"block_args.*.*.out_chs": [32, *[48] * 2, *[80] * 3, *[96] * 2, *[192] * 3, 1152]}
    both = [{**base, **wide, "repeats": [1, 4, 3, 2, 3, 1]}, {**base, "repeats": [1, 4, 3, 2, 3, 1], **wide}]
    by_times = {**base, **wide, "block_args.1.1.times": 3}
    assert shapes(build(ModelSpec(OPEN, both[0]))) == shapes(build(ModelSpec(OPEN, both[1])))
    assert shapes(build(ModelSpec(OPEN, both[0]))) == shapes(build(ModelSpec(OPEN, by_times)))


def test_a_configuration_is_told_as_it_is_before_entries_are_repeated():
    args = {"base": "vgg11", "cfg.0": 32, "cfg.0.times": 3}
    assert configuration(ModelSpec(OPEN, args))["cfg"][:3] == [32, "M", 128]
    assert configuration(ModelSpec("ghostnet_050", {}))["width"] == 0.5


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"cfg.blocks.4.d": 2}, r"cfg\.blocks\.4\.d: found nothing at cfg\.blocks\.4, expected one of 0, 1, 2, 3;"),
        ({"girth.0": 2}, r"ByobNet has no argument 'girth', expected one of .*cfg"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(args, message):
    with pytest.raises(CheckpointError, match=message):
        build(ModelSpec(OPEN, {"base": "test_byobnet", **args}))


def test_repeats_that_do_not_fit_are_refused():
    with pytest.raises(
        ValueError, match=r"repeats: found \[2, 2\], expected 6 whole numbers such as \[1, 2, 3, 2, 3, 1\]"
    ):
        growtool_open("mobilenetv3_small_050", repeats=[2, 2])


def test_an_argument_that_nobody_takes_is_an_error_and_leaves_timm_as_it_was():
    module = sys.modules["timm.models.mobilenetv3"]
    before = dict(vars(module))
    with pytest.raises(TypeError, match="girth"):
        growtool_open("mobilenetv3_small_050", girth=3)
    assert all(vars(module)[name] is value for name, value in before.items())


def test_opening_twice_is_opening_once():
    spec = ModelSpec("mobilenetv3_small_050", {"num_classes": 3})
    assert (
        with_open_arguments(with_open_arguments(spec))
        == with_open_arguments(spec)
        == ModelSpec(OPEN, {"base": "mobilenetv3_small_050", "num_classes": 3})
    )
    assert base_architecture(with_open_arguments(spec)) == base_architecture(spec) == "mobilenetv3_small_050"


PLUGIN = """
import timm
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4, num_classes=2):
        super().__init__()
        self.num_features, self.pretrained_cfg = width, dict(input_size=(3, 8, 8))
        self.stem, self.head = nn.Conv2d(3, width, 3), nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.stem(x).relu().mean((2, 3)))

@timm.models.register_model
def {name}(pretrained=False, width=4, num_classes=2, **kwargs):
    return Net(width, num_classes)
"""


def test_a_plugin_makes_its_models_known(tmp_path):
    path = tmp_path / "plugin_of_a_user.py"
    path.write_text(PLUGIN.format(name="net_of_a_user"))
    # in a process of its own: timm's registry keeps what it is told
    code = (
        "import pathlib, sys, timm; sys.dont_write_bytecode = False; from growtool.library.plugin import load_plugin; "
        "print(load_plugin(pathlib.Path(sys.argv[1])), timm.create_model('net_of_a_user', width=6).num_features)"
    )
    run = in_plain_timm(code, path)
    assert run.stdout.strip() == "['net_of_a_user'] 6", run.stderr
    assert list(tmp_path.iterdir()) == [path], "nothing is left beside it"


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another module of its name"])
def test_a_plugin_on_the_path_of_imports_is_no_other_module(tmp_path, beside):
    path = tmp_path / "plugin_in_place.py"
    path.write_text(PLUGIN.format(name="net_in_place"))
    if beside:
        (tmp_path / "first").mkdir()
        (tmp_path / "first" / path.name).touch()
    code = (
        "import pathlib, sys; sys.path[:0] = sys.argv[2:]; from growtool.library.plugin import load_plugin; "
        "print(load_plugin(pathlib.Path(sys.argv[1])))"
    )
    run = in_plain_timm(code, path.name, *(["first"] if beside else []), tmp_path, folder=tmp_path)
    assert run.stdout.strip() == ("" if beside else "['net_in_place']"), run.stderr
    assert ("'plugin_in_place' is the name of another module" in run.stderr) == beside


def test_the_functions_of_a_plugin_are_seen_where_its_path_is_relative(tmp_path):
    (tmp_path / "plugin_nearby.py").write_text(PLUGIN.format(name="net_nearby"))
    code = (
        "import pathlib, sys; from growtool.library import ModelSpec, build, library_of; "
        "from growtool.library.plugin import load_plugin; load_plugin(pathlib.Path(sys.argv[1])); "
        "spec = ModelSpec('net_nearby'); print('pretrained' in library_of(spec).arguments(spec, build(spec)))"
    )
    assert in_plain_timm(code, "plugin_nearby.py", folder=tmp_path).stdout.strip() == "True"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"nothing\.py: no such file; --plugin takes a Python file"),
        ("x = ", r"nothing\.py: the plugin failed: SyntaxError: invalid syntax"),
        ("x = 1", r"nothing\.py: registered no model, expected at least one; decorate"),
        ("raise OSError('no')", r"nothing\.py: the plugin failed: OSError: no; mend it"),
    ],
)
def test_a_plugin_that_is_none_is_refused(tmp_path, text, message):
    path = tmp_path / "nothing.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(PlanError, match=message):
        load_plugin(path)


def test_a_plugin_is_a_python_file(tmp_path):
    (tmp_path / "names.txt").write_text("")
    with pytest.raises(PlanError, match=r"names\.txt: not a Python file; --plugin takes one"):
        load_plugin(tmp_path / "names.txt")
