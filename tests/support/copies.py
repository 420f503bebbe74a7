"""Growths whose copies stay alike, and what is said of them."""

from tests.support.models import WIDER

COPIES = {  # family, arguments that change, width, overrides, what stays alike and why
    "a stage apart": (
        "resnet", {"channels": [8, 8, 8, 24]}, {"operator": "mixture"}, [], "hidden channels (layer4.0)", "no layer",
    ),
    "hidden units alone": (
        "vit", {"mlp_ratio": 6.0}, {"operator": "mixture"}, [], "hidden units of mlp (blocks 0-1)", "rows and col",
    ),
    "vectors by another operator": (
        "resnet", WIDER["resnet"], {"operator": "mixture", "gain": 0},
        [{"match": "*bn*", "width": {"operator": "tile"}}], "hidden channels (layer1.0-1", "gain 0",
    ),
    "rows by another operator": (
        "vit", {"mlp_ratio": 6.0}, {"operator": "mixture"}, [{"match": "*fc1*", "width": {"operator": "tile"}}],
        "hidden units of mlp (blocks 0-1)", "rows and columns",
    ),
    "equal where nothing else is possible": (
        "resnet", WIDER["resnet"], {"operator": "mixture"},
        [{"match": "fc.*", "width": {"operator": "tile", "split": "equal"}}], None, "",
    ),
    "a whole network": ("resnet", WIDER["resnet"], {"operator": "tile", "split": "equal"}, [], "", "equal split"),
    "deeper alone": ("vit", {"depth": 4}, {"operator": "mixture"}, [], None, ""),
}  # fmt: skip
