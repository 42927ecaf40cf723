"""Prints the results of a work directory as Markdown: stage by stage, under what made them.

    python -m experiments.results --workdir=DIR [--into=docs/results.md]

Above every table stand the command, the length, the commit, jax and the device of the run, as its
`config.json` and `versions.json` tell them. `--into` puts the tables into a file of the
documentation instead, between `<!-- results of DIR -->` and `<!-- end of results -->`.
"""

import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from absl import flags

from internal_rl.analysis.report import table_rows
from internal_rl.analysis.results import SeedResults, read_run, standing
from internal_rl.analysis.table import Row, format_number
from internal_rl.errors import ConfigError
from internal_rl.paths import AnyPath, as_path
from internal_rl.stages import config_file, launch
from internal_rl.stages.catalogue import STAGES, command_of
from internal_rl.stages.settings import PRESETS, Settings

CONFIG_FILES = {"gridworld-pinpad": "gridworld", "ant-pinpad": "ant"}
"""Name of the config file of each world of the package."""

UNKNOWN = "not recorded"
DIGITS_OF_COMMIT = 7


def results_text(workdir: str | os.PathLike) -> str:
    """Tables of all stages of a work directory, as Markdown.

    Args:
      workdir: of a run; finished and unfinished stages are shown alike.

    Raises:
      StorageError: files cannot be read.
    """
    run, folder = read_run(workdir), as_path(workdir)
    parts = []
    for stage in sorted(run, key=_place_of):
        seeds = run[stage]
        rows = table_rows({stage: seeds})
        origin = _origin(folder, seeds)
        parts.append("\n".join([f"**{stage}** – {origin}", "", *_table(rows, seeds)]))
    return "\n\n".join(parts) + "\n"


def _place_of(stage: str) -> tuple[int, str]:
    known = (i for i, name in enumerate(STAGES) if f"{stage}_".startswith(f"{name}_"))
    return next(known, len(STAGES)), stage


def _table(rows: Sequence[Row], seeds: Sequence[SeedResults]) -> list[str]:
    several = len(seeds) > 1
    heads = [_head(results, several) for results in seeds] + ["median"] * several
    lines = [f"| quantity | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for row in rows:
        values = [*row.values, *([row.median] if several else [])]
        lines.append(f"| {row.label} | {' | '.join(map(_shown, values))} |")
    return lines


def _head(results: SeedResults, several: bool) -> str:
    """A run by its seed, and where there are several by its base model."""
    known = several and results.base is not None and results.stage != "pretrain"
    return f"seed {results.seed}" + (f" (base model {results.base})" if known else "")


def _shown(value: float) -> str:
    whole = math.isfinite(value) and value >= 1_000 and value == round(value)
    return f"{value:,.0f}" if whole else format_number(value)


def _origin(workdir: AnyPath, seeds: Sequence[SeedResults]) -> str:
    """What made a stage, in one line."""
    first = seeds[0]
    folder = workdir / first.stage / f"seed_{first.seed}"
    versions = _read(folder / "versions.json")
    commit = str(versions.get("commit", UNKNOWN))
    if set(commit.partition("+")[0]) <= set("0123456789abcdef"):
        hashed, plus, changes = commit.partition("+")
        commit = f"{hashed[:DIGITS_OF_COMMIT]}{plus}{changes}"
    steps, seconds = _read(folder / "DONE").get("steps", first.last("step")), first.last("seconds")
    told = [
        _command(first),
        f"{_shown(steps)} {'rounds' if first.stage == 'expert' else 'updates'}",
        f"commit {commit}",
        f"jax {versions.get('jax', UNKNOWN)} on {versions.get('device', UNKNOWN)}",
    ]
    if not math.isnan(seconds):
        told.append(f"{seconds / 60:.1f} minutes")
    if len(seeds) > 1:
        told.append(standing(seeds))
    return ", ".join(told)


def _read(file: AnyPath) -> Mapping:
    return json.loads(file.read_text()) if file.exists() else {}


def _command(results: SeedResults) -> str:
    """The command that makes a stage with the settings of a run, preset and single fields."""
    name = next(
        (name for name in STAGES if f"{results.stage}_".startswith(f"{name}_")), results.stage
    )
    world = results.config["environment"]["name"]
    file = CONFIG_FILES.get(world)
    if file is None:
        return f"`irl.run_stages` with the config of `{world}`"
    found = {preset: _changes(file, preset, name, results.config) for preset in PRESETS}
    preset = min(found, key=lambda preset: len(found[preset]))
    fields = [f" --config.{field}={value}" for field, value in found[preset].items()]
    return f"`{command_of(name)} --config=configs/{file}.py:{preset}{''.join(fields)}`"


def _changes(file: str, preset: str, stage: str, stored: Mapping) -> dict[str, object]:
    """Fields of a run, by dotted name, that differ from those of a preset."""
    settings = Settings.read(config_file.load_config(f"configs/{file}.py:{preset}"))
    if stage not in settings.sections:
        return dict(_fields(stored))
    own = {}
    codes = stored.get("internal_rl", {}).get("codes")
    if codes and codes != settings.internal_rl.codes:
        # They decide which other sections the stage depends on.
        settings, own = settings.updated("internal_rl", codes=codes), {"internal_rl.codes": codes}
    config = settings.stage_config(stage)
    asked, historical = dict(_fields(config.values)), dict(_fields(config.historical))
    found = dict(_fields(stored))
    held = {name: found.get(name, historical.get(name)) for name in asked}
    return own | {name: held[name] for name in asked if asked[name] != held[name]}


def _fields(config: Mapping) -> Iterator[tuple[str, object]]:
    for section, fields in json.loads(json.dumps(config)).items():
        for name, value in fields.items():
            yield f"{section}.{name}", value


def put_into(text: str, workdir: str | os.PathLike) -> str:
    """A file of the documentation with the block of a work directory made again.

    Raises:
      ConfigError: the file has no such block.
    """
    begin, end = f"<!-- results of {workdir} -->\n", "<!-- end of results -->"
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise ConfigError(
            f"--into: {begin.strip()} or {end} is missing, allowed is a file with both"
        )
    return f"{head}{begin}\n{results_text(workdir)}\n{end}{tail}"


if __name__ == "__main__":
    into = flags.DEFINE_string("into", "", "File whose block of the work directory is renewed.")

    def main(settings, places):
        """Prints the tables, or puts them into a file."""
        del settings
        if into.value:
            file = pathlib.Path(into.value)
            file.write_text(put_into(file.read_text(), places.workdir))
        else:
            print(results_text(places.workdir), end="")

    launch.run(main)
