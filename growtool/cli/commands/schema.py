"""`growtool schema`: JSON schemas of the files that growtool reads, for editors."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from growtool.cli.console import emit_json


def schema(
    of: Annotated[
        Literal["plan", "run", "schedule", "protocol"],
        typer.Argument(metavar="KIND", help="The kind of file; run is for --config and config.yaml."),
    ],
) -> None:
    """Print the JSON schema of a kind of file, by which editors check and complete what is written.

    Save it, and begin a file with this line, which VS Code (YAML extension) and others read:

    # yaml-language-server: $schema=plan.schema.json
    """
    from growtool.finetune.options.merging import RESOLVED
    from growtool.finetune.options.settings import Settings
    from growtool.plan.json_schema import json_schema
    from growtool.plan.schema import Plan
    from growtool.plan.section import Section
    from growtool.workflows.protocol.file import Protocol
    from growtool.workflows.schedule.file import Schedule

    roots: dict[str, type[Section]] = {
        "plan": Plan,
        "run": Settings,
        "schedule": Schedule,
        "protocol": Protocol,
    }
    emit_json(json_schema(roots[of], ignored={RESOLVED: "What a run came to; no options."} if of == "run" else None))
