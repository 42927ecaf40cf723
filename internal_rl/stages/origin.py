"""Where the stages of a run come from, command, commit and device, and which ones it lacks."""

import dataclasses
import functools
import itertools
import json
import math
import os
import shlex
import types
from collections.abc import Iterator, Mapping, Sequence

from internal_rl.analysis.results import (
    RunResults,
    SeedResults,
    seconds_of_programs,
    standing,
)
from internal_rl.analysis.sweeps.report import folder_of
from internal_rl.analysis.sweeps.sweep import FinishedRun
from internal_rl.errors import StageConflictError, StorageError
from internal_rl.files import read_record
from internal_rl.models.blocks import SHIPPED_BLOCKS
from internal_rl.paths import AnyPath, as_path
from internal_rl.stages.catalogue import (
    SHIPPED_STAGES,
    STAGES,
    StageSpec,
    command_of,
    whole_run,
)
from internal_rl.stages.config_file import CONFIG_FILES, load_config
from internal_rl.stages.places import Places
from internal_rl.stages.settings import MOST_SEEDS, PRESETS, Settings
from internal_rl.training.stage_config import StageConfig
from internal_rl.training.stage_directory import StageDirectory, stage_of

UNKNOWN = "not recorded"
DIGITS_OF_COMMIT = 7

# Fields that decide which other sections a stage depends on.
_DECIDING = (
    ("metacontroller", "variant"),
    ("metacontroller", "base_from"),
    ("internal_rl", "codes"),
)
# Fields that tell the variants of a stage apart; a whole run makes all of them.
_VARIANTS = (
    *("metacontroller.variant", "internal_rl.codes"),
    *("probe.base_step", "steer.base_step"),
)


FINISHED, BEGUN, NOT_RUN = "finished", "begun", "not run"
OTHERWISE = "made with other settings"


@dataclasses.dataclass(frozen=True)
class Origin:
    """What made the seeds of one stage.

    Attributes:
      stage: its folder.
      seeds: which ones.
      command: that makes these seeds with the same settings.
      steps: updates, rounds of the expert or shards of a dataset; NaN where that is not known.
      unit: what `steps` counts.
      commits: of the code, each once.
      software: jax and the device, each pair once.
      seconds: of all programs together; NaN where that is not known.
      standing: number of runs and of base models, in words.
      notes: seeds that are not finished, or were made with other settings than the first one.
    """

    stage: str
    seeds: tuple[int, ...]
    command: str
    steps: float
    unit: str
    commits: tuple[str, ...]
    software: str
    seconds: float
    standing: str
    notes: tuple[str, ...] = ()


def origin_of(workdir: str | os.PathLike, seeds: Sequence[SeedResults]) -> Origin:
    """What made a stage, as its `config.json`, `versions.json` and `DONE` tell.

    Args:
      workdir: of the run.
      seeds: of one stage, one or more.
    """
    first = seeds[0]
    folders = [as_path(workdir) / first.stage / f"seed_{s.seed}" for s in seeds]
    versions = [_read(folder / "versions.json") for folder in folders]
    unit = STAGES.get(stage_of(first.stage, STAGES), StageSpec).unit
    notes = []
    for results, folder in zip(seeds, folders, strict=True):
        if not (folder / "DONE").exists():
            step = results.last("step")
            count = 0 if math.isnan(step) else int(step)
            notes.append(f"seed {results.seed} is not finished: {count:,} {unit} so far")
        if others := _differing_fields(first, results):
            notes.append(f"seed {results.seed} was made with {', '.join(others)}")
    return Origin(
        stage=first.stage,
        seeds=tuple(results.seed for results in seeds),
        command=command_that_made(first, seeds),
        steps=_read(folders[0] / "DONE", {"steps": int}).get("steps", first.last("step")),
        unit=unit,
        commits=_commits(versions),
        software=_software(versions),
        seconds=sum(seconds_of_programs(seeds)),
        standing=standing(seeds),
        notes=(*notes, *_resumed(seeds, versions)),
    )


def _resumed(seeds: Sequence[SeedResults], versions: Sequence[Mapping]) -> tuple[str, ...]:
    """Notes on seeds that went on elsewhere than they began: with another device or jax."""
    notes = {}
    for results, told in zip(seeds, versions, strict=True):
        for entry in _later(told):
            shown = {name: entry[name] for name in ("jax", "device") if name in entry}
            if shown:
                words = ", ".join(f"{name} {value}" for name, value in shown.items())
                note = f"went on from {entry.get('from_step', UNKNOWN)} with {words}"
                notes.setdefault(note, []).append(str(results.seed))
    plural = {note: "seeds" if len(found) > 1 else "seed" for note, found in notes.items()}
    return tuple(f"{plural[note]} {', '.join(found)} {note}" for note, found in notes.items())


def _later(told: Mapping) -> list[Mapping]:
    """With what a seed went on, see `StageDirectory.record_start`."""
    later = told.get("later", [])
    return [x for x in later if isinstance(x, Mapping)] if isinstance(later, list) else []


def _differing_fields(first: SeedResults, results: SeedResults) -> list[str]:
    """`section.field=value` where a seed has another value than the first one."""
    known = dict(_fields(first.config))
    found = _fields(results.config)
    return [f"{name}={value}" for name, value in found if known.get(name, value) != value]


def origin_of_study(
    workdir: str | os.PathLike, study: str, runs: Sequence[FinishedRun], command: str
) -> Origin:
    """What made a study over several runs.

    Args:
      workdir: in whose folder `sweep` they lie.
      study: its name.
      runs: those that are finished, one or more.
      command: that makes the study.
    """
    made = [(run.name, results) for run in runs for results in run.seeds]
    seeds = [results for _, results in made]
    folder = folder_of(workdir, study)
    versions = [
        _read(folder / name / results.stage / f"seed_{results.seed}" / "versions.json")
        for name, results in made
    ]
    return Origin(
        stage=f"study {study}",
        seeds=tuple(sorted({results.seed for results in seeds})),
        command=command,
        steps=len(runs),
        unit="settings",
        commits=_commits(versions),
        software=_software(versions),
        seconds=math.nan,
        standing=standing(seeds),
    )


def _commits(versions: Sequence[Mapping]) -> tuple[str, ...]:
    found = [told.get("commit", UNKNOWN) for told in versions]
    found += [x["commit"] for told in versions for x in _later(told) if "commit" in x]
    return tuple(dict.fromkeys(_short(str(commit)) for commit in found))


def _software(versions: Sequence[Mapping]) -> str:
    found = (
        f"jax {told.get('jax', UNKNOWN)} on {told.get('device', UNKNOWN)}" for told in versions
    )
    return " and ".join(dict.fromkeys(found))


def _short(commit: str) -> str:
    hashed, plus, changes = commit.partition("+")
    if set(hashed) <= set("0123456789abcdef"):
        return f"{hashed[:DIGITS_OF_COMMIT]}{plus}{changes}"
    return commit


def _read(file: AnyPath, fields: Mapping[str, type] = types.MappingProxyType({})) -> Mapping:
    """An object of JSON; empty where there is none. What is damaged the report has named."""
    try:
        return read_record(file, fields) if file.exists() else {}
    except (StorageError, IsADirectoryError):
        return {}


def command_that_made(results: SeedResults, seeds: Sequence[SeedResults] = ()) -> str:
    """The command that makes a stage with the settings of a run, preset and single fields.

    Args:
      results: a seed of the stage.
      seeds: that the command is to make, each on what it stands on; empty for those of the preset.

    Returns:
      A command line, without work directories; where only a config of somebody's own has what it
      needs, a world, a stage or a block, the call in Python.
    """
    stage, world = stage_of(results.stage, STAGES), _world_of(results)
    block = results.config.get("base", {}).get("block", SHIPPED_BLOCKS[0])
    if world not in CONFIG_FILES or stage not in SHIPPED_STAGES or block not in SHIPPED_BLOCKS:
        whose = f", with the config of {world}" if world else ""
        return f'irl.run_stages(config, workdir, ["{stage}"]){whose}'
    preset, changes = _nearest_preset(CONFIG_FILES[world], stage, results.config)
    fields = [f"--config.{field}={value}" for field, value in changes.items()]
    fields += seed_flags(_preset(CONFIG_FILES[world], preset), stage, seeds)
    flags = shlex.join([f"--config={CONFIG_FILES[world]}:{preset}", *fields])
    return f"{command_of(stage)} {flags}"


def seed_flags(preset: Settings, stage: str, seeds: Sequence[SeedResults]) -> list[str]:
    """The fewest flags beside a preset with which a stage has seeds, each on what it stands on.

    Args:
      preset: settings of the preset.
      stage: name of the stage.
      seeds: results of the stage.

    Returns:
      Flags; none where no numbers of seeds lead to these.
    """
    if not seeds or stage not in preset.sections:
        return []
    settings, _ = _as_decided(preset, seeds[0].config)
    wanted = {results.seed: dict(results.reads) for results in seeds}
    found = []
    for chosen, flags in _seedings(settings, stage, wanted):
        there = chosen.seeds_of(stage)
        as_read = all(chosen.reads(stage, seed) == reads for seed, reads in wanted.items() if reads)
        if as_read and set(wanted) == set(there):
            found.append(flags)
        elif as_read and set(wanted) < set(there):
            found.append([*flags, f"--seeds={','.join(map(str, sorted(wanted)))}"])
    return min(found, key=len, default=[])


def _seedings(
    settings: Settings, stage: str, wanted: Mapping[int, Mapping[str, int]]
) -> Iterator[tuple[Settings, list[str]]]:
    """Settings whose numbers of seeds are those of a preset or follow from the seeds there are."""
    line = [stage]
    while source := STAGES[line[-1]].input_of(settings):
        line.append(source)
    line.reverse()
    last = {name: max(reads.get(name, 0) for reads in wanted.values()) for name in line}
    last[stage] = max(wanted)
    lowest = min(
        *wanted, *(seed for reads in wanted.values() for seed in reads.values()), last[stage]
    )
    fields = [("num_seeds" if name == line[0] else "seeds_per_input") for name in line]
    for own_first, *own in itertools.product((False, True), repeat=1 + len(line)):
        first = lowest if own_first else settings.seed
        chosen = dataclasses.replace(settings, seed=first, chosen_seeds={})
        flags, before = [f"--config.seed={first}"] if own_first else [], 1
        for name, field, counted in zip(line, fields, own, strict=True):
            count = min(max(1, math.ceil((last[name] - first + 1) / before)), MOST_SEEDS // before)
            if counted and hasattr(chosen.sections[name], field):
                chosen = chosen.updated(name, **{field: count})
                flags.append(f"--config.{name}.{field}={count}")
            before = chosen.num_seeds(name)
        yield chosen, flags


def _world_of(results: SeedResults) -> str:
    """Name of the world; empty for stages that depend on none."""
    return results.config.get("environment", {}).get("name", "")


def _nearest_preset(file: str, stage: str, stored: Mapping) -> tuple[str, dict[str, object]]:
    """The preset from which a run differs in the fewest fields, and these fields."""
    found = {preset: _changes(_preset(file, preset), stage, stored) for preset in PRESETS}
    preset = min(found, key=lambda preset: len(found[preset]))
    return preset, found[preset]


@functools.cache
def _preset(file: str, preset: str) -> Settings:
    return Settings.read(load_config(f"{file}:{preset}"))


def flags_of(preset: Settings, stage: str, stored: Mapping) -> list[str]:
    """Flags beside a preset with which a stage has the settings that its `config.json` holds.

    Args:
      preset: settings of the preset.
      stage: name of the stage.
      stored: configuration of the stage.
    """
    changes = _changes(preset, stage, stored)
    return [f"--config.{field}={value}" for field, value in changes.items()]


def _changes(settings: Settings, stage: str, stored: Mapping) -> dict[str, object]:
    """Fields of a run, by dotted name, that differ from those of a preset."""
    if stage not in settings.sections:
        return dict(_fields(stored))
    settings, own = _as_decided(settings, stored)
    config = settings.stage_config(stage)
    asked, historical = dict(_fields(config.values)), dict(_fields(config.historical))
    found = dict(_fields(stored))
    held = {name: found.get(name, historical.get(name)) for name in asked}
    return own | {name: held[name] for name in asked if asked[name] != held[name]}


def _as_decided(settings: Settings, stored: Mapping) -> tuple[Settings, dict[str, object]]:
    """Settings with the fields of a run that decide what it depends on, and these fields."""
    own = {}
    for section, name in _DECIDING:
        value = stored.get(section, {}).get(name)
        if value and value != getattr(settings.sections[section], name):
            settings = settings.updated(section, **{name: value})
            own[f"{section}.{name}"] = value
    return settings, own


def _fields(config: Mapping) -> Iterator[tuple[str, object]]:
    for section, fields in json.loads(json.dumps(config)).items():
        for name, value in fields.items():
            yield f"{section}.{name}", value


@dataclasses.dataclass(frozen=True)
class Missing:
    """A stage that a whole run holds and this one does not.

    Attributes:
      stage: its folder.
      seeds: that are not finished.
      state: `BEGUN` if any of them has been, `OTHERWISE` if any was made with other settings.
      command: that makes it.
    """

    stage: str
    seeds: tuple[int, ...]
    state: str
    command: str


def settings_of_run(run: RunResults) -> tuple[Settings, tuple[str, ...]] | None:
    """Settings that a run was made with, as far as its stages tell, and the flags that give them.

    None for worlds from outside, whose config files are not known here. Numbers of seeds are those
    of the preset where nothing else is proved.
    """
    stages = [
        seeds[0]
        for stage, seeds in run.items()
        # What has been registered elsewhere is not known here.
        if stage_of(stage, STAGES) in STAGES and _world_of(seeds[0])
    ]
    worlds = {_world_of(results) for results in stages}
    file = CONFIG_FILES.get(next(iter(worlds))) if len(worlds) == 1 else None
    if file is None:
        return None
    found = [
        _nearest_preset(file, stage_of(results.stage, STAGES), results.config) for results in stages
    ]
    chosen = [preset for preset, _ in found]
    preset = max(PRESETS, key=chosen.count)
    changes = {}
    for results in stages:
        changes |= _changes(_preset(file, preset), stage_of(results.stage, STAGES), results.config)
    changes = {field: value for field, value in changes.items() if field not in _VARIANTS}
    config = load_config(f"{file}:{preset}").to_dict()
    for field, value in changes.items():
        section, _, name = field.partition(".")
        config[section][name] = value
    counts = _counts_of_run(_preset(file, preset), run)
    for field, value in counts.items():
        section, _, name = field.rpartition(".")
        (config[section] if section else config)[name] = value
    flags = (f"--config.{field}={value}" for field, value in (changes | counts).items())
    return Settings.read(config), (f"--config={file}:{preset}", *flags)


def _counts_of_run(preset: Settings, run: RunResults) -> dict[str, int]:
    """The first seed and numbers of seeds that are not those of a preset, as far as seeds prove it.

    Which seeds are there proves little, as single ones may have been asked for; on which seeds they
    stand does.
    """
    found = {}
    for stage, seeds in run.items():
        name = stage_of(stage, STAGES)
        for flag in seed_flags(preset, name, seeds) if name in SHIPPED_STAGES else ():
            field, _, value = flag.removeprefix("--config.").partition("=")
            if not flag.startswith("--seeds"):
                found[field] = max(int(value), found.get(field, 0))
    return found


def missing_stages(settings: Settings, places: Places, *, exactly: bool = False) -> list[Missing]:
    """Stages of a whole run that are finished nowhere, in order; those that the world can have.

    Args:
      settings: of the run.
      places: where its stages are found, and the arguments that give its settings.
      exactly: stages that were made with other settings are none of the run.
    """
    found = []
    for stage, chosen in whole_run(settings):
        if not STAGES[stage].suits(settings.world):
            continue
        config = chosen.stage_config(stage) if exactly else None
        folder = chosen.folder_of(stage)
        states = {}
        for seed in chosen.seeds_of(stage):
            states[seed] = {
                _state(places.directory(chosen, stage, seed, place), config)
                for place in (places.workdir, *places.upstream)
            }
        lacking = {seed: known for seed, known in states.items() if FINISHED not in known}
        if lacking:
            fields = differing_flags(settings, chosen)
            varied = dataclasses.replace(places, arguments=(*places.arguments, *fields))
            command = varied.command(chosen, stage)
            known = set.union(*lacking.values())
            state = next(name for name in (OTHERWISE, BEGUN, NOT_RUN) if name in known)
            found.append(Missing(folder, tuple(lacking), state, command))
    return found


def _state(directory: StageDirectory, config: StageConfig | None) -> str:
    """How far a seed is; without a configuration any is that of the run."""
    try:
        begun = directory.check(config) if config is not None else None
    except StageConflictError:
        return OTHERWISE
    except StorageError:
        # What is damaged the report has named.
        begun = None
    if directory.finished and not (begun and begun.steps_raised):
        return FINISHED
    return BEGUN if directory.path.exists() else NOT_RUN


def differing_flags(settings: Settings, chosen: Settings) -> list[str]:
    """The flags that make a variant of settings."""
    return [
        f"--config.{section}.{name}={value}"
        for section, own in chosen.sections.items()
        for name, value in own.as_dict().items()
        if value != settings.sections[section].as_dict()[name]
    ]
