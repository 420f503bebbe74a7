"""From the results of a sweep to the facts that growtool packages and docs/zoo.md shows."""

from __future__ import annotations

import datetime
import os
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from growtool.report.zoo import Outcome, Proof, Zoo

from .attempt import best
from .models import EXAMPLES, SMALLEST, VARIANTS, Example

Results = Mapping[str, Mapping[str, Any]]

_REASON = 240  # characters


def facts(results: Results, kept: Zoo, comparison: Mapping[str, Mapping[str, Any]]) -> Zoo:
    """The facts: of a model without results those that were kept of it; one without either is left out."""
    known = {proof.model: proof for proof in (*kept.families, *kept.variants)}
    known |= {each.label: _proof(each, results[each.label]) for each in EXAMPLES if each.label in results}
    families, variants = (
        tuple(known[example.label] for example in examples if example.label in known)
        for examples in (SMALLEST, VARIANTS)
    )
    return Zoo(families, variants, _circumstances(), comparison)


def to_json(zoo: Zoo) -> dict[str, Any]:
    """Plain data, which `read_zoo` reads."""
    return asdict(zoo)


def _proof(example: Example, record: Mapping[str, Any]) -> Proof:
    trace = record.get("trace", {})
    permutation = record.get("permutation", {})
    return Proof(
        family=example.family,
        architecture=example.architecture,
        model=example.label,
        parameters=trace.get("parameters", 0),
        trace_seconds=trace.get("seconds", 0.0),
        unknown=tuple(trace.get("unknown", ())),
        groups=trace.get("groups", 0),
        free=trace.get("free", 0),
        growable=trace.get("growable", 0.0),
        permutation=_rounded(permutation.get("error")),
        lone_tried=permutation.get("tried", 0),
        lone_detected=permutation.get("detected", 0),
        width=_outcome(record.get("width", []), record),
        depth=_outcome(record.get("depth", []), record),
        singly=dict(Counter(made["verdict"] for made in record.get("singly", []))),
        seconds=record.get("seconds", 0.0),
        problem=record.get("problem", ""),
    )


def _outcome(attempts: list[dict[str, Any]], record: Mapping[str, Any]) -> Outcome:
    found = best(attempts)
    if found is None:
        return Outcome("unmeasured", reason=record.get("problem", "out of time"))
    return Outcome(
        verdict=found["verdict"],
        operator=found["operator"],
        how=found["how"],
        target=found["target"],
        args=tuple(found["args"]),
        native=found["native"],
        error=_rounded(found["error"]),
        growth=found["growth"],
        reason="" if found["verdict"] == "exact" else _reason(found),
    )


def _reason(attempt: Mapping[str, Any]) -> str:
    """The reasons in one line, cut where they go on and on."""
    lines = (line.strip() for reason in attempt["reasons"] for line in reason.splitlines())
    shown = "; ".join(line for line in lines if not line.endswith(" as asked:"))
    return shown if len(shown) <= _REASON else shown[:_REASON].rsplit(" ", 1)[0].rstrip(";,") + " ..."


def _rounded(error: float | None) -> float | None:
    return None if error is None else float(f"{error:.1e}")


def _circumstances() -> dict[str, str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    packages = ", ".join(f"{name} {version(name)}" for name in ("growtool", "timm", "torch"))
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} {platform.machine()} cores, {memory:.0f} GB of memory, one thread per model",
        "versions": f"{packages}, Python {platform.python_version()}",
    }
