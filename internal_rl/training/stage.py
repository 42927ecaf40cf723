"""What a trainer hands to the training loop."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import jax
import numpy as np

from internal_rl.errors import ConfigError
from internal_rl.training.stage_config import StageConfig

State = Any
Frozen = Any
Metrics = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Stage:
    """What a trainer hands to `run_stage`.

    Attributes:
      name: name of the stage and of its folder.
      config: everything the results depend on, but for the seed; a directory made with another one
        is refused.
      init: `(key, frozen) -> state` of one seed; pure.
      update: `(state, frozen) -> (state, metrics)`, one update of one seed; pure. `metrics` are
        scalars and hold `loss`, which must stay finite. Several devices run it together and may
        share the work out, see `training.mesh`.
      num_steps: updates of the whole stage; more than the directory was made with train it further.
      may_end_at: `num_steps -> bool`, whether it can be a stage of so many updates, should its time
        be up.
      log_every: updates averaged into one line of metrics.
      checkpoint_every: updates between checkpoints, a multiple of `log_every`.
      steps_per_call: updates inside one compiled call.
      checkpoint_minutes: minutes after which a checkpoint is saved in between; 0 for none.
      seeds: seeds to train.
      seeds_together: how many of them are one program, at most; groups follow each other.
      reads: of each seed, on which seeds of earlier stages it stands, by stage.
      parameters_read: of each seed, the SHA-256 of the parameters that it stands on, by stage, as
        far as they are known.
      data_read: SHA-256 of the arrays that it trains on, which have to be the same when it goes on;
        empty where there are none.
      params: `state -> params`, what later stages read.
      frozen: constants of `init` and `update` such as the parameters of a frozen model, passed as
        arguments rather than compiled in, and never saved.
      frozen_axes: as `in_axes` of `jax.vmap`: 0 at the subtrees of `frozen` that have a leading
        axis over `seeds`, None at those that all seeds share.
      evaluate: `(state, frozen) -> metrics`, pure, draws its own fixed keys; None for none.
      evaluate_every: updates between evaluations, a multiple of `log_every`; 0 for the end only.
      references: called once per seed directory; constants written into each line of metrics, to be
        shown as lines beside the curves.
      snapshot_steps: training ages, multiples of `log_every`, at which parameters are kept for
        later stages.
      artifacts: `(state, frozen) -> {name: array}` of one seed, called at the end on the host.
      computed: how it is computed, such as the precision of products; written down beside the
        versions of packages, and free to be another when a run goes on.
    """

    name: str
    config: StageConfig
    init: Callable[[jax.Array, Frozen], State]
    update: Callable[[State, Frozen], tuple[State, Metrics]]
    num_steps: int
    log_every: int
    checkpoint_every: int
    steps_per_call: int = 1
    checkpoint_minutes: float = 0.0
    may_end_at: Callable[[int], bool] = lambda num_steps: True
    seeds: Sequence[int] = (0,)
    seeds_together: int = 10
    reads: Mapping[int, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    parameters_read: Mapping[int, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    data_read: str = ""
    params: Callable[[State], chex.ArrayTree] = lambda state: state.params
    frozen: Frozen = None
    frozen_axes: Any = None
    evaluate: Callable[[State, Frozen], Metrics] | None = None
    evaluate_every: int = 0
    references: Callable[[], Mapping[str, float]] | None = None
    snapshot_steps: Sequence[int] = ()
    artifacts: Callable[[State, Frozen], Mapping[str, np.ndarray]] | None = None
    computed: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for field in (
            "num_steps",
            "log_every",
            "checkpoint_every",
            "steps_per_call",
            "seeds_together",
        ):
            if getattr(self, field) < 1:
                raise ConfigError(
                    f"{self.section}.{field}: {getattr(self, field)} given, allowed is 1 or more"
                )
        for field in ("checkpoint_every", "evaluate_every", "snapshot_steps"):
            for value in np.atleast_1d(getattr(self, field)):
                if value % self.log_every:
                    raise ConfigError(
                        f"{self.section}.{field}: {int(value)} given, allowed are multiples of"
                        f" log_every = {self.log_every}"
                    )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"{self.name}: seeds {self.seeds} given, allowed are distinct ones")

    @property
    def section(self) -> str:
        """Section of the config that holds its fields; variants and ages of a stage share one."""
        return self.config.length.partition(".")[0] or self.name

    @property
    def fields(self) -> Mapping[str, Any]:
        """Its fields in that section."""
        return self.config.values.get(self.section, {})

    def for_seeds(self, seeds: Sequence[int]) -> "Stage":
        """The same stage for some of its seeds."""
        indices = np.asarray([list(self.seeds).index(seed) for seed in seeds])

        def take(axis, subtree):
            return subtree if axis is None else jax.tree.map(lambda leaf: leaf[indices], subtree)

        frozen = map_frozen(take, self.frozen_axes, self.frozen)
        return dataclasses.replace(self, seeds=tuple(seeds), frozen=frozen)


def map_frozen(function: Callable, axes: Any, frozen: Frozen) -> Frozen:
    """Applies `function(axis, subtree)` at each entry of `axes`, a prefix of `frozen`."""
    return jax.tree.map(function, axes, frozen, is_leaf=lambda axis: axis is None)
