"""The rooms of growtool, floor by floor."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE, TESTS = ROOT / "growtool", ROOT / "tests"
FLOORS = [
    {"errors", "notebook", "_timm_hook"},
    {"library", "hub"},
    {"trace", "checkpoint"},
    {"algebra", "prove", "templates", "plan", "report", "images", "verify"},
    {"operators", "finetune", "calibration"},
    {"recipe"},
    {"growing"},
    {"workflows"},
    {"cli", "__main__", "__init__"},
]
MODULES = 14  # in a folder at most, `__init__.py` not counted
