"""A mistake in a YAML file is told before torch or timm is imported, whichever command reads it."""

import json
import subprocess
import sys

FILES = {
    "operator.yaml": "target: {scale: {width: 2}}\nwidth: {operator: tyle}\n",
    "key.yaml": "target: {scale: {width: 2}}\nwdith: {operator: tile}\n",
    "syntax.yaml": "target: {scale: {width: 2}\n",
    "options.yaml": "lrr: 0.1\n",
    "typed.yaml": "lr: high\n",
    "schedule.yaml": "checkpoint: c\nstages: [{train: {epoch: 2}}]\n",
    "grows.yaml": "checkpoint: c\nstages: [{grow: {target: {scale: {width: 2}}, width: {operator: tyle}}}]\n",
    "named.yaml": "checkpoint: c\nstages: [{grow: operator.yaml}]\n",
    "protocol.yaml": "model: resnet18\nmember_args: {}\ntemplates: 0\n",
    "fine.yaml": "target: {scale: {width: 2}}\nwidth: {operator: tile}\n",
}
COMMANDS = {
    "grow IN missing.yaml": "missing.yaml: no such file, expected a plan in YAML",
    "grow IN operator.yaml": "operator.yaml:2:19 width.operator: found 'tyle', expected one of",
    "grow IN key.yaml": "key.yaml:2:1 wdith: unknown key",
    "grow IN syntax.yaml": "not YAML",
    "grow IN fine.yaml --recalibrate": "--recalibrate: found no images to see",
    "compare IN --plan fine.yaml --plan operator.yaml --budget 1epochs": "operator.yaml:2:19 width.operator",
    "compare IN --plan fine.yaml --budget 1epochs --config options.yaml": "unknown key; did you mean",
    "compare IN --plan fine.yaml --budget 1epochs --variant options.yaml": "unknown key; did you mean",
    "compare IN --plan fine.yaml --budget much": "--budget: found 'much'",
    "advise IN --budget 2x-mcas": "--budget: found '2x-mcas', expected a factor",
    "advise IN --budget 2x-macs -o made": "expected none of them; choose another place",
    "schedule missing.yaml": "missing.yaml: no such file, expected a schedule in YAML",
    "schedule schedule.yaml": "unknown key; did you mean",
    "schedule grows.yaml": "found 'tyle', expected one of",
    "schedule named.yaml": "found 'tyle', expected one of",
    "protocol protocol.yaml": "templates: found 0, expected at least 1",
    "finetune IN --data D -c missing.yaml": "missing.yaml: no such file, expected a configuration in YAML",
    "finetune IN --data D -c options.yaml": "unknown key; did you mean",
    "finetune IN --data D -c typed.yaml": "lr: found 'high'",
    "finetune IN --data D --set lrr=1": "unknown key; did you mean",
}
RUN = """
import json, os, sys
os.environ["COLUMNS"] = "400"
from growtool.cli.app import main
found = {}
for command in json.load(sys.stdin):
    sys.argv = ["growtool", *command.split()]
    try:
        main()
    except SystemExit as left:
        found[command] = [left.code, [name for name in ("torch", "timm") if name in sys.modules]]
print(json.dumps(found))
"""


def test_mistakes_are_told_before_torch_is_imported(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "made").mkdir()
    (tmp_path / "made/width.yaml").touch()
    done = subprocess.run(
        [sys.executable, "-c", RUN], input=json.dumps(list(COMMANDS)), cwd=tmp_path, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == {command: [1, []] for command in COMMANDS}
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for (command, expected), line in zip(COMMANDS.items(), told, strict=True):
        assert expected in line, command
