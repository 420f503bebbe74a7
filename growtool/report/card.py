"""The model card of a grown checkpoint: what it is, how to load it, what growing did.

It holds neither dates nor paths: equal inputs give an equal card.
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
    """Return the text of `README.md`.

    Args:
        source: name of the checkpoint that was grown.
        target: the model of the result.
        promise: what growing keeps, in words.
        measured: what the proof found; None if the plan switched it off.
        rows: label, value before and value after of parameters, MACs and the like.
        plan_text: the plan that was carried out.
        growth: one sentence for each thing that growing did.
        license: the license of the source, if its settings name one.
        in_templates: whether the weights are stored as templates and coefficients.
        origin: repository and commit of the source, if it was named and not a path.
        new_blocks: whether growing added blocks, which may be trained alone.
        picture: name of a picture of the growth beside the card, empty if there is none.
    """
    library = library_of(target)
    architecture, training = library.kind(target), library.training_text(target)
    parts = [
        _front_matter(library, license, origin),
        f"# {architecture}, grown\n\nA `{architecture}` of {library.name}, grown from {_linked(source, origin)} with "
        "growtool.",
        f"## Loading\n\n{library.loading_text(target)}",
        *([_training(training)] if new_blocks and training else []),
        _growth(growth, promise=promise, measured=measured, picture=picture),
        _table(rows),
        f"## Plan\n\n```yaml\n{plan_text.strip()}\n```",
    ]
    return card_of_form("\n\n".join(parts), in_templates=in_templates)


def _linked(source: str, origin: Origin | None) -> str:
    return f"`{source}`" if origin is None else f"`{origin.repository}` at commit `{origin.commit}`"


def _front_matter(library: Library, license: str | None, origin: Origin | None) -> str:
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        library_name=library.name,
        tags=["growtool", *library.tags],
        license=license or None,
        base_model=origin.repository if origin else None,
    )
    return f"---\n{data}\n---"


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
