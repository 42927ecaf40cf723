"""Worlds by name, and what only some of them can tell.

A world is registered by the file that holds it; those of this package are imported when they are
asked for, so that the grid world needs no MuJoCo.
"""

import dataclasses
import functools
import importlib
import inspect
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import numpy as np

from internal_rl.arguments import check_registered
from internal_rl.extras import needs_extra
from internal_rl.types import ActionSpec, DataSource, World

CAPABILITIES = {
    "visits": "num_places, and timesteps with a visit",
    "progress": "timesteps with progress",
    "subgoals": "num_subgoals, and timesteps with a subgoal",
    "subgoal_places": "subgoal_places (G,): the place that each subgoal enters first",
    "transitions": "unseen_transitions, pairs of places that only the post-training task needs, and"
    " num_pretraining_visits, visits of the longest pretraining task",
    "free_running": "step_without_task(state, action): a step that no task ends, only what would"
    " end any episode, such as a fall; its time limit is kept by the caller",
    "layouts": "layout_fingerprint(observation (..., d)) -> (...) uint32 that tells layouts apart",
    "solvable": "solvable(state) -> () bool: whether an episode's task can be completed from its"
    " start; of worlds that also draw starts from which it cannot",
    "scene": "scene(observation (..., d)) -> Scene, and grid_size in cells",
    "pictures": "frames(observations (T, d), beta (T,), code (T, n_z)) -> images, and"
    " seconds_per_frame",
    "task_text": "parse_task(text) -> task, raising ValueError",
}
"""What a world may be able to tell beyond the protocol, and how it does."""

# What a world needs for each of them, the chief one first, and the field of its timesteps.
ATTRIBUTES = {
    "visits": ("num_places",),
    "subgoals": ("num_subgoals",),
    "subgoal_places": ("subgoal_places",),
    "transitions": ("unseen_transitions", "num_pretraining_visits"),
    "free_running": ("step_without_task",),
    "layouts": ("layout_fingerprint",),
    "solvable": ("solvable",),
    "scene": ("scene", "grid_size"),
    "pictures": ("frames", "seconds_per_frame"),
    "task_text": ("parse_task",),
}
TIMESTEP_FIELDS = {"visits": "visit", "progress": "progress", "subgoals": "subgoal"}

DEFAULT_SWITCH_TOLERANCE = 1


def capabilities(world: World) -> frozenset[str]:
    """Which of `CAPABILITIES` a world has; asks `reset` for its shapes alone."""
    _, timestep = jax.eval_shape(world.reset, jax.random.key(0), world.post_training_task)
    return frozenset(
        name
        for name in CAPABILITIES
        if all(hasattr(world, attribute) for attribute in ATTRIBUTES.get(name, ()))
        and getattr(timestep, TIMESTEP_FIELDS.get(name, "reward")) is not None
    )


def switch_tolerance(world: World) -> int:
    """Steps by which a switch may miss a change of subgoal and still count as close."""
    return getattr(world, "switch_tolerance", DEFAULT_SWITCH_TOLERANCE)


def check_action(spec: ActionSpec, action: chex.Array) -> None:
    """Checks the shape of an action and, where its value is known, whether the spec has it.

    Inside of `jax.jit` and `jax.vmap` no value is known. Of continuous actions only the shape is
    checked, since worlds clip them.

    Raises:
      ValueError: the spec has no such action.
    """
    if np.shape(action) != spec.shape:
        raise ValueError(f"action has shape {np.shape(action)}, allowed is {spec.shape}")
    if not spec.discrete or isinstance(action, jax.core.Tracer):
        return
    value = np.asarray(action)
    if value.dtype.kind not in "iu" or not 0 <= value < spec.size:
        raise ValueError(
            f"action is {value.item()!r}, allowed are the whole numbers 0 to {spec.size - 1}"
        )


def on_any_mesh(method: Callable) -> Callable:
    """Lets a method of a world be used where the axes of the mesh in force are explicit.

    To read a layout or the content of a cell at an index that is spread over devices has no
    sharding that jax would know by itself; each episode is computed where its arguments lie.
    """

    @functools.wraps(method)
    def wrapped(self, *arguments):
        explicit = jax.sharding.get_abstract_mesh().explicit_axes
        if not explicit:
            return method(self, *arguments)
        function = functools.partial(method, self)
        spread = jax.sharding.auto_axes(
            function, axes=explicit, out_sharding=jax.sharding.PartitionSpec()
        )
        return spread(*arguments)

    return wrapped


ROLES = ("pretraining", "clean", "curriculum")
"""What trajectories are for, see `DataRequest`."""


@dataclasses.dataclass(frozen=True)
class DataRequest:
    """Which trajectories a stage asks for.

    Attributes:
      world: that they are of.
      settings: the section `data` of the config.
      role: `"pretraining"` for D, `"clean"` for the cleaner D*, `"curriculum"` for those that the
        base model learns first.
      include_terminal: whether each trajectory is to end with a token for its last observation,
        where the data can be made either way.
      tasks: of a curriculum, as text that the world understands; empty for other roles.
      seed: first seed of the run, for the order of what is read.
      collected: gives the folder of the datasets that the stage `collect` has left, one folder in
        it for each role, and the number of shards of each; raises a UserError where there are none.
        None where the config has no such stage.

    Raises:
      ValueError: there is no such role, or it has no tasks of its own.
    """

    world: World
    settings: Any
    role: str = "pretraining"
    include_terminal: bool = False
    tasks: str = ""
    seed: int = 0
    collected: Callable[[], tuple[pathlib.Path, int]] | None = None

    def __post_init__(self):
        if self.role not in ROLES:
            raise ValueError(f"role is {self.role!r}, allowed are {', '.join(ROLES)}")
        if self.tasks and self.role != "curriculum":
            raise ValueError(
                f"tasks are {self.tasks!r}, allowed is '' for the role '{self.role}': tasks are"
                " chosen for a curriculum alone"
            )


MakeData = Callable[[DataRequest], DataSource]


@dataclasses.dataclass(frozen=True)
class WorldEntry:
    """A registered world.

    Attributes:
      name: by which configs call it.
      make: makes a world from its config.
      config: frozen dataclass of its settings, whose constructor checks them (ValueError).
      presets: configs by name.
      data: makes its data; `"module:function"` is imported when it is needed.
    """

    name: str
    make: Callable[[Any], World]
    config: type
    presets: Mapping[str, Any]
    data: MakeData | str | None = None

    def shared(self, config: Any) -> World:
        """The world of a config; asked again it gives the same object, with the same programs.

        A config that cannot be hashed makes another one each time.
        """
        return _made(config, self.make)

    def make_data(self, request: DataRequest) -> DataSource:
        """The trajectories that a stage asks for.

        Raises:
          ValueError: the world was registered without data.
        """
        if self.data is None:
            raise ValueError(f"{self.name} was registered without data, allowed is data=function")
        if isinstance(self.data, str):
            module, _, function = self.data.partition(":")
            return getattr(importlib.import_module(module), function)(request)
        return self.data(request)


def kept_by_first(maxsize: int) -> Callable[[Callable], Callable]:
    """Keeps what a function makes of its first argument, a world for instance, as `lru_cache` does.

    For those that cannot be hashed, a dataclass that may change for instance, it is made anew:
    there is nothing to find them again by.

    Args:
      maxsize: results that are kept.
    """

    def keep(function):
        kept = functools.lru_cache(maxsize)(function)

        @functools.wraps(function)
        def call(first, *arguments):
            try:
                hash(first)
            except TypeError:
                return function(first, *arguments)
            return kept(first, *arguments)

        return call

    return keep


@kept_by_first(maxsize=8)
def _made(config: Any, make: Callable[[Any], World]) -> World:
    return make(config)


_ENTRIES: dict[str, WorldEntry] = {}
# Name of a world of this package, its module, and the extra that installs what it needs.
_SHIPPED = {
    "gridworld-pinpad": ("internal_rl.envs.gridworld", ""),
    "ant-pinpad": ("internal_rl.envs.ant", "ant"),
}


def register_world(
    name: str,
    make: Callable[[Any], World],
    *,
    config: type,
    presets: Mapping[str, Any],
    data: MakeData | str | None = None,
) -> None:
    """Makes a world known by name; registering a name again replaces it.

    Args:
      name: by which configs call it, in `environment.name`.
      make: `make(config) -> World`, usually the class of the world.
      config: frozen dataclass of its settings.
      presets: instances of it by name, at least one.
      data: `data(request: DataRequest) -> DataSource`; without it only stages that need no data
        run.

    Raises:
      ValueError: `config` is no dataclass or has a field `name`, a preset is none of its instances
        or holds what no file can, there is no preset, or another argument is of another kind.
    """
    check_registered("world", name, make=make)
    if not (isinstance(config, type) and dataclasses.is_dataclass(config)):
        raise ValueError(f"config of {name} is {config!r}, allowed is a frozen dataclass")
    if not isinstance(presets, Mapping) or not presets:
        raise ValueError(
            f"presets of {name} are {presets!r}, allowed are one or more, by their names"
        )
    fields = [field.name for field in dataclasses.fields(config) if field.init]
    if "name" in fields:
        raise ValueError(
            f"config of {name} has the field 'name', allowed are others: environment.name is the"
            " name of the world"
        )
    for preset, values in presets.items():
        if not isinstance(values, config):
            raise ValueError(
                f"preset '{preset}' of {name} is {values!r}, allowed is a {config.__name__}"
            )
        for field in fields:
            value = getattr(values, field)
            if not _is_plain(value):
                raise ValueError(
                    f"preset '{preset}' of {name} has {field} = {value!r}, allowed are what files"
                    " and command lines can hold: numbers, texts, truth values, None, and lists,"
                    " tuples and dictionaries of them"
                )
    if data is not None and not isinstance(data, str):
        check_registered("world", name, data=data)
    _ENTRIES[name] = WorldEntry(name, make, config, dict(presets), data)


def _is_plain(value: Any) -> bool:
    """Whether a setting can be written down and read again."""
    if isinstance(value, Mapping):
        return all(isinstance(name, str) and _is_plain(x) for name, x in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(x) for x in value)
    return value is None or isinstance(value, bool | int | float | str)


def registered_worlds() -> list[str]:
    """Names of all worlds, those of this package included."""
    return sorted({*_SHIPPED, *_ENTRIES})


def world_entry(name: str) -> WorldEntry:
    """The entry of a name.

    Raises:
      ValueError: for an unknown name.
      ConfigError: packages that the world needs are not installed.
    """
    if name not in _ENTRIES and name in _SHIPPED:
        module, extra = _SHIPPED[name]
        with needs_extra(extra, f"environment '{name}'"):
            importlib.import_module(module)
    if name not in _ENTRIES:
        raise ValueError(
            f"environment name is '{name}', allowed are {', '.join(registered_worlds())}"
        )
    return _ENTRIES[name]


def make(name: str, preset: str = "paper") -> World:
    """Builds a world by name and preset.

    Raises:
      ValueError: for an unknown name or preset.
    """
    entry = world_entry(name)
    if preset not in entry.presets:
        raise ValueError(f"preset of {name} is '{preset}', allowed are {', '.join(entry.presets)}")
    return entry.make(entry.presets[preset])


def make_from_config(environment: Mapping) -> World:
    """The world of a mapping with `name` and the fields of its config, see `WorldEntry.shared`.

    Raises:
      ValueError: for an unknown name, an unknown field or a value that is not allowed.
    """
    fields = dict(environment)
    entry = world_entry(fields.pop("name", "gridworld-pinpad"))
    known = list(inspect.signature(entry.config).parameters)
    for field in fields:
        if field not in known:
            raise ValueError(f"environment has no field '{field}', allowed are {', '.join(known)}")
    return entry.shared(entry.config(**fields))
