"""GradMax: new hidden units change nothing, and no others of their size have a larger gradient."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from growtool.calibration import open_images
from growtool.errors import PlanError
from growtool.growing.gradients import column_products, input_columns
from growtool.operators.width.gradmax import directions, with_directions
from growtool.plan.schema import Data
from tests.support.finetune import UNCLOSED_IMAGES, images_to_grow_on
from tests.support.models import TINY, Tiny, difference, grown, load, resolved, write_folder

pytestmark = UNCLOSED_IMAGES
EXACT = 1e-11
CLASSES = ("blue", "green", "red", "violet", "white")
MIXER = Tiny(
    "growtool_open",
    {"base": "mixer_s32_224", "img_size": 64, "embed_dim": 8, "num_blocks": 2, "num_classes": 5},
    64,
)
# model, arguments that widen hidden layers alone, a weight that reads the units of one, whether its columns are chosen
HIDDEN: dict[str, tuple[Tiny, dict, str, bool]] = {
    "vit": (TINY["vit"], {"mlp_ratio": 4.5}, "blocks.0.mlp.fc2.weight", True),
    "vit with relu": (TINY["vit"].with_args(act_layer="relu"), {"mlp_ratio": 4.5}, "blocks.0.mlp.fc2.weight", False),
    "swin": (TINY["swin"], {"mlp_ratio": 4.5}, "layers.0.blocks.0.mlp.fc2.weight", True),
    "mixer": (MIXER, {"mlp_ratio": (1.0, 5.0)}, "blocks.0.mlp_channels.fc2.weight", True),
    "bottleneck": (TINY["bottleneck"], {"base_width": 112}, "layer1.0.conv2.weight", False),
}


@pytest.fixture
def data(tmp_path):
    return images_to_grow_on(tmp_path / "images", CLASSES)


def gradients(folder, data: dict) -> dict[str, Tensor]:
    model = load(folder)
    images = open_images(Data(**data), model, label_names=None, checkpoint="model")
    sum(cross_entropy(model(x.double()), y) for x, y in images.batches()).backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("family", HIDDEN)
def test_it_is_exact_and_every_new_unit_is_alive(family, data, tmp_path):
    tiny, args, reader, columns = HIDDEN[family]
    source = write_folder(tiny, tmp_path / "source")
    plan = {"target": {"model_args": args}, "width": {"operator": "gradmax"}, "data": data}
    result = grown(source, plan, tmp_path / "out")
    assert result.summary.promise == "exact", result.summary.reasons
    target = load(result.out)
    assert difference(load(source), target, tiny.inputs()) < EXACT
    recipe = resolved(source, plan)
    found = gradients(result.out, data)
    assert reader in {units.reader for units in recipe.measured.values()}
    for units in recipe.measured.values():
        assert units.columns == columns
        old = recipe.tensors[units.writer].maps[0].size
        written = target.get_parameter(units.writer)[old:]
        read = target.get_parameter(units.reader)[:, old:].transpose(0, 1)
        silent, chosen = (written, read) if columns else (read, written)
        outs = recipe.tensors[units.reader].maps[0].size
        assert not (silent if columns else silent[:, :outs]).any() and chosen.flatten(1).any(1).all()
        gradient = found[units.writer][old:] if columns else found[units.reader][:, old:].transpose(0, 1)
        assert (gradient.flatten(1).norm(dim=1) > 1e-8).all(), "a dead unit"
        assert nn.functional.pdist(chosen.detach().flatten(1)).min() > 1e-3, "twins"


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_directions_by_hand():
    """M = diag(3, 1, 0): columns along its range, the larger first; then the range turned; rows in opposite pairs."""
    M = torch.diag(torch.tensor([3.0, 1.0, 0.0])).double()
    found = directions(M, 5, generator(), columns=True)
    assert found[:2].tolist() == [[1, 0, 0], [0, 1, 0]]
    torch.testing.assert_close(found[2:4] @ found[2:4].T, torch.eye(2).double())
    assert not found[:, 2].any() and nn.functional.pdist(found).min() > 1e-2
    rows = directions(M, 3, generator(), columns=False)
    assert rows.tolist() == [[1, 0, 0], [0, 1, 0], [-1, 0, 0]]
    assert directions(torch.zeros(2, 3), 2, generator(), columns=True).norm() > 0


def test_directions_have_the_size_asked_for():
    W = torch.cat([random(2, 4, 3, 3), torch.zeros(2, 1, 3, 3)], 1)  # one new unit to read
    done = with_directions(W, torch.tensor([4]), torch.tensor([1]), random(1, 9), 0.5, dim=1)
    size = W[:, :4].transpose(0, 1).flatten(1).norm(dim=1).mean()
    assert torch.equal(done[:, :4], W[:, :4]) and not done[0, 4].any()
    torch.testing.assert_close(done[1, 4].flatten(), 0.5 * size * random(1, 9)[0])


@pytest.mark.parametrize(
    ("writer", "reader", "shape"),
    [
        (nn.Linear(3, 2), nn.Linear(2, 4), (2, 5, 3)),
        (nn.Conv2d(3, 2, 1), nn.Conv2d(2, 4, 3, padding=1), (2, 3, 5, 4)),
        (
            nn.Conv2d(3, 2, 3, stride=2, padding=1),
            nn.Conv2d(2, 4, (3, 2), padding=(1, 0), dilation=(2, 1)),
            (2, 3, 9, 8),
        ),
    ],
    ids=["linear", "bottleneck", "strides and dilation"],
)
def test_products_give_the_gradient_of_new_units(writer, reader, shape):
    """Zero rows beside random columns U: their gradient is U^T M, borders included; their bias has U^T (sum of g)."""
    x, writer, reader = random(*shape), writer.double(), reader.double()
    with torch.no_grad():
        writer.weight.zero_(), writer.bias.zero_(), reader.weight.copy_(random(*reader.weight.shape))
    y = reader(writer(x))
    g = random(*y.shape, seed=1)
    (y * g).sum().backward()
    M = column_products(reader, input_columns(writer, x), g)
    U = reader.weight.detach().transpose(0, 1).flatten(1)
    torch.testing.assert_close(writer.weight.grad.flatten(1), U @ M[:, :-1])
    torch.testing.assert_close(writer.bias.grad, U @ M[:, -1])


def test_no_columns_of_their_size_have_a_larger_gradient(data, tmp_path):
    """Against random ones, and to the number: gelu'(0) = 1/2, so the square is the singular values' over four."""
    source = write_folder(TINY["vit"], tmp_path / "source")
    plan = {"target": {"model_args": {"mlp_ratio": 3.5}}, "width": {"operator": "gradmax"}, "data": data}
    result = grown(source, plan, tmp_path / "out")
    (writer, reader), old = (f"blocks.0.mlp.fc{i}.weight" for i in (1, 2)), 24

    def steepness(folder) -> float:
        return float(gradients(folder, data)[writer][old:].norm())

    best = steepness(result.out)
    file = result.out / "model.safetensors"
    weights = load_file(file)
    size = weights[reader][:, old:].norm(dim=0)
    assert torch.allclose(size, 0.5 * weights[reader][:, :old].norm(dim=0).mean())
    for seed in range(3):
        basis = torch.linalg.qr(random(8, 4, seed=seed))[0]
        weights[reader][:, old:] = basis * size
        save_file(weights, file)
        assert steepness(result.out) < best


def test_units_that_nothing_reads_are_centred(data, tmp_path):
    """ReLU and BatchNorm: mean and variance of new units are what the images give: no unit is always negative."""
    tiny, args, *_ = HIDDEN["bottleneck"]
    source = write_folder(tiny, tmp_path / "source")
    plan = {"target": {"model_args": args}, "width": {"operator": "gradmax"}, "data": data}
    grown(source, plan, tmp_path / "out")
    model = load(tmp_path / "out")
    seen: list[Tensor] = []
    model.layer1[0].bn1.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    with torch.no_grad():
        for x, _ in open_images(Data(**data), model, label_names=None, checkpoint="model").batches():
            model(x.double())
    units = torch.cat(seen).transpose(0, 1).flatten(1)[4:]
    norm = model.layer1[0].bn1
    torch.testing.assert_close(norm.running_mean[4:], units.mean(1))
    torch.testing.assert_close(norm.running_var[4:], units.var(1, correction=0))


@pytest.mark.parametrize(
    ("tiny", "args", "message"),
    [
        (TINY["vit"], {"embed_dim": 16, "num_heads": 4}, r"gradmax takes hidden units that one layer writes and one "),
        (TINY["resnet"], {"channels": [8, 16, 16, 24]}, r"gradmax takes hidden units that one layer writes and one "),
        (
            TINY["vit"].with_args(scale_mlp_norm=True),
            {"mlp_ratio": 4.5},
            r"and between them native_layer_norm is computed; no other operator keeps the function",
        ),
        (TINY["eva"], {"mlp_ratio": 4.0}, r"; use `width: {operator: mixture}`, which is exact for this target$"),
    ],
    ids=["streams and heads", "streams", "a norm over the units", "gates"],
)
def test_what_are_no_hidden_units_is_refused(tiny, args, message, data, tmp_path):
    source = write_folder(tiny, tmp_path / "source")
    plan = {"target": {"model_args": args}, "width": {"operator": "gradmax"}, "data": data}
    with pytest.raises(PlanError, match=message):
        resolved(source, plan)


def test_it_needs_images(tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    plan = {"target": {"model_args": {"mlp_ratio": 4}}, "width": {"operator": "gradmax"}}
    with pytest.raises(PlanError, match=r"gradmax needs images, expected `data: \{path: \.\.\.\}` as well"):
        resolved(source, plan)


def test_units_of_blocks_that_start_closed_are_alive(data, tmp_path):
    """What reads them is zero there, so what writes them must not be."""
    source = write_folder(TINY["vit"], tmp_path / "source")
    plan = {
        "target": {"model_args": {"mlp_ratio": 3.5, "depth": 3}},
        "width": {"operator": "gradmax"}, "depth": {"operator": "zero_out"}, "data": data,
    }  # fmt: skip
    recipe = resolved(source, plan)
    assert {units.reader: units.columns for units in recipe.measured.values()} == {
        f"blocks.{i}.mlp.fc2.weight": f"blocks.{i}" not in recipe.blocks.new for i in range(3)
    }
    result = grown(source, plan, tmp_path / "out")
    assert result.summary.promise == "exact"
    assert difference(load(source), load(result.out), TINY["vit"].inputs()) < EXACT
    (new,) = recipe.blocks.new
    assert (gradients(result.out, data)[f"{new}.mlp.fc2.weight"].norm(dim=0) > 1e-8).all()


def test_recalibration_sees_the_new_units(data, tmp_path):
    tiny, args, *_ = HIDDEN["bottleneck"]
    source = write_folder(tiny, tmp_path / "source")
    plan = {"target": {"model_args": args}, "width": {"operator": "gradmax"}, "data": data, "recalibrate": True}
    grown(source, plan, tmp_path / "out")
    assert (load(tmp_path / "out").layer1[0].bn1.running_var[4:] > 0).all()
