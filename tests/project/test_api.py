"""The public surface: few names, each in its place, none of which costs anything until it is used."""

import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import yaml

import growtool
from tests.support.models import TINY, write_folder
from tests.support.plain_timm import in_plain_timm

NAMES = {
    "CheckpointError", "GrowtoolError", "Plan", "PlanError", "RunConfig", "finetune_checkpoint", "grow",
    "grow_checkpoint", "inspect_checkpoint", "load_plan", "open_checkpoint", "resolve", "summarise", "trace_model",
    "verify_checkpoints",
}  # fmt: skip


def in_python(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_the_surface_is_small_and_whole():
    assert set(growtool.__all__) == NAMES
    assert all(callable(getattr(growtool, name)) for name in NAMES)


def test_a_name_that_is_not_there_is_not_there():
    with pytest.raises(AttributeError, match=r"growtool.*no attribute 'shrink'"):
        _ = growtool.shrink


def test_importing_growtool_imports_neither_torch_nor_timm():
    assert in_python("import sys, growtool; print([m for m in ('torch', 'timm') if m in sys.modules])") == "[]"


@pytest.mark.slow
def test_the_open_entry_point_is_registered_in_either_order():
    assert in_python("import growtool, timm; print(timm.is_model('growtool_open'))") == "True"
    assert in_plain_timm("import growtool, timm; print(timm.is_model('growtool_open'))").stdout == "True\n"


@pytest.mark.slow
def test_the_files_of_timm_are_found_as_without_growtool():
    assert (
        in_python("import growtool, timm, pkgutil; print(b'version' in pkgutil.get_data('timm', 'version.py'))")
        == "True"
    )


PLAN = {"target": {"scale": {"width": 2}}, "width": {"operator": "tile"}}
README = Path(__file__).parents[2] / "README.md"


def test_names_complete():
    assert set(dir(growtool)) >= {*NAMES, "__version__" if hasattr(growtool, "__version__") else "__name__"}
    assert in_python("import growtool, sys; print('grow' in dir(growtool), 'torch' in sys.modules)") == "True False"


def test_grow_is_a_function_whatever_was_imported_before():
    import growtool.growing.execute
    import growtool.growing.grow

    assert growtool.grow.__module__ == "growtool.growing.call"
    assert pickle.loads(pickle.dumps(growtool.grow)) is growtool.grow
    assert growtool.growing.execute.produce.__name__ == "produce"


@pytest.fixture
def folder(tmp_path):
    return write_folder(TINY["resnet"], tmp_path / "source")


def test_a_path_grows_into_a_checkpoint_or_a_model(folder, tmp_path):
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    written = growtool.grow(str(folder), str(tmp_path / "plan.yaml"), str(tmp_path / "grown"))
    assert written.path == tmp_path / "grown" / "model.safetensors"
    model = growtool.grow(folder, PLAN)
    assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == {
        name: info.shape for name, info in written.tensors.items()
    }
    assert all(torch.equal(tensor, written.read(name)) for name, tensor in model.state_dict().items())
    again = growtool.grow(growtool.open_checkpoint(folder), growtool.load_plan(tmp_path / "plan.yaml").plan)
    assert all(torch.equal(tensor, written.read(name)) for name, tensor in again.state_dict().items())
    with pytest.raises(growtool.PlanError, match="the output exists"):
        growtool.grow(folder, PLAN, tmp_path / "grown")


def test_a_model_grows_into_a_model_that_computes_the_same(folder):
    tiny = TINY["resnet"]
    model = timm.create_model(tiny.architecture, **tiny.args).train()
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    larger = growtool.grow(model, PLAN | {"model_args": dict(tiny.args)})
    assert larger.training and model.training
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items()), "it is left as it is"
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(larger.eval()(images), model.eval()(images), rtol=1e-4, atol=1e-4)
    assert sum(p.numel() for p in larger.parameters()) > 2 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet10t", {"channels": [8, 8, 16, 16], "in_chans": 1, "num_classes": 3, "global_pool": "max"}),
        ("vit_tiny_patch16_224", {"embed_dim": 16, "depth": 1, "num_heads": 2, "img_size": (32, 32), "num_classes": 0}),
    ],
)
def test_timm_has_noted_the_arguments_of_a_model(name, arguments):
    """Those that create_model was given, and what was changed since."""
    model = timm.create_model(name, **arguments).eval()
    if arguments["num_classes"]:
        model.reset_classifier(5)
    larger = growtool.grow(model, PLAN)
    images = torch.randn(2, arguments.get("in_chans", 3), 32, 32)
    with torch.no_grad():
        expected, found = model(images), larger(images)
    assert found.shape == (expected.shape if arguments["num_classes"] else (2, 32))
    torch.testing.assert_close(found[:, : expected.shape[1]], expected, rtol=1e-4, atol=1e-4)


def test_a_model_whose_arguments_are_not_known_is_refused():
    """Other shapes are seen by the shapes, another number of heads by the outputs."""
    directly = timm.models.resnet10t(channels=[8, 8, 8, 8])
    with pytest.raises(growtool.CheckpointError, match=r"timm has noted on this resnet10t .* `model_args: \{...\}`"):
        growtool.grow(directly, PLAN)
    assert growtool.grow(directly, PLAN | {"model_args": {"channels": [8, 8, 8, 8]}})
    arguments = {"embed_dim": 16, "depth": 1, "img_size": 32}
    model = timm.create_model("vit_tiny_patch16_224", num_heads=2, **arguments)
    with pytest.raises(growtool.CheckpointError, match="computes another function than timm's"):
        growtool.grow(model, PLAN | {"model_args": {**arguments, "num_heads": 4}})
    with pytest.raises(growtool.CheckpointError, match="found no name of a timm model"):
        growtool.grow(torch.nn.Linear(2, 2), PLAN)


def test_a_mapping_that_is_no_plan_is_told_without_a_file(folder):
    with pytest.raises(growtool.PlanError) as error:
        growtool.grow(folder, {"target": {"scale": {"width": 2}}, "width": {"operator": "tyle"}})
    assert error.value.problems[0].startswith("width.operator: found 'tyle', expected one of")
    with pytest.raises(growtool.PlanError, match=r"^plan: "):
        growtool.grow(folder, PLAN | {"seed": object()})
    endless: dict = {"scale": 2}
    endless["width"] = endless
    with pytest.raises(growtool.PlanError, match=r"^plan: found a mapping or list that holds itself"):
        growtool.grow(folder, endless)


def test_what_is_neither_a_plan_nor_a_model_is_told(folder):
    with pytest.raises(growtool.PlanError, match=r"plan: found 2, expected a mapping with at least `target:`, such as"):
        growtool.grow(folder, 2)
    with pytest.raises(growtool.CheckpointError, match="found a dict, expected a model, the path of a checkpoint"):
        growtool.grow({"fc.weight": torch.zeros(1)}, PLAN)


def test_a_plan_that_was_read_grows_as_its_file(folder, tmp_path):
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    grown = [growtool.grow(folder, plan) for plan in (growtool.load_plan(tmp_path / "plan.yaml"), PLAN)]
    states = [model.state_dict() for model in grown]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_what_is_shown_in_a_session_fits_on_a_screen(folder, tmp_path):
    checkpoint = growtool.open_checkpoint(str(folder))
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN) + "# " + "long " * 1000)
    loaded = growtool.load_plan(tmp_path / "plan.yaml")
    recipe = growtool.resolve(loaded.plan, checkpoint)
    grown = growtool.grow_checkpoint(recipe, loaded, str(tmp_path / "grown"))
    trace = growtool.trace_model(recipe.models[0], recipe.matching.source.input_sizes["images"])
    for shown in map(repr, (recipe, checkpoint, loaded, loaded.plan, grown.out, trace, checkpoint.spec)):
        assert len(shown) < 24 * 80, shown[:200]
    assert repr(recipe).endswith("0 new blocks; exact)") and "resnet18" in repr(checkpoint)


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch):
    text = re.search(r"## From Python\n+```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert text is not None
    monkeypatch.chdir(tmp_path)
    code = text[1].replace("docs/demo/checkpoint", str(README.parent / "docs" / "demo" / "checkpoint"))
    names: dict[str, object] = {}
    exec(code, names)
    assert growtool.open_checkpoint("grown").tensors
    small, large = (sum(p.numel() for p in names[name].parameters()) for name in ("model", "larger"))
    assert large > 2 * small


def test_the_plan_of_the_readme_grows_the_checkpoint_of_the_demo(tmp_path):
    text = re.search(r"## Plans\n.*?```yaml\n(.*?)```", README.read_text(), re.DOTALL)
    assert text is not None
    (tmp_path / "plan.yaml").write_text(text[1])
    checkpoint = growtool.open_checkpoint(README.parent / "docs" / "demo" / "checkpoint")
    assert growtool.resolve(growtool.load_plan(tmp_path / "plan.yaml").plan, checkpoint).promise.kind == "exact"


def test_a_training_takes_strings_as_paths():
    from growtool.finetune.config import RunConfig

    config = RunConfig(checkpoint="model", data="images", output="run", kd_teacher="teacher")
    assert config == RunConfig(
        checkpoint=Path("model"), data=Path("images"), output=Path("run"), kd_teacher=Path("teacher")
    )
