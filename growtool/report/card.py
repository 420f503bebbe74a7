"""The model card of a grown checkpoint: what it is, how to load it, what growing did.

Neither dates nor the place it is written to: equal inputs give an equal card.
"""

from __future__ import annotations

from collections.abc import Sequence

from growtool.checkpoint.beside import card_of_form
from growtool.hub.repository import Origin
from growtool.library import Library, ModelSpec, library_of


def model_card(
    *,
    source: str,
    target: ModelSpec,
    promise: str,
    measured: str | None,
    rows: Sequence[tuple[str, str, str]],
    plan_text: str,
    growth: Sequence[str] = (),
    license: str | None = None,
    in_templates: bool = False,
    origin: Origin | None = None,
    new_blocks: bool = False,
    picture: str = "",
) -> str:
    """The text of `README.md`.

    Args:
        source: the checkpoint that was grown, as its owner named it.
        target: the model of the result.
        promise: what the operators promise of the function.
        measured: what the check after writing found; None where the plan switched it off.
        rows: label, value before, value after; parameters, MACs and the like.
        plan_text: the plan as it was given.
        growth: one sentence for each thing that growing did.
        license: as the source's settings have it, where it does.
        in_templates: whether the weights are stored as templates and coefficients.
        origin: where the checkpoint that was grown comes from, if it was named.
        new_blocks: whether growing added blocks, which may be trained alone.
        picture: of what growing did, a file beside the card.
    """
    library = library_of(target)
    architecture = library.kind(target)
    parts = [
        _front_matter(library, license, origin),
        f"# {architecture}, grown\n\nA `{architecture}` of {library.name}, grown from {_linked(source, origin)} with "
        "growtool.",
        f"## Loading\n\n{library.loading_text(target)}",
        *(_training(text) for text in [library.training_text(target)] if new_blocks and text),
        _growth(growth, promise=promise, measured=measured, picture=picture),
        _table(rows),
        f"## Plan\n\n```yaml\n{plan_text.strip()}\n```",
    ]
    return card_of_form("\n\n".join(parts), in_templates=in_templates)


def _linked(source: str, origin: Origin | None) -> str:
    return f"`{source}`" if origin is None else f"`{origin.repository}` at commit `{origin.commit}`"


def _front_matter(library: Library, license: str | None, origin: Origin | None) -> str:
    from huggingface_hub import ModelCardData

    tags = ["growtool", *library.tags]
    told = ModelCardData(
        library_name=library.name,
        tags=tags,
        license=license or None,
        base_model=origin.repository if origin else None,
    )
    return f"---\n{told}\n---"


def _training(text: str) -> str:
    return f"## Training the new blocks alone\n\nThe old blocks stay as they are (LLaMA Pro, arXiv 2401.02415). {text}"


def _growth(growth: Sequence[str], *, promise: str, measured: str | None, picture: str) -> str:
    lines = [*growth, f"Promised: {promise}", f"Measured: {measured or 'not checked, the plan says `verify: false`'}"]
    listed = "\n".join(f"- {line}" for line in lines)
    drawn = f"![Blocks and widths, and what growing made of the source]({picture})\n\n" if picture else ""
    full = "`growth.json` holds the full report: hashes, seed, versions, every tensor."
    return f"## What growing did\n\n{listed}\n\n{drawn}{full}"


def _table(rows: Sequence[tuple[str, str, str]]) -> str:
    lines = ["| | before | after |", "|---|---:|---:|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "## Size\n\n" + "\n".join(lines)
