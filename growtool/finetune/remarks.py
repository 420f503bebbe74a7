"""What became of options that this checkpoint could honour only in part; said before the first update."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from growtool.finetune.adapters import LowRank

if TYPE_CHECKING:
    from growtool.finetune.config import RunConfig
    from growtool.finetune.loop import Trainer


def remarks(config: RunConfig, trainer: Trainer, carried: int) -> Iterator[str]:
    """One sentence for each option that does less than its value says.

    Args:
        config: of the run.
        trainer: as it stands before the first update.
        carried: parameters whose optimizer state was taken over.
    """
    ranks = [module.up.shape[1] for module in trainer.model.modules() if isinstance(module, LowRank)]
    if smaller := [rank for rank in ranks if rank < config.lora_rank]:
        yield (
            f"--lora-rank {config.lora_rank}: {len(smaller)} of {len(ranks)} adapters have a smaller one, down to "
            f"{min(smaller)}, half of the smaller side of their matrices"
        )
    groups = trainer.optimizer.param_groups
    held = sum(len(group["params"]) for group in groups)
    if config.carry_optimizer and carried < held:
        yield f"--carry-optimizer: the state fits {carried} of the {held} tensors that train, the others begin without"
    if all(group.get("lr_scale", 1.0) == 1.0 for group in groups):
        if config.layer_decay is not None:
            yield f"--layer-decay {config.layer_decay:g}: all that trains is in the topmost layer, whose rate is --lr"
        if config.lr_factors:
            yield "--lr-factors: growth.json has no factor but 1 for what trains, so every rate is --lr"
