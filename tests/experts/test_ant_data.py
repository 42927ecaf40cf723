"""Recorded episodes of the ant: what the expert saw, did and meant."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.envs.ant import AntWorld, AntWorldConfig
from internal_rl.envs.physics import PhysicsState
from internal_rl.experts import ant_data, ant_ppo, shards
from internal_rl.experts.ant_expert import AntExpertConfig
from internal_rl.experts.dataset import with_next_observation
from internal_rl.experts.shard_data import as_trajectory


def drive(model, state, control):
    """Physics that drives with the first two torques and does not turn."""
    del model
    return PhysicsState(state.qpos.at[:2].add(control[:2] * 0.9), state.qvel)


@pytest.fixture
def world():
    return AntWorld(AntWorldConfig(time_limit=60), drive)


@pytest.fixture
def expert(monkeypatch, world):
    """An expert that walks to the middle of its cell and along the way to the next one."""

    def make_policy(world, config, deterministic):
        def policy(params, observation, key):
            # The ant does not turn its body, so its own axes are turned by its yaw alone.
            w, z = (jnp.sign(observation[i]) * jnp.expm1(jnp.abs(observation[i])) for i in (1, 4))
            yaw = 2 * jnp.arctan2(z, w)
            c, s = jnp.cos(yaw), jnp.sin(yaw)
            turn = jnp.array([[c, -s], [s, c]])
            direction, place = turn @ observation[-8:-6], turn @ observation[-2:]
            aside = place - direction * jnp.dot(place, direction)
            noise = 0.0 if deterministic else 0.05 * jax.random.normal(key, (2,))
            return jnp.zeros(8).at[:2].set(0.6 * direction - aside + noise)

        return policy

    monkeypatch.setattr(ant_ppo, "make_policy", make_policy)
    tasks = world.task_set.pretraining
    return lambda clean: ant_data.make_recorder(world, AntExpertConfig(), tasks, clean)


def test_recordings_replay_in_the_world(world, expert):
    recording = jax.device_get(expert(True)((), jax.random.split(jax.random.key(0), 40)))
    assert recording.success.mean() > 0.8
    fields = world.observation_fields()
    for index in np.flatnonzero(recording.success)[:10]:
        episode = ant_data.episode_tokens(recording, index)
        assert len(episode["action"]) == recording.length[index] + 1
        assert episode["mask"].sum() == recording.length[index] and not episode["mask"][-1]
        position = episode["observation"][:, fields["position"]] * world.half_side
        moved = np.clip(episode["action"][:-1, :2], -1, 1) * 0.9
        np.testing.assert_allclose(position[1:], position[:-1] + moved, atol=1e-5)
        # Where the subgoal changes, the ant has just entered that colour's cell.
        cells = np.array([int(world.cell_of(place)) for place in position])
        colours = episode["observation"][:, fields["colours"]].reshape(-1, 4, 2) * world.half_side
        ends = np.flatnonzero(np.diff(episode["subgoal"])) + 1
        for end in (*ends, len(cells) - 1):
            goal = episode["subgoal"][end - 1]
            centre = position[end] + colours[end, goal]
            assert cells[end] == int(world.cell_of(jnp.asarray(centre)))
            assert cells[end] != cells[end - 1]


def test_dataset_holds_the_successes_and_becomes_trajectories(world, expert, tmp_path):
    record = expert(False)

    def make_shard(index):
        key = jax.random.key(index)
        return ant_data.successful_episodes(record, (), key, num_episodes=7, batch_size=8)

    shards.write_dataset(tmp_path, {}, 2, make_shard)
    rows = shards.load_rows(shards.check_dataset(tmp_path, 2), 61, seed=0)
    batch = with_next_observation(as_trajectory(rows))
    assert batch.observation.shape[1:] == (61, world.observation_spec.size)
    assert batch.action.dtype == jnp.float32 and batch.action.shape[2] == 8
    segment, mask = np.asarray(batch.segment), np.asarray(batch.mask)
    assert sum(len(set(row[row >= 0])) for row in segment) == 14
    assert ((batch.subgoal == -1) == (segment == -1)).all()
    ends = np.diff(segment, axis=1, append=-2) != 0
    np.testing.assert_array_equal(mask, (segment >= 0) & ~ends)
    following = np.asarray(batch.next_observation)[mask]
    later = np.roll(mask, 1, axis=1)
    np.testing.assert_array_equal(following, np.asarray(batch.observation)[later])


def test_an_expert_that_never_succeeds_is_refused(world, monkeypatch):
    still = lambda *_: lambda params, observation, key: jnp.zeros(8)  # noqa: E731
    monkeypatch.setattr(ant_ppo, "make_policy", still)
    tasks = world.task_set.pretraining
    record = ant_data.make_recorder(world, AntExpertConfig(), tasks, True)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="experiments.expert"):
        list(ant_data.successful_episodes(record, (), key, num_episodes=1, batch_size=4))
