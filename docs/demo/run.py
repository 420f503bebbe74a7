"""The main job on a small trained checkpoint: inspect, grow, verify, train further, and what that won.

    make demo        (or: python docs/demo/run.py)

takes a few minutes on one CPU core and writes into `runs/demo`. Every figure it prints was measured in that run.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import timm
import torch
from sheets import unpack
from timm.models import save_for_hf

ROOT = Path(__file__).resolve().parents[2]
DEMO = Path("docs/demo")
RUNS = Path("runs/demo")
SMALL, GROWN, IMAGES = DEMO / "checkpoint", RUNS / "grown", RUNS / "images"
TRAINING = "--epochs 20 --lr 1e-3 --scale 0.6 1 --workers 0 --device cpu --force --json".split()


def growtool(*arguments: object, capture: bool = False) -> str:
    """Run one command as a user would, showing it first; its standard output where `capture` asks for it."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ growtool {' '.join(words)}", flush=True)
    command = [sys.executable, "-m", "growtool", *words]
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE if capture else None).stdout or ""


def train(checkpoint: Path, name: str) -> dict[str, float]:
    """Train further, the same for every candidate; top-1 in percent before the first and after the last epoch."""
    result = json.loads(growtool("finetune", checkpoint, "--data", IMAGES, "-o", RUNS / name, *TRAINING, capture=True))
    before, after = result["initial"]["top1"], result["last"]["top1"]
    print(f"top-1 {before:.1f} % -> {after:.1f} % in {result['seconds']:.0f} s")
    return {"before": before, "after": after}


def start_at_random(like: Path, folder: Path) -> Path:
    """A model of the same shape as `like` with the weights timm gives it."""
    config = json.loads((like / "config.json").read_text())
    torch.manual_seed(0)
    model = timm.create_model(config["architecture"], pretrained_cfg=config["pretrained_cfg"], **config["model_args"])
    save_for_hf(model, folder, model_args=config["model_args"], safe_serialization=True)
    return folder


def main() -> None:
    os.chdir(ROOT)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for these small models threads cost more than they bring
    print(f"{unpack(DEMO, IMAGES)} CIFAR-10 images -> {IMAGES}")

    growtool("inspect", SMALL)
    growtool("grow", SMALL, DEMO / "plan.yaml", "-o", GROWN, "--force")
    growtool("verify", SMALL, GROWN, "--data", IMAGES)
    sizes = json.loads(growtool("inspect", SMALL, GROWN, "--json", capture=True))["checkpoints"]

    grown = train(GROWN, "grown-trained")
    small = train(SMALL, "small-trained")
    scratch = train(start_at_random(GROWN, RUNS / "random"), "random-trained")

    print("\nWhat was won (top-1 on 500 images kept apart; the same training for all)\n")
    print(f"{'':26}{'parameters':>12}{'MACs':>12}{'as it starts':>15}{'trained on':>13}")
    for label, size, top1 in (
        ("small, as shipped", sizes[0], small),
        ("large, grown from it", sizes[1], grown),
        ("large, random weights", sizes[1], scratch),
    ):
        figures = f"{size['parameters']:>12,}{size['macs']:>12,}{top1['before']:>13.1f} %{top1['after']:>11.1f} %"
        print(f"{label:26}{figures}")
    print(
        f"\nThe grown model starts at the {grown['before']:.1f} % of the small one and reaches {grown['after']:.1f} %: "
        f"{grown['after'] - small['before']:+.1f} points over the small one as shipped,\n"
        f"{grown['after'] - small['after']:+.1f} over the small one trained on, "
        f"{grown['after'] - scratch['after']:+.1f} over the same model from random weights."
    )
    print(f'\nLoad it with timm alone: timm.create_model("local-dir:{RUNS}/grown-trained/last", pretrained=True)')


if __name__ == "__main__":
    main()
