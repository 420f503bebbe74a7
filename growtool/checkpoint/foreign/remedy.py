"""Advice on checkpoints in forms that growtool does not read: commands and lines of Python to copy."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from growtool.checkpoint.documents import UNLIKE, WEIGHTS, parse_json, spec_beside
from growtool.checkpoint.foreign.names import common_prefix, foreign_prefix
from growtool.errors import CheckpointError, format_names
from growtool.library import build

PICKLE_ENDINGS = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl")
WEIGHT_ENDINGS = (".safetensors", *PICKLE_ENDINGS, ".h5", ".npz", ".onnx", ".msgpack")
INDEX_ENDING = ".index.json"


def weight_files(folder: Path) -> list[Path]:
    """Return the files of a folder whose names say that they hold weights in some form."""
    return sorted(path for path in folder.iterdir() if path.suffix in WEIGHT_ENDINGS and path.is_file())


def unpickling(path: Path) -> str:
    """Return how to convert a file of `torch.save`; the lines depend on its content, which is read."""
    from growtool.checkpoint.foreign.torch_file import expressions_allowing, read_state_dict

    try:
        found = read_state_dict(path)
    except CheckpointError as error:
        return "; ".join(problem.removeprefix(f"{path}: ") for problem in error.problems)
    prefix = _prefix(path, found.tensors)
    allowed = expressions_allowing(path)
    packages = sorted({package for package in ("argparse", "numpy", "pathlib") if package in "".join(allowed)})
    lines = [f"import {', '.join([*packages, 'torch'])}; from safetensors.torch import save_file"]
    lines += [f"torch.serialization.add_safe_globals([{', '.join(allowed)}])"] if allowed else []
    loading = "torch.load({}, map_location='cpu', weights_only=True)"
    if path.suffix == ".safetensors":  # given the path, torch would read the file as safetensors
        lines.append(f"with open({str(path)!r}, 'rb') as file: state = {loading.format('file')}")
    else:
        lines.append(f"state = {loading.format(repr(str(path)))}")
    keys = "".join(f"[{key!r}]" for key in found.keys)
    lines += [f"state = state{keys}"] if keys else []
    if found.left:
        lines.append(f"state = {{name: value for name, value in state.items() if name not in {found.left}}}")
    lines += [stripping(prefix)] if prefix else []
    lines.append(
        "save_file({name: value.clone().contiguous() for name, value in state.items()}, "
        f"{str(_converted(path))!r}, {{'format': 'pt'}})"
    )
    told = [f"the state dict under {' and then '.join(map(repr, found.keys))}"] if found.keys else []
    told += [f"names after {prefix!r}"] if prefix else []
    of = f", {' and '.join(told)}" if told else ""
    return (
        f"{importing(path)} makes a folder of it, without running code of the file; or convert it{of}:{listed(lines)}"
    )


def merging(index: Path) -> str:
    """Return lines that merge the shards of an index into one file beside them.

    Raises:
        CheckpointError: the index is damaged, or some of its shards are not there.
    """
    names, folder = shards(index), index.parent
    require_beside(index, names)
    pickled = not all(name.endswith(".safetensors") for name in names)
    loading = "load_file(folder / file)"
    loading = "torch.load(folder / file, map_location='cpu', weights_only=True)" if pickled else loading
    lines = (
        f"import json{', torch' if pickled else ''}; from pathlib import Path; "
        "from safetensors.torch import load_file, save_file",
        f"folder = Path({str(folder)!r}); index = json.loads((folder / {index.name!r}).read_text())['weight_map']",
        f"parts = {{file: {loading} for file in set(index.values())}}",
        "save_file({name: parts[file][name].clone().contiguous() for name, file in index.items()}, "
        f"folder / {WEIGHTS!r}, {{'format': 'pt'}})",
    )
    return f"merge them first:{listed(lines)}"


def indices(folder: Path) -> list[Path]:
    """Return the files in a folder that have the name of an index of shards."""
    return sorted(folder.glob(f"*{INDEX_ENDING}"))


def weight_map(index: Path) -> dict[str, str]:
    """Return the map of an index from tensors to the names of the files that hold them.

    Raises:
        CheckpointError: the file is no index, or is damaged.
    """
    try:
        file_of = dict(parse_json(index.read_bytes(), str(index))["weight_map"].items())
    except (OSError, *UNLIKE):
        file_of = {}
    if not file_of or not all(isinstance(name, str) for name in file_of.values()):
        raise CheckpointError(f"{index}: found no map from tensors to shards, expected one; copy or download it again")
    return file_of


def shards(index: Path) -> list[str]:
    """Return the names of the files that an index lists; raise CheckpointError as `weight_map` does."""
    return sorted(set(weight_map(index).values()))


def require_beside(index: Path, names: Sequence[str]) -> None:
    """Check that the shards of an index are on disk beside it; raise CheckpointError if not."""
    lacking = [name for name in names if not (index.parent / name).is_file()]
    if lacking:
        raise CheckpointError(
            f"{index}: lists {len(names)} shards, and {len(lacking)} of them are not beside it "
            f"({format_names(lacking, 4)}); copy or download them, too"
        )


def importing(path: Path) -> str:
    """Return the command that imports a file or folder into a folder with safetensors."""
    model = "" if (path / "config.json").is_file() or (path.parent / "config.json").is_file() else " --model NAME"
    return f"`growtool import {shlex.quote(str(path))}{model} -o FOLDER`"


def listed(lines: Iterable[str]) -> str:
    """Return lines of code to copy, indented, to follow a message."""
    # Nothing else in a message is indented, so that a terminal knows the lines that it must not wrap.
    return "".join(f"\n  {line}" for line in lines)


def stripping(prefix: str, of: str = "state") -> str:
    """Return a line of Python that removes a prefix from the names of a state dict and drops names without it.

    Args:
        prefix: what the names begin with.
        of: a Python expression for the state dict; the line assigns to `state`.
    """
    return (
        f"state = {{name.removeprefix({prefix!r}): value for name, value in {of}.items() "
        f"if name.startswith({prefix!r})}}"
    )


def _converted(path: Path) -> Path:
    """Return the path for a converted file, beside the original.

    `pytorch_model.bin`, the name that libraries save in a folder, becomes `model.safetensors`, which they look for.
    """
    name = path.name.removesuffix(".tar")
    stem = name.rpartition(".")[0] or name
    target = path.with_name(WEIGHTS if stem == "pytorch_model" else f"{stem}.safetensors")
    return path.with_name(f"{stem}-converted.safetensors") if target == path else target


def _prefix(path: Path, names: Collection[str]) -> str:
    """Return the prefix to remove from the names in a file: as the config beside it tells, else one that all share."""
    with contextlib.suppress(CheckpointError):
        spec = spec_beside(path)
        if spec is not None:
            return foreign_prefix(names, build(spec, where=str(path)).state_dict())
    return common_prefix(names)
