"""The streamed forward is the model's own, its memory that of one operation; the comparison tells what differs."""

import json
import math
import tarfile
import threading
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from growtool.checkpoint import Checkpoint, TensorInfo, build, open_checkpoint
from growtool.checkpoint.match import matched
from growtool.errors import CheckpointError, PlanError
from growtool.images import EVAL_SPLITS, LabelledImages
from growtool.verify import (
    Comparison,
    StreamedModel,
    common_inputs,
    compare,
    compare_each,
    compare_images,
    default_tolerance,
    outputs_of,
    random_inputs,
)
from tests.support.models import random_images, randomise_

# One of each way a forward pass comes by its weights: weights standardised, relative positions looked up and cached,
# rotary tables, functional attention with fused or absent biases, recurrent layers with lists of weights.
MODELS = {
    "test_vit": {},
    "test_vit3": {},
    "test_resnet": {},
    "test_convnext": {},
    "test_efficientnet": {},
    "test_nfnet": {},
    "test_maxvit": {},
    "swin_tiny_patch4_window7_224": {"embed_dim": 24, "depths": (1, 1), "num_heads": (2, 2)},
    "eva02_tiny_patch14_224": {"depth": 2, "img_size": 56},
    "beit_base_patch16_224": {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 64},
    "levit_128s": {},
    "tiny_vit_5m_224": {"embed_dims": (16, 32, 32, 64), "num_heads": (1, 2, 2, 4), "depths": (1, 1, 1, 1)},
    "xcit_nano_12_p16_224": {"depth": 2, "embed_dim": 32, "num_heads": 2},
    "cait_xxs24_224": {"depth": 2, "embed_dim": 32, "num_heads": 2},
    "sequencer2d_s": {"layers": (1, 1), "embed_dims": (16, 32), "hidden_sizes": (4, 8), "mlp_ratios": (2, 2),
                      "patch_sizes": (7, 2)},
}  # fmt: skip


def save(model: torch.nn.Module, folder: Path, **model_args) -> Path:
    save_for_hf(model, folder, model_args=model_args, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    model = randomise_(timm.create_model("test_vit", num_classes=5).eval())
    return open_checkpoint(save(model, tmp_path_factory.mktemp("vit"), num_classes=5))


@pytest.mark.parametrize("name", MODELS)
def test_streamed_forward_is_the_loaded_models(name, tmp_path):
    args = {**MODELS[name], "num_classes": 5}
    folder = save(randomise_(timm.create_model(name, **args).eval()), tmp_path, **args)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    streamed = StreamedModel(open_checkpoint(folder))
    inputs = random_images(streamed.input_sizes["images"], 2, seed=0)
    with torch.no_grad():
        expected = model(inputs)
    assert expected.std() > 0
    assert Comparison.of(expected, streamed(inputs)).relative_difference <= 1e-6
    in_float64 = StreamedModel(open_checkpoint(folder), torch.float64)(inputs)
    assert in_float64.dtype == torch.float64
    with torch.no_grad():
        assert Comparison.of(model.double()(inputs.double()), in_float64).relative_difference <= 1e-12


@pytest.mark.parametrize("name", ["test_resnet", "swin_tiny_patch4_window7_224"])
def test_a_streamed_model_runs_on_the_device_that_is_named(name, tmp_path, monkeypatch):
    """By tensors of a CUDA device that have no values; operations refuse those of two devices."""
    if torch.__version__ < "2.10" and not torch.cuda.is_available():
        pytest.skip("torch 2.9 needs a driver for them")
    args = {"num_classes": 5, **({"embed_dim": 12, "depths": (2, 1, 1, 1)} if "swin" in name else {})}
    source = open_checkpoint(save(timm.create_model(name, **args), tmp_path, **args))
    inputs, device = random_images(StreamedModel(source).input_sizes["images"], 2, seed=0), torch.device("cuda", 0)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: tensor)  # where it has come to, not what it brings back
    monkeypatch.setattr("growtool.verify.stream.build", built_with_values)
    with FakeTensorMode(allow_non_fake_inputs=True):
        logits = StreamedModel(source, device=device)(inputs)
    assert (logits.device, logits.shape) == (device, (2, 5))


def built_with_values(spec, where):
    with unset_fake_temporarily():
        return build(spec)


def test_weights_are_held_one_operation_at_a_time(vit, monkeypatch):
    held, most, read = 0, 0, Checkpoint.read

    def counted(checkpoint: Checkpoint, name: str) -> torch.Tensor:
        nonlocal held, most
        tensor, size = read(checkpoint, name), checkpoint.tensors[name].nbytes
        held += size
        most = max(most, held)
        weakref.finalize(tensor, release, size)
        return tensor

    def release(size: int) -> None:
        nonlocal held
        held -= size

    monkeypatch.setattr(Checkpoint, "read", counted)
    streamed = StreamedModel(vit)
    assert most == 0
    streamed(random_images(streamed.input_sizes["images"], 1, seed=0))
    sizes = sorted(info.nbytes for info in vit.tensors.values())
    assert sizes[-1] <= most <= 2 * sizes[-1] < sum(sizes)


def test_questions_about_a_weight_do_not_read_it(vit, monkeypatch):
    streamed = StreamedModel(vit, torch.float64)
    weight = streamed.model.blocks[0].attn.qkv.weight
    stored = vit.read("blocks.0.attn.qkv.weight").double()

    def forward(images):
        with monkeypatch.context() as without_reading:
            without_reading.delattr(Checkpoint, "read")
            assert weight.shape == weight.size() == stored.shape
            assert (weight.dim(), weight.ndim, len(weight), weight.numel()) == (2, 2, len(stored), stored.numel())
            assert (weight.device, weight.dtype) == (stored.device, stored.dtype)
            assert weight.is_floating_point()
            assert weight.requires_grad
        assert not weight.is_meta
        return weight.T

    monkeypatch.setattr(streamed.model, "forward", forward)
    assert torch.equal(streamed(torch.zeros(1)), stored.T)


def test_streaming_leaves_no_values_in_the_skeleton_and_does_not_touch_the_global_generator(vit):
    before = torch.get_rng_state()
    streamed = StreamedModel(vit)
    inputs = random_images(streamed.input_sizes["images"], 1, seed=0)
    assert torch.equal(streamed(inputs), streamed(inputs))
    assert all(parameter.is_meta for parameter in streamed.model.parameters())
    assert torch.equal(before, torch.get_rng_state())


def test_a_checkpoint_equals_itself(vit):
    result = compare(vit, vit, common_inputs(vit, vit, 3, seed=0))
    assert (result.relative_difference, result.max_abs, result.argmax_agreement, result.count) == (0, 0, 1, 3)
    assert result.dtype == "float32"
    assert result.within(0)


def test_difference_is_relative_to_the_largest_logit():
    a = torch.tensor([[4.0, -8.0], [1.0, 2.0]])
    result = Comparison.of(a, torch.tensor([[4.0, -8.0], [1.0, 0.0]]))
    assert result == Comparison(0.25, 2.0, 8.0, 0.5, 2, "float32")
    assert not result.within(0.2)
    parts = [Comparison.of(a[:1], a[:1]), Comparison.of(a[1:], torch.tensor([[1.0, 0.0]]))]
    assert Comparison.merge(parts) == result


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_logits_that_are_not_finite_never_agree(bad, side):
    logits = [torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]])]
    logits[side] = torch.tensor([[1.0, bad]])
    broken = Comparison.of(*logits)
    assert not broken.within(1e9)
    fine = Comparison.of(torch.ones(1, 2), torch.ones(1, 2))
    assert not Comparison.merge([fine, broken]).within(1e9)
    assert not Comparison.merge([broken, fine]).within(1e9)


def test_zero_logits_agree_with_zero_logits_alone():
    zero = torch.zeros(1, 2)
    assert Comparison.of(zero, zero).within(0)
    assert not Comparison.of(zero, torch.ones(1, 2)).within(1e9)


@pytest.mark.parametrize(
    ("stored", "computed", "tolerance"),
    [
        (("F64", "F64"), torch.float64, 1e-10),
        (("F64", "F32"), torch.float64, 1e-5),
        (("F64", "F64"), torch.float32, 1e-5),
        (("F32", "BF16"), torch.float32, 5e-2),
        (("F16", "I64"), torch.float32, 5e-3),
    ],
)
def test_tolerance_is_that_of_the_coarsest_type(vit, stored, computed, tolerance):
    pair = [replace(vit, stored={"weight": TensorInfo((1,), name)}) for name in stored]
    assert default_tolerance(*pair, computed) == tolerance


def test_models_that_run_beside_each_other_return_what_each_does_alone(vit, monkeypatch):
    inputs = common_inputs(vit, vit, 2, seed=0)
    threads, seen = torch.get_num_threads(), []
    run = StreamedModel.outputs

    def watched(model, given):
        seen.append((threading.get_ident() == here, torch.get_num_threads()))
        return run(model, given)

    here = threading.get_ident()
    monkeypatch.setattr(StreamedModel, "outputs", watched)
    try:
        torch.set_num_threads(1)
        found = {}
        for cores in (1, 2, 8):
            monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
            found[cores] = outputs_of([StreamedModel(vit), StreamedModel(vit), StreamedModel(vit)], inputs)
    finally:
        torch.set_num_threads(threads)
    assert seen == [(True, 1)] * 3 + [(False, 1)] * 6
    assert all(torch.equal(one, found[1][0][0]) for outputs in found.values() for (one,) in outputs)


def test_an_error_of_one_model_ends_those_beside_it(vit, monkeypatch):
    first, second = StreamedModel(vit), StreamedModel(vit)
    monkeypatch.setattr(first.library, "run", lambda model, inputs: second.library.missing)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    with pytest.raises(AttributeError):
        outputs_of([first, second], common_inputs(vit, vit, 1, seed=0))
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="the run was ended"):
        second.outputs(common_inputs(vit, vit, 1, seed=0))


def test_the_source_runs_once_for_all_eps(vit, monkeypatch):
    runs, run = [], StreamedModel.outputs
    monkeypatch.setattr(StreamedModel, "outputs", lambda model, given: runs.append(model) or run(model, given))
    inputs = common_inputs(vit, vit, 2, seed=0)
    plain, with_eps = compare_each(vit, vit, inputs, [{}, {"norm": 0.5}])
    assert len(runs) == 3
    assert plain == compare(vit, vit, inputs)
    assert plain.relative_difference == 0 < with_eps.relative_difference


def test_random_inputs_are_those_of_the_seed(vit):
    model = build(vit.spec)
    a, b, again = (random_inputs(vit.spec, model, 2, seed=seed).tensors["images"] for seed in (1, 2, 1))
    assert (a.shape, a.dtype) == ((2, 3, 160, 160), torch.float64)
    assert torch.equal(a, random_images((3, 160, 160), 2, seed=1, dtype=torch.float64))
    assert torch.equal(a, again) and not torch.equal(a, b)


def test_what_cannot_be_compared_is_said_at_once(vit, tmp_path):
    args = {"num_classes": 7, "img_size": 64}
    other = open_checkpoint(save(randomise_(timm.create_model("test_vit", **args).eval()), tmp_path, **args))
    with pytest.raises(PlanError) as error:
        compare(vit, other, random_images((3, 64, 64), 1))
    assert len(error.value.problems) == 2
    assert error.match(r"input size: .* takes 3x160x160 images, .* takes 3x64x64; expected the same")
    assert error.match(r"classes: .* has 5, .* has 7; expected the same number")


def test_a_model_without_a_classifier_has_features_but_decides_nothing(tmp_path, images):
    headless = open_checkpoint(
        save(randomise_(timm.create_model("test_vit", num_classes=0).eval()), tmp_path, num_classes=0)
    )
    result = compare(headless, headless, common_inputs(headless, headless, 2, seed=0))
    assert (result.relative_difference, result.argmax_agreement, result.count) == (0, None, 2) and result.scale > 0
    with pytest.raises(PlanError, match=r"has no classifier \(num_classes 0\), expected one that labels can be held"):
        compare_images(headless, headless, images)


def test_features_that_are_no_numbers_are_further_apart_than_any():
    nan = torch.full((1, 2), math.nan)
    parts = [Comparison.of(a, a, decide=False) for a in (torch.ones(1, 2), nan)]
    assert Comparison.merge(parts).argmax_agreement is None
    assert not Comparison.merge(parts).within(1e9)


def test_strictness_names_every_kind_of_disagreement(resnet_folder):
    config = json.loads((resnet_folder / "config.json").read_text())
    config["model_args"] |= {"channels": [4, 8, 8, 16], "layers": [1, 1, 1, 2]}
    (resnet_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as error:
        matched(open_checkpoint(resnet_folder))
    assert error.match(
        r"the weights are not those of resnet18 with the model_args given \(\d+ tensors found, \d+ expected"
    )
    assert error.match(
        r"wrong shape \(\d+\): layer4\.0\.conv1\.weight is \[12, 8, 3, 3\], expected \[16, 8, 3, 3\]; .*and \d+"
    )
    assert error.match(r"missing \(\d+\): layer4\.1\.conv1\.weight \[16, 16, 3, 3\]; ")
    assert error.match("a config.json that does not match the weights")
    config["model_args"] |= {"channels": [4, 8, 8, 12], "layers": [1, 1, 1, 1], "num_classes": 0}
    (resnet_folder / "config.json").write_text(json.dumps(config | {"num_classes": 0}))
    with pytest.raises(
        CheckpointError, match=r"- unexpected \(2\): fc\.(bias|weight) [^;]*; fc\.(bias|weight) [^;]*\n"
    ):
        matched(open_checkpoint(resnet_folder))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Six images of noise, two each of the classes 0, 1 and 2."""
    folder = tmp_path_factory.mktemp("images")
    for i, pixels in enumerate(random_images((32, 32, 3), 6)):
        (folder / f"class{i % 3}").mkdir(exist_ok=True)
        path = folder / f"class{i % 3}" / f"{i}.png"
        Image.fromarray((pixels.clamp(-2, 2) * 60 + 128).byte().numpy()).save(path)
    return labelled(folder)


def labelled(folder):
    return LabelledImages.of(
        folder, EVAL_SPLITS, channels=3, num_classes=0, label_names=None, checkpoint="of any classes"
    )


def test_images_that_change_class_are_named_with_their_margin(vit, images, tmp_path):
    changed_head = timm.create_model(f"local-dir:{vit.path.parent}", pretrained=True).eval()
    with torch.no_grad():
        changed_head.head.bias += torch.tensor([50.0, 0, 0, 0, 0])
    other = open_checkpoint(save(changed_head, tmp_path, num_classes=5))
    done = []
    result = compare_images(vit, other, images, batch_size=4, advance=done.append)
    assert done == [4, 2]
    assert result.logits.count == 6
    assert result.logits.max_abs == pytest.approx(50, rel=1e-4)
    assert result.target_top1 == pytest.approx(2 / 6)
    assert len(result.changed) == round(6 * (1 - result.logits.argmax_agreement)) > 0
    for change in result.changed:
        assert change.target == 0 != change.source
        assert Path(change.file).parent.name == f"class{change.label}"
        assert 0 < change.margin <= 2 * result.logits.max_abs


def test_images_are_prepared_as_timm_prepares_them(vit, images):
    model = timm.create_model(f"local-dir:{vit.path.parent}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    files = sorted(images.split.root.glob("*/*.png"))
    inputs = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
    with torch.no_grad():
        right = (model(inputs).argmax(1) == torch.tensor([0, 0, 1, 1, 2, 2])).double().mean().item()
    result = compare_images(vit, vit, images)
    assert (result.source_top1, result.target_top1, result.changed) == (right, right, ())


def test_different_preprocessing_is_no_common_input(vit, images, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(vit.path.read_bytes())
    config = json.loads((vit.path.parent / "config.json").read_text())
    config["pretrained_cfg"]["mean"] = [0.1, 0.2, 0.3]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        PlanError, match=r"pretrained_cfg\.mean: .* has \(0\.5, 0\.5, 0\.5\), .* has \(0\.1, 0\.2, 0\.3\); expected"
    ):
        compare_images(vit, open_checkpoint(tmp_path), images)


def test_a_damaged_image_is_named(vit, tmp_path):
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "damaged.png").write_bytes(b"no image")
    with pytest.raises(
        CheckpointError,
        match=r"damaged\.png: cannot identify image file: cannot read the image; restore or remove the file",
    ):
        compare_images(vit, vit, labelled(tmp_path))


def test_images_in_a_tar_file_decide_the_same(vit, images, tmp_path):
    changed_head = timm.create_model(f"local-dir:{vit.path.parent}", pretrained=True).eval()
    with torch.no_grad():
        changed_head.head.bias += torch.tensor([50.0, 0, 0, 0, 0])
    other = open_checkpoint(save(changed_head, tmp_path / "other", num_classes=5))
    with tarfile.open(tmp_path / "validation.tar", "w") as archive:
        archive.add(images.split.root, arcname=".")
    from_folder, from_tar = (compare_images(vit, other, found) for found in (images, labelled(tmp_path)))
    assert from_tar.logits == from_folder.logits
    assert from_tar.source_top1 == from_folder.source_top1
    names = [f"{tmp_path / 'validation.tar'}: {'/'.join(Path(c.file).parts[-2:])}" for c in from_folder.changed]
    assert [change.file for change in from_tar.changed] == names != []


@pytest.mark.parametrize("count", [10**13, 2**63 - 1])
def test_more_random_inputs_than_memory_holds_are_refused(count, vit):
    with pytest.raises(PlanError, match=rf"found {count} random inputs of 3x160x160, expected as many as fit"):
        random_inputs(vit.spec, build(vit.spec), count, 0)
