"""The loss of training: on the labels and, with a teacher, also on the teacher's logits for the same images.

Distillation follows Hinton et al. (arXiv 1503.02531, section 2): the student's distribution at temperature T approaches
the teacher's, and the loss is scaled by T^2. After growth the teacher is usually the source. It keeps the student from
forgetting while the new weights find their use; as its part anneals to 0, the student may become better than it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from growtool.errors import PlanError
from growtool.finetune.update.model import count_classes
from growtool.images import ImageFormat, other_classes, require_names


@dataclass(frozen=True, slots=True)
class Teacher:
    """A model whose outputs are a part of the loss.

    Attributes:
        forward: images [B, C, H, W] to logits [B, classes].
        weight: the teacher's part in the loss, 0 to 1, given the number of updates done.
        temperature: T, of both distributions.
    """

    forward: Callable[[Tensor], Tensor]
    weight: Callable[[int], float]
    temperature: float


@dataclass(frozen=True, slots=True)
class Objective:
    """The loss that training minimises.

    Attributes:
        criterion: loss of (logits [B, classes], targets [B] or [B, classes]).
        teacher: None without distillation.
    """

    criterion: Callable[[Tensor, Tensor], Tensor]
    teacher: Teacher | None = None

    def __call__(self, logits: Tensor, targets: Tensor, images: Tensor, step: int) -> Tensor:
        """Return the loss of the student's logits [B, classes] for images [B, C, H, W] in update `step`."""
        loss = self.criterion(logits.float(), targets)
        weight = self.teacher.weight(step) if self.teacher else 0.0
        if self.teacher is None or weight == 0:
            return loss
        with torch.no_grad():
            taught = self.teacher.forward(images)
        return (1 - weight) * loss + weight * divergence(logits, taught, self.teacher.temperature)


def divergence(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(teacher || student), the mean over the batch, of logits and the teacher's, both [B, classes]."""
    student = functional.log_softmax(logits.float() / temperature, dim=1)
    teacher = functional.log_softmax(taught.float() / temperature, dim=1)
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def annealed(weight: float, how: str, steps: int) -> Callable[[int], float]:
    """Return the teacher's weight as a function of the updates done.

    It falls from `weight` at update 0 to 0 at update `steps`, along a line (`linear`) or half a cosine (`cosine`), or
    stays (`constant`).
    """
    courses: dict[str, Callable[[float], float]] = {  # of the part of the updates that is done, 0 to 1
        "constant": lambda part: 1.0,
        "linear": lambda part: 1 - part,
        "cosine": lambda part: (1 + math.cos(math.pi * part)) / 2,
    }
    return lambda step: weight * courses[how](min(step / steps, 1.0))


def require_same_task(
    student: nn.Module,
    teacher: nn.Module,
    name: str,
    *,
    classes: Sequence[str] | None,
    taught: Sequence[str] | None,
) -> None:
    """Check that student and teacher take the same images and have the same classes in the same order.

    Args:
        student, teacher: the two models.
        name: of the teacher's checkpoint, for messages.
        classes: names of the student's classes; None or empty if neither its checkpoint nor the data tell them.
        taught: names of the teacher's classes; None if its checkpoint does not tell them.

    Raises:
        PlanError: they differ; one line for each difference.
        CheckpointError: the names of the teacher's classes do not match its logits.
    """
    if taught is not None:
        require_names(taught, count_classes(teacher), f"--kd-teacher {name}")
    problems = []
    if count_classes(student) != count_classes(teacher):
        problems.append(f"--kd-teacher {name}: {count_classes(teacher)} classes, expected {count_classes(student)}")
    elif difference := other_classes(classes, taught):
        problems.append(f"--kd-teacher {name}: {difference}, the student's (label_names in config.json)")
    ours, theirs = ImageFormat.of(student), ImageFormat.of(teacher)
    problems += [
        f"--kd-teacher {name}: pretrained_cfg.{key} is {getattr(theirs, key)}, expected {getattr(ours, key)}, the "
        "student's"
        for key in ("input_size", "mean", "std")
        if getattr(ours, key) != getattr(theirs, key)
    ]
    if problems:
        raise PlanError([f"{problem}; name a checkpoint trained for the same task" for problem in problems])
