"""The report as one page: tables, figures and what made them, and what has not been run.

The page needs nothing beside itself: pictures, style and script are inside of it, and it asks no
other machine for anything. Everything that comes from files is escaped.
"""

import base64
import dataclasses
import functools
import hashlib
import io
import itertools
import math
import os
import pathlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence

import jinja2
from PIL import Image

import internal_rl
from internal_rl.analysis.drawing import Picture
from internal_rl.analysis.report import Chapter, Report
from internal_rl.analysis.results import SeedResults
from internal_rl.analysis.sweeps.report import ShownSweep, studies_in
from internal_rl.analysis.sweeps.sweep import all_sweeps
from internal_rl.analysis.table import HEADS, RATES, Row, cells, rate_cells
from internal_rl.errors import UserError
from internal_rl.stages.catalogue import command_of
from internal_rl.stages.markdown import as_html, sorting_head
from internal_rl.stages.origin import (
    NOT_RUN,
    Missing,
    Origin,
    missing_stages,
    origin_of,
    origin_of_study,
    settings_of_run,
)
from internal_rl.stages.places import Places, config_arguments, stage_command
from internal_rl.stages.records import holds_records
from internal_rl.stages.reproducing import refused_sweeps
from internal_rl.stages.settings import Settings
from internal_rl.stages.sweep_plan import made_otherwise

_HERE = pathlib.Path(__file__).parent
_MEDIA = {"figure": "image/png", "animation": "image/gif"}


@dataclasses.dataclass(frozen=True)
class Shown:
    """A picture on the page.

    Attributes:
      name: of its file, without the ending.
      source: its content as a URL of data.
      caption: what it shows.
      told: on what it stands; empty for animations.
      pixels: its width.
    """

    name: str
    source: str
    caption: str
    told: str
    pixels: int

    @property
    def alternative(self) -> str:
        """What is read out in its place."""
        return " ".join(f"{self.caption} {self.told}".split())


@dataclasses.dataclass(frozen=True)
class Part:
    """What one study shows on the page.

    Attributes:
      name: of the study.
      title: heading.
      origins: what made the stages that it looks at.
      figures: of the study.
      animations: of the study.
      text: HTML behind the figures.
      lacking: why there is no figure, where it draws some; empty otherwise.
    """

    name: str
    title: str
    origins: tuple[Origin, ...]
    figures: tuple[Shown, ...]
    animations: tuple[Shown, ...]
    text: str
    lacking: str


def report_page(report: Report, places: Places, settings: Settings | None = None) -> str:
    """The page of a report.

    Args:
      report: what there is to show.
      places: where the stages of the run are found.
      settings: of the run, with the arguments of `places`; None for what its stages tell.
    """
    faults = list(report.faults)

    def guarded(what: str, action: Callable, otherwise):
        try:
            return action()
        except (UserError, LookupError, TypeError, ValueError, AttributeError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            faults.append(f"{what}: cannot be told ({reason})")
            return otherwise

    origins = {
        stage: guarded(
            f"{stage}, what made it",
            functools.partial(_origin_of_stage, report, places, seeds),
            None,
        )
        for stage, seeds in report.run.items()
    }
    known = guarded("settings", lambda: _settings_of(report, places, settings), None)
    exactly = settings is not None
    missing = guarded("what has not been run", lambda: known and _missing(*known, exactly), None)
    # What is told of a study that neither draws nor writes stands in the table.
    shown = [x for x in report.chapters if x.study.figures or x.animations or x.text]
    parts = [_part(chapter, origins) for chapter in shown]
    for sweep in report.sweeps:
        what = f"study {sweep.name}, what made it"
        origin = guarded(what, functools.partial(_origin_of_sweep, report, sweep, known), None)
        parts.append(_part_of_sweep(sweep, origin))
    script = (_HERE / "page.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _template().render(
        workdir=report.workdir,
        version=internal_rl.__version__,
        worlds=sorted(_worlds(report)),
        only=report.only,
        heads=HEADS,
        sorting=sorting_head,
        rows=[(row, _sortable(row)) for row in report.rows],
        rates_title=RATES,
        rates=[(row, rate_cells(row)) for row in report.rows if row.rates],
        parts=parts,
        missing=missing,
        seeds_known=settings is not None,
        left_out=(*report.left_out, *(known and _refused_sweeps(known[0]) or ())),
        faults=faults,
        script=script,
        digest=digest,
    )


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string((_HERE / "page.html").read_text())


def _worlds(report: Report) -> set[str]:
    """Names of the worlds that the stages were trained in."""
    sections = [s.config.get("environment", {}) for seeds in report.run.values() for s in seeds]
    return {str(section.get("name", "unknown")) for section in sections}


def _settings_of(
    report: Report, places: Places, settings: Settings | None
) -> tuple[Settings, Places] | None:
    """Settings of a run, and places with the arguments that give them; None if not known."""
    if settings is not None:
        return settings, places
    found = settings_of_run(report.run)
    return found and (found[0], dataclasses.replace(places, arguments=found[1]))


def _missing(settings: Settings, places: Places, exactly: bool) -> tuple[Missing, ...]:
    """What a whole run holds beyond this one."""
    found = missing_stages(settings, places, exactly=exactly), _missing_sweeps(settings, places)
    found = tuple(itertools.chain(*found))
    workdirs = places.workdir, _written_to(places.workdir)
    here, elsewhere = (shlex.join([f"--workdir={x}"]) for x in workdirs)
    return tuple(dataclasses.replace(x, command=x.command.replace(here, elsewhere)) for x in found)


def _origin_of_stage(report: Report, places: Places, seeds: Sequence[SeedResults]) -> Origin:
    """What made a stage, with a command that can be typed as it stands."""
    origin = origin_of(report.workdir, seeds)
    if origin.command.startswith("irl."):
        return origin
    found = [f"--workdir={_written_to(report.workdir)}"]
    if places.upstream:
        found.append(f"--upstream={','.join(map(str, places.upstream))}")
    return dataclasses.replace(origin, command=f"{origin.command} {shlex.join(found)}")


def _written_to(workdir: str | os.PathLike) -> str | os.PathLike:
    """The work directory of a command; nothing is made in a folder of records."""
    return "DIR" if holds_records(workdir) else workdir


def _missing_sweeps(settings: Settings, places: Places) -> Iterator[Missing]:
    """Studies over several runs that have not been begun; those that have tell what they lack."""
    others = {*studies_in(places.workdir), *refused_sweeps(settings)}
    for name, sweep in all_sweeps().items():
        if name not in others:
            command = _command_of_sweep(name, settings, places)
            state = NOT_RUN if sweep.reproduced else f"{NOT_RUN}, no part of a whole run"
            yield Missing(f"study {name}", (), state, command)


def _refused_sweeps(settings: Settings) -> list[str]:
    """Studies over several runs that this world or config cannot have, and why."""
    return [f"study {name}: {reason}" for name, reason in refused_sweeps(settings).items()]


def _command_of_sweep(study: str, settings: Settings, places: Places) -> str:
    arguments = (f"--study={study}", *(places.arguments or config_arguments(settings)))
    return stage_command("sweep", arguments, _written_to(places.workdir), places.upstream)


def _origin_of_sweep(
    report: Report, sweep: ShownSweep, known: tuple[Settings, Places] | None
) -> Origin | None:
    """What made a study over several runs; None where none of them is finished."""
    if not sweep.runs:
        return None
    if known is None:
        command = f"{command_of('sweep')} --study={sweep.name}"
        return origin_of_study(report.workdir, sweep.name, sweep.runs, command)
    command = _command_of_sweep(sweep.name, *known)
    origin = origin_of_study(report.workdir, sweep.name, sweep.runs, command)
    notes = made_otherwise(sweep.name, [run.name for run in sweep.runs], *known)
    return dataclasses.replace(origin, notes=notes)


def _shown(picture: Picture, kind: str, captions: Mapping[str, str]) -> Shown:
    source = f"data:{_MEDIA[kind]};base64,{base64.b64encode(picture.content).decode()}"
    caption = captions.get(picture.name, picture.name.replace("_", " "))
    pixels = Image.open(io.BytesIO(picture.content)).width
    return Shown(picture.name, source, caption, picture.told, pixels)


def _part_of_sweep(sweep: ShownSweep, origin: Origin | None) -> Part:
    return Part(
        name=f"sweep-{sweep.name}",
        title=sweep.title,
        origins=() if origin is None else (origin,),
        figures=tuple(_shown(picture, "figure", sweep.captions) for picture in sweep.figures),
        animations=(),
        text=as_html(sweep.text),
        lacking="" if sweep.figures else "none of its runs is finished",
    )


def _part(chapter: Chapter, origins: dict[str, Origin | None]) -> Part:
    study = chapter.study
    shown = functools.partial(_shown, captions=study.captions)
    lacking = ""
    if study.figures is not None and not chapter.figures:
        lacking = study.asks or "the stages above have not left what it is drawn from"
    return Part(
        name=study.name,
        title=study.title or study.name.replace("_", " "),
        origins=tuple(origins[stage] for stage in chapter.stages if origins[stage] is not None),
        figures=tuple(shown(picture, "figure") for picture in chapter.figures),
        animations=tuple(shown(picture, "animation") for picture in chapter.animations),
        text=as_html(chapter.text),
        lacking=lacking,
    )


def _sortable(row: Row) -> list[tuple[str, float | str]]:
    """Cells of a row, each with the number by which it is sorted; empty where there is none."""
    found = row.summary
    counts = (found.count, row.base_models or math.nan)
    numbers = (found.median, found.lower, found.mean, found.interval[0], *counts)
    keys = ("" if math.isnan(number) else number for number in numbers)
    return list(zip(cells(row), keys, strict=True))
