"""The training loop of every stage: compile once, advance, log, save, resume.

A stage is pure functions over a state pytree. Several updates run inside one compiled call that
reuses the memory of the state; the seeds of a stage are one vmapped program, or several of so many
seeds as memory takes. The state holds all that an update reads and changes (parameters, optimiser,
keys, counters of the data), so that a run which goes on from a checkpoint repeats, bit for bit,
what an undisturbed run would have done: the same number of devices provided, as sums over more of
them round differently. That holds on CPUs and TPUs; GPUs choose among kernels by timing them, and
add what is scattered in any order, unless `XLA_FLAGS=--xla_gpu_deterministic_ops=true` forbids it,
which takes longer.

Checkpoints are saved every so many updates, every so many minutes, and when the process is told to
stop (`internal_rl.interruption`). One between two lines of metrics holds the sums of the line. A
call cannot be interrupted: where one takes long the next ones hold fewer updates, which changes no
parameter, and means of metrics in their last digit alone.
"""

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging

from internal_rl import hosts
from internal_rl.checksums import read_checked_record, write_checked_json
from internal_rl.errors import ConfigError, DivergenceError, StageConflictError, StorageError
from internal_rl.files import storage_faults
from internal_rl.interruption import watched
from internal_rl.paths import as_path, is_remote
from internal_rl.training.checkpoint_copies import needs_copies
from internal_rl.training.checkpoints import Checkpoints
from internal_rl.training.identity import Identity
from internal_rl.training.loggers import DEFAULT_LOGGERS, LoggedRun, make_loggers
from internal_rl.training.metrics import MetricsWriter, read_metrics
from internal_rl.training.program import Program
from internal_rl.training.progress import Progress
from internal_rl.training.stage import Stage, State
from internal_rl.training.stage_directory import StageDirectory, seed_of
from internal_rl.training.traced_size import size_faults

LONGEST_CALL_SECONDS = 8.0
"""Longer calls are cut: one and what is saved behind it fit into `interruption.GRACE_SECONDS`."""

LONG_EVALUATION_SECONDS = 10.0
"""A longer evaluation may be ended by a signal: what was trained before it is saved first."""


def run_stage(
    stage: Stage,
    workdir: str | os.PathLike,
    loggers: tuple[str, ...] = DEFAULT_LOGGERS,
    deadline: float = math.inf,
) -> None:
    """Trains what is not yet trained of a stage.

    A finished stage is left as it is, an interrupted one goes on from its last checkpoint; so does
    a finished one of which more updates are asked for.

    Args:
      stage: the stage.
      workdir: work directory of the run.
      loggers: names of what takes the curves beside `metrics.jsonl`, see `training.loggers`.
      deadline: on the clock of `time.monotonic`; a stage that trains until then, one call at
        least, is finished as it stands, with as many updates as it has come to.

    Raises:
      ConfigError: a logger is unknown or its package is not installed, or several processes cannot
        write to the work directory.
      StageConflictError: the directory was made with another configuration, or is in use.
      DivergenceError: the loss or a parameter is not finite; the last good checkpoint is kept.
      StorageError: the work directory cannot be read or written.
      Interrupted: the process was told to stop; what was trained is saved.
    """
    if hosts.several() and needs_copies(as_path(workdir)):
        raise ConfigError(
            f"--workdir: {workdir} given, allowed for several processes is gs://BUCKET/FOLDER or a"
            " folder that all of them share"
        )
    directories = {
        seed: StageDirectory(
            workdir,
            stage.name,
            seed,
            stage.reads.get(seed),
            stage.parameters_read.get(seed),
            stage.data_read,
        )
        for seed in stage.seeds
    }
    with storage_faults(workdir), size_faults(stage):
        _check_others(stage, workdir)
        groups = _groups(stage, directories)
        if deadline < math.inf and len(groups) > 1:
            raise ConfigError(
                f"--minutes: given for {len(groups)} groups of seeds, which train one after the"
                f" other and would end at different ages; allowed is one: --seeds, or"
                f" --config.{stage.section}.seeds_together"
            )
        if not groups:
            logging.info("%s: finished already", stage.name)
        # Every process has read before the first one writes.
        hosts.wait_for_all(f"{stage.name}: begin")
        for seeds in groups:
            group = [directories[seed] for seed in seeds]
            run = _Run(stage.for_seeds(seeds), group, loggers, deadline)
            with contextlib.ExitStack() as stack:
                for seed in seeds:
                    if hosts.is_first():
                        stack.callback(directories[seed].release)
                        directories[seed].begin(stage.config, seeds, stage.computed)
                hosts.wait_for_all(f"{stage.name}: begun")
                try:
                    run.run()
                except (OSError, StorageError):
                    run.check_there()
                    raise


def _check_others(stage: Stage, workdir: str | os.PathLike) -> None:
    """Raises StageConflictError if a seed that is not asked for was made with other settings.

    The seeds of a folder are one run: tables show medians over them, under one command.
    """
    for folder in sorted(as_path(workdir).glob(f"{stage.name}/seed_*")):
        seed = seed_of(folder)
        if seed is not None and seed not in stage.seeds:
            # A damaged one is told where it is read.
            with contextlib.suppress(StorageError):
                StageDirectory(workdir, stage.name, seed).check(stage.config)


def _groups(stage: Stage, directories: Mapping[int, StageDirectory]) -> list[list[int]]:
    """Which seeds still to be trained share a program.

    Seeds begun together go on together, since a program over other seeds may round differently. The
    others are trained in groups of `seeds_together`, one after the other, which bounds the memory.
    """
    begun = {seed: directory.check(stage.config) for seed, directory in directories.items()}
    raised = [seed for seed in stage.seeds if begun[seed] and begun[seed].steps_raised]
    for seed in raised:
        if directories[seed].finished and not directories[seed].has_checkpoint:
            raise _cannot_go_on(stage, directories[seed])
    unfinished = [seed for seed in stage.seeds if seed in raised or not directories[seed].complete]
    groups = []
    for seed in unfinished:
        if begun[seed] is None or begun[seed].seeds in groups:
            continue
        group = begun[seed].seeds
        if not set(group) <= set(stage.seeds):
            raise StageConflictError(
                f"{stage.name}: seeds {list(stage.seeds)} asked for, but"
                f" {directories[seed].path} was begun together with seeds {group}; allowed are"
                " seeds that hold these, or another --workdir"
            )
        groups.append(group)
    fresh = [seed for seed in unfinished if not any(seed in group for group in groups)]
    size = stage.seeds_together
    return [*groups, *(fresh[i : i + size] for i in range(0, len(fresh), size))]


def _cannot_go_on(stage: Stage, directory: StageDirectory) -> StageConflictError:
    return StageConflictError(
        f"{stage.config.length}: {stage.num_steps} asked for, but {directory.path} is finished with"
        " fewer and keeps no checkpoint to go on from (shipped stages have none); allowed is what"
        " it was made with, or another --workdir"
    )


class _Run:
    """One group of seeds on its way from its last checkpoint to the end of the stage."""

    def __init__(
        self,
        stage: Stage,
        directories: Sequence[StageDirectory],
        loggers: tuple[str, ...],
        deadline: float,
    ):
        self._stage = stage
        self._deadline = deadline
        self._longest_call = stage.steps_per_call
        self._loggers = loggers
        self._directories = directories
        self._program = Program(stage)
        # Before anything is written: what does not fit together is found out here.
        self._program.trace()
        self._stack = contextlib.ExitStack()

    def run(self) -> None:
        """Trains to the end, then writes what later stages read."""
        program, asked = self._program, self._stage
        with watched() as self._watch, self._stack:
            paths = [directory.path / "checkpoints" for directory in self._directories]
            # Every process has to hold what is saved; one alone leaves it where it is.
            whole = program.whole if hosts.several() else None
            identities = [Identity(d.seed, asked.config) for d in self._directories]
            self._checkpoints = Checkpoints(paths, identities, program.batched, whole)
            self._stack.callback(self._checkpoints.close)
            first_step, state, sums = self._checkpoints.restore_newest(program.state_template())
            if first_step:
                state = program.place_state(state)
                logging.info("%s: goes on from step %d", self._stage.name, first_step)
            else:
                state = program.initial_state()
            hosts.wait_for_all(f"{self._stage.name}: state")
            self._references, self._writers = {}, []
            self._started = time.monotonic()
            if hosts.is_first():
                for directory in self._directories:
                    directory.record_start(first_step, self._stage.computed)
                self._extend(first_step)
                self._references = self._load_references()
                self._open_metrics(first_step)
            if first_step < self._stage.num_steps:
                logging.info("%s: compiles", self._stage.name)
                # Before there is anything to lose: a signal ends a compilation at once.
                program.compile()
                # The first step makes a connection among all devices, for which no process waits
                # longer than half a minute: one may compile much longer than another.
                hosts.wait_for_all(f"{self._stage.name}: compiled")
            self._saved_at = time.monotonic()
            # Nobody has timed one yet.
            self._evaluation_seconds = math.inf
            with self._watch.held():
                state = self._train(state, first_step, sums)
                self._checkpoints.wait()
            self._watch.check()
            self.check_there()
            stage = self._stage
            if stage is not asked and hosts.is_first():
                for directory in self._directories:
                    directory.shorten(stage.config)
            if stage.artifacts is not None:
                logging.info("%s: measures what has been trained", stage.name)
            for index, directory in enumerate(self._directories):
                # Whoever was ended while seeds were measured has those before it.
                if hosts.of_first(directory.complete):
                    continue
                found = program.of_seed(state, index)
                if hosts.is_first():
                    self._finish(directory, *found)
                    directory.finish(stage.num_steps)
        hosts.wait_for_all(f"{stage.name}: end")

    def _extend(self, first_step: int) -> None:
        """Opens directories that were begun with fewer updates, now that there is a state."""
        config = self._stage.config
        begun = [directory.check(config) for directory in self._directories]
        raised = [
            (directory, found.seeds)
            for directory, found in zip(self._directories, begun, strict=True)
            if found and found.steps_raised
        ]
        for directory, _ in raised:
            if directory.finished and not first_step:
                raise _cannot_go_on(self._stage, directory)
        for directory, seeds in raised:
            directory.extend(config, seeds)
        for directory in self._directories:
            directory.reopen()

    def _load_references(self) -> dict[str, float]:
        """Constants beside the curves, computed once and kept in `references.json`."""
        if self._stage.references is None:
            return {}
        file = self._directories[0].path / "references.json"
        if file.exists():
            remedy = "remove it: it is computed again"
            references = read_checked_record(file, {}, remedy)
            if not all(isinstance(x, int | float) for x in references.values()):
                raise StorageError(f"{file}: damaged, a value is no number; {remedy}")
        else:
            logging.info("%s: computes what its curves are compared with", self._stage.name)
            references = {f"reference/{k}": float(v) for k, v in self._stage.references().items()}
        for directory in self._directories:
            write_checked_json(directory.path / "references.json", references)
        return references

    def _open_metrics(self, first_step: int) -> None:
        for directory in self._directories:
            run = LoggedRun(directory.path, self._stage.config.values, first_step)
            loggers = make_loggers(self._loggers, run)
            self._writers.append(MetricsWriter(directory.path, first_step, loggers))
            self._stack.callback(self._writers[-1].close)
        lines = read_metrics(self._directories[0].path)
        self._started -= (lines[-1].get("seconds") or 0.0) if lines else 0.0

    def _train(self, state: State, step: int, sums: dict[str, np.ndarray]) -> State:
        """Advances from line to line of metrics.

        Args:
          state: after `step` updates.
          step: where to begin.
          sums: of the metrics of the updates since the last line, by name `(seeds,)`.

        Returns:
          The state after the last update.
        """
        stage, program = self._stage, self._program
        progress = Progress(stage.num_steps, step, stage.name, "update")
        self._stack.enter_context(progress)
        while step < self._stage.num_steps:
            last_line = step - step % stage.log_every
            line_step = self._next_line(step)
            while step < line_step:
                chunk = min(self._longest_call, line_step - step)
                began = time.monotonic()
                state, means = program.advance(state, chunk)
                self._check(np.isfinite(means["loss"]), "loss", step + chunk)
                self._longest_call = self._fitting((time.monotonic() - began) / chunk)
                for name, value in means.items():
                    sums[name] = sums.get(name, 0.0) + chunk * value.astype(np.float64)
                step += chunk
                progress.advance(chunk)
                # Processes ask each other only where there is something to ask.
                if self._deadline < math.inf and hosts.of_first(time.monotonic() > self._deadline):
                    line_step = step if self._ends_at(step) else line_step
                if step < line_step:
                    self._pause_if_due(step, state, sums)
            means = {name: value / (step - last_line) for name, value in sums.items()}
            if step % stage.log_every == 0:
                sums = {}
            if self._is_due(step, stage.evaluate_every):
                began = time.monotonic()
                means |= program.evaluate(state)
                self._evaluation_seconds = time.monotonic() - began
            progress.tell({name: value.mean() for name, value in means.items()})
            # Lines come before the checkpoint of their step, so that none is missing after a kill.
            self._write_line(step, means)
            if step in stage.snapshot_steps or self._is_due(step, stage.checkpoint_every):
                self._check(program.finite(state), "parameters", step)
            if step in stage.snapshot_steps:
                for index, directory in enumerate(self._directories):
                    params = stage.params(program.state_of_seed(state, index))
                    if hosts.is_first():
                        directory.save_snapshot(step, params)
            if self._is_due(step, stage.checkpoint_every):
                self._save(step, state, sums)
            self._pause_if_due(step, state, sums)
        return state

    def _fitting(self, seconds: float) -> int:
        """Updates of the next call, where one takes so long; every process has the same number."""
        fitting = int(LONGEST_CALL_SECONDS / seconds) if seconds > 0 else self._stage.steps_per_call
        return hosts.of_first(min(self._stage.steps_per_call, max(fitting, 1)))

    def _ends_at(self, step: int) -> bool:
        """Makes this the last update of the stage; whether it may be."""
        if step == self._stage.num_steps:
            return True
        if not self._stage.may_end_at(step):
            return False
        logging.info("%s: time is up, ends with %d updates", self._stage.name, step)
        config = self._stage.config.with_length(step)
        self._stage = dataclasses.replace(self._stage, num_steps=step, config=config)
        return True

    def check_there(self) -> None:
        """Ends the run where a directory was removed; files that are open would hide it."""
        if hosts.is_first():
            for directory in self._directories:
                directory.check_there()

    def _save(self, step: int, state: State, sums: Mapping[str, np.ndarray]) -> None:
        self.check_there()
        for writer in self._writers:
            writer.flush()
        self._checkpoints.save(step, state, sums)
        self._saved_at = time.monotonic()

    def _pause_if_due(self, step: int, state: State, sums: Mapping[str, np.ndarray]) -> None:
        """Saves where the last checkpoint is old, or where the process is told to stop.

        Before the call that leads to a long evaluation a checkpoint is old the sooner.
        """
        stop = hosts.any_of_all(self._watch.signalled)
        unsaved = time.monotonic() - self._saved_at
        old = 0 < self._stage.checkpoint_minutes * 60 < unsaved
        if self._evaluates_next(step):
            old |= min(unsaved, self._evaluation_seconds) > LONG_EVALUATION_SECONDS
        if not stop and not hosts.of_first(old):
            return
        self._check(self._program.finite(state), "parameters", step)
        self._save(step, state, sums)
        if stop:
            self._checkpoints.wait()
            logging.info("%s: checkpoint of step %d saved", self._stage.name, step)
            self._watch.stop()

    def _next_line(self, step: int) -> int:
        """The update behind which the next line of metrics is written."""
        every = self._stage.log_every
        return min(step - step % every + every, self._stage.num_steps)

    def _evaluates_next(self, step: int) -> bool:
        """Whether the next call ends at a line of metrics with an evaluation."""
        line_step = self._next_line(step)
        near = step < line_step <= step + self._longest_call
        return near and self._is_due(line_step, self._stage.evaluate_every)

    def _is_due(self, step: int, every: int) -> bool:
        return step == self._stage.num_steps or (every > 0 and step % every == 0)

    def _check(self, finite: np.ndarray, what: str, step: int) -> None:
        """Stops before anything that is not finite is saved."""
        if finite.all():
            return
        self._checkpoints.wait()
        kept = self._checkpoints.latest_step()
        bad = [d.seed for d, good in zip(self._directories, finite, strict=True) if not good]
        last, where = f"the checkpoint of step {kept} is kept", " in another --workdir"
        if not kept:
            last, where = "there is no checkpoint yet", ""
        raise DivergenceError(
            f"{self._stage.name}: {what} not finite by step {step} (seed {bad[0]}); {last} in"
            f" {self._directories[0].path.parent}; try a lower"
            f" --config.{self._stage.section}.learning_rate{where}"
        )

    def _write_line(self, step: int, means: Mapping[str, np.ndarray]) -> None:
        """One line of metrics for each seed."""
        seconds = time.monotonic() - self._started
        for index, writer in enumerate(self._writers):
            values = {name: value[index] for name, value in means.items()}
            writer.write(step, values | self._references | {"seconds": seconds}, time.time())
        # A store would be asked over the network; it is with every checkpoint.
        if not is_remote(self._directories[0].path):
            self.check_there()

    def _finish(self, directory: StageDirectory, state: State, frozen) -> None:
        if self._stage.artifacts is not None:
            artifacts = self._stage.artifacts(state, frozen)
            directory.save_artifacts({name: np.asarray(x) for name, x in artifacts.items()})
        directory.save_params(self._stage.params(state))
