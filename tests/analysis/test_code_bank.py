"""Collected codes, and how they are chosen for other episodes."""

import jax
import numpy as np
import pytest

from internal_rl.analysis.code_bank import CodeBank, choose_codes, collect_codes


def test_the_bank_holds_one_code_per_subgoal_of_every_trajectory(world, steered, batch):
    key = jax.random.key(2)
    bank = collect_codes(world, steered, batch, key)

    @jax.jit
    def discover(model):
        residual = model.lower(batch.observation, batch.segment)
        return model.discover(residual, batch.segment, key)

    code = np.asarray(discover(steered).code)
    batch = jax.device_get(batch)
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
    assert bank.goal.tolist() == expected_subgoals
    np.testing.assert_allclose(bank.code, np.stack(expected_codes), atol=1e-5)
    assert len(set(bank.layout.tolist())) == world.config.num_layouts


def test_a_world_that_tells_no_layouts_has_a_bank_without_them(steered, batch):
    bank = collect_codes(object(), steered, batch, jax.random.key(2))
    assert bank.layout is None
    assert len(bank.code) == len(bank.goal) > 0


def test_layouts_are_told_apart_and_the_agent_is_ignored(world):
    objects, walls, free, _ = jax.device_get(world.layouts)
    task = world.post_training_task

    @jax.jit
    def fingerprint_from(*things):
        _, timestep = world.reset_to(*things, task)
        return world.layout_fingerprint(timestep.observation)

    def fingerprint(layout, start):
        return int(fingerprint_from(objects[layout], walls[layout], free[layout, start]))

    assert fingerprint(0, 0) == fingerprint(0, 5)
    assert len({fingerprint(layout, 0) for layout in range(3)}) == 3


@pytest.fixture(scope="module")
def bank():
    """A code for each of four subgoals in each of three layouts."""
    subgoal, layout = np.meshgrid(np.arange(4), np.array([7, 8, 9], np.uint32), indexing="ij")
    return CodeBank(np.eye(4, dtype=np.float32)[subgoal.ravel()], subgoal.ravel(), layout.ravel())


def test_codes_come_from_other_layouts(bank):
    layout = bank.layout[:3]
    marked = bank.replace(code=bank.layout[:, None].astype(np.float32))
    codes, found = choose_codes(marked, layout, 4, jax.random.key(0))
    assert found.all()
    assert np.all(codes[..., 0] != layout[:, None].astype(np.float32))


def test_a_subgoal_without_a_code_from_elsewhere_is_not_found(bank):
    only = jax.tree.map(lambda leaf: leaf[bank.layout == bank.layout[0]], bank)
    _, found = choose_codes(only, bank.layout[:3], 4, jax.random.key(0))
    np.testing.assert_array_equal(found.any(axis=1), [False, True, True])
