"""Pictures and pages that a command writes to a file besides what it prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from growtool.errors import PlanError

if TYPE_CHECKING:
    from torch import nn

    from growtool.checkpoint import Checkpoint
    from growtool.report.growth_map import GrowthMap
    from growtool.report.inspect import Inspection
    from growtool.report.picture import Drawn
    from growtool.trace import Trace

HTML, SVG = (".html", ".htm"), (".svg",)  # endings of file names


def require_places(*files: tuple[str, Path | None, Sequence[str]]) -> None:
    """Check that files can be written as asked, before any work is done; raise PlanError with every problem if not.

    Args:
        files: of each the option that names it, its path, if it is asked for, and the suffixes that it may have, in
            lower case; any will do if there are none.
    """
    problems = []
    for option, path, endings in files:
        if path is None:
            continue
        if endings and path.suffix.lower() not in endings:
            found = path.suffix or "no ending"
            problems.append(
                f"{option} {path}: found a name in {found}, expected one that ends in {' or '.join(endings)}"
            )
        elif not path.parent.is_dir():
            problems.append(
                f"{option} {path}: found no folder {path.parent}, expected one; create it or name another place"
            )
    if problems:
        raise PlanError(problems)


def write_picture(
    path: Path,
    opened: Sequence[Checkpoint],
    inspections: Sequence[Inspection],
    models: Sequence[tuple[Trace, nn.Module]],
    growth: GrowthMap | None,
) -> None:
    """Draw one checkpoint, or two side by side; if the second is grown from the first, the second alone shows both.

    Args:
        path: the file to write; its suffix says whether an SVG or a page in HTML.
        opened: one or two checkpoints.
        inspections: the inspection of each.
        models: trace and skeleton of each.
        growth: how the second came from the first; None if it did not.
    """
    from growtool.checkpoint.staging import write_text
    from growtool.report.page import html_page
    from growtool.report.picture import to_svg

    every = list(zip(opened, inspections, models, strict=True))
    chosen = every[-1:] if growth else every
    drawn = [_drawn(checkpoint, inspection, *model) for checkpoint, inspection, model in chosen]
    if path.suffix.lower() in SVG:
        write_text(path, to_svg(*drawn) + "\n")
    else:
        title = " and ".join(one.title for one in drawn)
        write_text(path, html_page(title, figures=[to_svg(one) for one in drawn]))


def _drawn(checkpoint: Checkpoint, inspection: Inspection, trace: Trace, model: nn.Module) -> Drawn:
    """Return a checkpoint to draw, with what growth did if its report is beside the weights."""
    from growtool.checkpoint.beside import REPORT
    from growtool.checkpoint.documents import parse_json
    from growtool.report import units
    from growtool.report.picture import of_checkpoint, of_growth

    report = checkpoint.path.parent / REPORT
    if checkpoint.folder is not None and report.is_file():
        return of_growth(parse_json(report.read_bytes(), str(report)), trace, model, str(report))
    figures = f"{units.count(inspection.parameters)} parameters, {units.count(inspection.macs.total)} MACs"
    return of_checkpoint(f"{Path(inspection.name).name}: {inspection.architecture}", [figures], trace, model)
