"""The help of the commands: short, complete, made of the settings themselves, and there before torch is."""

import re
import subprocess
import sys

import pytest

from growtool.finetune.options.settings import FLAGS, Settings, flag_of

COMMANDS = [
    "grow", "advise", "finetune", "evaluate", "schedule", "report", "compare", "inspect", "verify", "decompose",
    "export", "protocol", "import", "schema",
]  # fmt: skip


def test_neither_torch_nor_timm_is_imported_for_help():
    code = "import sys, growtool.cli.app; print(*sorted({'torch', 'timm', 'numpy', 'pydantic'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


def test_help_lists_every_command_and_three_examples(growtool):
    code, out, err = growtool("--help")
    assert (code, err) == (0, "")
    for name in (*COMMANDS, "list"):
        assert re.search(rf"^│ {name} ", out, re.MULTILINE)
    assert len(re.findall(r"^ growtool \w+ \./", out, re.MULTILINE)) == 3
    assert "--install-completion" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_short_help_with_two_examples(growtool, command):
    code, out, err = growtool(command, "-h")
    assert (code, err) == (0, "") and out == growtool(command, "--help")[1]
    assert len(re.findall(rf"^ growtool {command} \S", out, re.MULTILINE)) == 2
    assert "<bool>" not in out


def test_the_usual_options_of_finetune_take_a_page_and_a_half(growtool, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, usual, _ = growtool("finetune", "--help")
    _, everything, _ = growtool("finetune", "--help-all")
    assert usual.count("\n") <= 60 and "--lora-rank" not in usual
    assert set(re.findall(r"--[a-z-]+", usual)) < set(re.findall(r"--[a-z-]+", everything))
    assert "--lora-rank" in everything and "--clip-grad" in everything


def test_the_help_of_finetune_is_made_of_its_settings_without_torch(growtool, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    _, everything, _ = growtool("finetune", "--help-all")
    rows = {row.split()[1]: row for row in everything.splitlines() if re.match(r"│ +(--|CHECKPOINT)", row)}
    for name, field in Settings.model_fields.items():
        flag = FLAGS.get(name)
        assert field.description, name
        row = rows.get(flag_of(name)) or rows.get(f"--no-{name}")
        assert (row is None) == (flag is None), name
        if row and flag:
            assert (flag.help or field.description).split(". ")[0].rstrip(".") in row
    code = "import sys; from growtool.cli.app import main; main()"
    words = [sys.executable, "-X", "importtime", "-c", code, "finetune", "--help"]
    run = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "pydantic" in run.stderr and not re.search(r"\| +(torch|timm)$", run.stderr, re.MULTILINE)


@pytest.mark.parametrize(
    ("command", "names"),
    [("compare", ["data"]), ("evaluate", ["dataset", "workers", "device", "channels_last"])],
)
def test_what_commands_share_with_training_is_told_alike(growtool, monkeypatch, command, names):
    monkeypatch.setenv("COLUMNS", "250")
    _, usual, _ = growtool(command, "--help")
    for name in names:
        text = (Settings.model_fields[name].description or "").split(". ")[0]
        assert re.search(rf"{flag_of(name)} .*{re.escape(text)}", usual)


def test_no_arguments_show_help(growtool):
    code, out, _ = growtool()
    assert code == 2
    assert "Usage: growtool" in out


def test_a_wrong_command_is_wrong_usage_with_a_hint(growtool):
    code, out, err = growtool("inspekt")
    assert (code, out) == (2, "")
    assert "Did you mean 'inspect'?" in err
