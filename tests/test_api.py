"""The public surface: few names, each in its place, none of which costs anything until it is used."""

import subprocess
import sys

import pytest

import growtool

NAMES = {
    "CheckpointError", "GrowtoolError", "Plan", "PlanError", "finetune_checkpoint", "grow_checkpoint",
    "inspect_checkpoint", "load_plan", "open_checkpoint", "resolve", "summarise", "trace_model",
    "verify_checkpoints",
}  # fmt: skip


def in_python(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_the_surface_is_small_and_whole():
    assert set(growtool.__all__) == NAMES
    assert all(callable(getattr(growtool, name)) for name in NAMES)


def test_a_name_that_is_not_there_is_not_there():
    with pytest.raises(AttributeError, match=r"growtool.*no attribute 'shrink'"):
        _ = growtool.shrink


def test_importing_growtool_imports_neither_torch_nor_timm():
    assert in_python("import sys, growtool; print([m for m in ('torch', 'timm') if m in sys.modules])") == "[]"


@pytest.mark.parametrize("imports", ["growtool, timm", "timm, growtool"])
def test_the_open_entry_point_is_registered_in_either_order(imports):
    assert in_python(f"import {imports}; print(timm.is_model('growtool_open'))") == "True"
