"""A whole config as one typed object, and the config that a file for `--config` gives."""

import dataclasses
import functools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from internal_rl.backend import PRECISIONS
from internal_rl.envs.world import make_from_config, registered_worlds, world_entry
from internal_rl.errors import ConfigError
from internal_rl.section import Section, SettingError
from internal_rl.stages.catalogue import (
    SHIPPED_STAGES,
    STAGES,
    methods,
    section_types,
    stage_spec,
)
from internal_rl.stages.sizes import SIZES, Overlay
from internal_rl.training.stage_config import StageConfig
from internal_rl.types import World

PRESETS = ("smoke", "small", "paper")
"""Presets of the worlds of this package; `paper` is what all others are overlaid on."""

LARGEST_SEED = 2**31 - 1_000
"""Seeds of a run are counted up from its first one, and stay numbers of 32 bits."""

# A folder of shipped weights may be called so.
_NAME = re.compile(r"(\w[\w.-]{0,99})?")

COUNTS = ("num_seeds", "seeds_per_input")
"""Fields that tell how many seeds a stage has."""
_SEEDS = (*COUNTS, "seeds_together")
"""Fields that decide which seeds there are, and nothing of what one of them finds."""

MOST_SEEDS = 1_000
"""Of a stage."""

QUICKSTART_SECTIONS = ("internal_rl", "raw_rl")


@dataclasses.dataclass(frozen=True)
class Settings:
    """A checked config. A section is an attribute: `settings.pretrain`; None where there is none.

    Attributes:
      preset: name of the preset.
      seed: first seed; a stage trains `seed`, `seed + 1`, ..., see `num_seeds`.
      precision: of the products in base models, one of `backend.PRECISIONS`. Parameters, residual
        stream, softmax, recurrences, log-probabilities and losses are float32 always. Accelerators
        round the factors of float32 products: with `"float32"` none of them, else those of the
        action head, of gates and of policies not, see `docs/decisions.md`. How a result is
        computed, not what: a stage may go on in another precision, and `versions.json` tells which
        it was.
      environment: `name` of the world and the fields of its config.
      world_config: the same as the config of the world.
      world: the world itself.
      quickstart: fields that the quickstart changes, to end within minutes, by section.
      sections: all sections by name.
      chosen_seeds: seeds by stage, of stages that train some of their seeds alone.
      selected: fields by method, as `"metacontroller.alpha"`, with which a whole run makes it; see
        `with_selected`.
    """

    preset: str
    seed: int
    precision: str
    environment: Mapping[str, Any]
    world_config: Any
    world: World
    quickstart: Mapping[str, Mapping[str, Any]]
    sections: Mapping[str, Section]
    chosen_seeds: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    selected: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def __getattr__(self, name: str) -> Section | None:
        if name in section_types():
            return self.sections.get(name)
        raise AttributeError(f"settings have no section '{name}'")

    @classmethod
    def read(cls, config: Mapping | ConfigDict) -> "Settings":
        """Settings from what a config file gives.

        Raises:
          ConfigError: names the first field that is unknown or not allowed, and what is.
        """
        config = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
        environment, seed = config.pop("environment", {}), config.pop("seed", 0)
        preset, quickstart = config.pop("preset", ""), config.pop("quickstart", {})
        precision = config.pop("precision", "auto")
        if type(seed) is not int or not 0 <= seed <= LARGEST_SEED:
            raise ConfigError(f"config.seed: {seed!r} given, allowed is 0 to {LARGEST_SEED}")
        if not isinstance(preset, str) or not _NAME.fullmatch(preset):
            raise ConfigError(f"config.preset: {preset!r} given, allowed is the name of a preset")
        if precision not in PRECISIONS:
            allowed = ", ".join(PRECISIONS)
            raise ConfigError(f"config.precision: {precision!r} given, allowed is {allowed}")
        types = section_types()
        for name in config:
            if name not in types:
                known = ", ".join(
                    ["preset", "seed", "precision", "environment", "quickstart", *types]
                )
                raise ConfigError(f"config.{name}: unknown section, allowed are {known}")
        for name, part in ({"environment": environment, "quickstart": quickstart} | config).items():
            _check_fields(name, part)
        if not isinstance(environment.get("name"), str):
            allowed = ", ".join(registered_worlds())
            raise ConfigError(f"config.environment.name: not given, allowed are {allowed}")
        sections = {}
        for name, section in types.items():
            if name in config:
                sections[name] = checked(section.read, name, config[name])
        world = checked(make_from_config, "environment", environment)
        entry = world_entry(environment["name"])
        fields = {name: value for name, value in environment.items() if name != "name"}
        world_config = entry.config(**fields)
        for name, fields in quickstart.items():
            _check_fields(f"quickstart.{name}", fields)
            # Their values are checked where they are taken: nothing else depends on them.
            for field in fields if name in sections else ():
                checked(types[name].check_known, f"quickstart.{name}", field)
        return cls(preset, seed, precision, environment, world_config, world, quickstart, sections)

    def updated(self, section: str, **fields) -> "Settings":
        """A copy with some fields of one section changed.

        Raises:
          ConfigError: a field is unknown or its value is not allowed.
        """
        changed = self.sections[section].as_dict() | fields
        section_type = type(self.sections[section])
        sections = {**self.sections, section: checked(section_type.read, section, changed)}
        return dataclasses.replace(self, sections=sections)

    def with_fields(self, fields: Mapping[str, Any]) -> "Settings":
        """A copy with fields of several sections changed, named as in `metacontroller.alpha`.

        Raises:
          ConfigError: a section or field is unknown, or its value is not allowed.
        """
        changes: dict[str, dict[str, Any]] = {}
        for name, value in fields.items():
            section, _, field = name.partition(".")
            if section not in self.sections:
                known = ", ".join(self.sections)
                raise ConfigError(f"config.{name}: no such section, allowed are {known}")
            changes.setdefault(section, {})[field] = value
        settings = self
        for section, values in changes.items():
            settings = settings.updated(section, **values)
        return settings

    def with_selected(self, selected: Mapping[str, Mapping[str, Any]]) -> "Settings":
        """A copy of which a whole run makes every method with fields of its own.

        Args:
          selected: fields by method, one of `catalogue.methods`; methods that are not there, and
            all else, stay as in the config.

        Raises:
          ConfigError: a method is unknown, or a field is none of its, or its value is not allowed.
        """
        sections = methods()
        for method, fields in selected.items():
            if method not in sections:
                known = ", ".join(sections)
                raise ConfigError(f"--selected: method '{method}' is unknown, allowed are {known}")
            if not isinstance(fields, Mapping):
                raise ConfigError(f"--selected: {method}: {fields!r} given, allowed are fields")
            for field in fields:
                if field.partition(".")[0] not in sections[method]:
                    own = ", ".join(sections[method])
                    raise ConfigError(
                        f"--selected: {method}: '{field}' given, allowed are fields of {own}"
                    )
            try:
                self.with_fields(fields)
            except ConfigError as error:
                raise ConfigError(f"--selected: {method}: {error}") from None
        return dataclasses.replace(self, selected=selected)

    def as_selected(self, method: str) -> "Settings":
        """The settings with which a whole run makes a method."""
        return self.with_fields(self.selected.get(method, {}))

    def with_one_seed(self) -> "Settings":
        """A copy in which every stage has a single seed."""
        sections = {
            name: dataclasses.replace(
                section, **{field: 1 for field in COUNTS if hasattr(section, field)}
            )
            for name, section in self.sections.items()
        }
        return dataclasses.replace(self, sections=sections, chosen_seeds={})

    def num_seeds(self, stage: str) -> int:
        """How many seeds a stage has: `seeds_per_input` for each seed of the stage that it reads.

        Raises:
          ConfigError: this config has no such stage, or not the one that it reads; or there are
            too many.
        """
        source, section = stage_spec(self, stage).input_of(self), self.sections[stage]
        if not source:
            return getattr(section, "num_seeds", 1)
        read = self.num_seeds(source)
        if section.seeds_per_input * read > MOST_SEEDS:
            raise ConfigError(
                f"config.{stage}.seeds_per_input: {section.seeds_per_input} given, allowed is 1 to"
                f" {MOST_SEEDS // read} for {read} seeds of {source}"
            )
        return section.seeds_per_input * read

    def seeds_of(self, stage: str) -> tuple[int, ...]:
        """Seeds that a stage trains."""
        every = tuple(range(self.seed, self.seed + self.num_seeds(stage)))
        return self.chosen_seeds.get(stage, every)

    def with_seeds(self, stage: str, seeds: Sequence[int]) -> "Settings":
        """A copy in which a stage trains some of its seeds alone; which ones they read stays.

        Raises:
          ConfigError: the stage has no such seed, or none is given.
        """
        every = self.seeds_of(stage)
        wrong = [seed for seed in seeds if seed not in every]
        if wrong or not seeds:
            given = f"{wrong[0]} given" if wrong else "none given"
            allowed = str(every[0]) if len(every) == 1 else f"{every[0]} to {every[-1]}"
            raise ConfigError(f"--seeds: {given}, allowed for {stage} is {allowed}")
        chosen = {**self.chosen_seeds, stage: tuple(sorted(set(seeds)))}
        return dataclasses.replace(self, chosen_seeds=chosen)

    def seeds_read(self, stage: str, seeds: tuple[int, ...]) -> tuple[int, ...]:
        """Which seed of an earlier stage each seed of a later one reads.

        The one that stands at the same place, counted modulo the number of seeds of the earlier
        stage: ten policies on one base model all read its only seed.
        """
        num_seeds = self.num_seeds(stage)
        return tuple(self.seed + (seed - self.seed) % num_seeds for seed in seeds)

    def reads(self, stage: str, seed: int) -> dict[str, int]:
        """Seeds of earlier stages on which a seed of a stage stands, by stage.

        For a policy these are a metacontroller and the base model of that metacontroller.
        """
        spec = stage_spec(self, stage)
        source = spec.input_of(self)
        if not source or not spec.reads_input(self):
            return {}
        (read,) = self.seeds_read(source, (seed,))
        return {source: read, **self.reads(source, read)}

    def folder_of(self, stage: str) -> str:
        """Folder of a stage; each variant of the metacontroller and each probed age has its own.

        Raises:
          ConfigError: this config has no such stage.
        """
        return stage_spec(self, stage).folder(self, stage)

    def stage_config(self, stage: str) -> StageConfig:
        """What the results of a stage depend on.

        Which seeds run together does not belong to it: each seed has a folder of its own.

        Raises:
          ConfigError: this config has no such stage.
        """
        values, historical = {}, {}
        for name in stage_spec(self, stage).inputs(self):
            if name == "environment":
                values[name] = dict(self.environment)
                historical[name] = _historical(world_entry(self.environment["name"]).config)
            elif name in self.sections:
                values[name] = self.sections[name].decisive()
                for field in _SEEDS:
                    values[name].pop(field, None)
                historical[name] = type(self.sections[name]).historical()
        # JSON knows no tuples.
        values = json.loads(json.dumps(values))
        length = f"{stage}.steps" if "steps" in values.get(stage, {}) else ""
        return StageConfig(values, historical, length)


def _check_fields(name: str, part: Any) -> None:
    if not isinstance(part, Mapping):
        raise ConfigError(
            f"config.{name}: {part!r} given, allowed are single fields, as config.{name}.FIELD"
        )


def _historical(world_config: type) -> dict[str, Any]:
    """What a field of a world means that an older `config.json` lacks."""
    return {
        field.name: field.metadata.get("historical", field.default)
        for field in dataclasses.fields(world_config)
        if field.default is not dataclasses.MISSING
    }


def checked(function, section: str, *arguments, **keywords):
    """Calls a function; a ValueError of it becomes a ConfigError that names section and field."""
    try:
        return function(*arguments, **keywords)
    except SettingError as error:
        field = f"{section}.{error.field}" if error.field else section
        raise ConfigError(f"config.{field}: {error.problem}") from None
    except ValueError as error:
        raise ConfigError(f"config.{section}: {error}") from None


def make_config(
    world: str, preset: str, overlays: Mapping[str, Overlay], size: str | None = None
) -> ConfigDict:
    """The config that a file for `--config` gives: `get_config = lambda preset: make_config(...)`.

    Args:
      world: name of a registered world.
      preset: one of its presets.
      overlays: by preset what differs from the defaults of the sections, section by section. That
        of `paper` comes first, then that of the size, then that of the preset. Stages that are
        optional are there if an overlay names them. `quickstart` holds fields of other sections, by
        section.
      size: how large models are and how long they train, see `sizes.SIZES`; None for the one with
        the name of the preset, or the paper's where none is called so.

    Raises:
      ValueError: for an unknown world, preset, size, section or field.
    """
    entry = world_entry(world)
    allowed = [name for name in PRESETS if name in entry.presets]
    allowed += [name for name in entry.presets if name not in allowed]
    if preset not in entry.presets:
        raise ValueError(f"config: preset '{preset}' is unknown, allowed are {', '.join(allowed)}")
    if size is None:
        size = preset if preset in SIZES else "paper"
    if size not in SIZES:
        raise ValueError(f"config: size '{size}' is unknown, allowed are {', '.join(SIZES)}")
    own = {} if preset == "paper" else overlays.get(preset, {})
    chosen = [overlays.get("paper", {}), SIZES[size], own]
    types = section_types()
    sections = {
        name: _fields_of(name, section, chosen)
        for name, section in types.items()
        if not (name in STAGES and STAGES[name].optional)
        or any(name in overlay for overlay in chosen)
    }
    _tell_defaults(sections, chosen)
    quickstart = {name: {} for name in QUICKSTART_SECTIONS}
    for overlay in chosen:
        for name, fields in overlay.items():
            if name == "quickstart":
                for section, changes in fields.items():
                    quickstart[section] = quickstart.get(section, {}) | dict(changes)
                continue
            if name not in types:
                known = ", ".join([*types, "quickstart"])
                raise ValueError(f"config.{name}: unknown section, allowed are {known}")
            for field, value in fields.items():
                try:
                    types[name].check_known(field)
                except SettingError as error:
                    raise ValueError(f"config.{name}.{error}") from None
                sections[name][field] = value
    return ConfigDict(
        {
            "preset": preset,
            "seed": 0,
            "precision": "auto",
            "environment": {"name": world} | dataclasses.asdict(entry.presets[preset]),
            **sections,
            "quickstart": quickstart,
        }
    )


def _fields_of(name: str, section: type[Section], overlays: Sequence[Overlay]) -> dict[str, Any]:
    """Defaults of a section, and of a stage that is like another one what overlays say of that."""
    fields = section().as_dict()
    like = STAGES[name].like if name in STAGES else ""
    for overlay in overlays:
        shared = overlay.get(like, {}).items()
        fields |= {field: value for field, value in shared if field in fields}
    return fields


def _tell_defaults(sections: Collection[str], overlays: Sequence[Overlay]) -> None:
    """Says which stages from outside no preset reaches, where presets say anything of stages."""
    named = {name for overlay in overlays for name in overlay} - {"quickstart"}
    for name in sections if named else ():
        outside = name in STAGES and name not in SHIPPED_STAGES
        if outside and name not in named and not STAGES[name].like:
            _tell_default(name)


@functools.cache
def _tell_default(stage: str) -> None:
    """Once: command lines read a config more than once."""
    logging.warning(
        "config.%s: no preset sets any of its fields, all have the defaults of its section;"
        " StageSpec(..., like=STAGE) makes it begin with what presets say of another stage",
        stage,
    )
