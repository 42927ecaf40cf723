"""Random codes and what is put among them, against a loop over single episodes in plain Python."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.acting.episodes import act, start_worlds
from internal_rl.acting.random_codes import Injection, RandomCodes
from tests.acting.steered import CODE_SIZE, make_model, make_world

EPISODES, PLACES = 6, 4
ANY_PLACE = ~np.eye(PLACES + 1, PLACES, dtype=bool)
AFTER_0_OR_1 = np.zeros((PLACES + 1, PLACES), bool)
AFTER_0_OR_1[0, 1] = AFTER_0_OR_1[1, [2, 3]] = True


@functools.cache
def start():
    world = make_world()
    return jax.jit(lambda key: start_worlds(world, key, world.post_training_task, EPISODES))(
        jax.random.key(4)
    )


def injection(allowed, first, last, enabled=True):
    rng = np.random.default_rng(1)
    preference = rng.random((EPISODES, PLACES)).astype(np.float32)
    # No code of the last place, and none at all for the first episode.
    preference[:, 3] = preference[0] = -np.inf
    codes = (3 * rng.normal(size=(EPISODES, PLACES, CODE_SIZE))).astype(np.float32)
    window = np.int32(first), np.int32(last)
    return Injection(codes, preference, allowed, *window, np.bool_(enabled))


@jax.jit
def play(model, injection, key, start):
    control, world = RandomCodes(injection), make_world()
    keep = ("visit", "action")
    return act(world, model, control, start, key, free_running=True, keep=keep, num_slots=4)


def episodes_of(model, injection, key):
    return jax.device_get(play(model, injection, key, start()))


@jax.jit
def decide(model, observation, base, history, code, key):
    """What one step knows before a code is chosen: residual, gate, a code from the prior."""
    residual, base = model.lower_step(observation[None], base)
    beta = model.switch(residual, history, code[None])[0]
    drawn = jax.random.normal(key, code.shape, code.dtype)
    return residual, base, beta, drawn


@jax.jit
def go_on(model, world_state, residual, base, history, code, key):
    """What follows from a code."""
    output, base = model.upper_step(model.control(residual, code[None]), base)
    action = jax.random.categorical(key, output.action[0])
    state, timestep = make_world().step_without_task(world_state, action)
    return state, timestep, base, model.history_step(residual, history), action


def slow_episode(model, number, injection, key):
    """Visits, codes, targets and actions of one episode."""
    state, timestep = jax.tree.map(lambda leaf: leaf[number], start())
    base, history = model.initial_state(1), model.initial_history(1)
    code, target, last = jnp.zeros(CODE_SIZE), -1, -1
    found = {"visit": [], "code": [], "target": [], "action": [], "beta": []}
    for time in range(make_world().time_limit):
        draws = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, number), time), 3)
        residual, base, beta, drawn = decide(
            model, timestep.observation, base, history, code, draws[1]
        )
        if time == 0 or beta >= 0.5:
            code = drawn
        if target < 0 and injection.first_step <= time <= injection.last_step:
            choices = [
                (injection.preference[number, place], place)
                for place in range(PLACES)
                if injection.allowed[last, place] and injection.preference[number, place] > -np.inf
            ]
            if choices:
                target = max(choices)[1]
                if injection.enabled:
                    code = jnp.asarray(injection.codes[number, target])
        state, timestep, base, history, action = go_on(
            model, state, residual, base, history, code, draws[2]
        )
        visit = int(timestep.visit)
        last = visit if visit >= 0 else last
        values = {"visit": visit, "code": code, "target": target, "action": action, "beta": beta}
        for name, value in values.items():
            found[name].append(np.asarray(value))
    return {name: np.stack(values) for name, values in found.items()}


@pytest.mark.parametrize(
    "put",
    [
        injection(ANY_PLACE, 7, 7),
        injection(ANY_PLACE, 7, 7, enabled=False),
        injection(AFTER_0_OR_1, 0, 1_000),
    ],
    ids=["at a step", "disabled", "after a visit"],
)
def test_episodes_are_those_of_a_plain_loop(put):
    model, key = make_model(), jax.random.key(6)
    fast = episodes_of(model, put, key)
    for number in range(EPISODES):
        slow = slow_episode(model, number, put, key)
        np.testing.assert_array_equal(fast.visit[number], slow["visit"])
        np.testing.assert_array_equal(fast.action[number], slow["action"])
        np.testing.assert_array_equal(fast.record["target"][number], slow["target"])
        np.testing.assert_allclose(fast.record["code"][number], slow["code"], rtol=1e-6)
        np.testing.assert_allclose(fast.record["beta"][number], slow["beta"], atol=1e-5)
    # The first step always draws a code, and no other does unless the gate asks or one is put in.
    switch, asks = fast.record["switch"], fast.record["beta"] >= 0.5
    assert switch[:, 0].all() and (switch | ~asks).all()
    others = (switch & ~asks)[:, 1:].sum(axis=1)
    np.testing.assert_array_equal(others <= 1, True)
    assert put.enabled or not others.any()
    targets = fast.record["target"]
    assert (targets[0] == -1).all() and (targets >= 0).any()
