"""The trainer of policies against an update that is written out, decision by decision."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from internal_rl.acting.code_policy import CodePolicyControl
from internal_rl.acting.episodes import NoControl, play
from internal_rl.methods import internal_rl, raw_action
from internal_rl.models.base_model import BaseConfig, BaseModel
from internal_rl.models.metacontroller import Metacontroller, MetacontrollerConfig
from internal_rl.models.policy import CodePolicy
from internal_rl.models.steered_model import SteeredModel
from tests.methods.line import Line
from tests.parameters import drawn

EPISODES, EPOCHS, CLIP, THRESHOLD, TASK = 24, 2, 0.05, 0.1, np.array([1])


def with_descent(config_class, rate, **fields):
    """A section whose optimiser is plain gradient descent: its steps are the gradients."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config(config_class):
        def make_optimiser(self):
            return optax.sgd(rate)

    return Config(
        episodes_per_update=EPISODES, num_epochs=EPOCHS, num_minibatches=1, clip=CLIP, **fields
    )


@functools.cache
def make_model():
    """A small model whose codes and gates make a difference."""
    sizes = BaseConfig(block="hawk", width=8, depth=1, num_heads=2, mlp_size=16, init_scale=1.0)
    base = BaseModel(Line.observation_spec, Line.action_spec, sizes, Line.time_limit)
    metacontroller = Metacontroller(
        8, MetacontrollerConfig(code_size=2, rank=2, history_size=4, switch_bias=0.0)
    )
    return SteeredModel(
        base,
        1,
        jax.device_put(drawn(base.initial_params)),
        metacontroller,
        jax.device_put(drawn(metacontroller.initial_params, noise=0.5)),
    )


class Internal:
    """Internal RL: what the policy chose, and how likely that is."""

    rate = 0.0007

    def __init__(self):
        fields = {"policy_width": 8, "threshold": THRESHOLD, "objective": "as_printed"}
        config = with_descent(internal_rl.Config, self.rate, **fields)
        self.method = internal_rl.InternalRL(config, Line(), make_model(), task=TASK)
        self.policy = CodePolicy(code_size=2, width=8, mlp_size=16)
        init = functools.partial(self.policy.initial_params, residual_size=8)
        self.params = jax.device_put(drawn(init, noise=0.3))

    def play(self, key):
        control = CodePolicyControl(self.policy, self.params, THRESHOLD)
        return play(Line(), make_model(), control, key, EPISODES, task=TASK, keep=("reward",))

    def choices(self, episodes):
        """By raw step: whether something was chosen, what was read, and what was chosen."""
        asked = episodes.record["beta"] >= THRESHOLD
        asked[:, 0] = True
        return asked & episodes.active, episodes.record["residual"], episodes.record["code"]

    def log_prob(self, params, read, segment, code):
        mean, log_std = self.policy.apply(params, read, segment)
        variance = jnp.exp(log_std) ** 2
        return -jnp.sum((code - mean) ** 2 / variance + jnp.log(2 * jnp.pi * variance), -1) / 2


class Raw:
    """Raw-action RL: what the base model did, and how likely that is."""

    rate = 0.03

    def __init__(self):
        config = with_descent(raw_action.Config, self.rate, objective="ppo")
        self.method = raw_action.RawActionRL(config, Line(), make_model().alone(), task=TASK)
        self.params = make_model().base_params

    def play(self, key):
        keep, model = ("observation", "action", "reward"), make_model().alone()
        return play(Line(), model, NoControl(), key, EPISODES, task=TASK, keep=keep)

    def choices(self, episodes):
        """See `Internal.choices`."""
        return episodes.active, episodes.observation, episodes.action

    def log_prob(self, params, read, segment, action):
        weight = jnp.exp(make_model().base.apply(params, read, segment).action)
        chosen = jnp.sum(weight * jax.nn.one_hot(action, 2), axis=-1)
        return jnp.log(chosen / jnp.sum(weight, axis=-1))


def surrogate(ratio, advantage, objective):
    """The surrogate of one decision, and its derivative by the logarithm of the ratio."""
    clipped = min(max(ratio, 1 - CLIP), 1 + CLIP)
    if objective == "ppo":
        value = min(ratio * advantage, clipped * advantage)
    else:
        value = min(ratio, clipped) * advantage
    return value, value if value == ratio * advantage else 0.0


def slow_update(case, episodes):
    """Parameters and metrics after `EPOCHS` steps on all decisions of some episodes."""
    returns = episodes.reward.sum(axis=1, dtype=np.float64)
    advantage = (returns - returns.mean()) / (returns.std() + 1e-3)
    places, *choices = case.choices(episodes)
    # Every episode has a row, in which its decisions stand in front, and others behind them.
    order = np.argsort(~places, axis=1, kind="stable")
    made, read, chosen = (
        np.stack([row[of_row] for row, of_row in zip(x, order, strict=True)])
        for x in (places, *choices)
    )
    assert 0.2 < (returns > 0).mean() < 0.8 and np.ptp(made.sum(axis=1)) > 1

    @jax.jit
    def log_prob_and_pull(params, weight):
        segment = np.where(made, 0, -1)
        found, pull = jax.vjp(lambda x: case.log_prob(x, read, segment, chosen), params)
        return found, pull(weight)[0]

    params, lines, old = case.params, [], None
    for _ in range(EPOCHS):
        found = np.asarray(log_prob_and_pull(params, jnp.zeros(made.shape))[0], np.float64)
        # Who acted is who learns: the first ratios are 1.
        old = found if old is None else old
        ratio, weight, loss = np.exp(found - old), np.zeros(made.shape), 0.0
        for b, k in np.argwhere(made):
            value, slope = surrogate(ratio[b, k], advantage[b], case.method.config.objective)
            loss -= value / made.sum()
            weight[b, k] = -slope / made.sum()
        _, gradient = log_prob_and_pull(params, jnp.float32(weight))
        params = jax.tree.map(lambda x, g: x - case.rate * g, params, gradient)
        ratio = ratio[made]
        outside = (ratio < 1 - CLIP) | (ratio > 1 + CLIP)
        norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(gradient)))
        lines.append([loss, outside.mean(), np.mean(ratio - 1 - np.log(ratio)), norm])
    return params, np.array(lines), places


@pytest.mark.parametrize("case", [Internal, Raw])
def test_an_update_is_the_one_that_is_written_out(case):
    case, key = case(), jax.random.key(0)
    method = case.method
    state = method.start(case.params, key)
    after, metrics = jax.device_get(jax.jit(method.update)(state, method.frozen))
    episodes = jax.device_get(jax.jit(case.play)(jax.random.split(key, 3)[0]))
    params, lines, places = slow_update(case, episodes)
    # Nothing is clipped at first, and some decisions later.
    assert lines[0, 1] == 0 and 0.1 < lines[1, 1] < 0.9
    names = ("loss", "clip_fraction", "divergence", "gradient_norm")
    for name, expected in zip(names, lines.mean(axis=0), strict=True):
        np.testing.assert_allclose(metrics[name], expected, rtol=2e-3, atol=1e-6, err_msg=name)
    for found, slow, x in zip(
        *map(jax.tree.leaves, (after.params, params, case.params)), strict=True
    ):
        np.testing.assert_allclose(found - x, slow - x, rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(metrics["success"], (episodes.reward.sum(axis=1) > 0).mean())
    if isinstance(case, Internal):
        np.testing.assert_allclose(metrics["switches"], places.sum(axis=1).mean(), rtol=1e-6)
        # The threshold of the section asks where the usual one would not.
        assert (places[:, 1:] & (episodes.record["beta"][:, 1:] < 0.5)).sum() > 5
