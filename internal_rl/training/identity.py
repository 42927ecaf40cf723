"""What a checkpoint belongs to: it tells by itself, and is asked before it is gone on from."""

import dataclasses
import json
import os
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from internal_rl.errors import StageConflictError, StorageError
from internal_rl.training.stage_config import StageConfig
from internal_rl.training.versions import code_fingerprint


class DamagedError(StorageError):
    """A checkpoint is not what was written."""


@dataclasses.dataclass(frozen=True)
class Identity:
    """What the checkpoints of one seed belong to.

    Attributes:
      seed: of the stage.
      config: everything that the stage depends on; how long it trains is free.
    """

    seed: int
    config: StageConfig

    def written(self, step: int, arrays: Mapping[str, Any]) -> np.ndarray:
        """What goes into a checkpoint of these arrays, `(n,)` uint8: JSON."""
        told = {
            "step": step,
            "seed": self.seed,
            "config": self.config.values,
            "code": code_fingerprint(),
            "crc32": {name: _crc32(array) for name, array in arrays.items()},
        }
        return np.frombuffer(json.dumps(told).encode(), np.uint8)

    def check(
        self,
        step: int,
        arrays: Mapping[str, Any],
        stored: np.ndarray,
        directory: str | os.PathLike,
    ) -> None:
        """Compares what was read with what was written, and that with what is asked for.

        Args:
          step: under whose name the checkpoint was found.
          arrays: what it holds.
          stored: as `written` gave it.
          directory: where it was found, for messages.

        Raises:
          DamagedError: it was altered, or bears the name of another step.
          StageConflictError: it is one of another seed or configuration.
        """
        try:
            told = json.loads(np.asarray(stored, np.uint8).tobytes())
            sums, config = told["crc32"], told["config"]
            same = told["step"] == step and sums.keys() == arrays.keys()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DamagedError(
                f"{directory}/{step}: what step {step} belongs to cannot be read"
            ) from error
        if not same:
            raise DamagedError(f"{directory}/{step}: it was saved as one of step {told['step']}")
        for name, array in arrays.items():
            if _crc32(array) != sums[name]:
                raise DamagedError(f"{directory}/{step}: {name} was altered")
        if told["seed"] != self.seed:
            raise StageConflictError(
                f"{directory}/{step}: is a checkpoint of seed {told['seed']}; allowed are those"
                f" that seed {self.seed} has left here: remove it and run the same command again"
            )
        try:
            self._any_length(config).check(config, f"{directory}/{step}")
        except StageConflictError as error:
            # The directory itself was made with what is asked for.
            differing = str(error).partition("; allowed")[0]
            raise StageConflictError(
                f"{directory}/{step}: is a checkpoint of another run ({differing}); remove it and"
                " run the same command again"
            ) from None
        if told["code"] != code_fingerprint():
            logging.warning("%s/%s: was made by other code than goes on from it", directory, step)

    def _any_length(self, found: Any) -> StageConfig:
        """The configuration with the length of another one, which may have been changed since."""
        section, _, field = self.config.length.partition(".")
        length = found.get(section, {}).get(field) if isinstance(found, Mapping) else None
        return self.config.with_length(length) if isinstance(length, int) else self.config


def _crc32(array: Any) -> int:
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
