"""Injected codes and supervised controllers, step by step and against the parallel model."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.acting.controls import InjectedCode, SupervisedControl
from internal_rl.acting.episodes import NOWHERE, NoControl, StepContext, Visits, play
from internal_rl.envs.slots import Slots
from internal_rl.models.controllers import initial_controllers, steer
from internal_rl.models.heads import action_log_prob
from internal_rl.types import Timestep
from tests.acting.steered import CODE_SIZE, WIDTH, make_model, make_world

EPISODES = 24
KEPT = ("observation", "action", "action_log_prob", "reward", "visit", "subgoal")


class ToldGate:
    """Its gate opens where the residual says so, and a code is added to the residual."""

    metacontroller = types.SimpleNamespace(draws_switches=False)

    def initial_history(self, batch_size):
        return np.zeros((batch_size, 1), np.float32)

    def switch(self, residual, history, code):
        return residual[:, 0]

    def history_step(self, residual, history):
        return history + 1.0

    def control(self, residual, code):
        return residual.at[:, 1:].add(code)


def context(time=0, visits=None, subgoal=None, episode=0):
    one = np.array([0], np.int32)
    slots = Slots(one + episode, one + time, np.array([True]))
    if visits is not None:
        count, last = visits
        visits = Visits(one + count, one + last)
    return StepContext(slots, Timestep(None, None, None, subgoal=subgoal), visits, [], False)


def aimed(codes, preference, **options):
    first_place = np.arange(codes.shape[1], dtype=np.int32)
    return InjectedCode(codes, np.asarray(preference, np.float32), first_place, **options)


@jax.jit
def memory_of(control):
    return control.init(ToldGate(), 1)


@jax.jit
def control_step(control, memory, residual, now):
    return control.step(ToldGate(), memory, residual, now)


def held_through(control, steps):
    """Which steps `(gate, context)` the code is in force at, and what the last one recorded."""
    memory, held = memory_of(control), []
    for gate, now in steps:
        residual = np.array([[gate, 0.0, 0.0]], np.float32)
        memory, controlled, record = control_step(control, memory, residual, now)
        held.append(bool(record["held"][0]))
        assert (np.asarray(controlled) != residual).any() == held[-1]
    return held, record


def test_the_code_is_held_until_the_gate_opens():
    """An open gate does nothing before the injection, and lets go of the code after it."""
    control = aimed(np.ones((1, 4, 2), np.float32), np.ones((1, 4)), after_visits=1)
    visits = [(1.0, 0), (0.0, 0), (1.0, 1), (0.0, 1), (1.0, 2)]
    steps = [
        (gate, context(time, (count, 0 if count else NOWHERE)))
        for time, (gate, count) in enumerate(visits)
    ]
    held, record = held_through(control, steps)
    assert held == [False, False, True, True, False]
    assert int(record["target"][0]) == 1


def test_a_code_from_a_step_on_needs_no_visits():
    control = InjectedCode.of_code(np.ones(2, np.float32), at_step=2)
    steps = [(gate, context(time)) for time, gate in enumerate([1.0, 0.0, 0.0, 0.0, 1.0, 0.0])]
    assert held_through(control, steps)[0] == [False, False, True, True, False, False]


def test_a_gate_at_the_threshold_lets_go_of_the_code():
    below = float(np.nextafter(np.float32(0.5), np.float32(0)))
    control = InjectedCode.of_code(np.ones(2, np.float32))
    steps = [(gate, context(time)) for time, gate in enumerate([0.0, below, 0.5])]
    assert held_through(control, steps)[0] == [True, True, False]


def test_a_new_episode_in_the_same_slot_forgets_the_last_one():
    control = InjectedCode.of_code(np.ones(2, np.float32))
    steps = [(0.0, context(0)), (1.0, context(1)), (0.0, context(0)), (0.0, context(1))]
    assert held_through(control, steps)[0] == [True, False, True, True]


def test_a_disabled_injection_aims_and_controls_nothing():
    control = aimed(np.ones((1, 3, 2), np.float32), [[0.1, 0.3, 0.2]], enabled=False)
    held, record = held_through(control, [(0.0, context(0, (0, NOWHERE)))])
    assert held == [False] and int(record["target"][0]) == 1


def test_every_episode_has_its_own_code_and_preference():
    codes = np.arange(12, dtype=np.float32).reshape(2, 3, 2) + 1
    control = aimed(codes, [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    for episode, target in ((0, 1), (1, 2)):
        now = context(0, (0, NOWHERE), episode=episode)
        residual = np.zeros((1, 3), np.float32)
        _, controlled, record = control_step(control, memory_of(control), residual, now)
        assert int(record["target"][0]) == target
        np.testing.assert_array_equal(np.asarray(controlled)[0, 1:], codes[episode, target])


def test_the_place_just_visited_is_not_aimed_at():
    control = aimed(np.ones((1, 3, 2), np.float32), [[0.1, 0.3, 0.2]], after_visits=1)
    _, record = held_through(control, [(0.0, context(5, (1, 1)))])
    assert int(record["target"][0]) == 2


def test_nothing_is_injected_where_nothing_may_be_aimed_at():
    preference = np.array([[-np.inf, 1.0, -np.inf]])
    control = aimed(np.ones((1, 3, 2), np.float32), preference, after_visits=1)
    visits = [(0, NOWHERE), (1, 1), (1, 1), (2, 0)]
    steps = [(0.0, context(time, seen)) for time, seen in enumerate(visits)]
    held, record = held_through(control, steps)
    # Nor later, when it is no more the code after the first visit.
    assert not any(held) and int(record["target"][0]) == -1


def test_gates_that_are_drawn_let_go_of_the_code_as_often_as_they_say():
    model = ToldGate()
    model.metacontroller = types.SimpleNamespace(draws_switches=True)
    control = InjectedCode.of_code(np.ones((2,), np.float32), num_keys=InjectedCode.keys_for(model))
    assert control.num_keys == 1 and InjectedCode.keys_for(ToldGate()) == 0
    number, rate = 4000, 0.2
    slots = Slots(np.arange(number, dtype=np.int32), *np.ones((2, number), np.int32))
    keys = jax.random.split(jax.random.key(0), number)
    now = StepContext(slots, Timestep(None, None, None), None, [keys], False)
    memory = control.init(model, number).replace(held=np.ones(number, bool))
    memory = memory.replace(injected=np.ones(number, bool))
    step = jax.jit(lambda memory, residual: control.step(model, memory, residual, now)[2])
    record = step(memory, np.full((number, 3), rate, np.float32))
    np.testing.assert_allclose(np.mean(record["held"]), 1 - rate, atol=0.02)
    with pytest.raises(ValueError, match="num_keys is 0, allowed is 1 for a module that draws"):
        control.replace(num_keys=0).step(model, memory, jnp.ones((1, 3)), now._replace(keys=[]))


@jax.jit
def episodes_of(model, control):
    world, key = make_world(), jax.random.key(3)
    return play(world, model, control, key, EPISODES, keep=KEPT, num_slots=8)


def run(model, control):
    return jax.device_get(episodes_of(model, control))


def check_actions(model, episodes, control):
    """The log-probabilities are those of the parallel form on what `control` makes of residuals."""

    @jax.jit
    def parallel(model):
        segment = jnp.where(episodes.active, 0, -1)
        controlled = control(model.lower(episodes.observation, segment))
        output = model.upper(controlled, segment)
        return action_log_prob(model.base.action_spec, output.action, episodes.action)

    log_prob, active = np.asarray(parallel(model)), episodes.active
    np.testing.assert_allclose(log_prob[active], episodes.action_log_prob[active], atol=1e-4)


@pytest.mark.parametrize("at_step", [0, 5])
def test_an_injected_code_controls_while_it_is_held_and_never_else(at_step):
    model, code = make_model(), np.array([1.0, -2.0, 0.5], np.float32)
    episodes = run(model, InjectedCode.of_code(code, at_step))
    held, active = episodes.record["held"], episodes.active
    assert not held[:, :at_step].any() and held[active[:, at_step], at_step].all()
    starts = held[:, 1:] & ~held[:, :-1]
    assert starts[:, at_step:].sum() == 0
    codes = np.broadcast_to(code, (*active.shape, CODE_SIZE))

    def where_held(residual):
        return jnp.where(held[..., None], model.control(residual, codes), residual)

    check_actions(model, episodes, where_held)


def test_the_gate_reads_its_history_and_the_code_that_is_held():
    model, code = make_model(), np.array([1.0, -2.0, 0.5], np.float32)
    episodes = run(model, InjectedCode.of_code(code, 3))
    active, record = episodes.active, episodes.record

    @jax.jit
    def step(residual, history, code):
        beta = model.switch(residual, history, code)
        return beta, model.history_step(residual, history)

    residual = np.asarray(
        jax.jit(model.lower)(episodes.observation, np.where(active, 0, -1).astype(np.int32))
    )
    history, held = np.zeros_like(model.initial_history(EPISODES)), np.zeros((EPISODES, CODE_SIZE))
    for t in range(active.shape[1]):
        beta, history = step(residual[:, t], history, held.astype(np.float32))
        now = active[:, t]
        np.testing.assert_allclose(record["beta"][now, t], beta[now], atol=1e-5)
        held = np.where(record["held"][:, t, None], code, 0.0)
    # Some codes are held on after a step.
    assert (record["held"][:, 1:] & record["held"][:, :-1]).sum() > EPISODES // 4


def test_before_the_injection_episodes_are_those_of_the_base_model():
    model, alone = make_model(), make_model().alone()
    free, injected = (
        run(alone, NoControl()),
        run(model, InjectedCode.of_code(np.ones(3, np.float32), 5)),
    )
    both = free.active[:, :5] & injected.active[:, :5]
    np.testing.assert_array_equal(free.observation[:, :5], injected.observation[:, :5])
    np.testing.assert_array_equal(free.action[:, :5][both], injected.action[:, :5][both])


@pytest.mark.parametrize("rank", [0, 2])
def test_supervised_controllers_follow_the_subgoals_that_the_world_emits(rank):
    model, num_subgoals = make_model().alone(), make_world().num_subgoals
    shapes = jax.eval_shape(
        functools.partial(initial_controllers, num_subgoals=num_subgoals, width=WIDTH, rank=rank),
        jax.random.key(0),
    )
    rng = np.random.default_rng(0)
    controllers = jax.tree.map(lambda x: 0.3 * rng.normal(size=x.shape).astype(x.dtype), shapes)
    episodes = run(model, SupervisedControl(controllers))
    assert len(np.unique(episodes.subgoal[episodes.active])) > 1
    check_actions(model, episodes, lambda x: steer(controllers, x, episodes.subgoal))


def test_supervised_controllers_need_a_world_that_emits_subgoals():
    controllers = initial_controllers(jax.random.key(0), 2, 3, 1)
    control = SupervisedControl(controllers)
    with pytest.raises(ValueError, match="subgoal of a timestep is None, allowed are worlds"):
        control.step(make_model(), (), jnp.zeros((1, 3)), context())


def test_controls_are_pytrees_of_arrays():
    control = InjectedCode.of_code(jnp.ones(3), at_step=2)
    doubled = jax.jit(lambda control: jax.tree.map(lambda x: x * 2, control))(control)
    assert dataclasses.asdict(doubled)["at_step"] == 4
    np.testing.assert_array_equal(doubled.codes, 2 * np.ones((1, 1, 3)))
