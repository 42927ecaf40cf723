"""What is measured once a model is trained."""

import jax
import jax.numpy as jnp
import numpy as np

from internal_rl.analysis import examination
from internal_rl.models.metacontroller import Metacontroller


def test_the_base_model_is_sampled_on_and_off_the_task(env, base, base_params):
    results = examination.examine_base(env, base, base_params, jax.random.key(0), 24)
    assert 0.0 <= results["sampled_success"] <= 1.0
    assert 0.0 <= results["unseen_transition_rate"] <= 1.0
    # Pretraining tasks have three colours, so two transitions at most are counted.
    assert 0 < results["transition_counts"].sum() <= 24 * 2


def test_the_metacontroller_is_measured_in_one_go(env, base, base_params, batch):
    metacontroller = Metacontroller(
        residual_size=base.width, code_size=3, rank=2, history_size=8, embedding_size=8
    )
    key = jax.random.key(0)
    params = jax.jit(metacontroller.init)(
        key, jnp.zeros((1, 4, base.width)), jnp.zeros((1, 4), jnp.int32), key
    )
    results = examination.examine_metacontroller(
        env, base, base_params, metacontroller, params, 1, batch, key, 16, num_examples=3
    )
    assert {"f1", "kl_changes", "active_units", "decoding_accuracy"} <= set(results)
    for visits in examination.INJECTION_MOMENTS:
        assert 0.0 <= results[f"injection_{visits}_reach_injected"] <= 1.0
    assert results["example_beta"].shape == results["example_mask"].shape
    assert len(results["example_subgoal"]) == 3
    np.testing.assert_array_equal(results["example_beta"][:, 0], 1.0)
    assert all(isinstance(value, np.ndarray) for value in results.values())


def test_examples_are_whole_trajectories_without_padding():
    segment = np.array([[0, 0, 0, 1, 1, 1, 1, -1], [0, 0, 0, 0, 0, 0, 0, 0]])
    mask = np.array([[1, 1, 0, 1, 1, 1, 0, 0], [1] * 8], bool)
    values = np.arange(16).reshape(2, 8)
    examples = examination.example_trajectories({"value": values}, segment, mask, 2)
    np.testing.assert_array_equal(examples["value"], [[0, 1, 0], [3, 4, 5]])
    np.testing.assert_array_equal(examples["mask"], [[1, 1, 0], [1, 1, 1]])
    more = examination.example_trajectories({"value": values}, segment, mask, 10)
    assert len(more["value"]) == 3
