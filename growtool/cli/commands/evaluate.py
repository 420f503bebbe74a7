"""`growtool evaluate`: how many images a checkpoint gets right."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from growtool.cli.command import from_settings
from growtool.cli.console import JsonOption, emit_json, remark
from growtool.cli.opening import CheckpointArgument, PluginOption
from growtool.cli.tables import show_rows
from growtool.errors import PlanError
from growtool.finetune.options.choices import AmpDtype


@from_settings("dataset", "workers", "device", "channels_last", "tf32")
def evaluate(
    checkpoint: CheckpointArgument,
    data: Annotated[
        Path, typer.Option(help="Folder with validation/CLASS/* (or val, valid, test); or the root of --dataset.")
    ],
    dataset: str = "",
    split: Annotated[
        str | None, typer.Option(show_default="validation, val, valid or test", help="Name of the split.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 256,
    workers: int | None = None,
    device: str = "auto",
    amp_dtype: Annotated[AmpDtype | None, typer.Option(help="Mixed precision.", show_default="none")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="data_kwargs={KEY: VALUE}", help="Options of the reader of --dataset or parquet."
        ),
    ] = None,
    channels_last: bool = False,
    tf32: bool = True,
    plugin: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a checkpoint's accuracy and loss on labelled images, resized and cropped as timm evaluates it."""
    from growtool.finetune.evaluate import evaluate_checkpoint
    from growtool.finetune.options.merging import make_config, read_words
    from growtool.finetune.options.settings import default_workers

    chosen = read_words(settings or ())
    if others := sorted(chosen.keys() - {"data_kwargs"}):
        raise PlanError(f"--set {', '.join(others)}: found options of training, expected data_kwargs alone; drop them")
    options = {
        "checkpoint": checkpoint,
        "data": data,
        "dataset": dataset,
        "val_split": split,
        "batch_size": batch_size,
        "workers": default_workers() if workers is None else workers,
        "device": device,
        "amp": amp_dtype is not None,
        "amp_dtype": amp_dtype,
        "channels_last": channels_last,
        "tf32": tf32,
    }
    found = evaluate_checkpoint(make_config(options, chosen), told=remark)
    if as_json:
        emit_json({"checkpoint": str(checkpoint), "data": str(data), **asdict(found)})
        return
    rows = {"top-1": f"{found.top1:.2f} %", "top-5": f"{found.top5:.2f} %", "loss": f"{found.loss:.4f}"}
    show_rows(("", ""), (rows | {"images": f"{found.count:,}"}).items())
