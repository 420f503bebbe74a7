"""Training in template form: the same function, the right gradients, checkpoints that stay in template form."""

import copy
import json

import pytest
import timm
import torch
import yaml

from growtool.checkpoint import open_checkpoint
from growtool.checkpoint.folder import loading_line
from growtool.errors import PlanError
from growtool.finetune.run import finetune
from growtool.finetune.update.model import load_model, place
from growtool.finetune.update.optimizer import create_optimizer
from growtool.finetune.update.template_form import as_stored
from growtool.finetune.update.trainable import select
from growtool.templates.decompose import Request
from tests.support.finetune import UNCLOSED_IMAGES, run_config, write_checkpoint, write_data
from tests.support.models import TINY, grown, write_folder
from tests.support.templates import EXACT, to_templates

FAMILIES = ("resnet", "vit", "convnext", "swin", "nfnet")


@pytest.fixture
def both(tmp_path):
    """`both(family, request)`: the model in template form and the dense one, with their images."""

    def load(family, request):
        source = write_folder(TINY[family], tmp_path / "source", dtype=torch.float32)
        written, _ = to_templates(source, request, tmp_path / "t")
        return load_model(written), load_model(open_checkpoint(source)), TINY[family].inputs(dtype=torch.float32)

    return load


@pytest.mark.parametrize("request_", [EXACT["raw"], EXACT["halves"], Request("svd", rank=9)], ids=lambda r: r.kind)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_function_is_that_of_the_dense_model(family, request_, both):
    model, dense, images = both(family, request_)
    with torch.no_grad():
        torch.testing.assert_close(model(images), dense(images), rtol=1e-4, atol=1e-4)
        again = copy.deepcopy(model)
        torch.testing.assert_close(again(images), model(images), rtol=0, atol=0)
        last = place(model, torch.device("cpu"), channels_last=True)
        torch.testing.assert_close(
            last(images.contiguous(memory_format=torch.channels_last)), dense(images), rtol=1e-3, atol=1e-3
        )


def test_names_are_those_of_the_file_and_nothing_decays_that_is_a_coefficient(both, tmp_path):
    model, _, _ = both("vit", EXACT["raw"])
    written = open_checkpoint(tmp_path / "t")
    assert model.state_dict().keys() == written.stored.keys()
    optimizer = create_optimizer(run_config(tmp_path, tmp_path, tmp_path, opt="adamw", weight_decay=0.1), model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            if name.endswith(".coefficients"):
                assert group["weight_decay"] == 0, name
            if name.startswith("banks."):
                assert group["weight_decay"] > 0, name


def test_gradients_are_those_of_the_dense_weights(both):
    """dL/dT_t = sum of c G over all blocks, divided by how much sharing adds up; dL/dc = <G, T>, by the size of T."""
    model, dense, images = both("resnet", EXACT["raw"])
    model(images).square().mean().backward()
    dense(images).square().mean().backward()
    names = ["layer1.0.conv2.weight", "layer1.1.conv1.weight", "layer1.1.conv2.weight"]
    G = torch.stack([dense.get_parameter(name).grad for name in names])
    bank = model.banks["layer1_4x4x3x3"]
    size = float(bank.templates.detach().flatten(1).square().sum(1).mean())
    torch.testing.assert_close(bank.templates.grad, G, rtol=1e-4, atol=1e-6)  # one-hot: each layer its own
    for name, own in zip(names, G, strict=True):
        coefficients = dict(model.named_parameters())[f"{name}.coefficients"]
        expected = (bank.templates.detach() * own).flatten(1).sum(1) / max(1.0, size)
        torch.testing.assert_close(coefficients.grad[0, 0], expected, rtol=1e-4, atol=1e-6)


def test_a_shared_template_moves_weights_no_further_than_dense_training_would(tmp_path):
    source = write_folder(TINY["vit"].with_args(depth=4), tmp_path / "source", dtype=torch.float32)
    written, _ = to_templates(source, Request("svd", rank=1), tmp_path / "t")
    model, images = load_model(written), TINY["vit"].inputs(dtype=torch.float32)
    names = [f"blocks.{i}.attn.proj.weight" for i in range(4)]
    model(images).square().mean().backward()
    before = {n: model.get_submodule(n.removesuffix(".weight")).weight.detach().clone() for n in names}
    dense = timm.create_model("test_vit", **TINY["vit"].with_args(depth=4).args).eval()
    dense.load_state_dict({n: written.read(n) for n in written.tensors})
    dense(images).square().mean().backward()
    bank = model.banks[written.form.tensors[names[0]].bank]
    with torch.no_grad():
        bank.templates.sub_(bank.templates.grad)
        model(images)
    moved = torch.stack([model.get_submodule(n.removesuffix(".weight")).weight - before[n] for n in names]).norm()
    would = torch.stack([dense.get_parameter(n).grad for n in names]).norm()
    assert 0 < moved <= would * (1 + 1e-4)


def test_weights_are_made_in_full_precision_under_autocast(both):
    model, _, images = both("vit", EXACT["halves"])
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(images).float().square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    assert model.blocks[0].mlp.fc1.weight.dtype == torch.float32


def test_a_compiled_model_sees_what_the_optimizer_did(both):
    model, _, images = both("resnet", EXACT["raw"])
    compiled = torch.compile(model, backend="eager")
    for _ in range(2):
        compiled(images).square().mean().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(parameter.grad, alpha=1e-3)
                parameter.grad = None
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images))


@pytest.mark.parametrize(("kind", "ending"), [("coefficients", ".coefficients"), ("templates", ".templates")])
def test_either_part_trains_alone(kind, ending, both, tmp_path):
    model, _, _ = both("resnet", EXACT["raw"])
    selection = select(kind, open_checkpoint(tmp_path / "t"), model)
    selection.freeze_others(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and all(name.endswith(ending) for name in trained)
    with pytest.raises(PlanError, match=f"--train {kind}: .* is dense and has no {kind}"):
        select(kind, open_checkpoint(tmp_path / "source"), model)


def test_what_is_new_in_part_trains_in_the_coefficients_of_new_blocks(tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    to_templates(source, EXACT["raw"], tmp_path / "t")
    plan = {"target": {"model_args": {"embed_dim": 16, "num_heads": 4}}, "width": {"operator": "mixture"}}
    grown(tmp_path / "t", plan, tmp_path / "g")
    form = open_checkpoint(tmp_path / "g").form
    name = "blocks.0.mlp.fc1.weight"
    names, slices = as_stored([name, "norm.bias"], {name: (((24, 48),), ((8, 16),))}, form)
    assert names == {f"{name}.coefficients", "norm.bias"}
    assert slices == {f"{name}.coefficients": (((1, 2),), ((1, 2),), ())}
    assert as_stored([], {name: (((40, 48),), ())}, form)[1] == {}, "half a block is not a new one"


def test_where_the_positions_of_a_grown_form_stand_is_kept_with_the_model_and_never_saved(tmp_path):
    """It is copied to no device at a forward pass: it is there."""
    source = write_folder(TINY["vit"], tmp_path / "source", dtype=torch.float32)
    to_templates(source, EXACT["raw"], tmp_path / "t")
    plan = {"target": {"model_args": {"embed_dim": 16, "num_heads": 4}}, "width": {"operator": "mixture"}}
    grown(tmp_path / "t", plan, tmp_path / "g")
    checkpoint = open_checkpoint(tmp_path / "g")
    model = load_model(checkpoint)
    kept = {name for name, _ in model.named_buffers() if name.endswith((".rows", ".columns"))}
    assert kept, "heads that doubled alternate"
    assert model.state_dict().keys() == checkpoint.stored.keys()
    assert all(buffer.is_meta for name, buffer in copy.deepcopy(model).to("meta").named_buffers() if name in kept)


@UNCLOSED_IMAGES
def test_runs_stay_in_template_form_and_resume(tmp_path):
    source, data = write_checkpoint(tmp_path / "source"), write_data(tmp_path / "data")
    to_templates(source, EXACT["raw"], tmp_path / "t")
    result = finetune(run_config(tmp_path / "t", data, tmp_path / "run", model_ema=True, model_ema_decay=0.5))
    assert result.final.count == 12
    for folder in ("best", "last"):
        written = open_checkpoint(tmp_path / "run" / folder)
        assert written.form == open_checkpoint(tmp_path / "t").form
    assert loading_line(tmp_path / "run" / "best") == f"growtool export {tmp_path / 'run' / 'best'} -o DENSE"


@pytest.mark.parametrize(("option", "message"), [
    ({"engine": "fsdp"}, "--engine fsdp: shards each layer's parameters, and layers here share theirs"),
    ({"lora_rank": 2}, "--lora-rank: adapters add to a weight that is stored, and here it is computed"),
])  # fmt: skip
def test_what_has_no_place_in_template_form_is_refused(option, message, tmp_path):
    source, data = write_checkpoint(tmp_path / "source"), write_data(tmp_path / "data")
    to_templates(source, EXACT["raw"], tmp_path / "t")
    with pytest.raises(PlanError, match=message):
        finetune(run_config(tmp_path / "t", data, tmp_path / "run", **option))


@UNCLOSED_IMAGES
def test_the_whole_way_through_the_command_line(tmp_path, growtool):
    """decompose, grow, finetune, grow again, export, and plain timm computes what the template form does."""
    source, data = write_checkpoint(tmp_path / "source"), write_data(tmp_path / "data")

    def done(*arguments):
        code, out, err = growtool(*arguments)
        assert code == 0, err
        return out

    def plan(channels):
        path = tmp_path / f"{channels[0]}.yaml"
        path.write_text(
            yaml.safe_dump({"target": {"model_args": {"channels": channels}}, "width": {"operator": "mixture"}})
        )
        return path

    at = {name: tmp_path / name for name in ("templates", "grown", "run", "again", "dense")}
    done("decompose", source, "--bank", "sub_block", "-o", at["templates"])
    done("grow", at["templates"], plan([6, 12, 12, 18]), "-o", at["grown"])
    trained = json.loads(done(
        "finetune", at["grown"], "--data", data, "-o", at["run"], "--steps", 3, "--batch-size", 6, "--workers", 0,
        "--device", "cpu", "--train", "all", "--json",
    ))  # fmt: skip
    assert trained["steps"] == 3
    done("grow", at["run"] / "last", plan([12, 24, 24, 36]), "-o", at["again"])
    done("export", at["again"], "-o", at["dense"])
    model = timm.create_model(f"local-dir:{at['dense']}", pretrained=True).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        last = load_model(open_checkpoint(at["run"] / "last"))(images)
        torch.testing.assert_close(model(images), last, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(last, load_model(open_checkpoint(source))(images), rtol=1e-3)
