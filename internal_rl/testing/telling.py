"""Checks of what only some worlds can tell: their capabilities."""

from collections.abc import Callable, Iterator

import chex
import jax
import jax.numpy as jnp
import numpy as np

from internal_rl.envs.world import ATTRIBUTES, TIMESTEP_FIELDS, capabilities
from internal_rl.errors import UserError
from internal_rl.testing.episodes import random_actions
from internal_rl.testing.trees import as_numpy, first_line, type_differences
from internal_rl.types import Timestep, World

NUM_STEPS, NUM_EPISODES = 8, 3
# No task anywhere is called so.
NO_TASK = "\0no task"


def attribute_faults(world: World) -> list[str]:
    """Attributes of capabilities: none is missing beside another, and values fit together."""
    return [*_half_faults(world), *_value_faults(world)]


def _half_faults(world: World) -> Iterator[str]:
    try:
        _, timestep = jax.eval_shape(world.reset, jax.random.key(0), world.post_training_task)
    except Exception:
        # What is wrong with it is said elsewhere.
        return
    for name, attributes in ATTRIBUTES.items():
        has = {attribute: hasattr(world, attribute) for attribute in attributes}
        if name in TIMESTEP_FIELDS:
            field = TIMESTEP_FIELDS[name]
            has = {f"timestep.{field}": getattr(timestep, field, None) is not None} | has
        (chief, there), *others = has.items()
        for other, found in others:
            if there and not found:
                yield f"{other}: missing, allowed is one beside {chief}"


def _value_faults(world: World) -> Iterator[str]:
    for name in ("num_places", "num_subgoals", "num_pretraining_visits", "grid_size"):
        value = getattr(world, name, 1)
        if not isinstance(value, (int, np.integer)) or value < 1:
            yield f"{name}: {value!r} given, allowed is a whole number, 1 or more"
    tolerance = getattr(world, "switch_tolerance", 0)
    if not isinstance(tolerance, (int, np.integer)) or tolerance < 0:
        yield f"switch_tolerance: {tolerance!r} given, allowed is a whole number, 0 or more"
    seconds = getattr(world, "seconds_per_frame", 1.0)
    if not isinstance(seconds, (int, float)) or not seconds > 0:
        yield f"seconds_per_frame: {seconds!r} given, allowed is a number above 0"
    num_places = getattr(world, "num_places", None)
    allowed = "places" if num_places is None else f"places, 0 to num_places - 1 = {num_places - 1}"

    def inside(places):
        fits = np.issubdtype(places.dtype, np.integer) and (places >= 0).all()
        return fits and (num_places is None or (places < num_places).all())

    if hasattr(world, "subgoal_places"):
        places = np.asarray(world.subgoal_places)
        length = getattr(world, "num_subgoals", len(places))
        if places.shape != (length,) or not inside(places):
            yield (
                f"subgoal_places: {places.tolist()} given, allowed are num_subgoals = {length}"
                f" {allowed}"
            )
    if hasattr(world, "unseen_transitions"):
        pairs = np.array(sorted(world.unseen_transitions), dtype=None).reshape(-1, 2)
        if pairs.size and not inside(pairs):
            yield f"unseen_transitions: {pairs.tolist()} given, allowed are pairs of {allowed}"


def capability_faults(world: World, key: chex.PRNGKey) -> list[str]:
    """Functions of capabilities, tried on a few steps of a few episodes."""
    able, faults = capabilities(world), []
    free_running = "free_running" in able
    if free_running:
        faults += _free_type_faults(world)
        free_running = not faults
    steps = (world.step, world.step_without_task) if free_running else (world.step,)
    with_task, *free = as_numpy(jax.jit(lambda key: _roll(world, key, *steps))(key))
    if free_running:
        faults += _free_running_faults(with_task, *free)
    observations = with_task.observation
    tried = {
        "layouts": lambda: _layout_faults(world, observations),
        "scene": lambda: _scene_faults(world, observations),
        "solvable": lambda: _solvable_faults(world),
        "pictures": lambda: _picture_faults(world, observations[:, 0]),
        "task_text": lambda: _task_text_faults(world),
    }
    for name in able & tried.keys():
        try:
            faults += tried[name]()
        except UserError:
            # Something that this machine lacks, such as a library that draws.
            continue
        except Exception as error:
            faults.append(f"{ATTRIBUTES[name][0]}: raises {first_line(error)}")
    return sorted(faults)


def _roll(world: World, key: chex.PRNGKey, *steps: Callable) -> list[Timestep]:
    """Timesteps `(T, N, ...)` of the same starts and random actions, for each kind of step."""
    reset_key, action_key = jax.random.split(key)
    keys = jax.random.split(reset_key, NUM_EPISODES)
    start = jax.vmap(world.reset, (0, None))(keys, world.post_training_task)

    def advance(states, key):
        actions = random_actions(world.action_spec, key, (NUM_EPISODES,))
        results = [
            jax.vmap(step)(state, actions) for step, state in zip(steps, states, strict=True)
        ]
        return [state for state, _ in results], [timestep for _, timestep in results]

    states = [start[0]] * len(steps)
    return jax.lax.scan(advance, states, jax.random.split(action_key, NUM_STEPS))[1]


def _free_type_faults(world: World) -> list[str]:
    action = jax.ShapeDtypeStruct(world.action_spec.shape, world.action_spec.dtype)
    state, _ = jax.eval_shape(world.reset, jax.random.key(0), world.post_training_task)
    expected = jax.eval_shape(world.step, state, action)
    try:
        found = jax.eval_shape(world.step_without_task, state, action)
    except Exception as error:
        return [f"step_without_task: jax.jit cannot compile it: {first_line(error)}"]
    return [
        f"step_without_task: {leaf} is {now}, allowed is what step gives: {before}"
        for leaf, before, now in type_differences(expected, found, "result")
    ]


def _free_running_faults(with_task: Timestep, free: Timestep) -> Iterator[str]:
    """A step without its task is the same, except that no task ends the episode."""
    running = ~with_task.done
    if (free.done & running).any():
        yield "step_without_task: ends an episode that step does not end, allowed is none"
    same = np.all(with_task.observation == free.observation, axis=-1)
    if not same[running & ~free.done].all():
        yield (
            "step_without_task: shows another observation than step while neither has ended,"
            " allowed is the same"
        )


def _layout_faults(world: World, observations: np.ndarray) -> list[str]:
    found = jnp.asarray(world.layout_fingerprint(observations))
    if found.shape != observations.shape[:-1] or found.dtype != jnp.uint32:
        return [
            f"layout_fingerprint: {found.dtype}{list(found.shape)} for observations"
            f" {list(observations.shape)}, allowed is uint32{list(observations.shape[:-1])}"
        ]
    if (found != found[0]).any():
        return ["layout_fingerprint: changes within an episode, allowed is that it stays"]
    return []


def _solvable_faults(world: World) -> list[str]:
    state, _ = jax.eval_shape(world.reset, jax.random.key(0), world.post_training_task)
    found = jax.eval_shape(world.solvable, state)
    if found.shape != () or found.dtype != bool:
        return [
            f"solvable: gives {found.dtype}{list(found.shape)}, allowed is a bool, of one state"
        ]
    return []


def _scene_faults(world: World, observations: np.ndarray) -> list[str]:
    scene, lead = world.scene(observations), observations.shape[:-1]
    num_places = getattr(world, "num_places", None)
    wanted = {"place": (2,), "colours": (num_places, 2), "walls": (None, 2)}
    faults = []
    for name, tail in wanted.items():
        shape = getattr(scene, name).shape
        sizes = zip(shape, (*lead, *tail), strict=False)
        fits = len(shape) == len(lead) + len(tail)
        if not fits or any(size not in (n, None) and n is not None for n, size in sizes):
            told = ", ".join("any" if n is None else str(n) for n in (*lead, *tail))
            faults.append(f"scene: {name} has shape {shape}, allowed is ({told})")
    return faults


def _picture_faults(world: World, observations: np.ndarray) -> list[str]:
    beta, code = np.linspace(0, 1, NUM_STEPS), np.ones((NUM_STEPS, 2))
    for pictures in (world.frames(observations), world.frames(observations, beta, code)):
        for picture in pictures:
            if picture.ndim != 3 or picture.shape[-1] != 3 or picture.dtype != np.uint8:
                return [
                    f"frames: an image is {picture.dtype}{list(picture.shape)}, allowed is uint8"
                    " (H, W, 3)"
                ]
        if not len(pictures):
            return ["frames: gives no image, allowed are one or more"]
    return []


def _task_text_faults(world: World) -> list[str]:
    try:
        task = world.parse_task(NO_TASK)
    except ValueError:
        return []
    except Exception as error:
        return [f"parse_task: raises {first_line(error)} for no task, allowed is a ValueError"]
    return [f"parse_task: gives {task!r} for no task, allowed is a ValueError"]
