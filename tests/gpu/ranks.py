"""(k) the tests marked `gpu`, (l) two ranks on one device, and (m) the training campaign."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from growtool.finetune.config import RunConfig
from growtool.finetune.run import finetune
from growtool.finetune.state.journal import METRICS
from tests.campaign.__main__ import run_all
from tests.campaign.images import random_splits, read
from tests.campaign.results import RESULTS, write
from tests.campaign.train import Place, Result
from tests.gpu.checks import Check
from tests.gpu.material import Material
from tests.gpu.report import Skip
from tests.support.processes import in_processes

_CLOSE = 1e-3


def checks(material: Material) -> Iterator[Check]:
    """The checks of these parts."""
    yield Check("k", "tests marked gpu", partial(_marked, material), 30)
    for engine in ("ddp",) if material.tiny else ("ddp", "fsdp"):
        yield Check("l", f"two ranks on one device, {engine}", partial(_two_ranks, material, engine), 40)


def campaign(material: Material) -> Iterator[Check]:
    """What the minutes that remain are for."""
    yield Check("m", "the training campaign", partial(_campaign, material), 30)


def _marked(material: Material) -> str:
    if not material.cuda:
        raise Skip("they need a CUDA device")
    if importlib.util.find_spec("pytest") is None:
        raise Skip("pytest is not installed here")
    root = Path(__file__).parents[2]
    files = [
        str(file) for file in root.glob("tests/*/test_*.py") if "pytest.mark.gpu" in file.read_text(encoding="utf-8")
    ]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=material.left)
    last = done.stdout.strip().rpartition("\n")[2]
    assert done.returncode == 0, (done.stdout + done.stderr)[-600:]
    return last


def _two_ranks(material: Material, engine: str) -> str:
    config = partial(material.config, material.model("vit"), tf32=False, epochs=None, steps=4)
    one, two = config(), config(engine=engine, device=material.device.type)
    finetune(one)
    in_processes(2, partial(_as_rank, two.as_dict(), material.device.index or 0))
    expected, found = _losses(one), _losses(two)
    worst = max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))
    assert worst < _CLOSE, f"{found} with two ranks, {expected} with one"
    return f"losses differ from one rank's by {worst:.1e} at most"


def _as_rank(options: dict[str, Any], index: int, rank: int) -> None:
    """NCCL refuses two ranks on one device; gloo carries CUDA tensors, too."""
    os.environ["LOCAL_RANK"] = str(index)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    paths = {name: Path(options[name]) for name in ("checkpoint", "data", "output")}
    finetune(RunConfig(**options | paths))
    torch.distributed.destroy_process_group()


def _losses(config: RunConfig) -> list[float]:
    lines = (config.output / METRICS).read_text(encoding="utf-8").splitlines()
    return [record["loss"] for record in map(json.loads, lines) if record["event"] == "step"]


def _campaign(material: Material) -> str:
    """The runs for which there is time, the most telling first, from images held on the device."""
    if material.packed is None and not material.tiny:
        raise Skip("name the images by --images")
    splits = random_splits(1280, 200) if material.packed is None else read(material.packed, material.device)
    place = Place(material.scratch / "campaign", splits, str(material.device), material.tiny)
    only = ("resnet/scratch-3/seed0", "resnet/depth-at-80%-10/seed0") if material.tiny else ()
    found = list[Result]()
    with suppress(TimeoutError):  # the last run is cut short by the end of the minutes
        for result in run_all(place, only, material.deadline):
            found.append(result)
            write(found, material.kept / RESULTS)
    assert found, "not one run ended"
    return f"{len(found)} runs, {found[-1].run} the last, in {material.kept / RESULTS}"
