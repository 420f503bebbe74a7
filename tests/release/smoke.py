"""What somebody does who has just installed growtool: grow a small checkpoint, check it, load it without growtool.

`make release-check` runs this file with the interpreter of an environment that holds the package and what it depends
on, and with `-I`, so that nothing else is found.
"""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import timm
from timm.models import save_for_hf

import growtool

BESIDE = Path(sys.prefix) / "bin"
ARGS = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 8, "num_classes": 4}
PLAIN = """
import sys, timm, torch
model = timm.create_model(f"local-dir:{sys.argv[1]}", pretrained=True)
assert "growtool" not in sys.modules and model.embed_dim == 64
"""


def growtool_says(*words: str) -> str:
    """The results of a command that has to succeed."""
    done = subprocess.run([BESIDE / "growtool", *words], capture_output=True, text=True)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def main() -> None:
    """In an empty folder."""
    assert Path(growtool.__file__).is_relative_to(sys.prefix), growtool.__file__
    assert growtool_says("--version") == f"growtool {version('growtool')}\n"
    for command in ("grow", "verify", "inspect", "finetune"):
        assert command in growtool_says("--help") and growtool_says(command, "--help")
    for words in (("list", "operators"), ("list", "families"), ("explain", "mixture"), ("schema", "plan")):
        assert growtool_says(*words)  # the data of the package
    name = "vit_tiny_patch16_224"
    model = timm.create_model(name, **ARGS)
    save_for_hf(model, "small", model_config={"architecture": name}, model_args=ARGS, safe_serialization=True)
    growtool_says("grow", "small", "--width", "2", "--depth", "2", "-o", "grown")
    assert json.loads(growtool_says("verify", "small", "grown", "--json"))["agree"]
    (shown,) = json.loads(growtool_says("inspect", "grown", "--json"))["checkpoints"]
    assert shown["model_args"]["depth"] == 4 and shown["lineage"]
    subprocess.run([sys.executable, "-I", "-c", PLAIN, "grown"], check=True)
    larger = growtool.grow("small", {"target": {"scale": {"width": 2}}, "width": {"operator": "tile"}})
    assert larger.embed_dim == 64
    print(f"growtool {version('growtool')}: all well")


if __name__ == "__main__":
    main()
