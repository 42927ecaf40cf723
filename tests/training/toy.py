"""A trainer of a second or two: linear regression on a stream of random batches.

`python -m tests.training.toy WORKDIR NUM_STEPS NUM_SEEDS` trains it, to be killed from outside.
"""

import sys

import jax
import jax.numpy as jnp
import optax
from flax import struct

from internal_rl.training import optimiser as optimiser_lib
from internal_rl.training.loop import run_stage
from internal_rl.training.mesh import mean, my_share, num_shares
from internal_rl.training.randomness import named_key
from internal_rl.training.stage import Stage
from internal_rl.training.stage_config import StageConfig

WIDTH = 8


@struct.dataclass
class ToyState:
    params: dict
    optimiser_state: optax.OptState
    key: jax.Array
    rows_drawn: jax.Array


def make_stage(
    num_steps=40,
    seeds=(0,),
    learning_rate=0.05,
    break_loss_at=-1,
    break_params_at=-1,
    log_every=4,
    checkpoint_every=8,
    **more,
) -> Stage:
    """The stage; `break_..._at` are updates that end in NaN."""
    optimiser = optimiser_lib.make_optimiser(learning_rate, weight_decay=0.01)

    def init(key, frozen):
        weight = jax.random.normal(named_key(key, "params"), (WIDTH,))
        # Python numbers make weakly typed arrays, as careless trainers leave them.
        params = {"layer": {"weight": weight, "bias": jnp.asarray(0.0)}}
        return ToyState(params, optimiser.init(params), named_key(key, "data"), jnp.asarray(0))

    def update(state, frozen):
        inputs = jax.random.normal(jax.random.fold_in(state.key, state.rows_drawn), (16, WIDTH))
        if num_shares() > 1:
            inputs = inputs[my_share(len(inputs)).rows]

        def loss_of(params):
            layer = params["layer"]
            error = inputs @ (layer["weight"] - frozen["target"]) + layer["bias"] - frozen["bias"]
            return jnp.square(error).mean()

        loss, gradients = mean(jax.value_and_grad(loss_of)(state.params))
        params, optimiser_state, metrics = optimiser_lib.apply_gradients(
            optimiser, gradients, state.optimiser_state, state.params
        )
        loss = jnp.where(state.rows_drawn == break_loss_at, jnp.nan, loss)
        broken = jnp.where(state.rows_drawn == break_params_at, jnp.nan, 0.0)
        params = jax.tree.map(lambda x: x + broken, params)
        state = ToyState(params, optimiser_state, state.key, state.rows_drawn + 1)
        return state, {"loss": loss, **metrics}

    target = jnp.stack([jnp.arange(WIDTH) + 10.0 * seed for seed in seeds])
    return Stage(
        name="toy",
        config=StageConfig(
            {"toy": {"learning_rate": learning_rate, "steps": num_steps}}, length="toy.steps"
        ),
        init=init,
        update=update,
        num_steps=num_steps,
        log_every=log_every,
        checkpoint_every=checkpoint_every,
        steps_per_call=3,
        seeds=seeds,
        frozen={"target": target, "bias": jnp.float32(1.0)},
        frozen_axes={"target": 0, "bias": None},
        **more,
    )


if __name__ == "__main__":
    workdir, num_steps, num_seeds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    run_stage(
        make_stage(num_steps, tuple(range(num_seeds)), log_every=20, checkpoint_every=40), workdir
    )
