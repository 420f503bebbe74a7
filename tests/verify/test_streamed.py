"""The streamed forward is the model's own, its memory that of one operation."""

import weakref

import pytest
import timm
import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from growtool.checkpoint import Checkpoint, build, open_checkpoint
from growtool.verify import (
    Comparison,
    StreamedModel,
)
from tests.support.models import random_images, randomise_, saved

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


@pytest.mark.parametrize("name", MODELS)
def test_streamed_forward_is_the_loaded_models(name, tmp_path):
    args = {**MODELS[name], "num_classes": 5}
    folder = saved(randomise_(timm.create_model(name, **args).eval()), tmp_path, **args)
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
    source = open_checkpoint(saved(timm.create_model(name, **args), tmp_path, **args))
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
