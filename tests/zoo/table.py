"""The facts as a page: docs/zoo.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from growtool.report import units
from growtool.report.zoo import Outcome, Proof, Zoo

from .proofs import TOLERANCE

_SELDOM = ("net2net", "mixture", "net2deeper")  # operators that are named beside a result, others being the rule

_INTRODUCTION = """\
# The zoo: growtool on all of timm's model files

growtool has no list of architectures. It traces a model's forward pass and finds out which axes carry the same
channels, which constructor arguments make it wider or deeper, and whether the grown model will compute the same
function. This page is the evidence: the smallest model of each of timm's model files, and variants of the most used
families. Every parameter and buffer is random and in float64; nothing is downloaded.
"""

_LEGEND = """\
## How to read the tables

- **trace**: seconds of processor time for one trace. Operations that growtool does not know would be named here.
- **groups**: width groups that may grow, of all that were found. The others are kernel positions, the image's channels,
  the classes, and what the model ties to a place (relative positions, rotary embeddings, ...).
- **growable**: share of the parameters of which every axis may grow, save for those of kernel, image and classes.
- **permutation**: relative difference of the outputs after *all* free groups were put in a random order, each group
  consistently over all its tensors. Then the opposite: of so many groups, how often the outputs changed when a single
  tensor was permuted alone.
- **width**: grown by two with `tile` (`net2net` or `mixture` where a width is no whole multiple) and built by timm from
  its arguments; where that is refused or lossy, by arguments written down in tests/zoo/models.py, or to a larger
  registered model. **depth**: twice as many blocks with `zero_out`, or one more in each stage or in some of them
  (`net2deeper` where there is no residual stream).
  - *exact*: growtool promised the same function, and source and grown model differ by at most {tolerance:g}; the
    factor is that of the parameters.
  - *exact up to eps*: growtool promised this, with how much the eps of norms matters, and they differ by less than
    1e-5.
  - *lossy*: growtool says before writing anything that the function changes, and why.
  - *refused*: growtool says before writing anything that it cannot be done, and why.
- **singly**: every number of the constructor was doubled on its own, in part of the rows every switch turned too; of
  the growths that growtool did not refuse, how many it promised to be exact, and were, and how many it said to be
  lossy, and were.
  *needless lossy*: the outputs were equal although it did not promise so. *unmeasured*: what changed has no parameters
  that decide the outputs.
- **reached by**: the constructor arguments or the registered model that took it there, width first.
- **loads**: `timm` if timm alone loads the result, `import growtool` if growtool has to be imported first.
- **s**: seconds for all of this.
"""


def page(zoo: Zoo) -> str:
    """The whole page."""
    parts = [
        _INTRODUCTION,
        _circumstances(zoo),
        "## Totals\n",
        _totals(zoo),
        _comparison(zoo),
        _LEGEND.format(tolerance=TOLERANCE),
        "## One model of each model file\n",
        _table(zoo.families, named="model file"),
        "## Variants of the most used families\n",
        _table(zoo.variants, named="model file"),
        "## What is not exact, and why\n",
        _reasons((*zoo.families, *zoo.variants)),
    ]
    return "\n".join(part for part in parts if part)


def _circumstances(zoo: Zoo) -> str:
    c = zoo.circumstances
    made = f"Made by `make zoo` on {c['date']}: {c['versions']}; {c['machine']}."
    return (
        f"{made} A row stays until it is measured again, so rows may be older than the code; `--fresh` measures all.\n"
    )


def _totals(zoo: Zoo) -> str:
    groups = {"model files": zoo.families, "variants": zoo.variants}
    rows = [["", *groups]]
    tests = {
        "models": lambda p: True,
        "traced, every operation known": lambda p: p.groups > 0 and not p.unknown,
        "traced in under 5 s": lambda p: 0 < p.trace_seconds < 5,
        f"permutation proven to {TOLERANCE:g}": _permutation_holds,
        "every lone permutation showed": lambda p: p.lone_tried > 0 and p.lone_detected == p.lone_tried,
    }
    for title, holds in tests.items():
        rows.append([title, *(str(sum(map(holds, proofs))) for proofs in groups.values())])
    for axis in ("width", "depth"):
        verdicts = [Counter(getattr(p, axis).verdict for p in proofs) for proofs in groups.values()]
        for verdict in ("exact", *sorted(set().union(*verdicts) - {"exact"}), "FALSE PROMISE"):
            row = [f"{axis}: {verdict}", *(str(count[verdict]) for count in verdicts)]
            rows += [row] if row not in rows else []
        natives = [
            sum(getattr(p, axis).verdict == "exact" and getattr(p, axis).native for p in proofs)
            for proofs in groups.values()
        ]
        rows.append([f"{axis}: exact, and timm alone loads the result", *map(str, natives)])
    for verdict in sorted({v for proofs in groups.values() for p in proofs for v in p.singly} | {"FALSE PROMISE"}):
        counts = (sum(p.singly.get(verdict, 0) for p in proofs) for proofs in groups.values())
        rows.append([f"one argument changed: {verdict}", *map(str, counts)])
    return _markdown(rows, right_from=1)


def _permutation_holds(proof: Proof) -> bool:
    return proof.permutation is not None and proof.permutation <= TOLERANCE


def _comparison(zoo: Zoo) -> str:
    lines = []
    for program, found in zoo.comparison.items():
        counts = "; ".join(f"{title}: {count}" for title, count in found["counts"].items())
        lines.append(f"**{program}** on the same list, by `{found['command']}`: {counts}. {found['remark']}\n")
    return "## In comparison\n\n" + "\n".join(lines) if lines else ""


def _table(proofs: Iterable[Proof], *, named: str) -> str:
    rows = [[
        named, "model", "trace", "groups", "growable", "permutation", "width", "depth", "reached by", "loads",
        "singly", "s",
    ]]  # fmt: skip
    for p in proofs:
        rows.append(
            [
                p.family,
                f"{p.model}, {units.count(p.parameters)}",
                f"{p.trace_seconds:.1f}" + "".join(f" {name}" for name in p.unknown),
                f"{p.free}/{p.groups}",
                f"{p.growable:.1%}",
                _permutation(p),
                outcome_text(p.width),
                outcome_text(p.depth),
                "; ".join(o.reached for o in (p.width, p.depth) if o.reached),
                _loads(p),
                ", ".join(f"{count} {verdict}" for verdict, count in sorted(p.singly.items())),
                f"{p.seconds:.0f}",
            ]
        )
    return _markdown(rows)


def _permutation(proof: Proof) -> str:
    if proof.permutation is None:
        return proof.problem or "not run"
    return f"{proof.permutation:.0e}, {proof.lone_detected}/{proof.lone_tried}"


def outcome_text(outcome: Outcome) -> str:
    """`exact x3.9 (4e-16)`, `lossy (2e-01)`, `refused`."""
    if outcome.verdict == "refused":
        return "refused"
    growth = f" ×{outcome.growth:.3g}" if outcome.growth else ""
    error = f" ({outcome.error:.0e})" if outcome.error is not None else ""
    seldom = outcome.verdict.startswith("exact") and outcome.operator in _SELDOM
    other = f", {outcome.operator}" if seldom else ""
    return f"{outcome.verdict}{growth}{error}{other}"


def _loads(proof: Proof) -> str:
    reached = [o for o in (proof.width, proof.depth) if o.verdict != "refused" and o.target]
    if not reached:
        return "-"
    return "timm" if all(o.native for o in reached) else "import growtool"


def _reasons(proofs: Iterable[Proof]) -> str:
    rows = [["model", "axis", "verdict", "reason"]]
    for p in proofs:
        for axis, found in (("width", p.width), ("depth", p.depth)):
            if found.verdict != "exact":
                rows.append([p.model, axis, found.verdict, found.reason])
    return _markdown(rows)


def _markdown(rows: Sequence[Sequence[str]], *, right_from: int | None = None) -> str:
    marks = ["---:" if right_from is not None and i >= right_from else "---" for i in range(len(rows[0]))]
    lines = [rows[0], marks, *rows[1:]]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines) + "\n"
