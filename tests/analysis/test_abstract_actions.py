"""Collected codes and what is decoded from them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.analysis import abstract_actions
from internal_rl.models.metacontroller import Metacontroller


@pytest.fixture(scope="module")
def metacontroller(base):
    return Metacontroller(residual_size=base.width, code_size=3, rank=2, history_size=8)


@pytest.fixture(scope="module")
def metacontroller_params(base, metacontroller):
    residual = jnp.zeros((1, 4, base.width))
    segment = jnp.zeros((1, 4), jnp.int32)
    return jax.jit(metacontroller.init)(jax.random.key(0), residual, segment, jax.random.key(1))


def test_the_bank_holds_one_code_per_subgoal_of_every_trajectory(
    env, base, base_params, batch, metacontroller, metacontroller_params
):
    key = jax.random.key(2)
    bank = abstract_actions.collect_codes(
        env, base, base_params, metacontroller, metacontroller_params, 1, batch, key
    )

    @jax.jit
    def discover():
        residual = base.apply(base_params, batch.observation, batch.segment, 1, method="lower")
        return metacontroller.apply(
            metacontroller_params, residual, batch.segment, key, method="discover"
        )

    code = discover().code
    expected_codes, expected_subgoals = [], []
    for row, t in np.ndindex(batch.mask.shape):
        if not batch.mask[row, t]:
            continue
        # An action that reaches its colour shows the agent on that colour's cell.
        after = batch.next_observation[row, t].reshape(25, -1)
        colour = int(batch.subgoal[row, t])
        if np.argmax(after[:, -1]) == np.argmax(after[:, colour]):
            expected_codes.append(code[row, t])
            expected_subgoals.append(colour)
    assert bank.subgoal.tolist() == expected_subgoals
    np.testing.assert_allclose(bank.code, np.stack(expected_codes), atol=1e-5)
    assert len(set(bank.layout.tolist())) == env.config.num_layouts


def test_layouts_are_told_apart_and_the_agent_is_ignored(env):
    objects, walls, free, _ = env.layouts
    task = env.post_training_task

    def fingerprint(layout, start):
        _, timestep = env.reset_to(objects[layout], walls[layout], free[layout, start], task)
        return int(env.layout_fingerprint(timestep.observation))

    assert fingerprint(0, 0) == fingerprint(0, 5)
    assert len({fingerprint(layout, 0) for layout in range(3)}) == 3


def make_bank(informative, num_codes=800):
    rng = np.random.default_rng(0)
    subgoal = rng.integers(0, 4, num_codes)
    code = rng.normal(size=(num_codes, 3)).astype(np.float32)
    if informative:
        code += 6.0 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])[subgoal]
    return abstract_actions.CodeBank(code, subgoal, np.zeros(num_codes, np.uint32))


def test_goals_are_decoded_from_codes_that_hold_them():
    metrics = abstract_actions.decoding_accuracy(make_bank(True), 4, jax.random.key(0))
    assert metrics["decoding_accuracy"] > 0.95
    assert metrics["decoding_majority"] < 0.4


def test_nothing_is_decoded_from_noise():
    metrics = abstract_actions.decoding_accuracy(make_bank(False), 4, jax.random.key(0))
    assert metrics["decoding_accuracy"] < 0.35


def test_an_empty_bank_is_refused():
    with pytest.raises(ValueError, match="bank holds 1 codes"):
        abstract_actions.decoding_accuracy(make_bank(True, 1), 4, jax.random.key(0))
