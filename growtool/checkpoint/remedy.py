"""Lines to copy where a checkpoint is in another form than growtool reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

PICKLE_ENDINGS = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl")
_WEIGHT_ENDINGS = (".safetensors", *PICKLE_ENDINGS, ".h5", ".npz", ".onnx", ".msgpack")
_HUB = ("hf-hub:", "hf_hub:")


def weight_files(folder: Path) -> list[Path]:
    """The files of a folder that look like weights in some form."""
    return sorted(path for path in folder.iterdir() if path.suffix in _WEIGHT_ENDINGS and path.is_file())


def fetching(name: str) -> str:
    """How to make a folder of what timm knows by `name`, which is no path; nothing where timm does not know it."""
    known = _known_to_timm(name)
    lines = (
        f"import timm; model = timm.create_model({known!r}, pretrained=True)",
        "timm.models.save_for_hf(model, 'FOLDER', safe_serialization=True)",
    )
    return f"; growtool downloads nothing, make a folder of it with timm:{_listed(lines)}" if known else ""


def unpickling(path: Path, weights: str) -> str:
    """How to convert a pickle of a state dict, in a folder one of these `weights`."""
    name = path.name.removesuffix(".tar")
    stem = name.rpartition(".")[0] or name
    target = path.with_name(weights if stem == "pytorch_model" else f"{stem}.safetensors")
    loading = f"state = torch.load({str(path)!r}, map_location='cpu', weights_only=True)"
    if target == path:
        target = path.with_name(f"{stem}-converted.safetensors")
        # by its name torch would take it for what it is not
        loading = (
            f"with open({str(path)!r}, 'rb') as file: state = torch.load(file, map_location='cpu', weights_only=True)"
        )
    lines = (
        "import torch; from safetensors.torch import save_file",
        loading,
        "state = state.get('state_dict', state)",
        f"save_file({{name: value.clone().contiguous() for name, value in state.items()}}, {str(target)!r})",
    )
    return f"growtool never unpickles; convert it where you trust the file:{_listed(lines)}"


def merging(folder: Path, weights: str) -> str:
    """How to write the shards of a folder as one file, named `weights`."""
    lines = (
        "from pathlib import Path; from safetensors.torch import load_file, save_file",
        f"parts = [load_file(part) for part in sorted(Path({str(folder)!r}).glob('model-*-of-*.safetensors'))]",
        f"save_file({{name: part[name] for part in parts for name in part}}, {str(folder / weights)!r})",
    )
    return f"merge them first:{_listed(lines)}"


def _known_to_timm(name: str) -> str | None:
    """What `timm.create_model` takes for `name`; None if it takes nothing like it."""
    import timm

    if name.startswith(_HUB):
        return name
    model = name.removeprefix("timm/")
    return model if "/" not in model and timm.is_model(model.partition(".")[0]) else None


def _listed(lines: Iterable[str]) -> str:
    return "".join(f"\n  {line}" for line in lines)
