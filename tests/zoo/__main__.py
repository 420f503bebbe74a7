"""Prove growtool over all of timm's model files and write docs/zoo.md.

    python -m tests.zoo [--only NAME ...] [--fresh] [--part K/N] [--jobs N] [--singly SECONDS] [--table]
    python -m tests.zoo --numbers [--only NAME ...]

Results are kept in runs/zoo.jsonl; models found there are skipped unless `--fresh` or `--only` is given. The page is
written once all have results; those of growtool's package count for models that have no others. The exit code is 1
where what was just measured holds a false promise.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

from growtool.report import zoo as packaged

from .attempt import best
from .facts import facts, to_json
from .models import EXAMPLES
from .numbers import MODELS, report
from .sweep import SINGLY, of_part, options, promised_falsely, read_results, sweep, unmeasured
from .table import page

RESULTS = Path("runs/zoo.jsonl")
FACTS = Path(packaged.__file__).with_name(packaged.FACTS)
PAGE = Path("docs/zoo.md")
COMPARISON = Path("runs/zoo_comparison.json")  # written by tests/bench/depgraph.py


def main() -> None:
    """Measure what is missing, then write the table."""
    parser = options("python -m tests.zoo", __doc__, "families or architectures", "small models")
    parser.add_argument("--singly", type=float, default=SINGLY, help="seconds a model for its arguments one by one")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    os.nice(10)
    if arguments.numbers:
        chosen = [e for e in MODELS if not arguments.only or {e.family, e.architecture} & set(arguments.only)]
        for line in report(chosen):
            print(line, flush=True)
        return
    RESULTS.parent.mkdir(exist_ok=True)
    wrong = 0
    if not arguments.table:
        done = set() if arguments.fresh or arguments.only else set(read_results(RESULTS))
        wanted = [
            e
            for e in of_part(EXAMPLES, arguments.part)
            if e.label not in done and (not arguments.only or {e.family, e.architecture} & set(arguments.only))
        ]
        for count, record in enumerate(sweep(wanted, RESULTS, jobs=arguments.jobs, singly=arguments.singly), 1):
            wrong += promised_falsely(record)
            print(f"{count}/{len(wanted)} {summary(record)}", file=sys.stderr, flush=True)
    kept = packaged.read_zoo()
    if not unmeasured(EXAMPLES, RESULTS, {proof.model for proof in (*kept.families, *kept.variants)}):
        publish(kept)
    sys.exit(wrong > 0)


def publish(kept: packaged.Zoo) -> None:
    """Write the facts that growtool packages, and the page made of them."""
    comparison = json.loads(COMPARISON.read_text()) if COMPARISON.exists() else kept.comparison
    zoo = facts(read_results(RESULTS), kept, comparison)
    FACTS.write_text(json.dumps(to_json(zoo), indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(packaged.read_zoo()))


def summary(record: dict) -> str:
    """One line on one model."""
    parts = [record["label"], f"{record.get('seconds', 0):.0f} s"]
    if "permutation" in record:
        found = record["permutation"]
        parts.append(f"permutation {found['error']:.0e}, {found['detected']}/{found['tried']}")
    for axis in ("width", "depth"):
        attempt = best(record.get(axis, []))
        if attempt:
            error = "" if attempt["error"] is None else f" {attempt['error']:.0e}"
            parts.append(f"{axis} {attempt['verdict']}{error}")
    parts += [record["problem"]] if "problem" in record else []
    return ", ".join(parts)


if __name__ == "__main__":
    main()
