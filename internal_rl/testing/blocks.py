"""What a sequence block owes the base model: two forms that agree, and nothing that leaks."""

import dataclasses
from collections.abc import Callable, Iterator

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from internal_rl.models import hawk, transformer  # noqa: F401 (registers the blocks of this package)
from internal_rl.models.blocks import BlockShape, block_entry
from internal_rl.models.recurrence import starts_segment
from internal_rl.testing.trees import as_numpy, first_line, type_differences

SHAPE = BlockShape(
    width=16, num_heads=2, head_size=8, mlp_size=32, init_scale=1.0, max_length=24, reach=24
)
"""Sizes of the block that is tried."""

# Largest difference in float32, as a share of the largest output.
TOLERANCE = 1e-5
NUM_ROWS = 4
# Noise on parameters, so that what is initialised to zero has an effect.
NOISE = 0.1
_METHODS = ("__call__", "step", "initial_state", "restart")


@dataclasses.dataclass(frozen=True)
class _Trial:
    """A block with parameters and rows.

    Attributes:
      block: the module.
      params: its parameters, none of them zero.
      x: `(B, S, n_e)` inputs.
      segment: `(B, S)`; row 0 is one trajectory, the others are packed and end with padding.
      y: `(B, S, n_e)` outputs of the parallel form.
    """

    block: nn.Module
    params: chex.ArrayTree
    x: chex.Array
    segment: chex.Array
    y: np.ndarray

    def parallel(self, x: chex.Array) -> np.ndarray:
        """Outputs for other inputs."""
        return np.asarray(jax.jit(self.block.apply)(self.params, x, self.segment))

    def differs(
        self, y: np.ndarray, where: np.ndarray, expected: np.ndarray | None = None
    ) -> float:
        """Largest difference where `where (B, S)` holds, as a share of the largest output."""
        expected = self.y if expected is None else expected
        gap = np.abs(y - expected)[where]
        return float(np.max(gap, initial=0.0) / max(1.0, np.abs(self.y).max()))


def block_faults(
    block: str | Callable[..., nn.Module], *, shape: BlockShape = SHAPE, seed: int = 0
) -> list[str]:
    """One line for each way in which a block breaks its contract.

    Args:
      block: name of a registered block, or what makes one: `make(shape, **keywords)`.
      shape: sizes of the block that is tried.
      seed: of parameters and inputs.

    Raises:
      SettingError: there is no block of this name, or the sizes do not suit it.
    """
    make, short_reach = block, None
    if isinstance(block, str):
        entry = block_entry(block)
        entry.check(shape)
        make, short_reach = entry.make, entry.short_reach(shape.max_length)
    with jax.default_matmul_precision("highest"):
        return _faults(make, shape, short_reach, jax.random.key(seed))


def _faults(make, shape: BlockShape, short_reach: int | None, key: chex.PRNGKey) -> list[str]:
    try:
        module = make(shape, parent=None)
    except Exception as error:
        return [f"make: raises {first_line(error)} for {shape}"]
    missing = [name for name in _METHODS if not callable(getattr(module, name, None))]
    if missing:
        return [f"{name}: missing, allowed is a method" for name in missing]
    faults = _state_faults(module)
    if faults:
        return faults
    try:
        trial = _trial(module, shape, key)
    except Exception as error:
        return [f"__call__: raises {first_line(error)}"]
    if trial.y.shape != trial.x.shape or trial.y.dtype != np.float32:
        return [
            f"__call__: gives {trial.y.dtype}{list(trial.y.shape)}, allowed is"
            f" float32{list(trial.x.shape)}"
        ]
    if not np.isfinite(trial.y).all():
        return ["__call__: gives numbers that are not finite, allowed are finite ones"]
    return [
        *_leak_faults(trial),
        *_step_faults(trial),
        *_gradient_faults(trial),
        *_half_precision_faults(trial),
        *_reach_faults(make, shape, short_reach, trial),
    ]


def _state_faults(module: nn.Module) -> list[str]:
    """States must not need parameters, and their rows come first."""
    try:
        state = jax.eval_shape(lambda: module.initial_state(NUM_ROWS))
    except Exception as error:
        return [f"initial_state: raises {first_line(error)} without parameters (see flax nowrap)"]
    faults = [
        f"initial_state: an array has shape {x.shape}, allowed are ({NUM_ROWS}, ...) and ()"
        for x in jax.tree.leaves(state)
        if x.shape[:1] not in ((), (NUM_ROWS,))
    ]
    rows = jax.ShapeDtypeStruct((NUM_ROWS,), bool)
    try:
        renewed = jax.eval_shape(lambda state, rows: module.restart(state, rows), state, rows)
    except Exception as error:
        return faults + [
            f"restart: raises {first_line(error)} without parameters (see flax nowrap)"
        ]
    return faults + _changes("restart", state, renewed)


def _changes(name: str, before: chex.ArrayTree, after: chex.ArrayTree) -> list[str]:
    return [
        f"{name}: {leaf} becomes {now}, allowed is what initial_state gives: {old}"
        for leaf, old, now in type_differences(before, after, "state")
    ]


def _trial(module: nn.Module, shape: BlockShape, key: chex.PRNGKey) -> _Trial:
    x_key, init_key, noise_key = jax.random.split(key, 3)
    segment = jnp.asarray(_random_segments(shape.max_length))
    x = jax.random.normal(x_key, (*segment.shape, shape.width), jnp.float32)
    params = jax.jit(module.init)(init_key, x, segment)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(noise_key, len(leaves))
    noisy = [
        leaf + NOISE * jax.random.normal(k, leaf.shape, leaf.dtype)
        for leaf, k in zip(leaves, keys, strict=True)
    ]
    params = jax.tree.unflatten(tree, noisy)
    return _Trial(module, params, x, segment, np.asarray(jax.jit(module.apply)(params, x, segment)))


def _random_segments(max_length: int) -> np.ndarray:
    """`(B, S)` rows that are longer than any trajectory; padding at the end."""
    # The last observation of a trajectory has no step of its own.
    rng, longest = np.random.default_rng(0), max_length
    rows = np.full((NUM_ROWS, 2 * longest), -1, np.int32)
    # The first one is a single trajectory, the others begin with one of the longest.
    rows[0, :longest] = 0
    for row in rows[1:]:
        ends = longest + np.cumsum(rng.integers(1, longest // 2 + 1, 2 * longest))
        ends = [longest, *ends[ends <= 2 * longest - 2]]
        row[: ends[-1]] = np.searchsorted(ends, np.arange(ends[-1]), side="right")
    return rows


def _leak_faults(trial: _Trial) -> Iterator[str]:
    """What must not matter for an output: later tokens, other trajectories, other rows."""
    segment, real = np.asarray(trial.segment), np.asarray(trial.segment) >= 0
    time = np.arange(segment.shape[1])
    noise = 3.0 * jax.random.normal(jax.random.key(1), trial.x.shape, jnp.float32)

    def changed_at(tokens):
        return trial.parallel(jnp.where(jnp.asarray(tokens)[..., None], noise, trial.x))

    for t in (1, len(time) // 4, len(time) // 2):
        later = np.broadcast_to(time >= t, segment.shape)
        gap = trial.differs(changed_at(later), ~later)
        if gap > TOLERANCE:
            yield _gap("__call__", gap, "an output depends on later tokens", "none")
            break
    # Every second trajectory changes; what shows in the others has crossed a border.
    others = segment % 2 == 1
    gap = trial.differs(changed_at(others), ~others & real)
    if gap > TOLERANCE:
        yield _gap("__call__", gap, "an output depends on another trajectory of its row", "none")
    gap = trial.differs(changed_at(~real), real)
    if gap > TOLERANCE:
        yield _gap("__call__", gap, "an output depends on padding", "none")
    first = np.broadcast_to(np.arange(NUM_ROWS)[:, None] == 0, segment.shape)
    gap = trial.differs(changed_at(first), ~first & real)
    if gap > TOLERANCE:
        yield _gap("__call__", gap, "an output depends on another row", "none")


def _gap(name: str, gap: float, what: str, allowed: str) -> str:
    return f"{name}: {what} (by {gap:.1e} of the largest output), allowed is {allowed}"


def _step_faults(trial: _Trial) -> list[str]:
    """The one-step form against the parallel one, and what restarting does."""
    block, params, x = trial.block, trial.params, trial.x

    def step(state, x_t):
        return block.apply(params, x_t, state, method="step")

    state = block.initial_state(NUM_ROWS)
    try:
        y, after = jax.eval_shape(step, state, x[:, 0])
    except Exception as error:
        return [f"step: raises {first_line(error)}"]
    if y.shape != x[:, 0].shape or y.dtype != x.dtype:
        return [f"step: gives {y.dtype}{list(y.shape)}, allowed is {x.dtype}{list(x[:, 0].shape)}"]
    faults = _changes("step", jax.eval_shape(lambda: state), after)
    if faults:
        return faults

    def advance(state, inputs):
        x_t, restarts = inputs
        y, state = step(block.restart(state, restarts), x_t)
        return state, y

    @jax.jit
    def run(state, restarts):
        _, y = jax.lax.scan(advance, state, (x.swapaxes(0, 1), restarts.T))
        return y.swapaxes(0, 1)

    # Padding may go on for longer than a trajectory.
    starts = starts_segment(trial.segment) | (trial.segment < 0)
    real = np.asarray(trial.segment) >= 0
    y = as_numpy(run(state, starts))
    whole = real & (np.arange(NUM_ROWS)[:, None] == 0)
    gap = trial.differs(y, whole)
    if not gap <= TOLERANCE:
        return [_gap("step", gap, "differs from the parallel form", f"{TOLERANCE:.0e}")]
    gap = trial.differs(y, real)
    if not gap <= TOLERANCE:
        what = "a row that begins a new trajectory differs from the parallel form"
        return [_gap("restart", gap, what, f"{TOLERANCE:.0e}")]
    # A state that has seen another row, restarted before the first token.
    used = jax.jit(
        lambda state: jax.lax.scan(lambda s, x_t: step(s, x_t)[::-1], state, _other_tokens(x))[0]
    )
    gap = trial.differs(as_numpy(run(used(state), starts)), real)
    if not gap <= TOLERANCE:
        what = "a row remembers what came before it was restarted"
        return [_gap("restart", gap, what, f"{TOLERANCE:.0e}")]
    return []


def _other_tokens(x: chex.Array) -> chex.Array:
    """A few other tokens, `(S, B, n_e)`."""
    shape = (min(5, x.shape[1]), x.shape[0], x.shape[2])
    return jax.random.normal(jax.random.key(2), shape, x.dtype)


def _gradient_faults(trial: _Trial) -> list[str]:
    """Gradients of parameters and inputs; the last row is padding alone."""
    segment = trial.segment.at[-1].set(-1)
    real = (segment >= 0)[..., None]

    def loss(params, x):
        return jnp.mean(jnp.where(real, trial.block.apply(params, x, segment), 0.0) ** 2)

    try:
        gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(trial.params, trial.x)
    except Exception as error:
        return [f"__call__: has no gradients: {first_line(error)}"]
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients)):
        return ["__call__: gradients are not finite, allowed are finite ones"]
    if np.abs(gradients[1])[~np.broadcast_to(real, trial.x.shape)].max(initial=0.0) > TOLERANCE:
        return ["__call__: padding has a gradient, allowed is none"]
    return []


def _half_precision_faults(trial: _Trial) -> list[str]:
    """Both forms have to run in bfloat16, whatever the digits."""
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), (trial.params, trial.x))
    step = jax.jit(lambda params, x, state: trial.block.apply(params, x, state, method="step"))
    faults = []
    try:
        y = jax.jit(trial.block.apply)(*half, trial.segment)
        if not jnp.isfinite(y).all():
            faults.append("__call__: gives numbers that are not finite in bfloat16")
    except Exception as error:
        faults.append(f"__call__: raises {first_line(error)} in bfloat16")
    try:
        y, _ = step(half[0], half[1][:, 0], trial.block.initial_state(NUM_ROWS))
        if not jnp.isfinite(y).all():
            faults.append("step: gives numbers that are not finite in bfloat16")
    except Exception as error:
        faults.append(f"step: raises {first_line(error)} in bfloat16")
    return faults


def _reach_faults(make, shape: BlockShape, short_reach: int | None, trial: _Trial) -> list[str]:
    """A short reach must not change trajectories that stay within it."""
    if short_reach is None:
        return []
    if not 1 <= short_reach <= shape.max_length:
        return [
            f"short_reach: {short_reach} given, allowed is 1 to max_length = {shape.max_length}"
        ]
    block = make(dataclasses.replace(shape, reach=short_reach), parent=None)
    y = np.asarray(jax.jit(block.apply)(trial.params, trial.x, trial.segment))
    time = np.arange(trial.x.shape[1])
    within = np.broadcast_to(time <= short_reach, y.shape[:2])
    gap = trial.differs(y, within)
    if gap > TOLERANCE:
        what = f"trajectories within {short_reach} steps are computed otherwise"
        return [_gap("short_reach", gap, what, f"{TOLERANCE:.0e}")]
    return []
