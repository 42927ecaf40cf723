"""Studies: what is measured once a model is trained, and how it is shown.

A study is one file. It says which stages it looks at, what the world and the data have to tell for
it, what it measures there (arrays that the stage keeps as artifacts), and what the report makes of
these: rows of the table, text, figures, an animation. The report iterates over all studies.

For a stage. At its end, of one seed, on the host:

    context = StudyContext(world, model, method, state, frozen, source)
    arrays = measure_stage("metacontroller", context)

where `model` and `frozen` are

| stage            | model                                                   | frozen             |
|------------------|---------------------------------------------------------|--------------------|
| `pretrain`       | the base model with the trained parameters, at layer 0  | `{"data": ..., }`  |
| `probe`, `steer` | the frozen base model, at layer 0                       | `{"data": ..., }`  |
| `metacontroller` | base model and the trained metacontroller, at its layer | `{"data": ..., }`  |
| `compile`        | base model and the trained CompILE, at its layer        | `{"data": ..., }`  |
| `internal_rl`    | the frozen model that the method was given              | that model         |
| `raw_rl`         | the pretrained model that the method was given          | that model         |

and `source` is where the rows come from, None for the last two. A variant or an age of a stage
(`metacontroller_forced`, `probe_16000`) is that stage for all studies. A study that needs what the
world or the data do not tell is left out; log and report say so in one line.

For an author. A module of `internal_rl.analysis` that defines `STUDY` is found by itself; others
call `register_study`.
"""

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
from absl import logging
from matplotlib.figure import Figure

import internal_rl.analysis
from internal_rl.acting.episodes import SHOWN, SOLVABLE, Episodes
from internal_rl.analysis.results import RunResults, SeedResults
from internal_rl.analysis.table import Row
from internal_rl.arguments import check_registered, checked_names
from internal_rl.envs.slots import choose_num_slots
from internal_rl.envs.world import CAPABILITIES, capabilities, kept_by_first
from internal_rl.methods.evaluation import evaluation_key, held_out
from internal_rl.models.metacontroller import Discovery
from internal_rl.models.steered_model import SteeredModel
from internal_rl.training.mesh import by_all_devices
from internal_rl.training.randomness import named_key
from internal_rl.training.stage_directory import is_of
from internal_rl.types import DataSource, Trajectory, World

Arrays = Mapping[str, chex.Array]

LABELS = "labels"
"""Need of a study whose trajectories have to carry their true subgoals."""

SKIPPED = "skipped_studies"
"""Artifact that tells which studies a stage has left out, a line each; absent if none."""


@dataclasses.dataclass(frozen=True)
class StudyContext:
    """A trained model of one seed and what it was trained on; see the top of this file.

    Attributes:
      world: the world.
      model: the model with its parameters.
      method: what has trained; an object of `internal_rl.methods`.
      state: its state at the end.
      frozen: what its functions were given, one seed.
      source: where its rows come from; None for methods that act.
    """

    world: World
    model: SteeredModel
    method: Any
    state: Any
    frozen: Any = None
    source: DataSource | None = None

    @functools.cached_property
    def known(self) -> frozenset[str]:
        """What the world and the data tell: capabilities, and `LABELS`."""
        labelled = self.source is not None and self.source.labelled
        return capabilities(self.world) | ({LABELS} if labelled else frozenset())

    @property
    def num_episodes(self) -> int:
        """Episodes of a measurement."""
        return self.method.config.evaluation_episodes

    @property
    def params(self) -> chex.ArrayTree:
        """What later stages read of the stage."""
        return self.method.params(self.state)

    @functools.cached_property
    def rows(self) -> Trajectory:
        """`(B, S)` held-out rows."""
        return held_out(self.source, self.method.config.evaluation_rows, self.frozen["data"])

    @functools.cached_property
    def examination_keys(self) -> dict[str, chex.PRNGKey]:
        """Keys of what is measured of a metacontroller."""
        names = ("infer", "codes", "split", "inject")
        return dict(zip(names, jax.random.split(evaluation_key("examination"), 4), strict=True))

    @functools.cached_property
    def discovery(self) -> Discovery:
        """What the metacontroller infers of the held-out rows."""
        return infer(self.model, self.rows, self.examination_keys["infer"])

    def play(self, deterministic: bool) -> Episodes:
        """Episodes of a policy; nothing keeps them, as they may take much memory."""
        run = _make_play(self.method, self.num_episodes)
        return run(self.params, self.frozen, deterministic)

    @functools.cached_property
    def episodes(self) -> Episodes:
        """Sampled episodes of a policy."""
        return self.play(deterministic=False)


@kept_by_first(maxsize=2)
def _make_play(method: Any, num_episodes: int) -> Callable:
    """The program that plays policies of one method, kept for other seeds."""
    key = named_key(jax.random.key(2), "evaluation")

    def play(params, frozen, deterministic):
        options = {"deterministic": deterministic, "keep": (*SHOWN, SOLVABLE), "shared": True}
        return method.rollout(params, frozen, key, num_episodes, **options)

    return by_all_devices(play)


# Episodes that a measurement runs side by side at most, which bounds the memory.
MAX_SLOTS = 256


def choose_slots(num_episodes: int) -> int:
    """Episodes that run side by side: what suits the backend, and not more than `MAX_SLOTS`."""
    return choose_num_slots(0, min(num_episodes, MAX_SLOTS))


@jax.jit
def infer(model: SteeredModel, rows: Trajectory, key: chex.PRNGKey) -> Discovery:
    """What the metacontroller infers of `(B, S)` rows; `key` is the noise of the codes."""
    return model.infer(rows.observation, rows.segment, key)


class Animation(NamedTuple):
    """Pictures one after the other.

    Attributes:
      frames: `(H, W, 3)` uint8 each.
      seconds_per_frame: how long each is shown.
    """

    frames: Sequence[np.ndarray]
    seconds_per_frame: float


_FUNCTIONS = ("measure", "rows", "figures", "animations", "text")


@dataclasses.dataclass(frozen=True)
class Study:
    """One study. What it does not do is None.

    Attributes:
      name: of the study.
      stages: stages whose model it measures, or a function that gives them.
      needs: `envs.world.CAPABILITIES` of the world and `LABELS` without which nothing is measured.
      measure: arrays by name, which the stage keeps; those that are None are left out.
      rows: rows of the table, from the name of one stage (or of its variant) and its seeds.
      figures: figures by file name, from the run; None where there is no data.
      animations: animations by file name, from the run.
      text: Markdown behind the table, from the run; empty where there is no data.
      order: place in table and log among the studies of a stage; equal ones go by name.
      title: heading of its part of the report; empty for its name.
      asks: what a run has to hold for its figures beside its stages; empty for nothing.
      captions: what figures and animations show, by file name; also read out in their place.

    Raises:
      ValueError: an attribute is of another kind, or a need is none that there is.
    """

    name: str
    stages: tuple[str, ...] | Callable[[], Sequence[str]]
    needs: frozenset[str] = frozenset()
    measure: Callable[[StudyContext], Arrays] | None = None
    rows: Callable[[str, Sequence[SeedResults]], list[Row]] | None = None
    figures: Callable[[RunResults], Mapping[str, Figure | None]] | None = None
    animations: Callable[[RunResults], Mapping[str, Animation | None]] | None = None
    text: Callable[[RunResults], str] | None = None
    order: int = 100
    title: str = ""
    asks: str = ""
    captions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        given = {name: getattr(self, name) for name in _FUNCTIONS}
        functions = {name: function for name, function in given.items() if function is not None}
        check_registered("study", self.name, **functions)
        stages = self._stages() if isinstance(self._stages(), Iterable) else (self.stages,)
        if isinstance(stages, str) or not all(isinstance(name, str) for name in stages):
            raise ValueError(
                f"stages of study '{self.name}' are {self.stages!r}, allowed is a tuple of names"
            )
        known = (*CAPABILITIES, LABELS)
        needs = frozenset(checked_names(f"needs of study '{self.name}'", self.needs, known))
        object.__setattr__(self, "needs", needs)

    def _stages(self) -> Any:
        return self.stages() if callable(self.stages) else self.stages

    def looks_at(self, stage: str) -> bool:
        """Whether it looks at a stage, or at that of which `stage` is a variant or an age."""
        return any(is_of(stage, name) for name in self._stages())


_STUDIES: dict[str, Study] = {}


def register_study(study: Study) -> None:
    """Adds a study to all reports and stages; registering a name again replaces it.

    Raises:
      ValueError: it is none.
    """
    if not isinstance(study, Study):
        raise ValueError(f"study is {study!r}, allowed is a Study")
    _STUDIES[study.name] = study


@functools.cache
def _find_studies() -> None:
    """Registers the studies of this package, but for those that have been replaced."""
    for module in pkgutil.iter_modules(internal_rl.analysis.__path__, "internal_rl.analysis."):
        study = getattr(importlib.import_module(module.name), "STUDY", None)
        if study is not None:
            _STUDIES.setdefault(study.name, study)


def all_studies() -> list[Study]:
    """All studies in the order of the report."""
    _find_studies()
    return sorted(_STUDIES.values(), key=lambda study: (study.order, study.name))


def measure_stage(stage: str, context: StudyContext) -> dict[str, np.ndarray]:
    """All that is measured of a stage.

    Args:
      stage: its name.
      context: the trained model.

    Returns:
      Artifacts by name; with `SKIPPED`, if studies had to be left out.

    Raises:
      ValueError: two studies give artifacts of the same name.
    """
    found, skipped = {}, []
    for study in all_studies():
        if study.measure is None or not study.looks_at(stage):
            continue
        if missing := sorted(study.needs - context.known):
            skipped.append(f"study {study.name} left out: {', '.join(missing)} missing")
            logging.info("%s: %s", stage, skipped[-1])
            continue
        arrays = study.measure(context)
        if twice := sorted(found.keys() & arrays.keys()):
            raise ValueError(f"artifacts of study {study.name}: {twice[0]} is there already")
        found |= arrays
    arrays = {name: np.asarray(value) for name, value in found.items() if value is not None}
    return arrays | ({SKIPPED: np.array(skipped)} if skipped else {})


def as_arrays(result: Any, prefix: str = "") -> dict[str, chex.Array]:
    """Fields of a result, a dataclass, as artifacts `<prefix><field>`; None is left out."""
    values = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    return {f"{prefix}{name}": value for name, value in values.items() if value is not None}
