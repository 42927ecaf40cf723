"""The trajectories that the model of an agent learnt from, made again for a notebook."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from internal_rl.envs.world import DataRequest
from internal_rl.experts.data_section import DataSection
from internal_rl.experts.source_checks import make_checked_source
from internal_rl.types import DataSource, World


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """What a model was trained on.

    Attributes:
      world_name: name by which the world is registered.
      section: `data` of the config.
      collected: the stage `collect` has left the trajectories on disk.
    """

    world_name: str
    section: DataSection
    collected: bool = False

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> Self | None:
        """That of a stage, as its `config.json` tells; None where it tells none.

        Raises:
          SettingError: a field of the section is unknown or its value is not allowed.
        """
        if config.get("data") is None:
            return None
        section = DataSection.read(config["data"])
        collected = config.get("collect") is not None
        return cls(config["environment"].get("name", "gridworld-pinpad"), section, collected)

    def make(
        self,
        world: World,
        role: str,
        *,
        include_terminal: bool = False,
        tasks: str = "",
        **settings: Any,
    ) -> DataSource:
        """Trajectories of a world, see `Agent.make_data`.

        Raises:
          ValueError: there is no such role, a setting is not allowed, the world was registered
            without data or its data fit it not, or they have to be collected.
        """
        section = DataSection.read(self.section.as_dict() | settings)
        request = DataRequest(
            world, section, role=role, include_terminal=include_terminal, tasks=tasks
        )
        if self.collected:
            raise ValueError(
                f"data of {self.world_name} are on disk, where its stage collect leaves them,"
                " allowed are worlds that make them as they go; those of a work directory are read"
                " by internal_rl.stages.build.make_source(settings, places, role)"
            )
        return make_checked_source(self.world_name, request)
