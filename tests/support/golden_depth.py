"""What every depth operator makes of tiny models of many families.

`python -m tests.support.golden_depth` writes the record anew.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from growtool.checkpoint import open_checkpoint
from growtool.errors import PlanError
from growtool.plan import Plan
from growtool.recipe import Recipe, TensorRecipe
from growtool.recipe.matching import match
from growtool.recipe.resolve import recipe_of, traced_target
from growtool.recipe.traced_model import TracedModel
from tests.support.models import TINY, Tiny, write_folder

GOLDEN = Path(__file__).parents[1] / "golden" / "depth.json"
SMALL = {"channel_multiplier": 0.1, "num_classes": 5}
RESNET = Tiny("resnet18", {"layers": [2, 2, 2, 2], "channels": [4, 8, 8, 12], "num_classes": 5})
EFFICIENTNET = Tiny("growtool_open", {"base": "efficientnet_b0", **SMALL, "depth_multiplier": 2})
MIXER = Tiny(
    "growtool_open",
    {"base": "mixer_s32_224", "img_size": 32, "patch_size": 8, "embed_dim": 8, "num_blocks": 2, "num_classes": 5},
)
MOBILENET = Tiny("growtool_open", {"base": "mobilenetv1_100", **SMALL})
DEEPER: dict[str, tuple[Tiny, dict[str, Any]]] = {
    "vit": (TINY["vit"], {"depth": 4}),
    "layer scale": (TINY["vit_scaled"], {"depth": 3}),
    "eva": (TINY["eva"], {"depth": 3}),
    "convnext": (TINY["convnext"], {"depths": [1, 4, 1, 1]}),
    "swin": (TINY["swin"], {"depths": [4, 2]}),
    "mixer": (MIXER, {"num_blocks": 3}),
    "resnet": (RESNET, {"layers": [3, 2, 4, 2]}),
    "efficientnet": (EFFICIENTNET, {"depth_multiplier": 2.5}),
    "mobilenetv1": (MOBILENET, {"depth_multiplier": 2}),
}
OPERATORS = ("stack", "interleave", "zero_out", "cancel_out", "net2deeper", "map", "mixing")


def record(family: str) -> dict[str, Any]:
    """Operator -> its promise, the new blocks with their origin, and how the tensors of the first are made."""
    tiny, args = DEEPER[family]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = open_checkpoint(write_folder(tiny, Path(folder) / "source"))
        source = TracedModel.of(checkpoint.spec, where="source")
        plain = _plan(args, {"operator": "interleave"})
        target = traced_target(plain.target, source)
        placed = recipe_of(plain, checkpoint, match(source, target, plain.depth)).blocks.placed
        found: dict[str, Any] = {}
        for name in OPERATORS:
            depth: dict[str, Any] = {"operator": name}
            if name == "map":  # as interleave has it, but closed
                lists = {stage.rstrip("."): [p.source for p in blocks.values()] for stage, blocks in placed.items()}
                depth |= {"map": lists, "start": "zero_out"}
            try:
                plan = _plan(args, depth)
                found[name] = _told(recipe_of(plan, checkpoint, match(source, target, plan.depth)))
            except PlanError as error:
                found[name] = {"refused": list(error.problems)}
    return found


def _plan(args: dict[str, Any], depth: dict[str, Any]) -> Plan:
    data = {"data": {"path": "images"}} if depth["operator"] == "mixing" else {}
    return Plan.model_validate({"target": {"model_args": args}, "depth": depth, **data})


def _told(recipe: Recipe) -> dict[str, Any]:
    first = f"{recipe.blocks.new[0]}."
    made = {name.removeprefix(first): _made(t) for name, t in recipe.tensors.items() if name.startswith(first)}
    origins = {path: recipe.blocks.source_name(path) for path in recipe.blocks.new}
    return {"promise": str(recipe.promise), "new": origins, "first": made}


def _made(tensor: TensorRecipe) -> str:
    if tensor.zero:
        return "zero"
    if tensor.cancelling is not None:
        return "cancelling"
    if tensor.implied is not None:
        return "implied"
    return "paired" if tensor.paired else "copied"


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps({family: record(family) for family in DEEPER}, indent=1) + "\n")
