"""Prints the results of a work directory as Markdown: stage by stage, under what made them.

    python -m experiments.results --workdir=DIR [--upstream=DIR,...] [--into=docs/results.md]
    python -m experiments.results --workdir=DIR --records=FOLDER

Above every table stand the command, the length, the commit, jax and the device of the run, as its
`config.json` and `versions.json` tell them. `--into` puts the tables into a file of the
documentation instead, between `<!-- results of DIR -->` and `<!-- end of results -->`. `--records`
copies what tables, figures and the page are made from, without parameters, into another folder.
"""

import dataclasses
import math
import os
import pathlib
import shlex
from collections.abc import Sequence

from absl import flags

from internal_rl.analysis.report import table_rows
from internal_rl.analysis.results import RunResults, SeedResults, read_run, sorted_by_stage
from internal_rl.analysis.sweeps.report import read_sweep, studies_in
from internal_rl.analysis.sweeps.sweep import SweepResults, all_sweeps, sweep_named
from internal_rl.analysis.table import HEADS, OVER_RUNS, Row, cells, format_number, rate_lines
from internal_rl.errors import ConfigError, StorageError
from internal_rl.files import storage_faults, write_atomically
from internal_rl.stages import launch
from internal_rl.stages.catalogue import STAGES, command_of
from internal_rl.stages.origin import Origin, origin_of, origin_of_study, settings_of_run
from internal_rl.stages.places import Places
from internal_rl.stages.records import keep_records
from internal_rl.stages.settings import Settings
from internal_rl.stages.sweep_plan import made_otherwise


def results_text(workdir: str | os.PathLike, upstream: Sequence[str | os.PathLike] = ()) -> str:
    """Tables of all stages of a work directory and of its studies over several runs, as Markdown.

    Args:
      workdir: of a run; finished and unfinished stages are shown alike.
      upstream: other work directories in which its base models may lie.

    Raises:
      StorageError: files cannot be read, or there is no stage.
    """
    run = read_run(workdir, upstream)
    studies = studies_in(workdir)
    if not run and not studies:
        raise StorageError(f"{workdir}: holds no stage of a run, nothing to tell")
    parts = []
    for stage in sorted_by_stage(run, STAGES):
        seeds = run[stage]
        rows = table_rows({stage: seeds})
        origin = _origin(workdir, seeds)
        table = ["", *_table(rows, seeds)] if rows else []
        parts.append("\n".join([f"**{stage}** – {origin}", *table]))
    known = _settings_of_run([run, *map(read_run, upstream)]) if studies else None
    for study in studies:
        if study not in all_sweeps():
            parts.append(f"**study {study}** – left out, nothing that is called so is known here")
            continue
        results = read_sweep(workdir, study, upstream)
        origin = f"**study {study}** – {_origin_of_study(workdir, upstream, results, study, known)}"
        table = sweep_named(study).table(results)
        parts.append(f"{origin}\n\n{results.standing}\n\n{table.markdown().strip()}")
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Row], seeds: Sequence[SeedResults]) -> list[str]:
    several = len(seeds) > 1
    over_runs = HEADS[:OVER_RUNS] if several else ()
    heads = [*(_head(results, several) for results in seeds), *over_runs]
    lines = [f"| quantity | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for row in rows:
        told = [*map(format_number, row.values), *cells(row)[: len(over_runs)]]
        lines.append(f"| {row.label} | {' | '.join(told)} |")
    rated = rate_lines(rows)
    return [*lines, "", *rated] if rated else lines


def _head(results: SeedResults, several: bool) -> str:
    """A run by its seed, and where there are several by its base model."""
    known = several and results.base is not None and results.stage != "pretrain"
    return f"seed {results.seed}" + (f" (base model {results.base})" if known else "")


def _settings_of_run(runs: Sequence[RunResults]) -> tuple[Settings, Sequence[str]] | None:
    """Settings of the first run that tells them, and the flags that give them."""
    return next(filter(None, map(settings_of_run, runs)), None)


def _origin_of_study(
    workdir: str | os.PathLike,
    upstream: Sequence[str | os.PathLike],
    results: SweepResults,
    study: str,
    known: tuple[Settings, Sequence[str]] | None,
) -> str:
    """What made a study over several runs, in one line."""
    settings, flags = known or (None, ())
    command = shlex.join([f"--study={study}", *flags])
    command = f"{command_of('sweep')} {command}"
    if not results.runs:
        return f"`{command}`"
    origin = origin_of_study(workdir, study, results.runs, command)
    if settings is not None:
        places = Places(workdir, tuple(map(str, upstream)), tuple(flags))
        notes = made_otherwise(study, [run.name for run in results.runs], settings, places)
        origin = dataclasses.replace(origin, notes=notes)
    return _told(origin)


def _origin(workdir: str | os.PathLike, seeds: Sequence[SeedResults]) -> str:
    """What made a stage, in one line."""
    return _told(origin_of(workdir, seeds), several=len(seeds) > 1)


def _told(origin: Origin, several: bool = True) -> str:
    told = [
        f"`{origin.command}`",
        f"{format_number(origin.steps)} {origin.unit}",
        f"commit {' and '.join(origin.commits)}",
        origin.software,
    ]
    if not math.isnan(origin.seconds):
        told.append(f"{origin.seconds / 60:.1f} minutes")
    if several:
        told.append(origin.standing)
    told += [f"**{note}**" for note in origin.notes]
    return ", ".join(told)


def put_into(
    text: str, workdir: str | os.PathLike, upstream: Sequence[str | os.PathLike] = ()
) -> str:
    """A file of the documentation with the block of a work directory made again.

    Raises:
      ConfigError: the file has no such block.
      StorageError: as `results_text`.
    """
    begin, end = f"<!-- results of {workdir} -->\n", "<!-- end of results -->"
    head, found, rest = text.partition(begin)
    block, closed, tail = rest.partition(end)
    if not found or not closed or "<!-- results of " in block:
        raise ConfigError(
            f"--into: {begin.strip()} or {end} is missing, allowed is a file with both"
        )
    return f"{head}{begin}\n{results_text(workdir, upstream)}\n{end}{tail}"


if __name__ == "__main__":
    into = flags.DEFINE_string("into", "", "File whose block of the work directory is renewed.")
    records = flags.DEFINE_string("records", "", "Folder that takes records of what is finished.")

    def main(settings, places):
        """Prints the tables, puts them into a file, or copies what they are made from."""
        del settings
        if records.value:
            print(keep_records(places.workdir, records.value))
        if into.value:
            file = pathlib.Path(into.value)
            allowed = "--into must be a text file that can be written"
            try:
                with storage_faults(file, allowed):
                    before = file.read_text()
            except UnicodeDecodeError as error:
                raise ConfigError(f"{file}: {error}; {allowed}") from None
            text = put_into(before, places.workdir, places.upstream)
            with storage_faults(file, allowed):
                write_atomically(file, text)
        elif not records.value:
            print(results_text(places.workdir, places.upstream), end="")

    launch.run(main)
