"""The episode that is shown."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.acting.code_policy import CodePolicyControl
from internal_rl.acting.episodes import play
from internal_rl.analysis.episode import example_episode
from internal_rl.models.policy import CodePolicy


@pytest.fixture(scope="module")
def episodes(world, steered):
    policy = CodePolicy(code_size=3, width=8, num_heads=2, mlp_size=8)
    params = jax.jit(lambda key: policy.initial_params(key, steered.base.width))(jax.random.key(0))
    control = CodePolicyControl(policy, params)
    run = jax.jit(lambda model, control, key: play(world, model, control, key, 8))
    return run(steered, control, jax.random.key(6))


def check(shown, episodes, chosen):
    length = int(episodes.length[chosen])
    expected = np.asarray(episodes.observation[chosen, :length])
    np.testing.assert_array_equal(shown["episode_observation"], expected)
    for name in ("beta", "ask", "code"):
        expected = np.asarray(episodes.record[name][chosen, :length])
        np.testing.assert_array_equal(shown[f"episode_{name}"], expected)
    return length


def test_the_episode_that_went_furthest_is_shown(world, episodes):
    progress = jnp.zeros_like(episodes.progress).at[2, 0].set(1)
    shown = example_episode(world, episodes.replace(progress=progress))
    length = check(shown, episodes, 2)
    assert shown["episode_progress"].shape == (length,)
    assert shown["episode_place"].shape == (length, 2)


def test_without_progress_and_scene_the_one_that_was_paid_most_is_shown(episodes):
    reward = jnp.zeros_like(episodes.reward).at[3, 0].set(1.0)
    shown = example_episode(object(), episodes.replace(reward=reward, progress=None))
    check(shown, episodes, 3)
    assert "episode_progress" not in shown
    assert "episode_place" not in shown
