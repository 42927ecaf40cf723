"""A block of your own, a GRU: `python examples/own_block.py runs/gru` checks, trains and steers."""

import sys

import flax.linen as nn
import jax.numpy as jnp

import internal_rl as irl
from internal_rl.models.blocks import BlockShape
from internal_rl.models.recurrence import starts_segment


class GRUBlock(nn.Module):
    """Pre-norm residual block around a GRU; `shape.width` is the size of the residual stream."""

    shape: BlockShape

    def setup(self):
        self.norm = nn.LayerNorm()
        self.cell = nn.GRUCell(self.shape.width)

    def step(self, x, state):
        """One step: `(B, n_e)` residual and `(B, n_e)` state in, the same out."""
        state = self.cell(state, self.norm(x))[0]
        return x + state, state

    def __call__(self, x, segment):
        """Packed rows `(B, S, n_e)`: the state restarts where `segment (B, S)` changes."""

        def body(block, state, inputs):
            x_t, first = inputs
            y, state = block.step(x_t, block.restart(state, first))
            return state, y

        shared = {"variable_broadcast": "params", "split_rngs": {"params": False}}
        scan = nn.scan(body, **shared, in_axes=1, out_axes=1)
        if self.is_initializing():  # a scan cannot create parameters
            self.step(x[:, 0], self.initial_state(len(x)))
        return scan(self, self.initial_state(len(x)), (x, starts_segment(segment)))[1]

    @nn.nowrap
    def initial_state(self, batch_size):
        """State before the first step."""
        return jnp.zeros((batch_size, self.shape.width))

    @nn.nowrap
    def restart(self, state, rows):
        """Begins a new trajectory in some rows."""
        return jnp.where(rows[:, None], 0.0, state)


irl.register_block("gru", GRUBlock)


if __name__ == "__main__":
    workdir = sys.argv[1] if len(sys.argv) == 2 else sys.exit(__doc__)
    irl.testing.check_block("gru")
    overlays = {"smoke": {"base": {"block": "gru"}}}
    config = irl.make_config("gridworld-pinpad", "smoke", overlays, size="smoke")
    irl.run_stages(config, workdir, ["pretrain", "steer"])
