"""The episode that is shown."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.acting.code_policy import CodePolicyControl
from internal_rl.acting.episodes import SHOWN, play
from internal_rl.analysis import episode
from internal_rl.analysis.episode import example_episode
from internal_rl.analysis.results import SeedResults
from internal_rl.models.policy import CodePolicy


@pytest.fixture(scope="module")
def episodes(world, steered):
    policy = CodePolicy(code_size=3, width=8, num_heads=2, mlp_size=8)
    params = jax.jit(lambda key: policy.initial_params(key, steered.base.width))(jax.random.key(0))
    control = CodePolicyControl(policy, params)
    run = jax.jit(lambda model, control, key: play(world, model, control, key, 8, keep=SHOWN))
    return run(steered, control, jax.random.key(6))


def check(shown, episodes, chosen):
    length = int(episodes.length[chosen])
    expected = [*episodes.observation[chosen, :length], episodes.last_observation[chosen]]
    np.testing.assert_array_equal(shown["episode_observation"], np.asarray(expected))
    for name in ("beta", "ask", "code"):
        expected = np.asarray(episodes.record[name][chosen, :length])
        np.testing.assert_array_equal(shown[f"episode_{name}"], expected)
    return length


def test_the_episode_that_went_furthest_is_shown(world, episodes):
    progress = jnp.zeros_like(episodes.progress).at[2, 0].set(1)
    shown = example_episode(world, episodes.replace(progress=progress))
    length = check(shown, episodes, 2)
    assert shown["episode_progress"].shape == (length,)
    assert shown["episode_place"].shape == (length + 1, 2)


def test_without_progress_and_scene_the_one_that_was_paid_most_is_shown(episodes):
    reward = jnp.zeros_like(episodes.reward).at[3, 0].set(1.0)
    shown = example_episode(object(), episodes.replace(reward=reward, progress=None))
    check(shown, episodes, 3)
    assert "episode_progress" not in shown
    assert "episode_place" not in shown


@pytest.mark.parametrize("cut", [0, 1], ids=["with its end", "of a run that did not keep its end"])
def test_path_and_animation_show_the_episode_to_its_end(world, episodes, monkeypatch, cut):
    shown = example_episode(world, episodes)
    length = len(shown["episode_beta"])
    for name in ("observation", "place", "colours", "walls"):
        values = shown[f"episode_{name}"]
        shown[f"episode_{name}"] = values[: len(values) - cut]
    run = {"internal_rl": [SeedResults("internal_rl", 0, {}, [], shown)]}
    monkeypatch.setattr(episode, "world_of", lambda results: world)
    panel = episode.figures(run)["internal_rl_path"].axes[0]
    lines = panel.collections[0].get_segments()
    assert len(lines) == length
    np.testing.assert_allclose(lines[-1][-1], shown["episode_place"][-1])
    assert len(episode.animations(run)["episode"].frames) == length + 1 - cut
