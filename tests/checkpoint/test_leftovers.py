"""What a run leaves that was killed with SIGKILL goes with the next one into the same place; a living one keeps its."""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from growtool.checkpoint import infos_of, write_safetensors
from growtool.checkpoint.folder import refuse_existing
from growtool.checkpoint.staging import clear_leftovers, prefix_for, staging, take_place, write_text
from growtool.cli.app import main
from growtool.errors import PlanError
from tests.support import processes
from tests.support.finetune import UNCLOSED_IMAGES, write_checkpoint
from tests.support.processes import kill_this


def end_at(at: int, arguments: tuple[str, ...]) -> None:
    """The command, which ends as by `kill -9` once file number `at` is complete but has no name yet."""
    calls = itertools.count(1)
    os.fsync = lambda _: kill_this() if next(calls) == at else None  # type: ignore[assignment]
    sys.argv = ["growtool", *arguments]
    main()


def killed(at: int, *arguments: object) -> None:
    """Run the command in a process that ends so."""
    processes.killed(partial(end_at, at, tuple(map(str, arguments))))


def hidden(folder: Path) -> list[str]:
    """Everything below a folder whose name begins with a dot."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".*"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("trained") / "model")


@pytest.mark.parametrize("out", ["grown", pytest.param("grown.safetensors", marks=pytest.mark.slow)])
def test_grow_clears_what_a_killed_run_left(out, trained, growtool, tmp_path):
    (tmp_path / "plan.yaml").write_text("target: {scale: {width: 2}}\nwidth: {operator: tile}\n")
    command = ("grow", trained, tmp_path / "plan.yaml", "-o", tmp_path / "place" / out)
    killed(1, *command)
    assert [path.name for path in tmp_path.joinpath("place").iterdir()] == hidden(tmp_path / "place")[:1]
    assert growtool(*command)[0] == 0
    assert [path.name for path in tmp_path.joinpath("place").iterdir()] == [out]
    assert not hidden(tmp_path)


def test_decompose_and_export_clear_what_a_killed_run_left(trained, growtool, tmp_path):
    for command in (
        ("decompose", trained, "-o", tmp_path / "templates"),
        ("export", tmp_path / "templates", "-o", tmp_path / "dense"),
    ):
        killed(1, *command)
        assert hidden(tmp_path)
        assert growtool(*command)[0] == 0
        assert not hidden(tmp_path)


@UNCLOSED_IMAGES
def test_a_new_training_clears_what_a_killed_one_left(trained, data, growtool, tmp_path):
    """The configuration is the first file of a run; a few on is one of a checkpoint."""
    run = tmp_path / "run"
    command = ("finetune", trained, "--data", data, "-o", run, "--epochs", 1, "--batch-size", 8, "--device", "cpu")
    command += ("--workers", 0, "--force")
    killed(1, *command)
    assert any(name.startswith(".config.yaml.") for name in hidden(run))
    killed(7, *command)
    assert any(name.startswith("checkpoints/.step-") for name in hidden(run)), hidden(run)
    assert growtool(*command)[0] == 0
    assert not hidden(run)


def test_what_a_living_process_writes_stays(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom growtool.checkpoint.staging import staging\n"
        "with staging(Path(sys.argv[1])) as folder:\n print(folder.name, flush=True)\n time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True) as it:
        assert it.stdout is not None
        theirs = it.stdout.readline().strip()
        with staging(tmp_path / "out") as ours:
            assert hidden(tmp_path) == sorted([ours.name, theirs])
        it.kill()
    clear_leftovers(tmp_path, "out.other")
    assert hidden(tmp_path) == [theirs]
    write_text(tmp_path / "out", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def left_by(process: int, name: str, ending: str) -> str:
    return f"{prefix_for(name).rpartition(f'{os.getpid()}-')[0]}{process}-x{ending}"


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


WRITERS: dict[str, Callable[[Path], None]] = {
    "text": lambda path: write_text(path, "whole"),
    "tensors": lambda path: write_safetensors(path, infos_of({"a": torch.ones(2)}), lambda _: torch.ones(2), {}),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_each_writer_clears_files_and_folders_of_its_own_place_alone(write, gone, tmp_path):
    names = [left_by(gone, name, ".tmp") for name in ("out", "out.x", "ou")]
    elsewhere = ".out.00000000-1-x.tmp"  # of another machine
    for name in (*names, elsewhere):
        (tmp_path / name).write_text("half")
    (tmp_path / left_by(gone, "out", "y.tmp")).mkdir()
    (tmp_path / left_by(gone, "out", "y.tmp") / "half").write_text("half")
    write(tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"out", elsewhere, *names[1:]}


def test_an_output_that_had_stepped_aside_comes_back(gone, tmp_path):
    """Killed between two names: the old output has no name, the new one does not have it yet."""
    for ending in (".tmp", ".old"):
        (tmp_path / left_by(gone, "out", ending)).mkdir()
        (tmp_path / left_by(gone, "out", ending) / "kind").write_text(ending)
    with staging(tmp_path / "out") as folder:
        assert (tmp_path / "out" / "kind").read_text() == ".old"
        (folder / "kind").write_text("new")
        take_place(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "kind").read_text() == "new"


def test_an_output_that_had_stepped_aside_is_not_replaced_without_being_asked(gone, tmp_path):
    (tmp_path / left_by(gone, "out", ".old")).mkdir()
    with pytest.raises(PlanError, match="the output exists"):
        refuse_existing(tmp_path / "out", force=False)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
