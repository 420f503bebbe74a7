"""How `docs/demo/checkpoint` was trained: plain timm and torch, one CPU core, a few minutes.

    python docs/demo/train.py IMAGES OUT [--epochs N] [--stop N] [--seed N]

reads CIFAR-10 as an image folder (IMAGES/train/<class>/, IMAGES/validation/<class>/) and writes a timm folder. The
images are augmented with random crops (4 pixels of padding) and flips; the learning rate follows one cycle over all
epochs, of which only the first `--stop` are trained: a run that was cut short and leaves something to be learnt.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import timm
import torch
from timm.data import ImageDataset
from timm.models import save_for_hf
from torch.nn import functional

ARCHITECTURE = "resnet18"
MODEL_ARGS = {
    "layers": [1, 1, 1, 1],
    "channels": [8, 16, 32, 64],
    "stem_type": "deep",
    "stem_width": 4,
    "replace_stem_pool": True,
}
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
BATCH, PEAK_LR, PADDING = 128, 0.1, 4


def load(folder: Path) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Normalised images [N, 3, 32, 32], labels [N] and the names of the classes."""
    dataset = ImageDataset(str(folder))
    pixels, labels = zip(*((np.asarray(image), label) for image, label in dataset), strict=True)
    x_NCHW = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    x_NCHW = (x_NCHW - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    return x_NCHW, torch.tensor(labels), sorted(path.name for path in folder.iterdir())


def augment(x_NCHW: torch.Tensor) -> torch.Tensor:
    """Each image flipped with probability a half and shifted by up to `PADDING` pixels, black beyond the border."""
    count, _, height, width = x_NCHW.shape
    flip = torch.rand(count, 1, 1, 1) < 0.5
    padded = functional.pad(torch.where(flip, x_NCHW.flip(3), x_NCHW), (PADDING,) * 4)
    rows = torch.randint(0, 2 * PADDING + 1, (count, 1)) + torch.arange(height)
    columns = torch.randint(0, 2 * PADDING + 1, (count, 1)) + torch.arange(width)
    image = torch.arange(count)[:, None, None]
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@torch.no_grad()
def top1(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Fraction of images whose most likely class is their own."""
    model.eval()
    hits = [model(x).argmax(1) == y for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return torch.cat(hits).float().mean().item()


def train(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: int, stop: int) -> None:
    """SGD with Nesterov momentum and label smoothing; the first `stop` epochs of a schedule over `epochs`."""
    steps = len(labels) // BATCH
    optimizer = torch.optim.SGD(model.parameters(), lr=PEAK_LR, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=epochs * steps, pct_start=0.15)
    model.train()
    for epoch in range(stop):
        for index in torch.randperm(len(labels))[: steps * BATCH].split(BATCH):
            loss = functional.cross_entropy(model(augment(images[index])), labels[index], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{epochs}: loss {loss.item():.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--stop", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    images, labels, classes = load(args.images / "train")
    model = timm.create_model(ARCHITECTURE, num_classes=len(classes), **MODEL_ARGS)
    train(model, images, labels, args.epochs, args.stop)
    accuracy = top1(model, *load(args.images / "validation")[:2])
    model.pretrained_cfg = dict(model.pretrained_cfg) | {
        "tag": "cifar10", "input_size": (3, 32, 32), "test_input_size": None, "test_crop_pct": None, "pool_size": None,
        "mean": MEAN, "std": STD, "num_classes": len(classes), "crop_pct": 1.0, "interpolation": "bilinear",
        "label_names": classes, "license": "mit", "origin_url": "", "paper_ids": "",
    }  # fmt: skip
    save_for_hf(model, args.out, model_args=MODEL_ARGS, safe_serialization=True)
    print(json.dumps({"top1": accuracy, "parameters": sum(p.numel() for p in model.parameters())}))


if __name__ == "__main__":
    main()
