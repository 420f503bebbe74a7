"""growtool from Python, cell by cell; Jupyter with jupytext, VS Code and PyCharm open this file as a notebook.

python docs/demo/session.py     # less than a minute on one CPU core; writes into a temporary folder
"""

# %% A small trained checkpoint, and images that it was not trained on
import tempfile
from pathlib import Path

import torch
from sheets import unpack

import growtool

DEMO = Path(__file__).parent if "__file__" in globals() else Path.cwd()  # a notebook begins in its folder
OUT = Path(tempfile.mkdtemp(prefix="growtool-"))
SMALL, IMAGES = DEMO / "checkpoint", OUT / "images"
unpack(DEMO, IMAGES)
growtool.inspect_checkpoint(SMALL)

# %% Twice as wide, by a plan; the result is proven before it is written
plan = {"target": {"scale": {"width": 2}}, "width": {"operator": "tile"}}
grown = growtool.grow(SMALL, plan, OUT / "grown")
grown

# %% The same function, on images too
found = growtool.verify_checkpoints(SMALL, grown, data=IMAGES)
assert found.agree
found

# %% What became of it
before, after = (growtool.inspect_checkpoint(checkpoint) for checkpoint in (SMALL, grown))
print(f"parameters {before.parameters:,} -> {after.parameters:,}, MACs {before.macs.total:,} -> {after.macs.total:,}")
after

# %% Without files: a model grows into a model
model = growtool.grow(SMALL, plan)
print(model(torch.randn(1, 3, 32, 32)).shape)

# %% Train further; the options are those of `growtool finetune`
run = growtool.finetune_checkpoint(
    growtool.RunConfig(checkpoint=OUT / "grown", data=IMAGES, output=OUT / "run", epochs=1, workers=0, device="cpu")
)
print(f"top-1 {run.initial.top1:.1f} % -> {run.last.top1:.1f} %")
