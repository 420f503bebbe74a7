"""The real CIFAR-10 checkpoints of four families through the command line, for each family in a process of its own too.

Needs `GROWTOOL_SHARED`. Results are compared here by plain timm models on random images, not by growtool's own proof.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

from growtool.cli import app as cli

RESNET, VIT, CONVNEXT, MOBILENET = (
    f"{name}_cifar10_s0" for name in ("resnet", "vit", "convnext", "mobilenetv3")
)  # fmt: skip
TWICE = {"scale": {"width": 2}}
MIXTURE, TILE, NET2NET, ZERO_OUT = ({"operator": name} for name in ("mixture", "tile", "net2net", "zero_out"))
DEEPER = {
    RESNET: {"layers": [3, 2, 3, 2]}, VIT: {"depth": 8}, CONVNEXT: {"depths": [2, 2, 3, 2]},
}  # fmt: skip


def command(source: Path, plan: dict, out: Path) -> list[str]:
    path = out.parent / f"{out.name}.yaml"
    path.write_text(yaml.safe_dump(plan))
    return ["growtool", "grow", str(source), str(path), "-o", str(out), "--json"]


@pytest.fixture
def grow(monkeypatch, capsys):
    """`grow(source, plan, out)`: the report of `growtool grow --json`, run in this process."""

    def run(source: Path, plan: dict, out: Path) -> dict:
        monkeypatch.setattr(sys, "argv", command(source, plan, out))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        assert not ended.value.code, shown.err
        return json.loads(shown.out)

    return run


def grow_apart(source: Path, plan: dict, out: Path) -> dict:
    """The same in a process of its own."""
    done = subprocess.run([sys.executable, "-m", *command(source, plan, out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def load(folder: Path, dtype: torch.dtype) -> nn.Module:
    model = timm.create_model(f"local-dir:{folder}", pretrained=False).to(dtype).eval()
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    return model


@torch.no_grad()
def difference(source: Path, out: Path, dtype: torch.dtype) -> float:
    """max|a - b| / max|a| over the logits of sixteen random images."""
    a, b = (load(folder, dtype) for folder in (source, out))
    inputs = images(a, dtype)
    first, second = a(inputs), b(inputs)
    return float((first - second).abs().max() / first.abs().max())


def images(model: nn.Module, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(16, *model.pretrained_cfg["input_size"], generator=generator, dtype=torch.float64).to(dtype)


PLANS = [
    (VIT, {"target": {"scale": {"width": 2, "depth": 1.5}}, "width": MIXTURE, "depth": ZERO_OUT}),
    (RESNET, {"target": {"scale": {"width": 1.25}}, "width": NET2NET}),
]
MORE = [
    *[(name, {"target": TWICE, "width": width}) for name in (RESNET, VIT, CONVNEXT) for width in (TILE, MIXTURE)],
    *[(name, {"target": {"model_args": deeper}, "depth": ZERO_OUT}) for name, deeper in DEEPER.items()],
]


@pytest.mark.parametrize(
    ("name", "plan"), [*PLANS, *(pytest.param(*more, marks=pytest.mark.slow) for more in MORE)], ids=str
)
def test_trained_models_keep_their_function(name, plan, grow, shared, tmp_path):
    source = shared / "checkpoints" / name
    report = grow(source, {**plan, "output": {"dtype": "float64"}}, tmp_path / "out")
    assert report["promise"] == {"kind": "exact", "reasons": []}
    assert difference(source, tmp_path / "out", torch.float64) <= 1e-10
    # what float32 files hold is what this one holds, rounded
    assert difference(source, tmp_path / "out", torch.float32) <= 1e-5


@pytest.mark.parametrize("name", [RESNET, *(pytest.param(name, marks=pytest.mark.slow) for name in (VIT, CONVNEXT))])
def test_the_default_output_keeps_the_function_in_float32(name, shared, tmp_path):
    source = shared / "checkpoints" / name
    report = grow_apart(source, {"target": TWICE, "width": MIXTURE}, tmp_path / "out")
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} <= {
        torch.float32, torch.int64,
    }  # fmt: skip
    assert report["verified"]["holds"] and report["verified"]["relative_difference"] <= 1e-5
    assert difference(source, tmp_path / "out", torch.float32) <= 1e-5


@pytest.mark.slow
def test_mobilenet_is_lossy_for_the_skip_it_loses_and_exact_before(shared, tmp_path):
    """mobilenetv3_small_100 has no skip connection at blocks.3.0: everything before it is the source's, copied by E."""
    source = shared / "checkpoints" / MOBILENET
    plan = {"target": {"model": "mobilenetv3_small_100"}, "width": NET2NET, "output": {"dtype": "float64"}}
    plan["allow_lossy"] = True
    report = grow_apart(source, plan, tmp_path / "out")
    assert report["promise"] == {
        "kind": "lossy",
        "reasons": ["blocks.3.0: the source has a skip connection here, the target has none"],
    }
    a, b = (load(folder, torch.float64) for folder in (source, tmp_path / "out"))
    seen: list[Tensor] = []
    for model in (a, b):
        model.get_submodule("blocks.2").register_forward_hook(lambda module, args, output: seen.append(output))
    inputs = images(a, torch.float64)
    with torch.no_grad():
        logits = [model(inputs) for model in (a, b)]
    h, larger = seen
    copies = [int((h - larger[:, c : c + 1]).abs().amax((0, 2, 3)).argmin()) for c in range(larger.shape[1])]
    assert copies[: h.shape[1]] == list(range(h.shape[1]))
    torch.testing.assert_close(larger, h[:, copies], rtol=0, atol=1e-12 * float(h.abs().max()))
    assert float((logits[0] - logits[1]).abs().max() / logits[0].abs().max()) > 1e-3
