"""Files: what a checkpoint is, reading it lazily, writing it as a stream."""

from growtool.checkpoint.documents import CONFIG, WEIGHTS
from growtool.checkpoint.folder import is_single_file, json_text, refuse_existing, write_file, write_folder
from growtool.checkpoint.form import Form, Layout, Templated, coefficients_of
from growtool.checkpoint.header import read_header
from growtool.checkpoint.opening import open_checkpoint
from growtool.checkpoint.reader import Checkpoint, InMemory
from growtool.checkpoint.staging import atomic_file
from growtool.checkpoint.tensors import (
    Stored,
    TensorInfo,
    all_in_type,
    arithmetic_dtype,
    dtype_name,
    in_type,
    infos_of,
    is_finite,
)
from growtool.checkpoint.writer import file_order, write_safetensors
from growtool.library import ModelSpec, build

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "Checkpoint",
    "Form",
    "InMemory",
    "Layout",
    "ModelSpec",
    "Stored",
    "Templated",
    "TensorInfo",
    "all_in_type",
    "arithmetic_dtype",
    "atomic_file",
    "build",
    "coefficients_of",
    "dtype_name",
    "file_order",
    "in_type",
    "infos_of",
    "is_finite",
    "is_single_file",
    "json_text",
    "open_checkpoint",
    "read_header",
    "refuse_existing",
    "write_file",
    "write_folder",
    "write_safetensors",
]
