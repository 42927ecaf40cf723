"""What all methods have in common.

A method is a frozen dataclass of settings and modules with pure functions. What does not change
while it trains (parameters of frozen models, arrays of a dataset) is `frozen`, a pytree that is
passed to every function instead of being compiled in:

    method = Pretraining(Config(steps=100), base, source)
    state = method.init(jax.random.key(0), method.frozen)
    update = jax.jit(method.update)
    state, metrics = update(state, method.frozen)

Methods need no files and no flags; the stages of `internal_rl.stages` add these.
"""

from typing import Any, Protocol

import chex

from internal_rl.training.settings import TrainingSettings

Metrics = dict[str, chex.Array]


class Method(Protocol):
    """A way to train something.

    Attributes:
      config: section of the config, how it trains.
      frozen: what every function is given and none changes, one seed.
    """

    config: TrainingSettings
    frozen: Any

    def init(self, key: chex.PRNGKey, frozen: Any) -> Any:
        """State before the first update."""

    def update(self, state: Any, frozen: Any) -> tuple[Any, Metrics]:
        """One update; the metrics are scalars and hold `loss`."""

    def evaluate(self, state: Any, frozen: Any) -> Metrics:
        """Figures on held-out data, with fixed randomness."""

    def params(self, state: Any) -> chex.ArrayTree:
        """What later stages read."""
