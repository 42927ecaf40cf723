"""What the runs of a study are made from: settings, places and commands, and how far they are."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from internal_rl.analysis.results import base_name
from internal_rl.analysis.sweeps import report
from internal_rl.analysis.sweeps.sweep import Run, Sweep, sweep_named
from internal_rl.errors import ConfigError, StageConflictError
from internal_rl.paths import as_path
from internal_rl.stages import running
from internal_rl.stages.catalogue import STAGES, section_types, stage_spec, unsuited
from internal_rl.stages.origin import BEGUN, FINISHED, OTHERWISE
from internal_rl.stages.places import Places, config_arguments, stage_command
from internal_rl.stages.settings import Settings
from internal_rl.training.settings import SeedsPerInput

TO_DO, ELSEWHERE = "to do", "finished elsewhere"


def seed_fields(seeds: dict[str, int]) -> dict[str, int]:
    """Fields for the seeds of a run; see `Run.seeds`."""
    types = section_types()
    fields = {}
    for stage, each in seeds.items():
        counted = "seeds_per_input" if issubclass(types[stage], SeedsPerInput) else "num_seeds"
        fields[f"{stage}.{counted}"] = each
    return fields


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """A run with its settings and its places.

    Attributes:
      run: as the study has it.
      settings: the config with its fields and seeds.
      workdir: where its stages are written.
      upstream: where earlier ones lie.
      arguments: of the command line, which choose its config.
    """

    run: Run
    settings: Settings
    workdir: str
    upstream: tuple[str, ...]
    arguments: tuple[str, ...]

    def places(self, loggers: tuple[str, ...]) -> Places:
        """Where its stages are found, as far as there are folders yet."""
        upstream = tuple(folder for folder in self.upstream if as_path(folder).is_dir())
        return Places(self.workdir, upstream, self.arguments, loggers)

    def commands(self) -> list[str]:
        """What is typed to make it, stage by stage."""
        return [
            stage_command(stage, self.arguments, self.workdir, self.upstream)
            for stage in self.run.stages
        ]

    def state(self, stage: str) -> str:
        """How far one of its stages is.

        Raises:
          StageConflictError: it was made with other settings, or on other parameters.
        """
        settings, places = self.settings, self.places(())
        config = settings.stage_config(stage)
        begun = []
        for seed in settings.seeds_of(stage):
            directory = places.directory(settings, stage, seed)
            found = directory.check(config)
            if found is not None:
                begun.append(directory.finished and not found.steps_raised)
        if len(begun) == len(settings.seeds_of(stage)) and all(begun):
            return FINISHED
        if begun:
            return BEGUN
        return ELSEWHERE if running.finished_upstream(settings, stage, places) else TO_DO

    def measures(self, stage: str) -> bool:
        """Whether one of its stages is what is measured."""
        return bool(self.run.labels) and stage == self.run.stages[-1]

    def state_of_run(self) -> str:
        """How far it is, told by its stages; see `state`."""
        try:
            states = {self.state(stage) for stage in self.run.stages}
        except StageConflictError:
            return OTHERWISE
        if states <= {FINISHED, ELSEWHERE}:
            return FINISHED if FINISHED in states else ELSEWHERE
        return TO_DO if states <= {TO_DO, ELSEWHERE} else BEGUN

    def state_of_measured(self) -> str:
        """How far its last stage is, whose earlier ones may lie where nobody looks for them."""
        try:
            return self.state(self.run.stages[-1])
        except StageConflictError:
            return OTHERWISE


def runs_of(sweep: Sweep, settings: Settings) -> list[Run]:
    """The runs of a study.

    Raises:
      ValueError: the study does not fit to the config, or the world cannot have one of its stages.
    """
    runs = sweep.runs(settings)
    for stage in dict.fromkeys(stage for run in runs for stage in run.stages):
        if stage in STAGES and (problem := unsuited(settings, stage)):
            raise ValueError(problem)
    return runs


def plan(sweep: Sweep, settings: Settings, places: Places) -> list[PlannedRun]:
    """All runs of a study.

    Raises:
      ConfigError: the study does not fit to the config.
    """
    try:
        runs = runs_of(sweep, settings)
    except ValueError as error:
        raise ConfigError(f"--study={sweep.name}: {error}") from None
    folder = report.folder_of(places.workdir, sweep.name)
    own = places.arguments or config_arguments(settings)
    shared = [str(place) for place in (places.workdir, *places.upstream) if as_path(place).is_dir()]
    planned: dict[str, PlannedRun] = {}
    for run in runs:
        fields = {**run.fields, **seed_fields(run.seeds)}
        chosen = settings.with_fields(fields)
        read = [planned[name] for name in run.reads]
        # What a run reads may itself be finished elsewhere, and then has no folder.
        reads = [other.workdir for other in read if other.state_of_run() != ELSEWHERE]
        arguments = (*own, *_overrides(settings, fields))
        planned[run.name] = PlannedRun(
            run, chosen, str(folder / run.name), (*reads, *shared), arguments
        )
    return list(planned.values())


def _overrides(settings: Settings, fields: dict[str, object]) -> list[str]:
    """Arguments for fields that differ from the config."""
    found = []
    for name, value in fields.items():
        section, _, field = name.partition(".")
        if getattr(settings.sections[section], field) != value:
            found.append(f"--config.{name}={value}")
    return found


def made_otherwise(
    study: str, shown: Collection[str], settings: Settings, places: Places
) -> tuple[str, ...]:
    """A note that names the runs of a study that its command does not make; empty without any.

    Args:
      study: its name.
      shown: names of the runs that are finished.
      settings: that the command gives.
      places: of the study.
    """
    planned = plan(sweep_named(study), settings, places)
    same = {item.run.name for item in planned if item.state_of_measured() == FINISHED}
    if not (others := sorted(set(shown) - same)):
        return ()
    return (f"{len(others)} of {len(set(shown))} runs were {OTHERWISE}: {', '.join(others)}",)


def choose(planned: Sequence[PlannedRun], names: Sequence[str]) -> list[PlannedRun]:
    """The runs of some names and those that they read, in the order of the study; all without any.

    Raises:
      ConfigError: there is no run of a name.
    """
    by_name = {item.run.name: item for item in planned}
    for name in names:
        if name not in by_name:
            raise ConfigError(f"--runs: '{name}' given, allowed are {', '.join(by_name)}")
    wanted, left = set(names or by_name), list(names)
    while left:
        reads = by_name[left.pop()].run.reads
        left += [name for name in reads if name not in wanted]
        wanted |= set(reads)
    return [item for name, item in by_name.items() if name in wanted]


def tell(planned: Sequence[PlannedRun]) -> str:
    """All runs with how far they are and the commands that make them, and how many there are."""
    lines, counts = [], {}
    for item in planned:
        state = item.state_of_run()
        counts[state] = counts.get(state, 0) + 1
        lines.append(f"# {item.run.name}: {state}")
        lines += item.commands()
    told = ", ".join(f"{count} {state}" for state, count in counts.items())
    whole = f"{len(planned)} run{'s' if len(planned) != 1 else ''}"
    return "\n".join([*lines, f"# {whole}: {told}"])


def bases_of(item: PlannedRun, planned: Sequence[PlannedRun]) -> tuple[str, ...]:
    """Names of the base models of every seed of what is measured; see `results.base_name`.

    One that a run of the study has made begins with the name of that run: seed 0 of two runs are
    two base models.

    Args:
      item: the run.
      planned: all runs of the study.
    """
    settings, maker = item.settings, item.run.stages[-1]
    seeds = settings.seeds_of(maker)
    # Up to the stage that trained the base model, or drew one of its own.
    while (spec := stage_spec(settings, maker)).reads_input(settings):
        if not (read := spec.input_of(settings)):
            break
        seeds, maker = settings.seeds_read(read, seeds), read
    made_by = _made_by(item, maker, {other.run.name: other for other in planned})
    names = (base_name(settings.folder_of(maker), seed) for seed in seeds)
    return tuple(f"{made_by}/{name}" if made_by else name for name in names)


def _made_by(item: PlannedRun, stage: str, planned: Mapping[str, PlannedRun]) -> str:
    """Name of the run that makes what a run reads of a stage; empty where no run of the study."""
    if stage in item.run.stages:
        try:
            return "" if item.state(stage) == ELSEWHERE else item.run.name
        except StageConflictError:
            return item.run.name
    found = (_made_by(planned[name], stage, planned) for name in item.run.reads)
    return next(filter(None, found), "")
