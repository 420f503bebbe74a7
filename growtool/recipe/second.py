"""The second checkpoint of a plan, which grows together with the first: another file, or the first's mirror image."""

from __future__ import annotations

import contextlib

from growtool.checkpoint import Checkpoint, open_checkpoint
from growtool.checkpoint.match import matched
from growtool.errors import CheckpointError, PlanError, format_names
from growtool.images import other_classes
from growtool.plan.schema import MIRROR, Plan
from growtool.recipe.mirror import mirror_image
from growtool.recipe.traced_model import TracedModel


def second_source(plan: Plan, checkpoint: Checkpoint, source: TracedModel) -> Checkpoint | None:
    """Return the plan's second checkpoint, or None if it names none.

    Args:
        plan: names it.
        checkpoint: the first one.
        source: the first one's model.

    Raises:
        CheckpointError: the second cannot be read.
        PlanError: the second holds another model or other classes than the first, or the first has no mirror image.
    """
    if plan.second is None:
        return None
    if plan.second == MIRROR:
        return mirror_image(checkpoint, source)
    spec = checkpoint.spec
    second = open_checkpoint(
        plan.second,
        architecture=plan.model,
        model_args=plan.model_args,
        otherwise=spec,
        counting=checkpoint.origin is not None and checkpoint.origin.commit is None,
    )
    if _shapes(second) != _shapes(checkpoint):
        with contextlib.suppress(CheckpointError):  # what is wrong shows below
            second = matched(second)
    first, other = _shapes(checkpoint), _shapes(second)
    if second.spec.architecture != spec.architecture or first != other:
        different = sorted(name for name in first.keys() | other.keys() if first.get(name) != other.get(name))
        raise PlanError(
            f"second: {second.name} holds {second.spec.architecture}, expected {spec.architecture} with the shapes of "
            f"{checkpoint.name}" + (f"; {format_names(different)} differ" if different else "")
        )
    if difference := other_classes(spec.label_names, second.spec.label_names):
        raise PlanError(
            f"second: {second.name}: {difference} as in {checkpoint.name} (label_names in config.json), as their "
            "logits are averaged; name a checkpoint of the same classes in the same order"
        )
    return second


def _shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    return {name: info.shape for name, info in checkpoint.tensors.items()}
