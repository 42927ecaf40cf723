"""The ant world: its rules against a plain reference, its observation, its faults."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.envs.ant import PRESETS, AntWorld, AntWorldConfig, symlog
from internal_rl.envs.physics import PhysicsState
from tests.envs import numpy_ant


def teleport(model, state, control):
    """Physics that obeys: the first two torques move the torso, the third lifts it."""
    del model
    qpos = state.qpos.at[:3].add(jnp.array([1.4, 1.4, 0.05]) * control[:3])
    return PhysicsState(qpos, state.qvel)


def random_episodes(config, num_episodes, num_steps, seed, physics=teleport):
    """Random actions in random layouts: states before and after every step, and timesteps."""
    world = AntWorld(config, physics)

    def episode(key):
        task_key, reset_key, action_key = jax.random.split(key, 3)
        choice = jax.random.randint(task_key, (), 0, len(world.pretraining_tasks) + 1)
        every = np.concatenate([world.pretraining_tasks, world.post_training_task[None]])
        first, _ = world.reset(reset_key, jnp.asarray(every)[choice])

        def step(state, key):
            state, timestep = world.step(state, jax.random.normal(key, (8,)) * 0.6)
            return state, (state, timestep)

        _, (states, timesteps) = jax.lax.scan(step, first, jax.random.split(action_key, num_steps))
        return first, states, timesteps

    keys = jax.random.split(jax.random.key(seed), num_episodes)
    return world, jax.device_get(jax.jit(jax.vmap(episode))(keys))


def places(cells, size):
    return [(int(cell) // size, int(cell) % size) for cell in cells]


def check_against_reference(config, num_episodes, num_steps, seed=0, physics=teleport):
    world, (first, states, timesteps) = random_episodes(
        config, num_episodes, num_steps, seed, physics
    )
    kinds = {"success": 0, "failure": 0, "running": 0}
    for i in range(num_episodes):
        task = [int(colour) for colour in first.task[i] if colour >= 0]
        path = np.concatenate([first.physics.qpos[i, None, :3], states.physics.qpos[i, :, :3]])
        size = config.grid_size
        log = numpy_ant.judge(
            config, places(first.objects[i], size), places(first.walls[i], size), task, path
        )
        for name, values in (
            ("progress", states.progress[i]),
            ("reward", timesteps.reward[i]),
            ("done", timesteps.done[i]),
            ("success", states.success[i]),
            ("visit", timesteps.visit[i]),
            ("progress", timesteps.progress[i]),
        ):
            np.testing.assert_array_equal(values, [entry[name] for entry in log], err_msg=name)
        # Subgoals are single colours here; the last one stays where nothing is left.
        following = [task[min(entry["progress"], len(task) - 1)] for entry in log]
        np.testing.assert_array_equal(timesteps.subgoal[i], following)
        last = log[-1]
        kinds["success" if last["success"] else "failure" if last["done"] else "running"] += 1
    return kinds


@pytest.mark.parametrize("border", ["open", "terminal"])
def test_rules_are_those_of_the_reference(border):
    config = AntWorldConfig(border=border, time_limit=25, tasks="walks:4:2:0-1")
    kinds = check_against_reference(config, 1_000, 30)
    assert kinds["success"] >= 10 and kinds["failure"] > 500, kinds


@functools.cache
def native_episodes():
    config = AntWorldConfig(time_limit=20, physics="native")
    return random_episodes(config, 32, 24, 0, physics=None)


def test_rules_hold_on_real_physics():
    config = AntWorldConfig(time_limit=20, physics="native", cell_size=0.3)
    kinds = check_against_reference(config, 64, 24, physics=None)
    assert kinds["failure"] > 10 and kinds["running"] == 0


def test_a_finished_episode_stands_still():
    _, (_, states, timesteps) = native_episodes()
    assert states.done[:, -1].all()
    for i in range(32):
        end = int(np.argmax(states.done[i]))
        assert (states.time[i, end:] == states.time[i, end]).all()
        assert (states.physics.qpos[i, end:] == states.physics.qpos[i, end]).all()
        assert (timesteps.reward[i, end + 1 :] == 0).all()


def test_reset_draws_a_solvable_layout_and_a_standing_ant():
    world = AntWorld(AntWorldConfig(), teleport)
    keys = jax.random.split(jax.random.key(0), 500)
    states, timesteps = jax.device_get(
        jax.jit(jax.vmap(lambda key: world.reset(key, world.post_training_task)))(keys)
    )
    assert not timesteps.done.any()
    taken = np.concatenate([states.objects, states.walls, states.start_cell[:, None]], axis=1)
    assert all(len(set(row)) == len(row) for row in taken.tolist())
    assert set(states.start_cell.tolist()) == set(range(16))
    offset = states.physics.qpos[:, :2] - np.asarray(world.centre_of(states.start_cell))
    assert np.abs(offset).max() <= 1.0 and np.abs(offset).max() > 0.9
    joints = states.physics.qpos[:, 7:] - np.array([0, 1, 0, -1, 0, -1, 0, 1])
    assert np.abs(joints).max() <= 0.1 and np.abs(states.physics.qvel[:, 6:]).max() <= 0.1
    w, _, _, z = states.physics.qpos[:, 3:7].T
    yaw = 2 * np.arctan2(z, w)
    counts, _ = np.histogram(yaw, bins=4, range=(-np.pi, np.pi))
    assert counts.min() > 80


def test_the_torso_starts_at_rest_unless_it_is_told_to_move():
    resting, moving = (AntWorld(AntWorldConfig(torso_speed=x), teleport) for x in (0.0, 0.5))
    keys = jax.random.split(jax.random.key(0), 200)
    rest, moved = (
        jax.jit(jax.vmap(world.sample_body, (0, None)))(keys, jnp.int32(5))
        for world in (resting, moving)
    )
    np.testing.assert_array_equal(rest.qpos, moved.qpos)
    np.testing.assert_array_equal(rest.qvel[:, 6:], moved.qvel[:, 6:])
    assert not np.any(rest.qvel[:, :6])
    assert 0.45 < np.abs(moved.qvel[:, :6]).max() <= 0.5
    assert np.abs(np.mean(moved.qvel[:, :6], axis=0)).max() < 0.1
    with pytest.raises(ValueError, match="torso_speed is -1.0, allowed is 0 or more and below 200"):
        AntWorldConfig(torso_speed=-1.0)


def test_small_layouts_keep_each_colour_at_its_side_and_nothing_in_between():
    world = AntWorld(PRESETS["small"], teleport)
    keys = jax.random.split(jax.random.key(1), 500)
    state, _ = jax.jit(jax.vmap(world.reset, (0, None)))(keys, world.post_training_task)
    places = np.stack(np.divmod(np.asarray(state.objects), 4), -1)
    homes = np.array([[0, 1], [1, 3], [2, 0], [3, 2]])
    assert np.abs(places - homes).max() == 1
    # Whatever lies in the rectangle of two others is no farther from both than they are apart.
    for first, second, third in itertools.permutations(range(4), 3):
        detour = [np.abs(places[:, a] - places[:, third]).sum(-1) for a in (first, second)]
        assert np.all(sum(detour) > np.abs(places[:, first] - places[:, second]).sum(-1))
    # Nor does anything lie between the start and a colour.
    start = np.stack(np.divmod(np.asarray(state.start_cell), 4), -1)
    things = np.stack(np.divmod(np.concatenate([state.objects, state.walls], 1), 4), -1)
    for colour, other in itertools.product(range(4), range(5)):
        detour = [np.abs(place - things[:, other]).sum(-1) for place in (start, places[:, colour])]
        straight = np.abs(start - places[:, colour]).sum(-1)
        assert colour == other or np.all(sum(detour) > straight)
    cells = np.stack([state.cell, state.walls[:, 0], *state.objects.T], axis=1)
    assert all(len(set(row)) == 6 for row in cells.tolist())
    # All of the pool's different places of the colours.
    assert len({tuple(row) for row in state.objects.tolist()}) == 31
    # The torso is in the start cell.
    np.testing.assert_array_equal(
        state.start_cell, jax.vmap(world.cell_of)(state.physics.qpos[:, :2])
    )


def test_observation_fields_say_what_they_hold():
    world = AntWorld(AntWorldConfig(), teleport)
    objects, walls = jnp.array([0, 5, 10, 15]), jnp.array([3])
    qpos = jnp.arange(15.0).at[:2].set(jnp.array([-2.5, 1.5])) / 1.0
    physics = PhysicsState(qpos, -jnp.arange(14.0))
    state, timestep = world.reset_to(objects, walls, physics, world.post_training_task)
    fields = world.observation_fields()
    observation = np.asarray(timestep.observation)
    assert observation.shape == (world.observation_spec.size,)
    assert sum(f.stop - f.start for f in fields.values()) == world.observation_spec.size
    np.testing.assert_allclose(observation[fields["height"]], np.log(3.0), rtol=1e-6)
    np.testing.assert_allclose(
        observation[fields["orientation"]], np.log1p(np.arange(3, 7)), rtol=1e-6
    )
    np.testing.assert_allclose(
        observation[fields["joint_velocities"]], -np.log1p(np.arange(6, 14)), rtol=1e-6
    )
    np.testing.assert_allclose(observation[fields["position"]], [-2.5 / 4, 1.5 / 4])
    # Cell 0 is the upper left one: its centre lies at (-3, 3).
    np.testing.assert_allclose(observation[fields["colours"]][:2], [-0.5 / 4, 1.5 / 4])
    np.testing.assert_allclose(observation[fields["walls"]], [5.5 / 4, 1.5 / 4])
    assert int(state.cell) == 4
    np.testing.assert_allclose(observation[fields["place_in_cell"]], [0.5, 0.5])


def test_symlog_keeps_signs():
    np.testing.assert_allclose(symlog(jnp.array([-1.0, 0.0, 3.0])), [-np.log(2), 0, np.log(4)])


@pytest.mark.parametrize("fault", ["action", "position", "speed"])
def test_diverged_physics_is_a_failure_and_stays_finite(fault):
    def broken(model, state, control):
        state = teleport(model, state, control * 0.1)
        if fault == "position":
            return state.replace(qpos=state.qpos.at[9].set(jnp.nan))
        if fault == "speed":
            return state.replace(qvel=state.qvel.at[3].set(1e6))
        return state

    world = AntWorld(AntWorldConfig(), broken)
    state, _ = world.reset(jax.random.key(0), world.post_training_task)
    action = jnp.full(8, jnp.nan) if fault == "action" else jnp.zeros(8)
    state, timestep = world.step(state, action)
    assert bool(timestep.done) and bool(state.diverged) and not bool(state.success)
    assert float(timestep.reward) == 0.0
    assert np.isfinite(timestep.observation).all()
    after, _ = world.step(state, jnp.zeros(8))
    assert int(after.time) == 1


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("grid_size", 1, "2 or more"),
        ("grid_size", 2, "num_colours \\+ num_walls is 5"),
        ("frame_skip", 0, "1 or more"),
        ("cell_size", 0.0, "above 0"),
        ("cell_size", 2, "float"),
        ("border", "soft", "open, terminal"),
        ("physics", "bullet", "auto, mjx, native"),
    ],
)
def test_bad_settings_are_named(field, value, allowed):
    with pytest.raises(ValueError, match=allowed):
        dataclasses.replace(AntWorldConfig(), **{field: value})


def test_actions_and_tasks_that_do_not_exist_are_refused():
    world = AntWorld(AntWorldConfig(), teleport)
    with pytest.raises(ValueError, match=r"task is \[0, 4\], allowed .* 0 to 3"):
        world.reset(jax.random.key(0), np.array([0, 4]))
    state, _ = world.reset(jax.random.key(0), world.post_training_task)
    with pytest.raises(ValueError, match=r"action has shape \(7,\), allowed is \(8,\)"):
        world.step(state, jnp.zeros(7))
