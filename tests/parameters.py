"""Parameters of tests' models, drawn in NumPy: what draws initial ones takes seconds to compile."""

from collections.abc import Callable

import jax
import numpy as np

# What others than weights and biases lie around.
MIDDLE = {"scale": 1.0, "decay": -3.5, "slowness": 2.0}


def drawn(init: Callable, *inputs, noise: float = 0.1, seed: int = 0):
    """Parameters as large as those that `init(key, *inputs)` gives, with noise on all of them.

    So nothing is hidden by an initial value of zero.
    """
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        size = leaf.shape[-2] ** -0.5 if name == "kernel" else 0.0
        values = MIDDLE.get(name, 0.0) + np.hypot(size, noise) * rng.normal(size=leaf.shape)
        return values.astype(leaf.dtype)

    shapes = jax.eval_shape(init, jax.random.key(0), *inputs)
    return jax.tree_util.tree_map_with_path(draw, shapes)
