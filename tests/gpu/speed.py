"""(g) images per second against a plain timm loop, (h) what a step in template form takes more."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from growtool.finetune.options.settings import default_workers
from growtool.finetune.parallel.device import in_use
from growtool.templates.decompose import Request
from tests.bench.finetune import LARGE, SMALL, Row, Setting, compare, compare_files
from tests.bench.templates import medians, models, step_of
from tests.gpu.checks import Check
from tests.gpu.material import TINY, Material

_LEAST, _LEAST_FROM_FILES, _MOST_OVERHEAD = 1.0, 0.95, 0.10


def checks(material: Material) -> Iterator[Check]:
    """The checks of these parts; on a CPU they run, and their speed says nothing."""
    yield from _settings(material, None, 15)
    for name, arguments in _models(material).items():
        yield Check("g", f"{name} from JPEG files", partial(_from_files, material, name, arguments), 25)
    yield Check("h", "a step in template form", partial(_templates, material, backend=None), 20)


def compiled_checks(material: Material) -> Iterator[Check]:
    """The same, compiled; most of their time is the compiler's."""
    backend = "eager" if material.tiny else "inductor"
    yield from _settings(material, backend, 60)
    yield Check("h", "a step in template form, compiled", partial(_templates, material, backend=backend), 90)


def _settings(material: Material, backend: str | None, seconds: float) -> Iterator[Check]:
    for name, arguments in _models(material).items():
        for last in (False, True):
            setting = Setting(amp=True, channels_last=last, compiled=backend)
            act = partial(_against_timm, material, name, arguments, setting)
            yield Check("g", f"{name}, {setting}", act, seconds)


def _models(material: Material) -> dict[str, dict[str, Any]]:
    models = dict([TINY["resnet"], TINY["vit"]]) if material.tiny else LARGE if material.cuda else SMALL
    return {name: {**arguments, "num_classes": 10} for name, arguments in models.items()}


def _against_timm(material: Material, name: str, arguments: dict[str, Any], setting: Setting) -> str:
    batch = 256 if material.cuda and not material.tiny else 2
    row = compare(name, arguments, setting, material.device, 1 if material.tiny else 15, batch)
    return _judged(material, row, _LEAST)


def _from_files(material: Material, name: str, arguments: dict[str, Any]) -> str:
    batch, workers = (2, 0) if material.tiny else (64, default_workers())
    row = compare_files(name, arguments, material.device, batch, workers, material.photographs)
    return _judged(material, row, _LEAST_FROM_FILES)


def _judged(material: Material, row: Row, least: float) -> str:
    found = f"{row.ours:,.0f} images/s, timm {row.plain:,.0f}, ratio {row.ratio:.3f}"
    good = round(row.ratio, 2) >= least  # the third digit is noise
    assert not material.cuda or material.tiny or good, f"{found}, expected {least} or more"
    return found


def _templates(material: Material, *, backend: str | None) -> str:
    name, arguments = TINY["resnet"] if material.tiny else ("resnet50", {})
    batch, size = (2, 32) if material.tiny else (128, 224)
    with tempfile.TemporaryDirectory(dir=material.scratch) as scratch:
        dense, templates, shared = models(name, Request("raw"), Path(scratch), **arguments)
    few = material.tiny or not material.cuda
    torch.compiler.reset()
    with in_use(material.device, tf32=True):  # as a run has it
        steps = [step_of(model, material.device, batch, size, backend=backend) for model in (dense, templates)]
        a, b = medians(steps, warm=1 if few else 5, count=1 if few else 20)
    found = f"{1e3 * a:.1f} ms dense, {1e3 * b:.1f} ms in templates ({shared}), {b / a - 1:+.1%}"
    assert few or b / a - 1 <= _MOST_OVERHEAD, f"{found}, expected {_MOST_OVERHEAD:.0%} at most"
    return found
