"""What breaks the contract of a world is found and named: worlds that are broken on purpose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl import envs, testing
from internal_rl.errors import ContractError
from internal_rl.types import ActionSpec, ObservationSpec, Timestep
from tests.marks import quick
from tests.testing.ring import SIZE, Ring


def broken(**overrides):
    return type("Broken", (Ring,), overrides)()


def reset_gives(change):
    """A ring whose `reset` gives `change(state, timestep)`."""
    return broken(reset=lambda self, key, task: change(*Ring.reset(self, key, task)))


def step_gives(change):
    """A ring whose `step` gives `change(before, state, timestep)`."""

    def step(self, state, action):
        return change(state, *Ring.step(self, state, action))

    return broken(step=step)


def always(**fields):
    """A ring all of whose timesteps have fields `function(timestep)`."""

    def timestep(self, state, reward, visit):
        shown = Ring.timestep(self, state, reward, visit)
        return shown.replace(**{name: function(shown) for name, function in fields.items()})

    return {"timestep": timestep}


def counting(self):
    self.count = getattr(self, "count", 0) + 1
    return self.count


def impure_reset(self, key, task):
    return Ring.reset(self, jax.random.fold_in(key, counting(self)), task)


def impure_step(self, state, action):
    return Ring.step(self, state, (action + counting(self)) % 2)


def branching_step(self, state, action):
    if state.done:
        return state, self.timestep(state, jnp.float32(0), jnp.int32(-1))
    return Ring.step(self, state, action)


def unmappable_step(self, state, action):
    state, timestep = Ring.step(self, state, action)
    shape = jax.ShapeDtypeStruct((), jnp.int32)
    cell = jax.pure_callback(lambda x: x, shape, state.cell)
    return state.replace(cell=cell), timestep


def traced_reset(self, key, task):
    state, timestep = Ring.reset(self, key, task)
    if isinstance(key, jax.core.Tracer):
        state = state.replace(start=(state.start + 1) % SIZE)
    return state, timestep


def finished(change):
    """A ring in which a finished episode's step gives `change(state, timestep)`."""

    def pick(before, state, timestep):
        other = change(state, timestep)
        choose = lambda x, y: jnp.where(before.done, y, x)  # noqa: E731
        return jax.tree.map(choose, (state, timestep), other)

    return step_gives(pick)


def told_task(state, timestep):
    return state, timestep.replace(observation=jax.nn.one_hot(state.task[0], SIZE, dtype=jnp.uint8))


def not_a_number(timestep):
    observation = timestep.observation.astype(jnp.float32)
    return jnp.where(timestep.progress > 0, jnp.nan, observation)


def ending_free_step(self, state, action):
    state, timestep = Ring.step_without_task(self, state, action)
    return state.replace(done=jnp.bool_(True)), timestep.replace(done=jnp.bool_(True))


def other_free_step(self, state, action):
    return Ring.step_without_task(self, state, 1 - action)


def untyped_free_step(self, state, action):
    state, timestep = Ring.step_without_task(self, state, action)
    return state, timestep.replace(visit=None)


WALLS = jnp.arange(3)
REAL = ObservationSpec("gaussian", SIZE, np.float32)

BROKEN_WORLDS = {
    # The protocol.
    "spec": (lambda: broken(observation_spec=7), "observation_spec: 7 given"),
    "action spec": (lambda: broken(action_spec=None), "action_spec: None given, allowed is an"),
    "time limit": (lambda: broken(time_limit=0), "time_limit: 0 given, allowed is a whole number"),
    "no task": (lambda: broken(post_training_task=None), "post_training_task: missing"),
    "no step": (lambda: broken(step=None), "step: missing, allowed is a method"),
    # Types.
    "observation dtype": (
        lambda: broken(**always(observation=lambda t: t.observation.astype(jnp.float32))),
        r"reset: observation is float32\[5\], allowed is uint8\[5\]",
    ),
    "observation size": (
        lambda: broken(**always(observation=lambda t: jnp.tile(t.observation, 2))),
        r"step: observation is uint8\[10\], allowed is uint8\[5\]",
    ),
    "reward shape": (
        lambda: broken(**always(reward=lambda t: t.reward[None])),
        r"reset: reward is float32\[1\], allowed is float32\[\]",
    ),
    "reward dtype": (
        lambda: step_gives(lambda _, s, t: (s, t.replace(reward=jnp.int32(0)))),
        r"step: reward is int32\[\], allowed is float32\[\]",
    ),
    "done dtype": (
        lambda: broken(**always(done=lambda t: t.done.astype(jnp.int32))),
        r"reset: done is int32\[\], allowed is bool\[\]",
    ),
    "visit dtype": (
        lambda: broken(**always(visit=lambda t: t.visit.astype(jnp.int8))),
        r"reset: visit is int8\[\], allowed is int32\[\]",
    ),
    "no timestep": (
        lambda: reset_gives(lambda s, t: (s, t.observation)),
        "reset: gives .*, allowed is a state and an internal_rl.Timestep",
    ),
    "weak type": (
        lambda: reset_gives(lambda s, t: (s.replace(time=0), t)),
        r"reset: state.time is int32\[\] \(weak type\), .* compiled again",
    ),
    "state dtype": (
        lambda: step_gives(lambda _, s, t: (s.replace(time=s.time.astype(jnp.float32)), t)),
        r"step: state.time is float32\[\], allowed is what reset gives: int32\[\]",
    ),
    "state structure": (
        lambda: step_gives(lambda _, s, t: (s.replace(start=()), t)),
        "step: state is .*, allowed is what reset gives: .*state.start",
    ),
    "lost field": (
        lambda: step_gives(lambda _, s, t: (s, t.replace(progress=None))),
        "step: timestep is .*, allowed is what reset gives: .*timestep.progress",
    ),
    "no jit": (
        lambda: broken(step=branching_step),
        "step: jax.jit cannot compile it: TracerBoolConversionError",
    ),
    "no vmap": (lambda: broken(step=unmappable_step), "step: jax.vmap cannot map it: "),
    # Purity.
    "impure reset": (
        lambda: broken(reset=impure_reset),
        "reset: state.cell is another with the same key and task again",
    ),
    "impure step": (
        lambda: broken(step=impure_step),
        "step: state.cell is another with the same state and action again",
    ),
    "other under jit": (
        lambda: broken(reset=traced_reset),
        "reset: state.start is another under jax.jit",
    ),
    "shared": (
        lambda: reset_gives(lambda s, t: (s.replace(start=s.cell), t)),
        "reset: state.cell shares its memory with state.start",
    ),
    "shared task": (
        lambda: broken(
            reset=lambda self, key, task: (
                Ring.reset(self, key, task)[0].replace(task=jnp.asarray(task)),
                Ring.reset(self, key, task)[1],
            )
        ),
        "reset: state.task shares its memory with the task",
    ),
    "shared constant": (
        lambda: reset_gives(lambda s, t: (s.replace(start=WALLS), t)),
        "reset: state.start shares its memory with another episode's state.start",
    ),
    # Episodes.
    "not a number": (
        lambda: broken(observation_spec=REAL, **always(observation=not_a_number)),
        "step: observation or reward is not finite",
    ),
    "not binary": (
        lambda: broken(**always(observation=lambda t: 2 * t.observation)),
        "reset: observation holds numbers from 0 to 2, allowed are 0 and 1",
    ),
    "endless": (
        lambda: broken(step=Ring.step_without_task),
        "step: 8 of 8 episodes are not done after time_limit = 6 steps",
    ),
    "ageing": (
        lambda: finished(lambda s, t: (s.replace(time=s.time + 1), t)),
        "step: a finished episode changes state.time",
    ),
    "moving": (
        lambda: finished(lambda s, t: (s, t.replace(observation=1 - t.observation))),
        "step: a finished episode shows another observation",
    ),
    "undone": (
        lambda: finished(lambda s, t: (s, t.replace(done=jnp.bool_(False)))),
        "step: a finished episode is no longer done",
    ),
    "paying": (
        lambda: finished(lambda s, t: (s, t.replace(reward=jnp.float32(2)))),
        "step: a finished episode pays 2.0, allowed is 0",
    ),
    "visiting": (
        lambda: finished(lambda s, t: (s, t.replace(visit=jnp.int32(0)))),
        "step: a finished episode visits a place, allowed is -1",
    ),
    "progressing": (
        lambda: finished(lambda s, t: (s, t.replace(progress=t.progress + 1))),
        "step: a finished episode changes progress",
    ),
    "done at once": (
        lambda: reset_gives(lambda s, t: (s, t.replace(done=jnp.bool_(True)))),
        "reset: done is True, allowed is False",
    ),
    "paid at once": (
        lambda: reset_gives(lambda s, t: (s, t.replace(reward=jnp.float32(1)))),
        "reset: reward is not 0",
    ),
    "visit at once": (
        lambda: reset_gives(lambda s, t: (s, t.replace(visit=jnp.int32(3)))),
        "reset: visit is not -1",
    ),
    "nowhere": (
        lambda: broken(**always(visit=lambda t: jnp.where(t.visit == 4, 5, t.visit))),
        "step: visit is 5, allowed are -1 and 0 to num_places - 1 = 4",
    ),
    "no subgoal": (
        lambda: broken(**always(subgoal=lambda t: t.subgoal - 2)),
        "step: subgoal is -2, allowed are -1 and 0 to num_subgoals - 1 = 4",
    ),
    "regress": (
        lambda: broken(**always(progress=lambda t: 2 - t.progress)),
        "step: progress becomes less",
    ),
    # The task.
    "task at once": (
        lambda: reset_gives(told_task),
        "reset: observation is another with every key if the task is another",
    ),
    "task later on": (
        lambda: step_gives(lambda _, s, t: told_task(s, t)),
        "step: observation is another if the task is another",
    ),
    # Capabilities.
    "half told": (
        lambda: broken(num_pretraining_visits=None) and _without("num_places"),
        "num_places: missing, allowed is one beside timestep.visit",
    ),
    "transitions": (
        lambda: broken(unseen_transitions={(0, 5)}),
        r"unseen_transitions: \[\[0, 5\]\] given, allowed are pairs of places, 0 to",
    ),
    "places": (
        lambda: broken(subgoal_places=np.arange(4)),
        r"subgoal_places: \[0, 1, 2, 3\] given, allowed are num_subgoals = 5 places",
    ),
    "tolerance": (lambda: broken(switch_tolerance=-1), "switch_tolerance: -1 given"),
    "pace": (lambda: broken(seconds_per_frame=0), "seconds_per_frame: 0 given"),
    "free end": (
        lambda: broken(step_without_task=ending_free_step),
        "step_without_task: ends an episode that step does not end",
    ),
    "free observation": (
        lambda: broken(step_without_task=other_free_step),
        "step_without_task: shows another observation than step",
    ),
    "free types": (
        lambda: broken(step_without_task=untyped_free_step),
        "step_without_task: result is .*, allowed is what step gives",
    ),
    "layout": (
        lambda: broken(layout_fingerprint=lambda self, x: jnp.asarray(x)[..., 0].astype("uint32")),
        "layout_fingerprint: changes within an episode",
    ),
    "layout type": (
        lambda: broken(layout_fingerprint=lambda self, x: x[..., 0]),
        r"layout_fingerprint: uint8\[8, 3\] for observations \[8, 3, 5\], allowed is uint32",
    ),
    "scene": (
        lambda: broken(
            scene=lambda self, x: Ring.scene(self, x).replace(colours=np.zeros((8, 3, 2, 2)))
        ),
        r"scene: colours has shape \(8, 3, 2, 2\), allowed is \(8, 3, 5, 2\)",
    ),
    "picture": (
        lambda: broken(frames=lambda self, *log: [np.zeros((2, 2, 3))]),
        r"frames: an image is float64\[2, 2, 3\], allowed is uint8 \(H, W, 3\)",
    ),
    "no picture": (
        lambda: broken(frames=lambda self, x: [np.zeros((2, 2, 3), np.uint8)]),
        "frames: raises TypeError",
    ),
    "text": (
        lambda: broken(parse_task=lambda self, text: np.zeros(2, np.int32)),
        r"parse_task: gives array.* for no task, allowed is a ValueError",
    ),
    "text error": (
        lambda: broken(parse_task=lambda self, text: {}[text]),
        "parse_task: raises KeyError: .* for no task, allowed is a ValueError",
    ),
}


def _without(name):
    """A ring without an attribute."""

    class Bare(Ring):
        def __getattribute__(self, asked):
            if asked == name:
                raise AttributeError(asked)
            return super().__getattribute__(asked)

    return Bare()


# Faults that show only when episodes are run take seconds each.
ONLY_SLOW = (
    "impure reset",
    "other under jit",
    "shared task",
    "ageing",
    "moving",
    "undone",
    "endless",
)


@pytest.mark.parametrize("name", quick(BROKEN_WORLDS, set(BROKEN_WORLDS) - set(ONLY_SLOW)))
def test_a_fault_of_a_world_is_named(name):
    make, message = BROKEN_WORLDS[name]
    with pytest.raises(ContractError, match=message):
        testing.check_world(make())


def test_a_whole_world_has_no_fault():
    assert testing.world_faults(Ring()) == []


class Plain:
    """The same without all that only some worlds tell, and with real numbers."""

    observation_spec, action_spec = REAL, ActionSpec("gaussian", 2)
    time_limit, post_training_task = 4, {"goal": np.float32(1)}

    def reset(self, key, task):
        state = {"key": key, "time": jnp.int32(0), "goal": jnp.array(task["goal"])}
        state["key"] = jax.random.split(key, 1)[0]
        return state, self._timestep(state, jnp.bool_(False))

    def step(self, state, action):
        done = state["time"] >= self.time_limit
        state = state | {"time": state["time"] + ~done}
        return state, self._timestep(state, state["time"] >= self.time_limit)

    def _timestep(self, state, done):
        noise = jax.random.normal(jax.random.fold_in(state["key"], state["time"]), (SIZE,))
        return Timestep(noise, jnp.float32(0), done)


def test_a_world_needs_no_more_than_the_protocol(caplog):
    with caplog.at_level("INFO", "absl"):
        assert testing.world_faults(Plain()) == []
    assert "pretraining_tasks: not there, so that whether observations tell the task" in caplog.text


def test_every_fault_has_a_line_of_its_own():
    world = broken(observation_spec=7, time_limit=0)
    assert len(testing.world_faults(world)) == 2
    with pytest.raises(ContractError) as caught:
        testing.check_world(world)
    first, *lines = str(caught.value).splitlines()
    assert first == "Broken breaks the contract of a world:" and len(lines) == 2


def test_what_a_machine_lacks_is_no_fault_of_the_world():
    def frames(self, *log):
        raise ContractError("no library that draws")

    assert testing.world_faults(broken(frames=frames)) == []


def test_what_can_be_solved_is_told_of_one_episode():
    (fault,) = testing.world_faults(broken(solvable=lambda self, state: state.cell))
    assert fault.startswith("solvable: gives int32[], allowed is a bool")
    assert testing.world_faults(broken(solvable=lambda self, state: state.cell >= 0)) == []


@pytest.mark.parametrize("name", ["gridworld-pinpad", "ant-pinpad"])
def test_worlds_of_this_package_have_no_fault(name):
    testing.check_world(envs.make(name, "smoke"))


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["small", "paper"])
@pytest.mark.parametrize("name", ["gridworld-pinpad", "ant-pinpad"])
def test_larger_presets_have_no_fault(name, preset):
    testing.check_world(envs.make(name, preset))


def test_a_limit_that_is_not_reached_is_told(caplog, monkeypatch):
    endless = broken(time_limit=5_000)
    monkeypatch.setattr("internal_rl.testing.episodes.MAX_STEPS", 40)
    testing.world_faults(endless)
    assert "time_limit: 5000 steps, of which 40 are played" in caplog.text
    caplog.clear()
    testing.world_faults(broken())
    assert "are played" not in caplog.text


@pytest.mark.parametrize(
    ("paid", "told"),
    [
        (-0.5, {"pays -0.5, less than 0", "pays -0.5, before"}),
        (0.5, {"pays 0.5, before the"}),
        (0, set()),
    ],
)
def test_rewards_that_do_not_say_whether_the_task_was_done_are_told(caplog, paid, told):
    def more(before, state, timestep):
        reward = timestep.reward + jnp.where(before.done, 0.0, paid).astype(jnp.float32)
        return state, timestep.replace(reward=reward)

    assert testing.world_faults(step_gives(more)) == []
    lines = [record.getMessage() for record in caplog.records if "pays" in record.getMessage()]
    assert len(lines) == len(told)
    assert all(any(part in line for line in lines) for part in told)
