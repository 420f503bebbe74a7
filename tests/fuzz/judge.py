"""What is wrong with how a command ended: nothing, or a sentence."""

from __future__ import annotations

import hashlib
import os
import re
import traceback
from pathlib import Path

import timm
import torch
from safetensors import safe_open

from growtool.checkpoint import open_checkpoint
from growtool.library.timm.loading import count_classes

from .child import Done, forked
from .scenarios import Scenario

SEEN = "seen.txt"  # beside the folder of the case, as a command may look at all that is in it
_WEIGHTS = "model.safetensors"
_LARGE = 4096  # pixels of a side of an image that takes more than a minute


def state(root: Path) -> dict[str, str]:
    """Every path under `root` with what it holds, links by where they lead."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = Path(folder, name)
            if path.is_symlink():
                found[str(path.relative_to(root))] = f"-> {os.readlink(path)}"  # noqa: PTH115
            elif path.is_file():
                found[str(path.relative_to(root))] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                found[str(path.relative_to(root))] = "folder" if path.is_dir() else "other"
    return found


def fault(scenario: Scenario, words: list[str], done: Done, root: Path, before: dict[str, str]) -> str | None:
    """The first thing that is wrong with a command that ended in the folder `root`, which held `before`."""
    trains = any(path.stat().st_size for path in root.rglob("metrics.jsonl") if "run" not in path.parts)
    if done.hung:  # unless it trains as long, goes through images or writes tensors as large as it was asked to
        return None if trains or "GiB" in done.text or _asks_for_large_images(root) else "did not end"
    if done.code not in (0, 1, 2):
        return f"exit code {done.code}"
    if "Traceback (most recent call last)" in done.text:
        raised = [line for line in done.text.splitlines() if re.match(r"[\w.]*(Error|Exception|Warning|Exit)\b", line)]
        return f"traceback: {raised[-1][:300] if raised else '?'}"
    if "a bug of growtool" in done.text:
        return "calls itself a bug"
    if done.code and not re.search(r"error|usage|differ", done.text, re.IGNORECASE):
        return "fails without a word"
    after = state(root)
    own = f"{scenario.output}/"  # a run that goes on changes what it has written
    changed = sorted(path for path in before if after.get(path) != before[path] and not path.startswith(own))
    if changed and "--force" not in words:
        return f"changed {', '.join(changed[:4])}"
    new = sorted(after.keys() - before.keys())
    return _of_new(scenario, done, root, new)


def _asks_for_large_images(root: Path) -> bool:
    sizes = re.compile(r'"input_size":\s*\[([\d\s,]+)\]')
    texts = (path.read_text(errors="replace") for path in root.rglob("config.json"))
    return any(int(size) > _LARGE for text in texts for found in sizes.findall(text) for size in found.split(","))


def _of_new(scenario: Scenario, done: Done, root: Path, new: list[str]) -> str | None:
    left = [path for path in new if path.endswith((".tmp", ".old", ".lock"))]
    if left:
        return f"left {', '.join(left[:4])}"
    checkpoints = [path for path in new if path.endswith(".safetensors") and _is_of_a_model(path)]
    if done.code == 0 or "finetune" in scenario.words or "schedule" in scenario.words:  # a run keeps what it has done
        problems = [problem for path in checkpoints if (problem := loads(root, path))]
        return problems[0] if problems else None
    return f"failed and left {', '.join(new[:4])}" if new else None


def _is_of_a_model(path: str) -> bool:
    return not path.endswith(("optimizer.safetensors", "ema.safetensors", "raw.safetensors"))


def loads(root: Path, path: str) -> str | None:
    """Load a written checkpoint as timm does, where it is in template form as growtool does, in a fork."""
    seen = root.with_name("loaded.txt")
    done = forked(lambda: _load(Path(path)), root, seen)
    last = done.text.strip().splitlines()[-1:]
    return None if done.code == 0 else f"{path} does not load: {done.code} {last[0][:300] if last else ''}"


def _load(path: Path) -> None:
    try:
        place = path.parent if path.name == _WEIGHTS else path
        checkpoint = open_checkpoint(place)
        if checkpoint.form is not None:
            tensors = checkpoint.state_dict()
        elif path.name == _WEIGHTS:
            tensors = timm.create_model(f"local-dir:{place}", pretrained=True).state_dict()
        else:
            spec = checkpoint.spec
            classes = count_classes(spec)
            overlay = {"file": str(path)} | ({} if classes is None else {"num_classes": classes})
            tensors = timm.create_model(
                spec.architecture, pretrained=True, pretrained_cfg_overlay=overlay, **spec.model_args
            ).state_dict()
        _require_finite(tensors)
    except BaseException:
        traceback.print_exc()
        os._exit(3)


def _require_finite(tensors: dict[str, torch.Tensor]) -> None:
    """Unless a weight of what the case began with is not finite."""
    lost = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if lost and all(_finite(path) for path in Path().rglob("*.safetensors") if "out" not in str(path)):
        raise ValueError(f"{lost[0]}: not finite")


def _finite(path: Path) -> bool:
    try:
        with safe_open(path, "pt") as file:
            return all(
                bool(file.get_tensor(name).isfinite().all())
                for name in file.keys()  # noqa: SIM118
                if file.get_tensor(name).is_floating_point()
            )
    except Exception:  # damaged: nothing is known of it
        return False
