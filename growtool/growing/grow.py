"""Growing a checkpoint by a recipe: the weights are made and written, proven, and appear with their documents."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from growtool.algebra.memory import given_back
from growtool.checkpoint import CONFIG, ModelSpec, Stored, open_checkpoint
from growtool.checkpoint.beside import CARD, PICTURE, PLAN, REPORT, companions
from growtool.checkpoint.folder import (
    is_single_file,
    json_text,
    refuse_existing,
    spare_source,
    write_file,
    write_folder,
)
from growtool.errors import PlanError
from growtool.finetune.optimizer_files import write_state
from growtool.finetune.optimizer_state import OptimizerState
from growtool.growing.execute import produce, unchanged
from growtool.growing.gradients import steepest
from growtool.growing.learning import learned, learns
from growtool.growing.optimizer import GrownState, grow_state
from growtool.growing.proof import Proof, prove
from growtool.growing.report import (
    card_text,
    known_before,
    picture,
    report_text,
    sizes,
    target_with_lineage,
)
from growtool.growing.statistics import Remark, recalibrated
from growtool.growing.summary import Summary, summarise
from growtool.library.building import shared_names
from growtool.library.layout import Writing
from growtool.notebook import as_html, shown
from growtool.plan import LoadedPlan
from growtool.recipe import Recipe
from growtool.recipe.choosing.consent import require_consent
from growtool.verify import CPU


@dataclass(frozen=True, slots=True)
class Grown:
    """A grown checkpoint.

    Attributes:
        out: the folder or file it was written to.
        summary: the recipe in figures.
        proof: what running source and target showed; None if the plan switched that off.
        report: the text of `growth.json`.
        picture: an SVG element of the target's blocks and widths, and of what growing made of the source.
        optimizer: the grown state of the source's optimizer; None if there was none to grow.
    """

    out: Path
    summary: Summary
    proof: Proof | None
    report: str = field(repr=False)
    picture: str = field(repr=False)
    optimizer: GrownState | None = None

    def _repr_html_(self) -> str:
        facts = {
            "promise": "; ".join((self.summary.promise, *self.summary.reasons)),
            "verified": str(self.proof) if self.proof else "no",
        }
        told = [(line,) for line in self.summary.growth()]
        tables = (("", "source", "grown"), sizes(self.summary)), (("what grows",), told)
        return as_html(str(self.out), facts, *tables) + self.picture


@given_back()
def grow(
    recipe: Recipe,
    loaded: LoadedPlan,
    out: str | Path,
    *,
    force: bool = False,
    summary: Summary | None = None,
    optimizer: OptimizerState | None = None,
    device: torch.device = CPU,
    advance: Callable[[int], None] | None = None,
    told: Remark = lambda line: None,
) -> Grown:
    """Write the grown checkpoint; it appears once it is proven.

    Args:
        recipe: from `resolve`.
        loaded: the plan as read. A copy is written beside the output, with what growtool chose where the plan leaves
            something open, so that growing by the copy gives the same again.
        out: a folder, or a `.safetensors` file that carries its spec.
        force: whether to replace an older output.
        summary: from `summarise`, if the caller has it.
        optimizer: the state of the source's optimizer, which grows with the weights and is written beside them.
        device: runs both models for the proof; weights are made on the CPU.
        advance: told the bytes of each tensor written; None shows a bar in a notebook.
        told: hears that the proof begins, and what the user should know of the images.

    Raises:
        PlanError: the plan loses the function by accident and does not allow that, the output exists, the disk has no
            room, or the optimizer's state cannot grow.
        CheckpointError: the proof failed; nothing is left behind.
    """
    out = Path(out)
    with loaded.placing_problems():
        require_consent(recipe)
    loaded = loaded.with_plan(recipe.plan, recipe.choices)
    refuse_existing(out, force=force)
    spare_source(out, recipe.source)
    _require_room(out, _bytes(recipe))
    _require_one_file(recipe, out)
    carried = _carried(recipe, optimizer, out)
    summary = summary or summarise(recipe)
    recipe.source.hash_ahead()  # the lineage in the config has the hash; it is computed while tensors are made
    growth = _Growth(recipe, loaded, summary, carried, device, told)
    bar = nullcontext(advance) if advance else shown("growing", _bytes(recipe), unit="B", unit_scale=True)
    with bar as advanced:
        ready: dict[str, Tensor | Stored] = {**unchanged(recipe), **_from_images(recipe, told)}
        growth.write(out, produce(recipe, advanced, ready), force=force)
    return Grown(out, summary, growth.proof, growth.report, growth.drawn, carried)


@dataclass
class _Growth:
    """One growth while it is written: the documents beside its weights, and what the proof found.

    Attributes:
        drawn: the picture.
        proof: None until the weights are written, and if the plan switched the proof off.
        report: the text of `growth.json`; empty until the weights are written.
    """

    recipe: Recipe
    loaded: LoadedPlan
    summary: Summary
    carried: GrownState | None
    device: torch.device
    told: Remark
    proof: Proof | None = None
    report: str = ""

    def __post_init__(self) -> None:
        self._known = known_before(self.recipe, self.summary)
        self.drawn = picture(self.recipe, self._known)

    def write(self, out: Path, tensors: Iterator[Tensor | Stored], *, force: bool) -> None:
        """Write the weights, prove them, and let them appear with their documents."""
        recipe, model = self.recipe, self.recipe.models[1]
        metadata = {"growtool_plan_sha256": self.loaded.sha256, "growtool_seed": str(recipe.plan.seed)}
        metadata |= recipe.form.form.metadata() if recipe.form and recipe.in_templates else {}
        if is_single_file(out):
            write_file(
                out,
                target_with_lineage(recipe, self.loaded),
                recipe.infos,
                tensors,
                model=model,
                metadata=metadata,
                writing=_writing(recipe),
                check=self._proven,
                force=force,
            )
        else:
            write_folder(
                out,
                recipe.target,
                recipe.infos,
                tensors,
                model=model,
                documents=self._documents,
                metadata=metadata,
                writing=_writing(recipe),
                limit=recipe.plan.output.max_shard_size,
                beside=companions(recipe.source),
                force=force,
            )

    def _proven(self, weights: Path) -> ModelSpec:
        """Prove the written weights, and return the target's spec with what was found.

        Raises:
            CheckpointError, PlanError: the proof failed, as `prove` tells.
        """
        recipe, verify = self.recipe, self.recipe.plan.verify
        if verify is not None:
            self.told(f"verifying on {verify.inputs} random {recipe.library.words.many}")
        self.proof = prove(recipe, open_checkpoint(weights), self.device)
        measured = target_with_lineage(recipe, self.loaded, verified=str(self.proof) if self.proof else "not verified")
        self.report = report_text(recipe, self.loaded, self._known, self.proof, measured, self.carried)
        return measured

    def _documents(self, folder: Path) -> Mapping[str, str]:
        """Prove the weights in a folder that has yet to appear, and return the documents that go into it."""
        measured = self._proven(folder)
        if self.carried is not None:
            write_state(folder, self.carried.state)
        return {
            CONFIG: json_text(self.recipe.library.config(measured, self.recipe.models[1])),
            REPORT: self.report,
            CARD: card_text(self.recipe, self.loaded, self.summary, self.proof),
            PICTURE: self.drawn,
            PLAN: self.loaded.text,
        }


def _writing(recipe: Recipe) -> Writing | None:
    """Return how to write the target under names such as the source's file has; None if these are the model's."""
    reading = recipe.source.reading
    if reading is None or recipe.in_templates:
        return None
    source_name = recipe.matching.blocks.source_name
    state = recipe.models[1].state_dict(keep_vars=True)
    # A name that the source's file lacks, as its tensor stands there under another name, is dropped, if the target has
    # that other name for the same tensor, too.
    tied = {name for names in shared_names(state) for name in names if source_name(name) in reading.tied}
    written = {id(tensor) for name, tensor in state.items() if name not in tied}
    return recipe.library.writing(recipe.models[1], reading, [name for name in tied if id(state[name]) in written])


def _from_images(recipe: Recipe, told: Remark) -> Mapping[str, Tensor]:
    """Return the tensors that images decide: all that learning makes, or weights of new units and statistics."""
    if learns(recipe) is not None:
        return learned(recipe, told)
    weights = steepest(recipe, told) if recipe.measured else {}
    return {**weights, **(recalibrated(recipe, weights, told) if recipe.plan.recalibrate else {})}


def _carried(recipe: Recipe, optimizer: OptimizerState | None, out: Path) -> GrownState | None:
    """Return the grown state of the optimizer, if there is one; raise PlanError if it cannot grow or has no place."""
    if optimizer is None:
        return None
    if is_single_file(out):
        raise PlanError(
            f"{out}: a single file has no place for the optimizer's state; write a folder, or grow without the state "
            "(--no-optimizer-state)"
        )
    return grow_state(recipe, optimizer)


def _require_one_file(recipe: Recipe, out: Path) -> None:
    """Check that something would load the shards that the plan asks for; raise PlanError if not."""
    limit = recipe.plan.output.max_shard_size
    if limit is not None and (is_single_file(out) or not recipe.library.loads_shards):
        why = f"{out} is one file" if is_single_file(out) else f"{recipe.library.name} loads no shards"
        raise PlanError(f"output.max_shard_size: found {limit}, and {why}; leave it out")


def _bytes(recipe: Recipe) -> int:
    return sum(info.nbytes for info in recipe.infos.values())


def _require_room(out: Path, needed: int) -> None:
    """Check that the disk has room for `needed` bytes; raise PlanError if not."""
    parent = next(p for p in out.resolve().parents if p.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise PlanError(
            f"{out}: {needed:,} bytes to write, {free:,} free on that disk; free some space or choose another"
        )
