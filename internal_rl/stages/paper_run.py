"""As much of a run as fits into some minutes: for an accelerator that is at hand only now and then.

Measures what the machine does, then trains the base model, the metacontroller and internal RL in
turn, each in a process of its own, and stops in time. A stage whose share of the minutes is over is
finished as it stands, so that the next one can begin. What was reached, and the stages as files of
at most 16 MiB that a later run goes on from, are left in one folder.
"""

import dataclasses
import json
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

import jax
from absl import app, flags

from internal_rl import pretrained
from internal_rl.checksums import read_checked_record
from internal_rl.errors import ConfigError, UserError
from internal_rl.files import PUT_BACK, read_record, storage_faults, write_json
from internal_rl.interruption import Interrupted, leave, watched
from internal_rl.stages.config_file import load_config
from internal_rl.stages.origin import flags_of
from internal_rl.stages.settings import Settings
from internal_rl.stages.weight_files import pack, packed, unpack
from internal_rl.training.metrics import read_metrics

SHARES = {"pretrain": 6, "metacontroller": 4, "internal_rl": 2}
"""Stages in their order, and how many minutes of twelve each has if all are trained."""

RECORD = "paper_run.json"
"""What was measured and reached, beside the packed stages."""

_SPEED_SHARE = 0.25
"""Of the minutes, at most this much goes into measuring the machine."""

_TRAINED_SHARE = 0.75
"""Of the minutes of a stage; the rest is for what is measured at its end, compilation included."""

_PACKING_SECONDS = 20.0
_GRACE_SECONDS = 28.0
"""A process that is told to stop has saved and ended after so long, see `interruption`."""
_STOPPED_SECONDS = 18.0
"""The same where this process is told to stop itself, and has to pack what is there in time."""

_ROOT = pathlib.Path(__file__).parents[2]
_CHILD = "from internal_rl.stages.command import main; main()"


@dataclasses.dataclass(frozen=True)
class PaperRun:
    """What is to be done.

    Attributes:
      config: what `--config` says, `FILE:PRESET`.
      workdir: where stages are trained.
      out: where record and packed stages are left.
      minutes: how long all of it takes, at most.
      stages: to be trained, in the order of `SHARES`; empty for those that are not finished, or
        the last one if all are. Others are taken as they stand.
      seeds: base models; one metacontroller on each, and one policy on each of these.
      weights: folder that an earlier run left; empty for none.
      overrides: further arguments for every stage, such as `--config.pretrain.log_every=100`.
    """

    config: str
    workdir: pathlib.Path
    out: pathlib.Path
    minutes: float
    stages: tuple[str, ...] = ()
    seeds: int = 1
    weights: str = ""
    overrides: tuple[str, ...] = ()

    def __post_init__(self):
        if not 0 < self.minutes < math.inf:
            raise ConfigError(f"--minutes: {self.minutes} given, allowed is more than 0")
        if self.seeds < 1:
            raise ConfigError(f"--seeds: {self.seeds} given, allowed is 1 or more")
        for stage in self.stages:
            if stage not in SHARES:
                raise ConfigError(f"--stages: '{stage}' given, allowed are {', '.join(SHARES)}")

    @property
    def preset(self) -> str:
        """Preset of the config."""
        return load_config(self.config)["preset"]


def paper_run(run: PaperRun, world: str) -> dict:
    """Does it, and returns what `RECORD` holds.

    Args:
      run: what is to be done.
      world: name of the world of the config, for what is shipped.

    Raises:
      UserError: a fault that the user can mend; stages that have ended by then are packed.
      Interrupted: it was told to stop; the stages are packed as they have been saved.
    """
    end = time.monotonic() + 60.0 * run.minutes - _PACKING_SECONDS
    with storage_faults(run.workdir):
        run.workdir.mkdir(parents=True, exist_ok=True)
    with storage_faults(run.out):
        run.out.mkdir(parents=True, exist_ok=True)
    _bring_in(run, world)
    stages = to_train(run)
    record = {"config": run.config, "minutes": run.minutes, "trained": []}
    with watched() as watch:
        record["speed"] = _measure(run, world, end)
        _leave(run, record)
        try:
            _train_all(run, stages, end, record)
        except Interrupted:
            with watch.held():
                _leave(run, record)
            raise
    return record


def _train_all(run: PaperRun, stages: Sequence[str], end: float, record: dict) -> None:
    """Trains stage after stage, as long as there is time, and leaves each when it has ended."""
    for index, stage in enumerate(stages):
        minutes = minutes_of(stages[index:], (end - time.monotonic()) / 60.0)
        if minutes <= 0:
            print(f"no time left for {', '.join(stages[index:])}", file=sys.stderr)
            break
        record["trained"].append(stage)
        try:
            exit_code = _train(run, stage, minutes, end)
        finally:
            record["stages"] = {name: reached(run, name) for name in SHARES}
        _leave(run, record)
        if exit_code == 128 + signal.SIGTERM:
            print(f"{stage}: stopped in time, not finished", file=sys.stderr)
            break
        if exit_code:
            raise UserError(f"{stage}: ended with exit code {exit_code}, see above")


def _bring_in(run: PaperRun, world: str) -> None:
    """Puts earlier stages into the work directory: those of an earlier run, then shipped ones."""
    if run.weights:
        file = pathlib.Path(run.weights) / RECORD
        if not file.is_file():
            raise ConfigError(
                f"--weights: no {RECORD} in '{run.weights}', allowed is a fresh copy of what --out"
                " left"
            )
        with storage_faults(file, "take a fresh copy"):
            record = read_record(file, {"config": str, "files": dict}, "take a fresh copy")
        if record["config"] != run.config:
            raise ConfigError(
                f"--config: {run.config} given, {file} is of {record['config']}; allowed is that"
                " one, or a fresh copy if it was altered"
            )
        with storage_faults(run.workdir):
            unpack(run.weights, run.workdir, record["files"])
    # Up to the first stage that is trained: what comes after it would stand on another one.
    for stage in SHARES:
        if stage in run.stages or (run.workdir / stage).exists():
            break
        if stage in pretrained.stages_of(world, run.preset):
            pretrained.install(world, run.preset, run.workdir, stage)


def to_train(run: PaperRun) -> tuple[str, ...]:
    """Stages that are trained, in order.

    Raises:
      ConfigError: a later stage already stands on one of those that were asked for.
    """
    finished = [stage for stage in SHARES if _finished(run, stage)]
    if not run.stages:
        left = tuple(stage for stage in SHARES if stage not in finished)
        return left or tuple(SHARES)[-1:]
    chosen = tuple(stage for stage in SHARES if stage in run.stages)
    order = list(SHARES)
    for stage in chosen:
        later = [name for name in order[order.index(stage) + 1 :] if (run.workdir / name).exists()]
        if later:
            raise ConfigError(
                f"--stages: '{stage}' given, but {later[0]} in {run.workdir} stands on it as it is;"
                f" allowed are {', '.join(order[order.index(stage) + 1 :])}, or another --workdir"
            )
    return chosen


def minutes_of(stages: Sequence[str], left: float) -> float:
    """Minutes of the first of some stages, which share out those that are left."""
    return left * SHARES[stages[0]] / sum(SHARES[stage] for stage in stages)


def _seeds(run: PaperRun, stage: str) -> list[pathlib.Path]:
    return sorted((run.workdir / stage).glob("seed_*"))


def _finished(run: PaperRun, stage: str) -> bool:
    seeds = _seeds(run, stage)
    return len(seeds) >= run.seeds and all((seed / "DONE").exists() for seed in seeds)


def _arguments(run: PaperRun, stage: str) -> list[str]:
    """Of the process of a stage: earlier ones count with the settings that they were made with.

    What `--config` says alone may differ from these, as the shipped base model of `paper` does.
    """
    arguments = [f"--config={run.config}", f"--workdir={run.workdir}"]
    preset = Settings.read(load_config(run.config))
    for name in SHARES:
        if name != stage and _finished(run, name):
            folder = _seeds(run, name)[0]
            told = read_checked_record(folder / "config.json", {"config": dict}, PUT_BACK)
            stored = told["config"]
            done = read_checked_record(folder / "DONE", {"steps": int}, PUT_BACK)
            arguments += [*flags_of(preset, name, stored), f"--config.{name}.steps={done['steps']}"]
        count = f"num_seeds={run.seeds}" if name == "pretrain" else "seeds_per_input=1"
        arguments.append(f"--config.{name}.{count}")
    return [*arguments, *run.overrides]


def _train(run: PaperRun, stage: str, minutes: float, end: float) -> int:
    """Trains a stage in a process of its own; its exit code."""
    print(f"{stage}: {minutes:.1f} minutes", file=sys.stderr)
    command = [sys.executable, "-c", _CHILD, stage, *_arguments(run, stage)]
    command.append(f"--minutes={_TRAINED_SHARE * minutes:.3f}")
    return _run_until(command, end, run)[0]


def _measure(run: PaperRun, world: str, end: float) -> dict:
    """Rate of matrix products, and pretraining's share of it; empty where it is not measured."""
    if world != "gridworld-pinpad" or not (_ROOT / "benchmarks").is_dir():
        return {}
    command = [sys.executable, "-m", "benchmarks.run", f"--preset={run.preset}"]
    command += ["--only=training", "--json", "--repeats=3"]
    limit = time.monotonic() + _SPEED_SHARE * 60.0 * run.minutes
    exit_code, text = _run_until(command, min(limit, end), run, read=True)
    if exit_code:
        print(f"speed: not measured (exit code {exit_code})", file=sys.stderr)
        return {}
    figures = json.loads(text)
    preset = figures["presets"][run.preset]
    return {"machine": figures["machine"], **preset["bounds"], **preset["training"]}


def _run_until(
    command: Sequence[str], end: float, run: PaperRun, read: bool = False
) -> tuple[int, str]:
    """Runs a process, which is told to stop in time; its exit code, and what it printed."""
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH", ""))))
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str((run.workdir / "compiled").absolute()))
    environment = os.environ | {"PYTHONPATH": path, "JAX_COMPILATION_CACHE_DIR": cache}
    process = subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE if read else sys.stderr
    )
    try:
        text, _ = process.communicate(timeout=max(end - _GRACE_SECONDS - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            text, _ = process.communicate(timeout=_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            text, _ = process.communicate()
    except BaseException:
        # Told to stop, as this process has been: it saves what it has.
        with watched() as watch, watch.held():
            process.terminate()
            try:
                process.wait(timeout=_STOPPED_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        raise
    code = process.returncode
    return (128 - code if code < 0 else code), text or ""


def reached(run: PaperRun, stage: str) -> dict:
    """What the first seed of a stage has come to: updates, rate, last line of metrics."""
    lines = []
    for seed in _seeds(run, stage)[:1]:
        lines = read_metrics(seed)
    if not lines:
        return {}
    found = {"updates": lines[-1]["step"], "finished": _finished(run, stage)}
    if len(lines) > 2:
        # The first line counts the time of compiling.
        seconds = lines[-1]["seconds"] - lines[1]["seconds"]
        found["updates_per_second"] = (lines[-1]["step"] - lines[1]["step"]) / max(seconds, 1e-9)
    return found | {"last": lines[-1]}


def _leave(run: PaperRun, record: Mapping) -> None:
    """Packs the stages, and writes down what was reached."""
    with storage_faults(run.out):
        files = pack(run.workdir, run.out, list(SHARES))
        write_json(run.out / RECORD, {**record, "files": files})


def table(record: Mapping, out: pathlib.Path) -> str:
    """What was reached, for people."""
    lines = []
    speed = record["speed"]
    if speed:
        lines.append(
            f"{speed['machine']['device']}: products {speed['matmul_flops_per_second'] / 1e12:.4g}"
            f" TFLOP/s, pretraining {speed['tokens_per_second']:,.0f} tokens/s,"
            f" {speed['share_of_matmul_rate']:.1%} of the rate of products"
        )
    for stage, found in record.get("stages", {}).items():
        if found:
            rate = found.get("updates_per_second")
            shown = {
                name: value
                for name, value in found["last"].items()
                if name.startswith("evaluation/") or name in ("loss", "success")
            }
            figures = ", ".join(f"{name} {value:.4g}" for name, value in shown.items())
            state = "" if found["finished"] else ", not finished"
            lines.append(
                f"{stage}: {found['updates']:,} updates{state}"
                + (f", {rate:.3g} per second" if rate else "")
                + (f"; {figures}" if figures else "")
            )
    sizes = [path.stat().st_size for path in packed(out)]
    lines.append(f"{out}: {RECORD} and {len(sizes)} files, {sum(sizes) / 2**20:.1f} MiB")
    return "\n".join(lines)


def launch_paper_run() -> None:
    """The script: parses the command line, does it and leaves the process."""
    flags.DEFINE_string(
        "config", "configs/gridworld.py:paper", "Settings and preset of all stages."
    )
    flags.DEFINE_float("minutes", 12.0, "Minutes for all of it, at most.")
    flags.DEFINE_string("out", None, "Folder for the record and for the packed stages.")
    flags.DEFINE_string("workdir", None, "Where stages are trained; OUT/work if not given.")
    flags.DEFINE_string("weights", "", "What --out of an earlier run left, to go on from.")
    flags.DEFINE_list(
        "stages", [], f"Stages to train, of {', '.join(SHARES)}; those not finished if not given."
    )
    flags.DEFINE_integer("seeds", 1, "Seeds of every stage.")
    # Overrides of the config are handed on to the processes of the stages, which know its fields.
    overrides = tuple(a for a in sys.argv[1:] if re.match(r"--?config\.", a))
    arguments = [a for a in sys.argv if a not in overrides]
    app.run(lambda rest: _main(rest, overrides), argv=arguments, flags_parser=_parse)


def _parse(argv: Sequence[str]) -> list[str]:
    if {"--help", "-help", "-h", "-?"} & set(argv):
        print(f"{__doc__}\nusage: {argv[0]} [flags]\n{flags.FLAGS.module_help(__name__)}")
        print("  --config.SECTION.FIELD=VALUE changes one field of the config of all stages.")
        sys.exit(0)
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        _fail(error)


def _fail(error: Exception) -> None:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(2)


def _main(rest: Sequence[str], overrides: tuple[str, ...]) -> None:
    values = flags.FLAGS
    # An accelerator is for one process at a time, and belongs to those that are started here.
    jax.config.update("jax_platforms", "cpu")
    try:
        if len(rest) > 1:
            raise ConfigError(f"{rest[1]}: unexpected argument, allowed are flags: see --help")
        if not values.out:
            raise ConfigError("--out: not given, allowed is a folder for what was reached")
        for name in ("out", "workdir", "weights"):
            if "://" in (getattr(values, name) or ""):
                raise ConfigError(f"--{name}: a store given, allowed is a folder of this machine")
        out = pathlib.Path(values.out).expanduser()
        workdir = pathlib.Path(values.workdir).expanduser() if values.workdir else out / "work"
        run = PaperRun(
            values.config,
            workdir.absolute(),
            out,
            values.minutes,
            tuple(values.stages),
            values.seeds,
            values.weights,
            overrides,
        )
        record = paper_run(run, load_config(values.config)["environment"]["name"])
    except UserError as error:
        _fail(error)
    except Interrupted as interrupted:
        leave(interrupted)
    print(table(record, out))
