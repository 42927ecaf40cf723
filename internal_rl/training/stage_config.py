"""What the results of a stage depend on, and how it is compared with what a directory holds."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from internal_rl.errors import StageConflictError

_ABSENT = object()


def _flatten(config: Mapping, prefix: str = "") -> dict[str, object]:
    """Nested dictionaries as one dictionary with dotted names."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


_FREE = ("checkpoint_every", "checkpoint_minutes")
"""Fields that decide how often something is saved, and nothing of what is trained."""

_DECAY, _FINAL = "decay_steps", "final_learning_rate"


def _falls(fields: Mapping[str, Any], prefix: str) -> bool:
    """Whether the learning rate of a section falls, whose fields begin with `prefix`."""
    return prefix + _DECAY in fields and fields.get(prefix + _FINAL, -1.0) >= 0


def _with_decay(flat: Mapping[str, Any]) -> dict[str, Any]:
    """With the updates over which rates fall, where the fields say all of the stage by 0."""
    found = dict(flat)
    for name in flat:
        prefix = name.removesuffix(_DECAY)
        if prefix != name and not flat[name] and _falls(flat, prefix):
            found[name] = flat.get(f"{prefix}steps", 0)
    return found


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """Everything that the results of a stage depend on, but for the seed.

    Attributes:
      values: plain nested dictionary, section by section, as `config.json` holds it.
      historical: the same nesting; what a field means that an older `config.json` lacks.
      length: dotted name of the field that holds the number of updates, which may be raised later
        to train the stage further; empty for a stage that cannot.
    """

    values: Mapping[str, Any]
    historical: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    length: str = ""

    def with_length(self, num_steps: int) -> "StageConfig":
        """The same for a training of another length, whose rate falls over as many updates."""
        if not self.length:
            return self
        values = json.loads(json.dumps(self.values))
        *sections, field = self.length.split(".")
        holder = values
        for section in sections:
            holder = holder[section]
        if num_steps != holder[field] and _falls(holder, ""):
            holder[_DECAY] = holder[_DECAY] or holder[field]
        holder[field] = num_steps
        return dataclasses.replace(self, values=values)

    def check(self, stored: Mapping, directory: str | os.PathLike) -> bool:
        """Compares with the values that a directory was made with.

        Args:
          stored: plain nested dictionary.
          directory: where they were found, for the message.

        Returns:
          Whether the stage has become longer; all else is the same.

        Raises:
          StageConflictError: names the first field that differs and both values.
        """
        # JSON knows no tuples.
        asked, found = _flatten(json.loads(json.dumps(self.values))), _flatten(stored)
        historical = {
            name: value
            for name, value in _flatten(json.loads(json.dumps(self.historical))).items()
            if name.partition(".")[0] in stored
        }
        unknown = [name for name in found if name not in asked]
        asked, found = _with_decay(asked), _with_decay(historical | found)
        longer = False
        for name, value in asked.items():
            before = found.get(name, _ABSENT)
            if value == before or name.rpartition(".")[2] in _FREE:
                continue
            if name.endswith(f".{_DECAY}") and before is not _ABSENT and before:
                raise StageConflictError(
                    f"{name}: {directory} was made with a learning rate that falls over {before}"
                    f" updates; allowed is --config.{name}={before}, after which it stays as it is,"
                    " or another --workdir"
                )
            if name == self.length and isinstance(before, int) and value > before:
                longer = True
                continue
            shown = "nothing of the kind" if before is _ABSENT else before
            raise StageConflictError(
                f"{name}: {value} asked for, but {directory} was made with {shown};"
                f" {self._remedy(name, directory)}"
            )
        for name in unknown:
            raise StageConflictError(
                f"{name}: {directory} was made with {found[name]}, a field that is unknown"
                " here; allowed is another --workdir, or the version that made it"
            )
        return longer

    def _remedy(self, name: str, directory: str | os.PathLike) -> str:
        if name.endswith(".steps") and name != self.length:
            # An earlier stage has been trained further.
            workdir = os.path.dirname(os.path.dirname(os.fspath(directory)))
            return (
                f"allowed is that value, or another --workdir that reads the earlier stages with"
                f" --upstream={workdir}"
            )
        return "allowed is that value, or another --workdir"
