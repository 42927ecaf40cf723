"""Where the stages of a run find each other, and where their curves go."""

import dataclasses
import os
import shlex
from collections.abc import Sequence

import chex
import jax
import numpy as np

from internal_rl.checksums import checksum_of
from internal_rl.errors import ConfigError
from internal_rl.files import storage_faults
from internal_rl.paths import AnyPath, as_path, check_store
from internal_rl.stages.catalogue import command_of
from internal_rl.stages.config_file import CONFIG_FILES
from internal_rl.stages.settings import Settings
from internal_rl.training.loggers import DEFAULT_LOGGERS, check_loggers
from internal_rl.training.stage_directory import StageDirectory
from internal_rl.training.stage_results import check_stage, load_stage
from internal_rl.training.weights import check_weights


def config_arguments(settings: Settings) -> tuple[str, ...]:
    """Arguments that choose the config file and the preset of some settings."""
    name = settings.environment["name"]
    return (f"--config={CONFIG_FILES.get(name, 'CONFIG.py')}:{settings.preset}",)


def stage_command(
    stage: str,
    arguments: Sequence[str],
    workdir: str | os.PathLike,
    upstream: Sequence[str] = (),
) -> str:
    """The command that makes a stage.

    Args:
      stage: its name.
      arguments: what chooses the config.
      workdir: where it is written.
      upstream: where earlier stages lie.
    """
    given = [*arguments, f"--workdir={workdir}"]
    if upstream:
        given.append(f"--upstream={','.join(upstream)}")
    return f"{command_of(stage)} {shlex.join(given)}"


@dataclasses.dataclass(frozen=True)
class Places:
    """Work directories of a run, and the loggers of its curves.

    Attributes:
      workdir: where the stages of this run are written, `<workdir>/<stage>/seed_<k>/`.
      upstream: other work directories, in which earlier stages are looked for that `workdir` does
        not hold; the first that holds one counts.
      arguments: arguments of the command line that choose the config, for messages; empty for the
        file of the world.
      loggers: names of what takes curves beside `metrics.jsonl`, see `training.loggers`.
    """

    workdir: str | os.PathLike
    upstream: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    loggers: tuple[str, ...] = DEFAULT_LOGGERS

    def __post_init__(self):
        check_loggers(self.loggers)
        check_store(as_path(self.workdir))
        for folder in self.upstream:
            path = as_path(folder, "--upstream")
            check_store(path, "--upstream")
            if not path.is_dir():
                raise ConfigError(
                    f"--upstream: '{folder}' is not there, allowed are work directories of other"
                    " runs, separated by commas"
                )

    def _holding(self, folder: str, seed: int) -> list[str | os.PathLike]:
        """Work directories in which a seed of a stage has been begun, that of the run first.

        Records are passed over: nothing can be read from them that a stage needs.
        """
        found = []
        for place in (self.workdir, *self.upstream):
            directory = StageDirectory(place, folder, seed)
            if directory.path.exists() and not directory.is_record:
                found.append(place)
        return found

    def reads_from(self, folder: str, seed: int) -> str | os.PathLike:
        """The work directory from which a stage is read."""
        return next(iter(self._holding(folder, seed)), self.workdir)

    def holds(self, folder: str, seed: int) -> bool:
        """Whether a seed of a stage has been begun anywhere."""
        return bool(self._holding(folder, seed))

    def command(self, settings: Settings, stage: str) -> str:
        """The command that makes a stage with the settings of this run."""
        arguments = self.arguments or config_arguments(settings)
        return stage_command(stage, arguments, self.workdir, self.upstream)

    def load(self, settings: Settings, stage: str, seed: int, step: int | None = None) -> dict:
        """Parameters of an earlier stage, which must have been run with these settings.

        Args:
          settings: of the run.
          stage: name of the stage.
          seed: which of its seeds.
          step: training age of a snapshot; None for the final parameters.

        Raises:
          StageMissingError: the stage is not finished; names the command that makes it.
          StageConflictError: it was run with other settings.
          StorageError: its files cannot be read.
        """
        folder = settings.folder_of(stage)
        params, _ = load_stage(
            self.reads_from(folder, seed),
            folder,
            seed,
            config=settings.stage_config(stage),
            reads=settings.reads(stage, seed),
            parameters_read=self.parameters_read(settings, stage, seed),
            step=step,
            command=self.command(settings, stage),
        )
        return params

    def finished(self, settings: Settings, stage: str, seed: int) -> StageDirectory:
        """Directory of an earlier stage that leaves no parameters; errors as in `load`."""
        folder = settings.folder_of(stage)
        return check_stage(
            self.reads_from(folder, seed),
            folder,
            seed,
            settings.stage_config(stage),
            self.command(settings, stage),
            reads=settings.reads(stage, seed),
            parameters_read=self.parameters_read(settings, stage, seed),
        )

    def directory(
        self, settings: Settings, stage: str, seed: int, place: str | os.PathLike | None = None
    ) -> StageDirectory:
        """Directory of a seed of a stage, with all that it has to stand on.

        Args:
          settings: of the run.
          stage: name of the stage.
          seed: which of its seeds.
          place: work directory in which it lies; None for that of the run.

        Raises:
          StorageError: as `parameters_read`.
        """
        return StageDirectory(
            self.workdir if place is None else place,
            settings.folder_of(stage),
            seed,
            settings.reads(stage, seed),
            self.parameters_read(settings, stage, seed),
        )

    def parameters_read(self, settings: Settings, stage: str, seed: int) -> dict[str, str]:
        """SHA-256 of the parameters on which a seed of a stage stands, by earlier stage.

        They are the final ones, or those of the age that the stage reads. Those that are not there
        or not known are left out.

        Raises:
          StorageError: what is known of them is damaged or cannot be read.
        """
        step = getattr(settings.sections[stage], "base_step", 0) or None
        sums = {}
        for earlier, source in settings.reads(stage, seed).items():
            file = self.params_file(settings, earlier, source, step)
            with storage_faults(file.parent):
                sums[earlier] = checksum_of(file)
        return {earlier: checksum for earlier, checksum in sums.items() if checksum}

    def params_file(
        self, settings: Settings, stage: str, seed: int, step: int | None = None
    ) -> AnyPath:
        """Where the parameters of an earlier stage lie, final ones or those of an age."""
        folder = settings.folder_of(stage)
        return StageDirectory(self.reads_from(folder, seed), folder, seed).params_file(step)

    def params(
        self,
        settings: Settings,
        stage: str,
        seeds: tuple[int, ...],
        step: int | None = None,
        expected: chex.ArrayTree | None = None,
    ) -> tuple[dict, int | None]:
        """Parameters of an earlier stage for every seed of a later one, see `Settings.seeds_read`.

        Args:
          settings: of the run.
          stage: name of the stage.
          seeds: of the later stage.
          step: training age of a snapshot; None for the final parameters.
          expected: the parameters of its model, with shapes in place of arrays; None compares none.

        Returns:
          `(params, axis)`: with a leading axis over `seeds` and `axis = 0` where they differ, or
          shared by all seeds and `axis = None`.

        Raises:
          UserError: as `load`, or they are not those of the model.
        """
        sources = settings.seeds_read(stage, seeds)
        loaded = {seed: self.load(settings, stage, seed, step) for seed in set(sources)}
        for seed, params in loaded.items() if expected is not None else ():
            file = self.params_file(settings, stage, seed, step)
            check_weights(params, expected, str(file))
        if len(loaded) == 1:
            return loaded[sources[0]], None
        return jax.tree.map(lambda *leaves: np.stack(leaves), *(loaded[k] for k in sources)), 0
