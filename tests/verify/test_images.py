"""Two checkpoints on images: which change class, prepared as timm prepares them."""

import json
import tarfile
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from growtool.checkpoint import open_checkpoint
from growtool.errors import CheckpointError, PlanError
from growtool.images import EVAL_SPLITS, LabelledImages
from growtool.verify import (
    common_inputs,
    compare,
    compare_images,
)
from tests.support.models import random_images, randomise_, saved


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


def test_a_model_without_a_classifier_has_features_but_decides_nothing(tmp_path, images):
    headless = open_checkpoint(
        saved(randomise_(timm.create_model("test_vit", num_classes=0).eval()), tmp_path, num_classes=0)
    )
    result = compare(headless, headless, common_inputs(headless, headless, 2, seed=0))
    assert (result.relative_difference, result.argmax_agreement, result.count) == (0, None, 2) and result.scale > 0
    with pytest.raises(PlanError, match=r"has no classifier \(num_classes 0\), expected one that labels can be held"):
        compare_images(headless, headless, images)


def test_images_that_change_class_are_named_with_their_margin(vit, images, tmp_path):
    changed_head = timm.create_model(f"local-dir:{vit.path.parent}", pretrained=True).eval()
    with torch.no_grad():
        changed_head.head.bias += torch.tensor([50.0, 0, 0, 0, 0])
    other = open_checkpoint(saved(changed_head, tmp_path, num_classes=5))
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
    other = open_checkpoint(saved(changed_head, tmp_path / "other", num_classes=5))
    with tarfile.open(tmp_path / "validation.tar", "w") as archive:
        archive.add(images.split.root, arcname=".")
    from_folder, from_tar = (compare_images(vit, other, found) for found in (images, labelled(tmp_path)))
    assert from_tar.logits == from_folder.logits
    assert from_tar.source_top1 == from_folder.source_top1
    names = [f"{tmp_path / 'validation.tar'}: {'/'.join(Path(c.file).parts[-2:])}" for c in from_folder.changed]
    assert [change.file for change in from_tar.changed] == names != []
