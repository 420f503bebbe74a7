"""Running a schedule, and resuming it after an interruption at any point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from growtool.checkpoint.documents import read_document
from growtool.checkpoint.folder import json_text
from growtool.checkpoint.staging import write_text
from growtool.errors import GrowtoolError, PlanError
from growtool.finetune.commands import command
from growtool.finetune.parallel.device import joining_device
from growtool.finetune.parallel.distributed import World, joined
from growtool.finetune.state.records import Progress
from growtool.finetune.stopping import Stopped
from growtool.workflows.folder import begin, held
from growtool.workflows.schedule.file import LoadedSchedule
from growtool.workflows.schedule.rate import Course, Span
from growtool.workflows.schedule.stages import Grow, Site, Stage, StageRecord, Train

STATE, COPY = "schedule.json", "schedule.yaml"


def run_schedule(
    schedule: LoadedSchedule,
    output: Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    told: Callable[[str], None] = lambda line: None,
) -> list[StageRecord]:
    """Run every stage that is not complete yet.

    Started by torchrun, every process calls this; the first one grows and writes.

    Args:
        schedule: from `load_schedule`.
        output: gets a folder for each stage, and `schedule.json` with their results.
        resume: go on where an earlier call was interrupted; a training stage goes on at its latest checkpoint.
        progress: watches each training stage.
        told: called with a line for each stage that begins or was complete before.

    Returns:
        The records of all stages, those of earlier calls included.

    Raises:
        PlanError: the output is not empty, a stage is wrong, or a complete stage was changed in the file.
        CheckpointError: a checkpoint cannot be read or does not fit.
        Stopped: SIGTERM, SIGHUP, SIGUSR1 or Ctrl-C came before the last stage was complete; the state is saved.
    """
    world = World.from_environment()
    line = command("schedule", schedule.path, "-o", output, "--resume")
    with held(output, world, line) as request:
        begun = resume and (output / STATE).is_file()
        done = _done(schedule, output) if begun else []
        course = _foresee(schedule, output, done)
        if world.is_main and not begun:
            begin(output / COPY, schedule.text, line, begun=(output / STATE).is_file())
            _write(output, schedule, [])
        with joined(world, joining_device(_devices(schedule.stages[len(done) :]), world)):
            for stage in schedule.stages:
                which = f"stage {stage.number} of {len(schedule.stages)}"
                if stage.number <= len(done):
                    told(f"{which}: {done[stage.number - 1].kind}, done before")
                    continue
                source, teacher = _reached(schedule, output, done)
                if world.any(request.asked):
                    raise Stopped(done[-1].steps if done else 0, str(source), request, line=line)
                told(f"{which}: {'growing' if isinstance(stage, Grow) else 'training'}")
                with _told_where(stage):
                    done.append(stage.run(Site(output, source, teacher, progress, course)))
                if world.is_main:
                    _write(output, schedule, done)
    return done


def read_records(output: Path) -> list[StageRecord]:
    """Read the records of the complete stages in a schedule's folder.

    Raises:
        CheckpointError: the record is damaged.
    """
    return read_document(
        output / STATE,
        lambda content: [StageRecord(**entry) for entry in content["stages"]],
        expected="the record of a schedule",
    )


def _reached(schedule: LoadedSchedule, output: Path, done: Sequence[StageRecord]) -> tuple[str | Path, str | Path]:
    """Return the checkpoint that the next stage starts from, and the one before the latest growth, or the first one."""
    source: str | Path = schedule.checkpoint
    teacher = source
    for record in done:
        teacher = source if record.kind == "grow" else teacher
        source = output / record.checkpoint
    return source, teacher


def _devices(coming: Sequence[Stage]) -> list[str]:
    """Return the devices that the training stages ask for."""
    return [str(stage.options.get("device", "auto")) for stage in coming if isinstance(stage, Train)]


def _foresee(schedule: LoadedSchedule, output: Path, done: Sequence[StageRecord]) -> Course | None:
    """Check all stages that are not complete, before the first of them trains.

    Each stage is checked against what the stages before it will leave.

    Returns:
        The rate over all stages; None if the schedule has none.

    Raises:
        GrowtoolError: the problems of all stages, each with its place.
    """
    coming = schedule.stages[len(done) :]
    if not coming:
        return None
    source, teacher = _reached(schedule, output, done)
    found = coming[0].open(source)
    foreseen_teacher = None
    problems: list[str] = []
    spans: list[Span] = []
    for stage in coming:
        try:
            with _told_where(stage):
                result, span = stage.foresee(found, Site(output, source, teacher, foreseen_teacher=foreseen_teacher))
            foreseen_teacher = found if isinstance(stage, Grow) else foreseen_teacher
            found = result
            spans += [span] if span is not None else []
        except GrowtoolError as error:
            problems.extend(error.problems)
            if isinstance(stage, Grow):
                break  # without this growth the model of the later stages is unknown
    if problems:
        raise PlanError(problems)
    if schedule.rate is None:
        return None
    trained = [stage.done(output) for stage in schedule.stages[: len(done)] if isinstance(stage, Train)]
    return _laid_out(schedule, Course(schedule.rate, [*trained, *spans]), output)


def _laid_out(schedule: LoadedSchedule, course: Course, output: Path) -> Course:
    """Return the rate, after checking that it fits the updates, and that each stage fits it; else raise PlanError."""
    problems = [f"{schedule.path}: rate: {found}" for found in course.problems()]
    for stage in schedule.stages if not problems else ():
        problems += [f"{stage.place}: {found}" for found in stage.unfit(course, output)]
    if problems:
        raise PlanError(problems)
    return course


@contextmanager
def _told_where(stage: Stage) -> Iterator[None]:
    """Put the place of a stage in front of the errors raised inside."""
    try:
        yield
    except GrowtoolError as error:
        raise type(error)([f"{stage.place}: {problem}" for problem in error.problems]) from error


def _done(schedule: LoadedSchedule, output: Path) -> list[StageRecord]:
    """Return the complete stages of an earlier call; raise PlanError if the file has changed one of them."""
    done = read_records(output)
    changed = [r.number for r, s in zip(done, schedule.stages, strict=False) if r.digest != s.digest]
    if changed or len(done) > len(schedule.stages):
        numbers = ", ".join(map(str, changed)) or str(len(done))
        raise PlanError(
            f"{schedule.path}: stage {numbers} is complete in {output} and reads differently there, expected the "
            "same; restore it, or run the changed schedule into another folder"
        )
    return done


def _write(output: Path, schedule: LoadedSchedule, done: list[StageRecord]) -> None:
    document = {
        "growtool": version("growtool"),
        "checkpoint": schedule.checkpoint,
        "macs": sum(record.macs for record in done),
        "seconds": sum(record.seconds for record in done),
        "stages": [asdict(record) for record in done],
    }
    write_text(output / STATE, json_text(document))
