"""A second library, of tokens with tied embeddings, grows by the same commands as timm's images do.

It is made known by `--plugin`, and every command runs in a process of its own.
"""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_model

from growtool import grow, open_checkpoint
from growtool.errors import CheckpointError, PlanError
from growtool.library import ModelSpec, library_of, meta_inputs, register, spec_from
from tests.support import token_library
from tests.support.models import randomise_
from tests.support.plain_timm import in_plain_timm
from tests.support.token_library import TokenLibrary, TokenModel

FILE = Path(token_library.__file__)
COMMAND = "import sys; sys.argv[0] = 'growtool'; from growtool.cli.app import main; main()"


def write(folder: Path, **args: object) -> Path:
    """A random model in float64, its tied weights once in the file, as safetensors saves a model."""
    folder.mkdir()
    save_model(randomise_(TokenModel(**args).double()), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": "token_model", "model_args": args, "note": "kept"}))
    return folder


def command(place: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return in_plain_timm(COMMAND, *arguments, "--plugin", FILE, folder=place)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """`small` and `states`, a model and one without a head, with what they grow into by width, by depth and by both."""
    root = tmp_path_factory.mktemp("tokens")
    write(root / "small")
    write(root / "states", head=False)
    for source, name, *how in (
        ("small", "wide", "--width", 2),
        ("small", "deep", "--depth", 2),
        ("small", "both", "--width", 3, "--depth", "5", "--operator", "tile"),
        ("states", "wide_states", "--width", 2),
    ):
        done = command(root, "grow", source, "-o", name, *how)
        assert done.returncode == 0, done.stderr
    return root


RELOADED = """
import sys, torch
sys.path.insert(0, sys.argv[1])
import token_library
from torch.utils._pytree import tree_leaves
models = [token_library.load(name) for name in sys.argv[2:]]
generator = torch.Generator().manual_seed(3)
ids, mask = torch.randint(11, (8, 5), generator=generator), torch.rand(8, 5, generator=generator) < 0.5
mask[:, 0] = True
with torch.no_grad():
    a, b = (tree_leaves(model(ids, mask)) for model in models)
for x, y in zip(a, b):
    y = y[..., : x.shape[-1]]
    print(float((x - y).abs().max() / x.abs().max()))
print(all(model.head is None or model.head.weight is model.embedding.weight for model in models))
"""


@pytest.mark.parametrize("name", ["wide", "deep", "both"])
def test_growth_is_exact_where_the_family_itself_loads_the_result(place, name):
    report = json.loads((place / name / "growth.json").read_text())
    assert (report["promise"]["kind"], report["verified"]["holds"]) == ("exact", True)
    assert report["verified"]["relative_difference"] < 1e-12
    run = in_plain_timm(RELOADED, FILE.parent, "small", name, folder=place)
    *differences, tied = run.stdout.split()
    assert len(differences) == 1 and float(differences[0]) < 1e-12 and tied == "True", run.stderr


def test_tied_weights_stay_tied(place):
    before, after = (load_file(place / name / "model.safetensors") for name in ("small", "wide"))
    assert after["embedding.weight"].shape == (11, 16)
    assert torch.equal(after["embedding.weight"], after["head.weight"])
    assert torch.equal(after["embedding.weight"], before["embedding.weight"].repeat(1, 2))  # the norm makes up for it
    assert torch.equal(after["norm.weight"], before["norm.weight"].repeat(2) / 2)


def test_several_outputs_that_may_grow_are_proven(place):
    report = json.loads((place / "wide_states" / "growth.json").read_text())
    assert (report["promise"]["kind"], report["verified"]["argmax_agreement"]) == ("exact", None)
    assert [(f["output"], f["dimension"]) for f in report["features"]] == [(0, 2), (1, 1)], "states, and their mean"
    run = in_plain_timm(RELOADED, FILE.parent, "states", "wide_states", folder=place)
    assert [float(difference) < 1e-12 for difference in run.stdout.split()[:2]] == [True, True], run.stderr


def test_inspect_counts_tokens(place):
    done = command(place, "inspect", "small", "wide", "--json")
    small, wide = json.loads(done.stdout)["checkpoints"]
    assert small["input_size"] == {"ids": [5], "mask": [5]}
    linear = 5 * (4 * 8 * 8 + 2 * 8 * 12)  # of a block, on five tokens
    attention = 2 * 2 * 5 * 5 * 4
    assert small["macs"] == 2 * (linear + attention) + 5 * 8 * 11
    assert wide["parameters"] > 3 * small["parameters"]
    assert "MACs of one text" in command(place, "inspect", "small").stdout


def test_verify_compares_what_each_token_is_followed_by(place):
    done = command(place, "verify", "small", "both", "--dtype", "float64")
    assert done.returncode == 0 and "100.00% decided alike" in done.stdout, done.stdout + done.stderr


def test_what_is_about_images_is_refused(place):
    for asked in (("verify", "small", "wide", "--data", place), ("evaluate", "small", "--data", place)):
        done = command(place, *asked)
        assert (done.returncode, done.stderr.count("small: token_model takes texts of another kind")) == (1, 1)
    done = command(place, "finetune", "small", "--data", place / "no_images")
    assert done.stderr.count("error: ") == 2, "the model and the images at once"
    assert done.stderr.startswith("error: small: token_model takes texts of another kind")
    plan = {"target": {"scale": {"width": 2}}, "data": {"path": str(place)}, "width": {"operator": "gradmax"}}
    with pytest.raises(PlanError, match=r"data: token_model takes texts of another kind, expected a model of images"):
        grow(place / "small", plan, place / "never")
    with pytest.raises(PlanError, match=r"takes no images, and so has no mirror image"):
        grow(place / "small", {"scale": {"width": 2}, "width": "two_source", "second": "mirror"}, place / "never")


def test_the_inputs_and_the_classes_stay(place):
    for args, told in (
        (
            {"length": 7},
            r"target: texts of ids \(7\), mask \(7\), the source takes ids \(5\), mask \(5\); growth keeps",
        ),
        (
            {"vocabulary": 12},
            r"target: the source tells 11 classes apart, the target 12; growth keeps what the model says",
        ),
        ({"heads": 3}, r"head size 4 does not divide this width; take width 16 with hidden 24 and heads 4"),
        ({"widht": 16}, r"target\.model_args\.widht: no argument of token_model's constructor; did you mean 'width'\?"),
    ):
        with pytest.raises(PlanError, match=told):
            grow(place / "small", {"target": {"model_args": args}, "width": "tile"}, place / "never")


def test_a_model_in_memory_grows(place):
    model = token_library.load(place / "small")
    wide = grow(model, {"target": {"scale": {"width": 2}}, "width": {"operator": "tile"}})
    inputs = TokenLibrary().inputs(model, 4, seed=1).tensors
    with torch.no_grad():
        assert torch.allclose(wide(**inputs), model(**inputs), rtol=0, atol=1e-12)


def test_a_config_is_its_librarys(place):
    spec = open_checkpoint(place / "small").spec
    assert spec == ModelSpec("token_model", {}, {}, {"note": "kept"}, "tokens")
    assert library_of(spec).config(spec, TokenModel()) == json.loads((place / "small" / "config.json").read_text())
    assert spec_from({"architecture": "resnet18"}, where="x").library == "timm"
    with pytest.raises(CheckpointError, match=r"x: model_args: found list, expected a mapping"):
        spec_from({"architecture": "token_model", "model_args": []}, where="x")
    with pytest.raises(CheckpointError, match=r"found a model of the library 'gone', which is not registered"):
        library_of(ModelSpec("a", library="gone"))
    with pytest.raises(PlanError, match=r"library 'tokens': found one of this name"):
        register(TokenLibrary())


def test_meta_inputs_have_no_values():
    spec = ModelSpec("token_model", library="tokens")
    ids, mask = meta_inputs(spec, TokenModel().double(), 3).tensors.values()
    assert (ids.device.type, ids.dtype, mask.dtype, ids.shape) == ("meta", torch.int64, torch.bool, (3, 5))
