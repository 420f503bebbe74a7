"""The model card of a grown checkpoint: what it is, how to load it, what growing did.

Neither dates nor the place it is written to: equal inputs give an equal card.
"""

from __future__ import annotations

from collections.abc import Sequence

from growtool.checkpoint.card import card_of_form

_LOADING = """\
## Loading

From inside this folder, or with its path in place of the dot:

```python
{imports}

model = timm.create_model("local-dir:.", pretrained=True)
```

Without `pretrained=True` timm builds the model with random weights and says nothing."""

TAGS = ("growtool", "image-classification", "timm")


def model_card(
    *,
    source: str,
    architecture: str,
    needs: str | None = None,
    promise: str,
    measured: str | None,
    rows: Sequence[tuple[str, str, str]],
    plan_text: str,
    growth: Sequence[str] = (),
    license: str | None = None,
    in_templates: bool = False,
) -> str:
    """The text of `README.md`.

    Args:
        source: the checkpoint that was grown, as its owner named it.
        architecture: the timm model of the result.
        needs: the module to import before timm can load the result, where timm alone cannot.
        promise: what the operators promise of the function.
        measured: what the check after writing found; None where the plan switched it off.
        rows: label, value before, value after; parameters, MACs and the like.
        plan_text: the plan as it was given.
        growth: one sentence for each thing that growing did.
        license: as the source's `pretrained_cfg` has it, where it does.
        in_templates: whether the weights are stored as templates and coefficients.
    """
    parts = [
        _front_matter(license),
        f"# {architecture}, grown\n\nA `{architecture}` of timm, grown from `{source}` with growtool.",
        _LOADING.format(imports=f"import {needs}\nimport timm" if needs else "import timm"),
        _growth(growth, promise=promise, measured=measured),
        _table(rows),
        f"## Plan\n\n```yaml\n{plan_text.strip()}\n```",
    ]
    return card_of_form("\n\n".join(parts), in_templates=in_templates)


def _front_matter(license: str | None) -> str:
    from huggingface_hub import ModelCardData

    return f"---\n{ModelCardData(library_name='timm', tags=list(TAGS), license=license or None)}\n---"


def _growth(growth: Sequence[str], *, promise: str, measured: str | None) -> str:
    lines = [*growth, f"Promised: {promise}", f"Measured: {measured or 'not checked, the plan says `verify: false`'}"]
    listed = "\n".join(f"- {line}" for line in lines)
    return (
        f"## What growing did\n\n{listed}\n\n`growth.json` holds the full report: hashes, seed, versions, every tensor."
    )


def _table(rows: Sequence[tuple[str, str, str]]) -> str:
    lines = ["| | before | after |", "|---|---:|---:|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "## Size\n\n" + "\n".join(lines)
