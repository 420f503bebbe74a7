"""The boundary to libraries of models: the interface that each implements, and the libraries that there are."""

from growtool.library.base import Library
from growtool.library.inputs import Inputs, Sizes, Words, leaves_of, only_size
from growtool.library.registry import (
    build,
    built_in,
    libraries,
    library_of,
    meta_inputs,
    register,
    runs,
    spec_from,
    spec_named,
)
from growtool.library.spec import ModelSpec

__all__ = [
    "Inputs",
    "Library",
    "ModelSpec",
    "Sizes",
    "Words",
    "build",
    "built_in",
    "leaves_of",
    "libraries",
    "library_of",
    "meta_inputs",
    "only_size",
    "register",
    "runs",
    "spec_from",
    "spec_named",
]
