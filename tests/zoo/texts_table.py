"""docs/transformers.md: what was proven on transformers' families, and on every type with a language model."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from typing import Any

from tests.support.transformers_families import FAMILIES

_HEAD = """# transformers: what grows

growtool takes checkpoints of transformers (`pip install "growtool[transformers]"`) as it takes timm's: it knows no
architecture, it traces the forward pass. This page is the evidence. Every number of a model is random and in float64,
and transformers builds both models. Width means twice the width by `tile`, depth twice the blocks by `zero_out`.
`exact` was promised and measured (to 1e-9); `lossy` and `refused` were said before anything was written.

`python -m tests.zoo.texts --fresh` makes this page. `python -m tests.zoo.texts --numbers` changes each number and each
switch of twenty families alone, and looks for promises that are false.
"""
_SHOWN = 160
_VERDICTS = ("exact", "exact up to eps", "needless lossy", "lossy", "refused", "unmeasured", "crash", "FALSE PROMISE")


def page(examples: Sequence[Any], results: Mapping[str, Mapping[str, Any]]) -> str:
    """The page, in Markdown.

    Args:
        examples: all that should be there, in order.
        results: the record of each, by label.
    """
    families = [results[name] for name in FAMILIES if name in results]
    types = [results[e.label] for e in examples if e.label not in FAMILIES and e.label in results]
    machine = f"{os.cpu_count()} {platform.machine()} cores, Python {platform.python_version()}"
    versions = ", ".join(f"{name} {version(name)}" for name in ("growtool", "transformers", "torch"))
    return "\n".join(
        [
            _HEAD,
            f"Measured on {date.today()}: {versions}; {machine}.",
            "\n## Families\n",
            *_table(families),
            "\n## Every type with a causal or masked language model\n",
            "One generic small configuration for all, or the first of a few variations of it that grows: as many heads "
            "of keys\nas of queries, other sizes of heads and of what is rotated in them, four blocks in place of two. "
            "What runs with none of\nthem says nothing of growtool.\n",
            *_totals(types),
            "",
            *_table([record for record in types if "problem" not in record]),
            "\n### Not run\n",
            *(f"- {r['label']}: {_short(r['problem'])}" for r in types if "problem" in r),
            "",
        ]
    )


def _totals(records: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    ran = [record for record in records if "problem" not in record]
    counted = {axis: Counter(record[axis]["verdict"] for record in ran) for axis in ("width", "depth")}
    yield "|  | width | depth |\n| --- | ---: | ---: |"
    yield f"| types that ran, of {len(records)} | {len(ran)} | {len(ran)} |"
    for verdict in _VERDICTS:
        yield f"| {verdict} | {counted['width'][verdict]} | {counted['depth'][verdict]} |"


def _table(records: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    yield "| model | width | arguments | depth | arguments | reason |\n| --- | --- | --- | --- | --- | --- |"
    for record in records:
        if "problem" in record:
            yield f"| {record['label']} | not run |  |  |  | {_short(record['problem'])} |"
            continue
        cells = [part for axis in ("width", "depth") for part in _cells(record[axis])]
        found = [record[axis] for axis in ("width", "depth") if _says(record[axis])]
        why = "; ".join(dict.fromkeys(_short("; ".join(made["reasons"])) for made in found))
        yield f"| {record['label']} | {' | '.join(cells)} | {why} |"


def _cells(made: Mapping[str, Any]) -> tuple[str, str]:
    error = "" if made["error"] is None else f" ({made['error']:.0e})"
    return f"{made['verdict']}{error}", ", ".join(f"`{name}`" for name in made["args"])


def _says(made: Mapping[str, Any]) -> bool:
    return made["verdict"] != "exact" and bool(made["reasons"])


def _short(text: str) -> str:
    plain = " ".join(text.replace("|", "/").split())
    shown = plain if len(plain) <= _SHOWN else f"{plain[:_SHOWN]} ..."
    return shown.replace("[", "\\[")  # else it is a reference
