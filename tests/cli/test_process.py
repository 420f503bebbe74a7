"""The process of a command ends as Python would end it: with its status, its words, and its functions for the end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
ENDS = {
    "pass": (0, ""),
    "raise SystemExit": (0, ""),
    "raise SystemExit(3)": (3, ""),
    "raise SystemExit('a word')": (1, "a word\n"),
    "raise ValueError('a mistake')": (1, "ValueError: a mistake\n"),
}


def ended(main, *, stdout=subprocess.PIPE):
    """`growtool` with another `main`."""
    code = (
        "import atexit, sys, growtool.cli.app, growtool.__main__\n"
        f"def main():\n    atexit.register(print, 'cleared')\n    sys.stdout.write('said ')\n    {main}\n"
        "growtool.cli.app.main = main\ngrowtool.__main__.run()"
    )
    return subprocess.run([sys.executable, "-c", code], stdout=stdout, stderr=subprocess.PIPE, text=True, env=BUFFERED)


@pytest.mark.parametrize("main", ENDS)
def test_status_and_words_are_those_of_python(main):
    status, words = ENDS[main]
    found = ended(main)
    assert (found.returncode, found.stdout) == (status, "said cleared\n")
    assert found.stderr.endswith(words) and bool(found.stderr) == bool(words)


def test_what_cannot_be_printed_is_told():
    with Path("/dev/full").open("w") as full:
        found = ended("pass", stdout=full)
    assert found.returncode == 120 and "No space left" in found.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])  # Python's own choice, and that of many containers
@pytest.mark.parametrize("words", [["--version"], ["schema", "plan"]], ids=" ".join)
def test_a_full_disk_behind_stdout_is_one_message(words, unbuffered):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    command, told = [sys.executable, "-m", "growtool", *words], os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        run = subprocess.run(command, stdout=full, stderr=-1, text=True, env=told)
    assert run.returncode == 1
    assert run.stderr.startswith("error: No space left on device; free some space")
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["--help"], ["--version"]], ids=" ".join)
def test_a_reader_that_has_gone_is_no_message(words, unbuffered):
    command, told = [sys.executable, "-m", "growtool", *words], os.environ | {"PYTHONUNBUFFERED": unbuffered}
    read, write = os.pipe()
    os.close(read)
    run = subprocess.run(command, stdout=write, stderr=-1, text=True, env=told)
    os.close(write)
    assert (run.returncode, run.stderr) == (1, "")
