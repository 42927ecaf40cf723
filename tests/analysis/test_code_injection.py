"""Injected codes against a model that walks to the colour its residual stream names."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.analysis import abstract_actions, code_injection


@dataclasses.dataclass(frozen=True)
class WritingMetacontroller:
    """Its code is a score per colour; its gate opens on every coloured cell."""

    env: object

    def initial_history(self, batch_size):
        return jnp.zeros((batch_size, 1))

    def apply(self, params, residual, *rest, method):
        colours, size = self.env.config.num_colours, self.env.config.grid_size
        if method == "history_step":
            return rest[0] + 1.0
        if method == "control":
            return residual.at[:, -colours:].add(rest[0])
        assert method == "switch"
        grid = residual[:, : self.env.observation_size].reshape(len(residual), size**2, -1)
        on_colour = jnp.sum(grid[..., :colours] * grid[..., -1:], axis=(1, 2))
        return jnp.where(on_colour > 0, 1.0, 0.0)


@pytest.fixture(scope="module")
def bank(env):
    """Perfect codes: the score of the subgoal's colour is one. Collected in every layout."""
    objects, walls, free, _ = env.layouts
    layouts = []
    for layout in range(env.config.num_layouts):
        _, timestep = env.reset_to(
            objects[layout], walls[layout], free[layout, 0], env.post_training_task
        )
        layouts.append(env.layout_fingerprint(timestep.observation))
    subgoal, layout = np.meshgrid(np.arange(4), np.array(layouts), indexing="ij")
    return abstract_actions.CodeBank(
        np.eye(4, dtype=np.float32)[subgoal.ravel()], subgoal.ravel(), layout.ravel()
    )


@pytest.mark.parametrize("after_visits", [0, 1])
def test_a_code_that_means_a_colour_leads_there(env, obedient, bank, after_visits):
    inject = jax.jit(
        lambda key: code_injection.inject_codes(
            env,
            obedient,
            {},
            WritingMetacontroller(env),
            {},
            1,
            bank,
            key,
            num_episodes=200,
            after_visits=after_visits,
        )
    )
    counts = inject(jax.random.key(0))
    colours = code_injection.first_colours(env)
    metrics = code_injection.injection_metrics(counts, colours, {(0, 1), (1, 2)})
    # A random walk may come to its first colour too late for the second.
    assert metrics["reach_injected"] > 0.85
    assert metrics["reach_uncontrolled"] < 0.4
    assert metrics["reach_prior"] < 0.5
    assert metrics["reach_gain"] > 2.0
    for arm in code_injection.ARMS:
        none = 4
        before = np.asarray(counts[arm]).sum(axis=(1, 2))
        if after_visits == 0:
            assert before[none] == before.sum() == 200
            assert np.isnan(metrics[f"reach_unseen_{arm}"])
        else:
            assert before[none] == 0
            assert 0 < before.sum() <= 200
            assert np.isfinite(metrics[f"reach_unseen_{arm}"])
            aimed_at_itself = np.asarray(counts[arm]).sum(axis=2)[:4].diagonal()
            np.testing.assert_array_equal(aimed_at_itself, 0)


def test_all_arms_aim_at_the_same_targets(env, obedient, bank):
    counts = jax.jit(
        lambda key: code_injection.inject_codes(
            env, obedient, {}, WritingMetacontroller(env), {}, 1, bank, key, 64, after_visits=1
        )
    )(jax.random.key(1))
    aims = [np.asarray(counts[arm]).sum(axis=2) for arm in code_injection.ARMS]
    np.testing.assert_array_equal(aims[0], aims[1])
    np.testing.assert_array_equal(aims[0], aims[2])


def test_codes_come_from_other_layouts(bank):
    layout = bank.layout[:3]
    marked = bank.replace(code=bank.layout[:, None].astype(np.float32))
    codes, found = code_injection.choose_codes(marked, layout, 4, jax.random.key(0))
    assert found.all()
    assert np.all(codes[..., 0] != layout[:, None].astype(np.float32))


def test_a_subgoal_without_a_code_from_elsewhere_is_not_found(bank):
    only = jax.tree.map(lambda leaf: leaf[bank.layout == bank.layout[0]], bank)
    _, found = code_injection.choose_codes(only, bank.layout[:3], 4, jax.random.key(0))
    np.testing.assert_array_equal(found.any(axis=1), [False, True, True])


def test_the_code_is_held_until_the_gate_opens(env, obedient, bank):
    """An open gate does nothing before the injection, and lets go of the code after it."""
    control = code_injection.injection_control(
        WritingMetacontroller(env),
        {},
        1,
        codes=jnp.ones((1, 4, 4)),
        preference=jnp.ones((1, 4)),
        first_colour=np.arange(4),
        after_visits=1,
        enabled=True,
    )
    grid = np.zeros((1, 25, 6), np.float32)
    grid[0, 3, 0] = 1.0
    away, on_colour = grid.copy(), grid.copy()
    away[0, 7, -1] = 1.0
    on_colour[0, 3, -1] = 1.0
    pad = np.zeros((1, 5), np.float32)
    memory, held = control.carry, []
    for cells, visits in [(on_colour, 0), (away, 0), (on_colour, 1), (away, 1), (on_colour, 2)]:
        residual = jnp.asarray(np.concatenate([cells.reshape(1, -1), pad], axis=1))
        context = code_injection.StepContext(
            None, None, jnp.array([visits]), jnp.array([0]), jax.random.key(0)
        )
        memory, _, record = control.step(memory, residual, context)
        held.append(bool(record["held"][0]))
    assert held == [False, False, True, True, False]
    assert int(memory.target[0]) == 1


def test_visits_are_numbered_from_one():
    visit = np.array([[-1, 2, -1, 0, 0], [-1, -1, -1, 1, -1]])
    assert code_injection.nth_visit(visit, 0).tolist() == [-1, -1]
    assert code_injection.nth_visit(visit, 1).tolist() == [2, 1]
    assert code_injection.nth_visit(visit, 2).tolist() == [0, -1]
    assert code_injection.nth_visit(visit, 3).tolist() == [0, -1]
