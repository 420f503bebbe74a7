"""What growing writes: bytes that depend on nothing but the plan, folders and files that load, nothing half-written."""

import json
import os
import re
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from growtool.checkpoint import WEIGHTS, Stored, file_order, open_checkpoint, writer
from growtool.checkpoint.folder import loading_line
from growtool.errors import CheckpointError, PlanError
from growtool.growing import execute
from growtool.growing.execute import largest_bytes, memory_of, produce, unchanged
from growtool.operators.width import tile
from growtool.recipe import Recipe, TensorRecipe, resolve
from tests.support.models import TINY, WIDER, Tiny, grown, plan_of, write_folder
from tests.support.plain_timm import in_plain_timm

TILE = {"operator": "tile"}
SPLIT_EVENLY = {"operator": "tile", "split": "equal"}
NET2NET = {"operator": "net2net", "split": "random_projection"}
MIXTURE = {"operator": "mixture"}
RESNET = Tiny("resnet18", {"layers": [2, 2, 2, 2], "channels": [4, 8, 8, 12], "num_classes": 5})


def wider(family: str, width: dict, **more) -> dict:
    return {"target": {"model_args": dict(WIDER[family])}, "width": width, **more}


GROW = "import sys; from growtool.cli.app import main; sys.argv = ['growtool', *sys.argv[1:]]; main()"


def test_bytes_depend_on_the_seed_and_not_on_the_process(tmp_path):
    """The command in a process with other threads and another hash seed writes the files that this one writes."""
    source = write_folder(TINY["vit"], tmp_path / "source", dtype=torch.float32)
    here = grown(source, wider("vit", MIXTURE), tmp_path / "here")
    subprocess.run(
        [sys.executable, "-c", GROW, "grow", source, tmp_path / "plan.yaml", "-o", tmp_path / "there"],
        env={**os.environ, "OMP_NUM_THREADS": "4", "PYTHONHASHSEED": "1"},
        stderr=subprocess.DEVNULL,
        check=True,
    )
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("here", "there")]
    assert files[0].keys() == {WEIGHTS, "config.json", "growth.json", "growth.svg", "README.md", "plan.yaml"}
    assert files[0] == files[1]
    other = grown(source, wider("vit", MIXTURE, seed=1), tmp_path / "other")
    assert (other.out / WEIGHTS).read_bytes() != (here.out / WEIGHTS).read_bytes()


def test_bytes_do_not_depend_on_threads_cores_or_random_state(tmp_path, monkeypatch):
    source = write_folder(RESNET, tmp_path / "source", dtype=torch.float32)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    written = []
    try:
        for count in (1, 4):
            torch.set_num_threads(count)
            monkeypatch.setattr("os.cpu_count", lambda count=count: count)
            torch.manual_seed(count)
            before = torch.get_rng_state()
            grown(
                source,
                {"target": {"model_args": {"channels": [6, 9, 12, 15]}}, "width": NET2NET},
                tmp_path / str(count),
            )
            assert torch.equal(torch.get_rng_state(), before)
            assert torch.get_num_threads() == count
            written.append((tmp_path / str(count) / WEIGHTS).read_bytes())
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)
    assert written[0] == written[1]


def test_what_does_not_change_is_left_to_be_copied_from_the_file(tmp_path):
    """Only that: other types, other places and zeros are made."""
    source = write_folder(TINY["vit"], tmp_path / "source", dtype=torch.float32)
    deeper = {"target": {"model_args": {"depth": 3}}, "depth": {"operator": "zero_out"}}

    def left(content: dict) -> list[Stored]:
        recipe = resolve(plan_of(tmp_path, content).plan, open_checkpoint(source))
        return list(unchanged(recipe).values())

    before, after = (load_file(path / WEIGHTS) for path in (source, grown(source, deeper, tmp_path / "same").out))
    assert {stored.path for stored in left(deeper)} == {source / WEIGHTS}
    assert len(left(deeper)) == len(after) - sum(not tensor.any() for tensor in after.values())
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items() if "blocks" not in name)
    wider_type = {**deeper, "output": {"dtype": "float64"}}
    assert not left(wider_type)
    wide = load_file(grown(source, wider_type, tmp_path / "wide").out / WEIGHTS)
    assert all(torch.equal(wide[name], tensor.double()) for name, tensor in after.items())


@pytest.mark.parametrize("more", [{}, {"output": {"dtype": "float16"}}])
def test_tensors_at_work_share_the_memory_of_two(more, tmp_path, monkeypatch):
    """Those that are made, wait or are written; one that takes more, as centred weights do, is made alone."""
    tiny = TINY["vit"].with_args(depth=4, embed_dim=32, num_heads=4)
    source = write_folder(tiny, tmp_path / "source", dtype=torch.float32)
    wide = {"embed_dim": 48, "num_heads": 6}
    plan = {"target": {"model_args": wide}, "width": {"operator": "centre_zero"}, **more}
    recipe = resolve(plan_of(tmp_path, plan).plan, open_checkpoint(source))
    taken, order = memory_of(recipe), file_order(recipe.infos)
    at_work, together, results = list[str](), list[tuple[int, int]](), list[weakref.ref[torch.Tensor]]()

    def made(recipe: Recipe, tensor: TensorRecipe) -> torch.Tensor:
        at_work.append(tensor.name)
        names = list(at_work)
        together.append((len(names), sum(taken[name] for name in names)))
        time.sleep(0.002)  # so that others begin
        result = make(recipe, tensor).to(tensor.info.torch_dtype)
        results.append(weakref.ref(result))
        return result

    def written(*arguments) -> None:
        write(*arguments)
        at_work.remove(order.pop(0))

    make, write = execute.make_tensor, writer.write_tensor
    monkeypatch.setattr(execute, "make_tensor", made)
    monkeypatch.setattr(writer, "write_tensor", written)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    writer.write_safetensors(tmp_path / "x", recipe.infos, produce(recipe, lambda nbytes: None), {})
    assert len(results) == len(recipe.tensors)
    assert not [result for result in results if result() is not None], "nothing holds what is written"
    assert max(count for count, _ in together) > 1
    assert max(nbytes for count, nbytes in together if count > 1) <= 2 * largest_bytes(recipe)


def test_operators_compute_on_one_thread(tmp_path, monkeypatch):
    """Sums of large tensors depend on how many threads share them."""
    source = write_folder(TINY["vit"], tmp_path / "source")
    original, seen = tile.grow, set()

    def watched(*arguments):
        seen.add(torch.get_num_threads())
        return original(*arguments)

    monkeypatch.setattr("growtool.operators.width.tile.grow", watched)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        grown(source, wider("vit", TILE), tmp_path / "out")
    finally:
        torch.set_num_threads(threads)
    assert seen == {1}


def test_timm_alone_loads_the_folder(tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source", dtype=torch.float32)
    grown(source, wider("vit", MIXTURE), tmp_path / "out")
    inputs = TINY["vit"].inputs(dtype=torch.float32)
    torch.save({"inputs": inputs}, tmp_path / "inputs.pt")
    script = """
import sys, timm, torch
model = timm.create_model(f"local-dir:{sys.argv[1]}", pretrained=True).eval()
assert not any(name.split(".")[0] == "growtool" for name in sys.modules)
torch.save(model(torch.load(sys.argv[2])["inputs"]).detach(), sys.argv[3])
"""
    done = in_plain_timm(script, tmp_path / "out", tmp_path / "inputs.pt", tmp_path / "logits.pt")
    assert done.returncode == 0, done.stderr
    expected = timm.create_model(f"local-dir:{source}", pretrained=True).eval()(inputs)
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), expected, rtol=1e-5, atol=1e-5)


def test_a_single_file_carries_its_model(tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    grown(source, wider("vit", TILE), tmp_path / "folder")
    grown(source, wider("vit", TILE), tmp_path / "grown.safetensors")
    alone, folder = open_checkpoint(tmp_path / "grown.safetensors"), open_checkpoint(tmp_path / "folder")
    # a file's header is written before the proof is run, so only the folder's lineage holds what it found
    (step,) = folder.spec.extra["growtool"]["lineage"]
    assert step.pop("verified").startswith("logits differ by ")
    assert alone.spec == folder.spec
    assert all(torch.equal(tensor, alone.read(name)) for name, tensor in folder.state_dict().items())
    assert {path.name for path in tmp_path.iterdir()} == {"source", "folder", "grown.safetensors", "plan.yaml"}


@pytest.mark.parametrize(
    ("name", "plan"),
    [
        ("vit", wider("vit", TILE)),
        pytest.param(
            "mobilenetv3",
            {"target": {"scale": {"width": 2}}, "width": NET2NET, "allow_lossy": True},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_line_that_loads_a_single_file_loads_it(name, plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source, out = write_folder(TINY[name], tmp_path / "source", dtype=torch.float32), Path("grown.safetensors")
    grown(source, plan, out)
    line = loading_line(out)
    assert line.startswith("import growtool; " if name == "mobilenetv3" else "timm.create_model(")
    model = eval(line.removeprefix("import growtool; "), {"timm": timm})
    expected = load_file(out)
    assert expected and all(value.equal(expected[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("out", ["out", "out.safetensors", "not/yet/there"])
@pytest.mark.parametrize("failure", ["proof", "interrupt", "work"])
def test_nothing_is_left_behind(failure, out, tmp_path, monkeypatch):
    source = write_folder(TINY["vit"], tmp_path / "source")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    def broken(*_, **__):
        raise RuntimeError("broken")

    def wrong(W, maps):
        return torch.zeros([len(axis.index) for axis in maps], dtype=W.dtype)

    expected = {"proof": CheckpointError, "interrupt": KeyboardInterrupt, "work": RuntimeError}[failure]
    if failure == "proof":
        monkeypatch.setattr("growtool.operators.base.split_evenly", wrong)
    else:
        monkeypatch.setattr("growtool.operators.width.tile.grow", interrupted if failure == "interrupt" else broken)
    with pytest.raises(expected) as raised:
        grown(source, wider("vit", SPLIT_EVENLY), tmp_path / out)
    if failure == "proof":
        assert re.match(
            r"verification failed: logits differ by .* expected at most 1e-10: .* Nothing was written",
            str(raised.value),
        )
    assert {path.name for path in tmp_path.iterdir()} == {"source", "plan.yaml"}


def test_rounding_that_a_growth_amplifies_is_told_as_such(tmp_path):
    """Many copies with large noise: what float32 leaves between them grows in each block."""
    source = write_folder(TINY["vit"].with_args(depth=4), tmp_path / "source", dtype=torch.float32)
    plan = {"target": {"scale": {"width": 22}}, "width": {"operator": "mixture"}}
    with pytest.raises(PlanError, match=r"in float64 the same growth differs by \S+e-\d+: what rounding leaves"):
        grown(source, plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rounding_beyond_float64_is_told_as_such(tmp_path):
    source = write_folder(TINY["resnet"], tmp_path / "source", dtype=torch.float32)
    plan = {"target": {"scale": {"width": 2}}, "width": {"operator": "net2net", "gain": 100_000}}
    with pytest.raises(PlanError, match=r"inputs that differ by 4e-15 move the grown model as far, .* a smaller gain"):
        grown(source, plan, tmp_path / "out")


def test_a_wrong_growth_is_not_taken_for_rounding(tmp_path, monkeypatch):
    source = write_folder(TINY["resnet"], tmp_path / "source", dtype=torch.float32)
    original = tile.grow
    monkeypatch.setattr("growtool.operators.width.tile.grow", lambda *given, **told: 2 * original(*given, **told))
    with pytest.raises(CheckpointError, match=r"this is a bug of growtool"):
        grown(source, wider("resnet", TILE), tmp_path / "out")


def test_an_older_output_survives_a_failure_and_force_replaces_it(tmp_path, monkeypatch):
    source = write_folder(TINY["vit"], tmp_path / "source")
    grown(source, wider("vit", TILE), tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with monkeypatch.context() as patched, pytest.raises(CheckpointError):
        patched.setattr("growtool.growing.proof.TOLERANCES", {"F64": -1.0})
        grown(source, wider("vit", MIXTURE), tmp_path / "out", force=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    grown(source, wider("vit", MIXTURE), tmp_path / "out", force=True)
    assert (tmp_path / "out" / WEIGHTS).read_bytes() != before[WEIGHTS]
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out", "plan.yaml"}


def test_verification_can_be_switched_off_and_says_so(tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    result = grown(source, wider("vit", TILE, verify=False), tmp_path / "out")
    assert result.proof is None
    assert json.loads((tmp_path / "out" / "growth.json").read_text())["verified"] is None
