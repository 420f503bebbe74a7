"""What the tests share: small models whose every number is random, and the larger material of `GROWTOOL_SHARED`.

Torch is imported where it is used: the process that hands tests out to others needs none.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test reaches the hub; those that speak to a server of their own say so

import pytest

if TYPE_CHECKING:
    from tests.support.hub_server import Hub


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--first`, for a quick look."""
    parser.addoption("--first", action="store_true", help="of each test run the first case alone")


def pytest_configure() -> None:
    """Hypothesis tries the same cases in every run."""
    import hypothesis

    hypothesis.settings.register_profile("growtool", deadline=None, derandomize=True, database=None)
    hypothesis.settings.load_profile("growtool")


@pytest.hookimpl(trylast=True)  # after what `-m` leaves out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """See `--first`."""
    if not config.getoption("first"):
        return
    first: dict[str, pytest.Item] = {}
    again = [item for item in items if first.setdefault(item.nodeid.partition("[")[0], item) is not item]
    config.hook.pytest_deselected(items=again)
    items[:] = first.values()


def pytest_collection_finish() -> None:
    """What has been imported stays: no collection has to walk through it again, but for the process's own last one."""
    gc.freeze()
    atexit.register(gc.unfreeze)  # what is frozen is not freed, which extension modules complain of at the end


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `gpu` need one."""
    import torch

    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session", autouse=True)
def shared_work() -> Iterator[None]:
    """See `tests.support.shared_work`."""
    from tests.support.shared_work import share

    with pytest.MonkeyPatch.context() as patch:
        share(patch)
        yield


@pytest.fixture
def resnet_folder(tmp_path: Path) -> Path:
    """A tiny ResNet as timm itself saves it, every number random."""
    import timm
    from timm.models import save_for_hf

    from tests.support.models import TINY_RESNET, randomise_

    model = randomise_(timm.create_model("resnet18", **TINY_RESNET).eval())
    folder = tmp_path / "resnet"
    save_for_hf(model, folder, model_args=TINY_RESNET, safe_serialization=True)
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A tiny ResNet of three classes to train."""
    from tests.support.finetune import write_checkpoint

    return write_checkpoint(tmp_path / "model")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Images of these classes in both splits."""
    from tests.support.finetune import write_data

    return write_data(tmp_path / "data")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub of the test's own, which this process asks, with a cache of its own."""
    from tests.support.hub_server import ask, serving

    with serving() as hub:
        ask(hub, tmp_path / "hub", monkeypatch)
        yield hub


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real checkpoints and images that `GROWTOOL_SHARED` names."""
    named = os.environ.get("GROWTOOL_SHARED")
    if not named or not Path(named).is_dir():
        pytest.skip("GROWTOOL_SHARED does not name a folder with real checkpoints")
    return Path(named)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a comparison needs: `small`, `data` and `tile.yaml`, a plan."""
    from tests.support.finetune import write_checkpoint, write_data

    root = tmp_path_factory.mktemp("place")
    write_checkpoint(root / "small")
    write_data(root / "data")
    (root / "tile.yaml").write_text("target: {model_args: {channels: [8, 16, 16, 24]}}\nwidth: {operator: tile}\n")
    return root


@pytest.fixture
def growtool(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """`growtool(*arguments)`: exit code, stdout and stderr of the command, run in this process."""
    from growtool.cli.app import main

    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("GROWTOOL_DEBUG", raising=False)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["growtool", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, *capsys.readouterr()

    return run
