"""What the base model has to beat where the expert's policy has no closed form.

Both baselines are fitted to the training rows and judged on held-out ones: a distribution that
knows nothing (a Gaussian, or the frequencies of discrete actions), and a perceptron that reads the
present observation alone, so that it can neither know which subgoals were visited nor which one is
next.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from internal_rl.models.blocks import MLP
from internal_rl.models.heads import action_log_prob, action_parameter_size
from internal_rl.types import ActionSpec, Trajectory

HIDDEN_SIZE = 256
BATCH_SIZE = 1024
LEARNING_RATE = 1e-3


def _tokens(rows: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """Observations and actions of the tokens with a target, `(N, d)` and `(N,)` or `(N, d_a)`."""
    mask = np.asarray(rows.mask)
    return np.asarray(rows.observation)[mask], np.asarray(rows.action)[mask]


@jax.jit
def _moments(values: chex.Array, mask: chex.Array) -> tuple[chex.Array, chex.Array]:
    """Mean and standard deviation `(d,)` of `(N, S, d)` where `mask` `(N, S)` holds."""
    values = values.astype(jnp.float32)

    def mean_of(terms):
        # Row by row, so that no sum runs over millions of numbers.
        return jnp.sum(jnp.sum(terms * mask[..., None], axis=1), axis=0) / jnp.sum(mask)

    mean = mean_of(values)
    return mean, jnp.sqrt(mean_of((values - mean) ** 2))


def _constant_parameters(spec: ActionSpec, train: Trajectory) -> chex.Array:
    """Parameters of the distribution fitted to the actions of `train`, see `models.heads`."""
    if spec.discrete:
        # One more of each action, so that none is impossible.
        counts = np.bincount(_tokens(train)[1], minlength=spec.size) + 1
        return jnp.log(jnp.asarray(counts / counts.sum(), jnp.float32))
    mean, std = _moments(train.action, train.mask)
    return jnp.concatenate([mean, jnp.log(std + 1e-6)])


def constant_nll(spec: ActionSpec, train: Trajectory, held_out: Trajectory) -> float:
    """NLL in nats per action of the distribution fitted to the actions of `train`.

    It is a diagonal Gaussian, or the frequencies of discrete actions (by Laplace's rule).
    """
    parameters = _constant_parameters(spec, train)
    tested = jnp.asarray(_tokens(held_out)[1])

    @jax.jit
    def nll(parameters, tested):
        shape = (*tested.shape[:1], *parameters.shape)
        return -jnp.mean(action_log_prob(spec, jnp.broadcast_to(parameters, shape), tested))

    return float(nll(parameters, tested))


def one_step_nll(
    spec: ActionSpec, train: Trajectory, held_out: Trajectory, key: chex.PRNGKey, num_steps: int
) -> float:
    """NLL in nats per action of a perceptron that sees nothing but `o_t`.

    One hidden layer of `HIDDEN_SIZE`, a head for the kind of action, Adam with a cosine schedule on
    `num_steps` batches of single tokens.
    """
    # The tokens are looked up in the rows: copies of them would take as much memory as the dataset.
    tokens = np.flatnonzero(np.asarray(train.mask))
    mean, std = _moments(train.observation, train.mask)
    # What never varies tells nothing, and must not be blown up where it varies later.
    std = jnp.where(std == 0.0, 1.0, std + 1e-6)
    model = MLP(HIDDEN_SIZE, action_parameter_size(spec))
    optimiser = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, num_steps))
    params_key, data_key = jax.random.split(key)
    nothing = jnp.zeros((1, train.observation.shape[-1]), jnp.float32)
    params = jax.jit(model.init)(params_key, nothing)

    def nll(params, observation, action):
        output = model.apply(params, (observation - mean) / std)
        return -jnp.mean(action_log_prob(spec, output, action))

    @jax.jit
    def fit(params, observation, action, tokens):
        observation, action = (x.reshape(-1, *x.shape[2:]) for x in (observation, action))

        def step(carry, index):
            params, state = carry
            chosen = jax.random.choice(jax.random.fold_in(data_key, index), tokens, (BATCH_SIZE,))
            gradient = jax.grad(nll)(params, observation[chosen], action[chosen])
            updates, state = optimiser.update(gradient, state)
            return (optax.apply_updates(params, updates), state), None

        carry = params, optimiser.init(params)
        return jax.lax.scan(step, carry, jnp.arange(num_steps))[0][0]

    params = fit(params, train.observation, train.action, tokens)
    return float(jax.jit(nll)(params, *map(jnp.asarray, _tokens(held_out))))


def action_baselines(
    spec: ActionSpec, train: Trajectory, held_out: Trajectory, key: chex.PRNGKey, num_steps: int
) -> dict[str, float]:
    """Both baselines: `constant` and `one_step`, in nats per action.

    Args:
      spec: of the action.
      train: `(N, S, ...)` packed rows.
      held_out: `(M, S, ...)` rows of other episodes.
      key: initial parameters of the perceptron and its order of tokens.
      num_steps: gradient steps of the perceptron.
    """
    return {
        "constant": constant_nll(spec, train, held_out),
        "one_step": one_step_nll(spec, train, held_out, key, num_steps),
    }
