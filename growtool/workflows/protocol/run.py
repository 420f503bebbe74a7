"""Running a protocol: train member 0 and member 1, grow, and train the grown model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from growtool.checkpoint.folder import json_text
from growtool.errors import PlanError
from growtool.finetune.commands import command
from growtool.finetune.config import RunConfig
from growtool.finetune.options.merging import make_config
from growtool.finetune.parallel.device import joining_device
from growtool.finetune.parallel.distributed import World, joined
from growtool.finetune.run import finetune
from growtool.finetune.state.records import Progress
from growtool.finetune.stopping import Stopped
from growtool.library import ModelSpec, spec_named
from growtool.workflows.folder import begin, held
from growtool.workflows.protocol.diagonal import NewVectors, growth_maps, two_sided, write_grown
from growtool.workflows.protocol.file import TRAININGS, LoadedProtocol, Protocol
from growtool.workflows.protocol.member import write_copy, write_member

REPORT, COPY = "protocol.json", "protocol.yaml"
_START, _RUN, _LAST = "start", "run", "run/last"  # in the folder of a training
_NOISE = 0.1  # default noise on the templates of a copied member, relative to their standard deviation


@dataclass(frozen=True, slots=True)
class Step:
    """One training of a protocol.

    Attributes:
        name: `member_0`, `member_1` or `grown`.
        before: top-1 in percent before the first update.
        after: top-1 in percent after the last update.
        steps: the number of updates.
        parameters: stored numbers: templates, coefficients, and tensors that are not templated.
        seconds: of training and evaluation.
    """

    name: str
    before: float
    after: float
    steps: int
    parameters: int
    seconds: float


def run_protocol(
    loaded: LoadedProtocol,
    output: Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    told: Callable[[str], None] = lambda line: None,
) -> list[Step]:
    """Train two members, grow them onto the diagonal and train the grown model.

    Started by torchrun, every process calls this; the first one grows and writes.

    Args:
        loaded: the protocol.
        output: a new folder; it gets `member_0/`, `member_1/`, `grown/`, each with `start/` and `run/`, a copy of the
            protocol and a report.
        resume: go on where an earlier call was interrupted; a training goes on at its latest checkpoint.
        progress: watches each training.
        told: called with a line when a training begins, and with its result.

    Raises:
        PlanError: the folder is not empty, or holds another protocol; an option is wrong; or the members are not
            narrower than the model in every layer.
        CheckpointError: a model cannot be built.
        Stopped: SIGTERM, SIGHUP, SIGUSR1 or Ctrl-C came before the last training was complete.
    """
    world, protocol = World.from_environment(), loaded.protocol
    line = command("protocol", loaded.path, "-o", output, "--resume")
    grown = spec_named(protocol.model, protocol.model_args, input_size=list(protocol.input_size))
    member = grown.with_args(**protocol.member_args)
    growing = two_sided(growth_maps(member, grown)[0])
    configs = {name: _config(loaded, name, output / name) for name in TRAININGS}
    steps: list[Step] = []
    with (
        held(output, world, line) as request,
        joined(world, joining_device([config.device for config in configs.values()], world)),
    ):
        if world.is_main:
            _begin(loaded, output, line, resume=resume)
        saved = output / TRAININGS[0] / _START
        for name, config in configs.items():
            start = output / name / _START
            if world.is_main and not start.exists():  # it appears once it is complete
                _write_start(start, name, protocol, member, grown, growing)
            world.wait()
            if world.any(request.asked):
                raise Stopped(steps[-1].steps if steps else 0, str(saved), request, line=line)
            told(f"{name}: training")
            result = finetune(config, progress)
            tops = result.initial.top1, result.last.top1
            steps.append(Step(name, *tops, result.steps, result.parameters, result.seconds))
            told(f"{name}: top-1 {tops[0]:.2f} % -> {tops[1]:.2f} %")
            saved = output / name / _LAST
    if world.is_main:
        report: dict[str, Any] = {
            "protocol": protocol.model_dump(mode="json"),
            "steps": [asdict(step) for step in steps],
        }
        (output / REPORT).write_text(json_text(report), encoding="utf-8")
    return steps


def _write_start(
    start: Path, name: str, protocol: Protocol, member: ModelSpec, grown: ModelSpec, growing: frozenset[str]
) -> None:
    """Write the checkpoint that the training `name` starts from; of the trainings before it, the runs are read.

    `growing` are the tensors whose rows and columns both grow.
    """
    first, last = (start.parent.parent / trained / _LAST for trained in TRAININGS[:2])
    seed = protocol.seed
    if name == "grown":
        write_grown(start, grown, (first, last), NewVectors(protocol.coefficients, protocol.gain, seed))
    elif name == "member_1" and protocol.second == "copy":
        write_copy(start, first, noise=_NOISE if protocol.noise is None else protocol.noise, seed=seed + 1)
    else:
        own = seed if name == "member_0" else seed + 1
        write_member(start, member, growing, templates=protocol.templates, seed=own)


def _config(loaded: LoadedProtocol, name: str, folder: Path) -> RunConfig:
    fresh = name == "member_0" or (name == "member_1" and loaded.protocol.second == "scratch")
    decided = {"checkpoint": folder / _START, "output": folder / _RUN, "resume": "auto"}
    return make_config({"from_scratch": fresh}, loaded.trainings[name], decided)


def _begin(loaded: LoadedProtocol, output: Path, line: str, *, resume: bool) -> None:
    """Write a copy of the protocol into the folder; on resuming, check that the copy there is the same."""
    copy = output / COPY
    if resume and copy.is_file():
        if copy.read_text(encoding="utf-8") != loaded.text:
            raise PlanError(
                f"{loaded.path}: reads differently than when the protocol in {output} began, expected the same; "
                f"restore it from {copy}, or choose another --output"
            )
        return
    begin(copy, loaded.text, line, begun=copy.is_file())
