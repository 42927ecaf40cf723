"""The expert's view of the ant world, and its stage."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.envs.ant import AntWorld, AntWorldConfig
from internal_rl.envs.physics import PhysicsState
from internal_rl.experts import ant_guide, ant_ppo
from internal_rl.experts.ant_expert import AntExpertConfig
from internal_rl.experts.ant_guide import GuidedAnt
from tests.training.test_loop import ROOT

# Colours 0 to 3 in the corners, a wall in the middle of the left half.
OBJECTS, WALLS, TASK = jnp.array([0, 3, 12, 15]), jnp.array([5]), jnp.array([1, 3, -1, -1])


def drive(model, state, control):
    """Physics that drives with the speed of the first two torques for a second."""
    del model
    qpos = state.qpos.at[:2].add(control[:2])
    return PhysicsState(qpos, state.qvel.at[:2].set(control[:2]))


def world_at(place, yaw=0.0):
    world = AntWorld(AntWorldConfig(), drive)
    quaternion = [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]
    qpos = jnp.array([*place, 0.55, *quaternion, *[0.0] * 8])
    ant, timestep = world.reset_to(OBJECTS, WALLS, PhysicsState(qpos, jnp.zeros(14)), TASK)
    return world, ant_guide.solve(world, ant, "axis"), timestep.observation


def test_the_expert_learns_in_layouts_that_can_be_solved_whatever_the_world_draws(monkeypatch):
    world, learnt_in = AntWorld(AntWorldConfig(solvable_only=False), drive), []

    def train(environment, **keywords):
        learnt_in.append(environment.world)
        return None, "parameters"

    monkeypatch.setattr(ant_ppo.brax_ppo, "train", train)
    assert ant_ppo.train_round(world, AntExpertConfig(), 0, 0, None) == ("parameters", {})
    assert learnt_in[0].config == AntWorldConfig()
    keys = jax.random.split(jax.random.key(0), 300)
    state, _ = jax.jit(jax.vmap(learnt_in[0].reset, (0, None)))(keys, world.post_training_task)
    solvable = jax.jit(jax.vmap(world.solvable))
    assert solvable(state).all()
    state, _ = jax.jit(jax.vmap(world.reset, (0, None)))(keys, world.post_training_task)
    assert 0.05 < 1 - solvable(state).mean() < 0.25


@pytest.mark.parametrize(
    ("devices", "worlds", "batch", "expected"),
    [(1, 512, 256, 1), (8, 512, 256, 8), (3, 512, 256, 1), (6, 512, 256, 2), (8, 512, 4, 4)],
)
def test_as_many_devices_train_as_share_worlds_and_batches_evenly(
    devices, worlds, batch, expected, monkeypatch
):
    world, given = AntWorld(AntWorldConfig(), drive), {}
    monkeypatch.setattr(jax, "local_device_count", lambda: devices)
    monkeypatch.setattr(
        ant_ppo.brax_ppo, "train", lambda environment, **more: given.update(more) or (0, 0)
    )
    config = AntExpertConfig(num_worlds=worlds, batch_size=batch, num_minibatches=128)
    ant_ppo.train_round(world, config, 0, 0, None)
    assert given["max_devices_per_host"] == expected


def test_way_leads_to_the_next_colour_without_wrong_ones():
    world, state, _ = world_at((-3.0, 1.0))
    for start in (1, 2, 4, 6, 8, 13, 14):
        for goal in range(4):
            cell, passed = start, []
            for _ in range(12):
                cell += (-4, 4, -1, 1)[int(state.way[goal, cell])]
                passed.append(cell)
                if cell == int(OBJECTS[goal]):
                    break
            assert passed[-1] == int(OBJECTS[goal]) and 5 not in passed
            assert not set(passed[:-1]) & set(OBJECTS.tolist())


@pytest.mark.parametrize("yaw", [0.0, np.pi / 2, -2.5])
def test_egocentric_fields_turn_with_the_ant(yaw):
    _, state, observation = world_at((-0.5, 1.25), yaw)
    state = state.replace(
        ant=state.ant.replace(
            physics=state.ant.physics.replace(qvel=jnp.zeros(14).at[:2].set(jnp.array([0.3, 0.7])))
        )
    )
    seen = np.asarray(ant_guide.guided_observation(state, observation))
    assert seen.shape == (observation.shape[0] + 64 + 11,)
    np.testing.assert_array_equal(seen[: len(observation)], observation)
    field = seen[len(observation) : -11].reshape(16, 4)
    np.testing.assert_array_equal(field.argmax(-1), state.way[1])
    assert (field.sum(-1) == 1).all()

    def turned(vector):
        c, s = np.cos(-yaw), np.sin(-yaw)
        return [c * vector[0] - s * vector[1], s * vector[0] + c * vector[1]]

    np.testing.assert_allclose(seen[-11:-8], [0, 0, 1], atol=1e-6)
    # Cell 5 is a wall: the ant at (-0.5, 1.25) stands in it by (-1, 1) + (0.5, 0.25).
    direction = ant_guide.DIRECTIONS[int(state.way[1, 5])]
    np.testing.assert_allclose(seen[-8:-6], turned(direction), atol=1e-5)
    np.testing.assert_allclose(seen[-4:-2], turned([0.3, 0.7]), atol=1e-5)
    np.testing.assert_allclose(seen[-2:], turned([0.5, 0.25]), atol=1e-5)


def test_vertical_is_that_of_the_tilted_torso():
    _, state, observation = world_at((-3.0, 1.0))
    # Tilted by 0.4 about its own y: the vertical leans towards -x of the torso.
    qpos = state.ant.physics.qpos.at[3:7].set(jnp.array([np.cos(0.2), 0, np.sin(0.2), 0]))
    physics = state.ant.physics.replace(qpos=qpos)
    seen = ant_guide.guided_observation(
        state.replace(ant=state.ant.replace(physics=physics)), observation
    )
    np.testing.assert_allclose(seen[-11:-8], [-np.sin(0.4), 0, np.cos(0.4)], atol=1e-6)


def test_reward_is_speed_along_the_way_less_the_cost_of_torques():
    world, state, observation = world_at((-1.0, 3.0))
    config = AntExpertConfig(control_cost=0.5, success_reward=7.0)
    environment = GuidedAnt(world, config, world.pretraining_tasks)
    first = environment.reset(jax.random.key(0)).replace(pipeline_state=state, obs=observation)
    # From cell 1 to colour 1 in cell 3: to the right.
    action = jnp.array([0.8, 0.1, *[0.0] * 6])
    second = environment.step(first, action)
    np.testing.assert_allclose(second.reward, 0.8 - 0.5 * (0.64 + 0.01), rtol=1e-5)
    assert float(second.done) == 0.0 and float(second.metrics["colours"]) == 0.0
    for _ in range(3):
        second = environment.step(second, jnp.array([1.0, *[0.0] * 7]))
    assert float(second.metrics["colours"]) == 1.0
    # Then down to colour 3, which completes the task.
    for _ in range(6):
        second = environment.step(second, jnp.array([0.0, -1.0, *[0.0] * 6]))
    assert float(second.done) == 1.0 and float(second.metrics["success"]) == 1.0
    np.testing.assert_allclose(second.reward, 1.0 + 7.0 - 0.5, rtol=1e-5)


@pytest.mark.parametrize(
    ("height", "way", "cost"),
    [(0.69, 0.0, 0.0), (0.95, 0.0, 0.25 * 4.0), (0.69, -2.0, 3.0), (1.05, 0.0, 3.0 + 0.35 * 4.0)],
)
def test_hops_and_failures_cost(height, way, cost):
    """A hop, a wall (cell 5, below the start), and a hop that is too high."""
    world, state, observation = world_at((-1.0, 3.0))
    physics = state.ant.physics
    physics = physics.replace(qpos=physics.qpos.at[2].set(height))
    state = state.replace(ant=state.ant.replace(physics=physics))
    config = AntExpertConfig(control_cost=0.0, hop_cost=4.0, failure_cost=3.0)
    environment = GuidedAnt(world, config, world.pretraining_tasks)
    first = environment.reset(jax.random.key(0)).replace(pipeline_state=state, obs=observation)
    second = environment.step(first, jnp.array([0.0, way / 2, *[0.0] * 6]))
    third = environment.step(second, jnp.array([0.0, way / 2, *[0.0] * 6]))
    np.testing.assert_allclose(second.reward + (third.reward if way else 0.0), -cost, rtol=1e-5)
    assert bool(third.done) == (cost >= 3.0)


def test_parameters_survive_their_file_format():
    world = AntWorld(AntWorldConfig(), drive)
    config = AntExpertConfig(hidden_sizes=(8,))
    size = GuidedAnt(world, config, world.pretraining_tasks).observation_size
    nets = ant_ppo.make_networks(config, size, 8)
    rng = np.random.default_rng(0)
    normalisation = {
        "mean": rng.normal(size=size).astype(np.float32),
        "std": np.ones(size, np.float32),
        "summed_variance": np.ones(size, np.float32),
        "count_high": np.uint32(0),
        "count_low": np.uint32(7),
    }
    policy = jax.device_get(nets.policy_network.init(jax.random.key(1)))
    value = jax.device_get(nets.value_network.init(jax.random.key(2)))
    params = ant_ppo.as_params({"normalisation": normalisation, "policy": policy, "value": value})
    again = ant_ppo.as_params(ant_ppo.as_tree(params))
    seen = jnp.asarray(rng.normal(size=size), jnp.float32)
    act = ant_ppo.make_policy(world, config, True)
    action = act(params, seen, jax.random.key(0))
    np.testing.assert_array_equal(action, act(again, seen, jax.random.key(0)))
    assert action.shape == (8,) and np.abs(action).max() <= 1
    sampled = ant_ppo.make_policy(world, config, False)(params, seen, jax.random.key(0))
    assert not np.array_equal(action, sampled)


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"ties": "random"}, "ties"), ({"ties": "up"}, "ties"), ({"num_worlds": 1000}, "num_worlds")],
)
def test_bad_settings_are_named(fields, named):
    with pytest.raises(ValueError, match=named):
        AntExpertConfig(**fields)


@pytest.mark.slow
def test_stage_resumes_after_a_round(tmp_path):
    def run(workdir):
        command = [sys.executable, "-m", "experiments.expert", "--config=configs/ant.py:smoke"]
        subprocess.run([*command, f"--workdir={workdir}"], cwd=ROOT, check=True)
        return workdir / "expert" / "seed_0"

    whole = run(tmp_path / "whole")
    expected = (whole / "params.msgpack").read_bytes()
    (whole / "DONE").unlink()
    (whole / "params.msgpack").unlink()
    (whole / "checkpoints" / "round_1.msgpack").unlink()
    assert (run(tmp_path / "whole") / "params.msgpack").read_bytes() == expected
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").open()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(0 <= line["pretraining/success"] <= 1 for line in lines)


def test_imports_print_nothing():
    code = "import internal_rl.experts.ant_ppo, internal_rl.envs.physics as p; p.mjx_physics(1)"
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert process.stdout == ""
