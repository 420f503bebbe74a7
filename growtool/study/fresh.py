"""A model as timm initialises it, written as a checkpoint: where training from scratch starts."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from growtool.checkpoint import ModelSpec, infos_of, write_folder
from growtool.checkpoint.skeleton import initialised


def write_fresh(spec: ModelSpec, out: Path, seed: int) -> None:
    """Initialise the model of `spec` from `seed` and write it as a timm folder, replacing an earlier one."""
    model = initialised(spec, seed)
    state = model.state_dict()
    write_folder(
        out,
        spec,
        infos_of(state),
        state.__getitem__,
        num_features=int(getattr(model, "num_features", 0)),
        documents={},
        metadata={"growtool_version": version("growtool"), "growtool_seed": str(seed)},
        force=True,
    )
