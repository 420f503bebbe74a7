"""Every command to its end in a terminal of 80 columns, in a pipe, and in a dumb terminal without colour.

What is seen stands in tests/golden/screens; with GROWTOOL_GOLDEN=write in the environment these tests write it anew.
"""

import os
import shutil
from pathlib import Path

import pytest
import torch

from tests.support.finetune import write_checkpoint, write_data
from tests.support.models import Tiny, write_folder
from tests.support.protocol import write_protocol
from tests.support.reference import ARGS, LAYERS, PLUGIN, reference
from tests.support.terminal import in_pipe, in_terminal, steady

SCREENS = Path(__file__).parents[1] / "golden" / "screens"
DATA = ("--data", "data", "--workers", 0, "--device", "cpu")
SHORT = ("--epochs", 1, "-b", 8, "--log-interval", 2)
COMMANDS = {
    "version": ("--version",),
    "list-operators": ("list", "operators"),
    "list-families": ("list", "families"),
    "explain": ("explain", "mixture"),
    "inspect": ("inspect", "small"),
    "advise": ("advise", "small", "--budget", "4x-macs", "-o", "plans"),
    "grow-dry-run": ("grow", "small", "tile.yaml", "--dry-run"),
    "grow": ("grow", "small", "tile.yaml", "-o", "grown"),
    "inspect-two": ("inspect", "small", "grown"),
    "inspect-coupling": ("inspect", "small", "--depth", 0, "--coupling"),
    "verify": ("verify", "small", "grown", "--inputs", 2, "--data", "data"),
    "decompose": ("decompose", "small", "--bank", "sub_block", "-o", "templates"),
    "inspect-templates": ("inspect", "templates", "--depth", 0),
    "export": ("export", "templates", "-o", "dense"),
    "finetune": ("finetune", "grown", *DATA, *SHORT, "-o", "run"),
    "finetune-mistaken": ("finetune", "grown", *DATA, "--set", "lrr=1"),
    "evaluate": ("evaluate", "run/best", *DATA),
    "report": ("report", "run"),
    "schedule": ("schedule", "schedule.yaml", "-o", "staged"),
    "compare": (
        "compare", "small", "--plan", "tile.yaml", "--budget", "2steps", "--baseline", "none", "--data", "data",
        "--config", "options.yaml", "--device", "cpu", "-o", "compared",
    ),
    "protocol": ("protocol", "protocol.yaml", "-o", "published"),
    "import": (
        "import", "reference.pth", "--model", "screen_resnet", "--plugin", "screen_plugin.py", "-o", "imported",
    ),
    "missing": ("inspect", "nowhere"),
}  # fmt: skip
TABLES = (
    ("list", "operators"),
    ("list", "families", "mobile*"),
    ("explain", "mixture"),
    ("inspect", "small"),
    ("inspect", "small", "--depth", 0, "--coupling"),
    ("inspect", "small", "larger", "--depth", 3),
    ("advise", "small", "--budget", "2x-params"),
    ("grow", "small", "tile.yaml", "--dry-run"),
    ("grow", "small", "--width", 1.5, "--operator", "tile", "--dry-run"),
)
UNTITLED = set("stdout stderr operator family option module block channels keeps its size as it is".split())
OPTIONS = "{workers: 0, batch_size: 8}"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands read, under short names."""
    root = tmp_path_factory.mktemp("prepared")
    write_checkpoint(root / "small")
    args = {"num_classes": 3, "layers": [1, 1, 1, 1], "channels": [8, 16, 16, 24]}
    write_folder(Tiny("resnet18", args, size=32), root / "larger")
    write_data(root / "data", train=8, validation=4)
    (root / "tile.yaml").write_text("target: {model_args: {channels: [8, 16, 16, 24]}}\nwidth: {operator: tile}\n")
    (root / "options.yaml").write_text(OPTIONS)
    train = "{data: data, batch_size: 8, workers: 0, device: cpu}"
    stages = "[train: {steps: 1}, grow: tile.yaml, train: {steps: 1}]"
    (root / "schedule.yaml").write_text(f"checkpoint: small\ntrain: {train}\nstages: {stages}\n")
    write_protocol(root / "protocol.yaml", Path("data"))
    torch.save({"state_dict": reference()[0]}, root / "reference.pth")
    names = {name: path for name, (path, _) in LAYERS.items()}
    (root / "screen_plugin.py").write_text(PLUGIN.format(name="screen_resnet", args=ARGS, names=names))
    return root


@pytest.mark.parametrize("where", ["terminal", "pipe", pytest.param("dumb", marks=pytest.mark.slow)])
def test_every_command_runs_to_its_end_and_is_seen_as_before(where: str, prepared: Path, tmp_path: Path) -> None:
    place = tmp_path / "work"
    shutil.copytree(prepared, place)
    wrong = []
    for name, words in COMMANDS.items():
        if where == "pipe":
            seen = in_pipe(words, place)
        else:
            seen = in_terminal(words, place, **({"TERM": "dumb", "NO_COLOR": "1"} if where == "dumb" else {}))
        assert "Traceback" not in "".join(seen.streams.values()), (name, seen.lines)
        assert seen.code == (1 if name in ("finetune-mistaken", "missing") else 0), (name, seen.lines)
        if where != "terminal":
            assert "\x1b" not in "".join(seen.streams.values()), name
        golden, found = SCREENS / f"{name}.{where}.txt", steady(seen.lines)
        if os.environ.get("GROWTOOL_GOLDEN") == "write":
            SCREENS.mkdir(exist_ok=True)
            golden.write_text(found)
        elif not golden.exists() or golden.read_text() != found:
            wrong.append(f"{name}: seen\n{found}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("words", TABLES, ids=lambda words: " ".join(map(str, words)))
def test_words_stay_whole_and_lines_fit_terminals_of_any_width(words: tuple[object, ...], prepared: Path) -> None:
    every = in_pipe(words, prepared)
    known = every.words()
    for columns in (40, 60, 80):
        seen = in_terminal(words, prepared, columns)
        assert seen.code == every.code
        assert len(seen.longest()) <= columns, seen.longest()
        assert seen.words() <= known
        assert known - seen.words() <= UNTITLED
