"""Some of the damaged cases of `make fuzz`, and some of its kills; and that it sees what it looks for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.cases import drawn
from tests.fuzz.child import Done
from tests.fuzz.judge import fault, state
from tests.fuzz.mutations import Mutation, apply
from tests.fuzz.scenarios import Scenario

ROOT = Path(__file__).parents[2]


def fuzz(*arguments: object) -> tuple[int, str]:
    """Exit code and output of the fuzzer, in a process of its own, as it forks."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.fuzz", *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def touch(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


TRACEBACK = "Traceback (most recent call last)\n  File\nKeyError: 'a'\n"
ENDS = {
    "hangs": (Done(-9, "", hung=True), None, "did not end"),
    "another code": (Done(3, "error: x"), None, "exit code 3"),
    "a signal": (Done(-11, ""), None, "exit code -11"),
    "a traceback": (Done(1, TRACEBACK), None, "traceback: KeyError: 'a'"),
    "no word": (Done(1, "\n"), None, "fails without a word"),
    "a source": (Done(0, ""), "source/config.json", "changed source/config.json"),
    "half an output": (Done(1, "error: x"), "out/config.json", "failed and left out, out/config.json"),
    "a leftover": (Done(0, ""), ".out.1.tmp", "left .out.1.tmp"),
    "no weights": (Done(0, ""), "out/model.safetensors", "out/model.safetensors does not load: 3 "),
    "a message": (Done(1, "error: x"), None, None),
    "another file": (Done(0, ""), "out/plan.yaml", None),
}


@pytest.mark.parametrize("done, touched, problem", ENDS.values(), ids=ENDS)
def test_each_fault_is_seen(done, touched, problem, tmp_path):
    root = tmp_path / "case"
    touch(root / "source/config.json")
    before = state(root)
    if touched:
        touch(root / touched, "a")
    scenario = Scenario(("grow", "source"), 1, {}, "out")
    found = fault(scenario, ["grow", "source"], done, root, before)
    assert (found or "").startswith(problem) if problem else found is None


def test_a_case_is_its_seed_and_number():
    assert [drawn(3, n) for n in range(20)] == [drawn(3, n) for n in range(20)] != [drawn(4, n) for n in range(20)]


def test_edits_are_decided_by_their_number(tmp_path):
    kept = json.dumps({"architecture": "a", "model_args": {"depth": 2}, "pretrained_cfg": {}, "label_names": ["a"]})
    results = set()
    for number in range(60):
        found = []
        for _ in range(2):
            touch(tmp_path / "config.json", kept)
            apply(Mutation("json", "config.json", number), tmp_path)
            found.append((tmp_path / "config.json").read_bytes())
        assert found[0] == found[1]
        results.add(found[0])
    assert len(results) > 50


@pytest.mark.slow
@pytest.mark.parametrize(("first", "cases"), [(0, 20), (20, 180)])
def test_damaged_files_and_options_end_in_a_message(first, cases, tmp_path):
    code, told = fuzz("--cases", cases, "--first", first, "--seed", 0, "--keep", tmp_path)
    assert code == 0, told
    assert told.startswith(f"{cases} cases of seed 0 in ") and told.endswith("\n0 faults\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "seed"), [(1, 1), (12, 0)])
def test_killed_commands_leave_nothing_half(kills, seed, tmp_path):
    code, told = fuzz("--kills", kills, "--seed", seed, "--keep", tmp_path)
    assert code == 0, told
    assert told.startswith(f"{kills} kills of seed {seed} in ") and told.endswith("; 0 faults\n")
