"""The stages of a run, as data: what each one reads, writes and depends on.

A new stage is a method in its own file, a function that makes it from settings, and one
`StageSpec`: here, or from outside with `register_stage`. A variant of a method is a field of its
section and one line in `variants` and `folder` below.
"""

import dataclasses
import importlib
import itertools
import pathlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from internal_rl.errors import ConfigError
from internal_rl.experts.ant_expert import ExpertSection
from internal_rl.experts.data_section import CollectSection, DataSection
from internal_rl.methods import (
    compile,
    discovery,
    internal_rl,
    pretraining,
    probing,
    raw_action,
    steering,
)
from internal_rl.methods.code_finding import CodeFindingSettings
from internal_rl.methods.reinforcement.trainer import POLICY_STAGES, ReinforcementSettings
from internal_rl.models.base_model import BaseConfig
from internal_rl.section import Section
from internal_rl.types import World

if TYPE_CHECKING:
    from internal_rl.stages.settings import Settings

SHARED_SECTIONS: dict[str, type[Section]] = {"data": DataSection, "base": BaseConfig}
"""Sections of a config that belong to no stage of their own."""


def _only_one(settings: "Settings") -> list["Settings"]:
    return [settings]


def _always(settings: "Settings") -> bool:
    return True


METHODS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(discovery.VARIANTS, ("metacontroller", "internal_rl")),
    "compile": ("compile", "internal_rl"),
    "raw_actions": ("raw_rl",),
}
"""Methods that a whole run compares, and the sections in which their settings may differ."""


def _code_variants(settings: "Settings") -> list["Settings"]:
    """The metacontroller as it is, in its other variants, and CompILE, each as it was selected."""
    found = [
        _with_codes(settings.as_selected(name), "metacontroller").updated(
            "metacontroller", variant=name
        )
        for name in discovery.VARIANTS
        if settings.metacontroller
    ]
    if settings.compile:
        found.append(_with_codes(settings.as_selected("compile"), "compile"))
    return found


def _raw_variants(settings: "Settings") -> list["Settings"]:
    return [settings.as_selected("raw_actions")]


def _with_codes(settings: "Settings", stage: str) -> "Settings":
    return settings.updated("internal_rl", codes=stage) if settings.internal_rl else settings


def _makes_codes(stage: str) -> Callable[["Settings"], bool]:
    """Whether internal RL reads the codes of a stage, or there is none."""
    return lambda settings: settings.internal_rl is None or settings.internal_rl.codes == stage


def _variant_folder(settings: "Settings", name: str) -> str:
    variant = settings.metacontroller.variant
    return name if variant == "discovered" else f"{name}_{variant}"


def _policy_folder(settings: "Settings", name: str) -> str:
    codes = settings.internal_rl.codes
    return _variant_folder(settings, name) if codes == "metacontroller" else f"{name}_{codes}"


def _code_inputs(settings: "Settings") -> tuple[str, ...]:
    """Pretraining decides nothing where the base model is drawn anew."""
    base = _BASE if settings.metacontroller.reads_base else (*_DATA, "base")
    return (*base, "metacontroller")


def _policy_inputs(settings: "Settings") -> tuple[str, ...]:
    codes = settings.internal_rl.codes
    return (*stage_spec(settings, codes).inputs(settings), "internal_rl")


def _probed_ages(settings: "Settings") -> list["Settings"]:
    """The base model at every age that it comes to and that is kept, and at its end (age 0)."""
    ages = (*settings.pretrain.ages, 0)
    return [settings.updated("probe", base_step=age) for age in ages]


def _age_folder(settings: "Settings", name: str) -> str:
    age = settings.sections[name].base_step
    return f"{name}_{age}" if age else name


@dataclasses.dataclass(frozen=True)
class StageSpec:
    """One stage.

    Attributes:
      name: of the stage and of its section in a config.
      section: class of its section.
      make: `make(settings, places) -> training.stage.Stage`: a stage that the training loop runs.
      run: `run(settings, places)`: any other one. Either is a function or `"module:function"`,
        which is imported when it is needed.
      depends_on: parts of a config that decide its results, those of its inputs included, in the
        order of `config.json`, or a function of settings that gives them; a part that a config
        lacks is left out.
      input: name of the stage that it reads seed by seed, or a function of settings that gives it;
        empty for none. Its section has the field `seeds_per_input` then, else `num_seeds`.
      reads_input: `reads_input(settings)`: whether it reads that stage at all, or has as many seeds
        alone.
      unit: what its steps are.
      one_process: it cannot be spread over several processes, nor wait for one of them.
      optional: only configs that name the section have the stage.
      needs_subgoals: only worlds that tell how many subgoals there are have the stage.
      folder: `folder(settings, name)`: name of its folder, another one for each variant.
      variants: settings of everything that a whole run makes of the stage.
      takes_part: `takes_part(settings)`: whether the stage belongs to one of these, where it shares
        them with other stages.
    """

    name: str
    section: type[Section]
    make: Callable[..., Any] | str | None = None
    run: Callable[..., None] | str | None = None
    depends_on: tuple[str, ...] | Callable[["Settings"], tuple[str, ...]] = ()
    input: str | Callable[["Settings"], str] = ""
    reads_input: Callable[["Settings"], bool] = _always
    unit: str = "updates"
    one_process: bool = False
    optional: bool = False
    needs_subgoals: bool = False
    folder: Callable[["Settings", str], str] = lambda settings, name: name
    variants: Callable[["Settings"], list["Settings"]] = _only_one
    takes_part: Callable[["Settings"], bool] = _always

    def __post_init__(self):
        if (self.make is None) == (self.run is None):
            raise ValueError(f"stage {self.name}: make and run given, allowed is one of them")

    def inputs(self, settings: "Settings") -> tuple[str, ...]:
        """`depends_on` for these settings."""
        return self.depends_on(settings) if callable(self.depends_on) else self.depends_on

    def suits(self, world: World) -> bool:
        """Whether a world can have the stage."""
        return not self.needs_subgoals or hasattr(world, "num_subgoals")

    def input_of(self, settings: "Settings") -> str:
        """`input` for these settings."""
        return self.input(settings) if callable(self.input) else self.input


_DATA = ("environment", "expert", "collect", "data")
_BASE = (*_DATA, "base", "pretrain")
_HERE = "internal_rl.stages"

STAGES: dict[str, StageSpec] = {
    spec.name: spec
    for spec in (
        # Only worlds whose expert has to be trained have the first two.
        StageSpec(
            "expert",
            ExpertSection,
            run=f"{_HERE}.expert:run",
            depends_on=("environment", "expert"),
            unit="rounds",
            # brax's trainer spreads itself over all processes and does not know of our files.
            one_process=True,
            optional=True,
        ),
        StageSpec(
            "collect",
            CollectSection,
            run=f"{_HERE}.collect:run",
            depends_on=("environment", "expert", "collect"),
            unit="shards",
            optional=True,
        ),
        StageSpec(
            "pretrain",
            pretraining.Config,
            make=f"{_HERE}.trained:make_pretrain",
            depends_on=_BASE,
        ),
        StageSpec(
            "probe",
            probing.Config,
            make=f"{_HERE}.trained:make_probe",
            depends_on=(*_BASE, "probe"),
            input="pretrain",
            needs_subgoals=True,
            folder=_age_folder,
            variants=_probed_ages,
        ),
        StageSpec(
            "steer",
            steering.Config,
            make=f"{_HERE}.trained:make_steer",
            depends_on=(*_BASE, "steer"),
            input="pretrain",
            needs_subgoals=True,
            folder=_age_folder,
        ),
        StageSpec(
            "metacontroller",
            discovery.Config,
            make=f"{_HERE}.trained:make_metacontroller",
            depends_on=_code_inputs,
            input="pretrain",
            reads_input=lambda settings: settings.metacontroller.reads_base,
            folder=_variant_folder,
            variants=_code_variants,
            takes_part=_makes_codes("metacontroller"),
        ),
        StageSpec(
            "compile",
            compile.Config,
            make=f"{_HERE}.trained:make_compile",
            depends_on=(*_BASE, "compile"),
            input="pretrain",
            variants=_code_variants,
            takes_part=_makes_codes("compile"),
        ),
        StageSpec(
            "internal_rl",
            internal_rl.Config,
            make=f"{_HERE}.trained:make_internal_rl",
            depends_on=_policy_inputs,
            input=lambda settings: settings.internal_rl.codes,
            folder=_policy_folder,
            variants=_code_variants,
        ),
        StageSpec(
            "raw_rl",
            raw_action.Config,
            make=f"{_HERE}.trained:make_raw_rl",
            depends_on=(*_BASE, "raw_rl"),
            input="pretrain",
            variants=_raw_variants,
        ),
    )
}
"""All stages by name, in the order in which a whole run goes through them."""

_WITH_SCRIPT = (*STAGES, "sweep")


def command_of(stage: str) -> str:
    """What is typed to make a stage, or a `sweep`: a script of the checkout, or the command."""
    if not (pathlib.Path(__file__).parents[2] / "setup.py").is_file():
        return f"internal-rl {stage}"
    if stage in _WITH_SCRIPT:
        return f"python -m experiments.{stage}"
    return f"python -m experiments --stage={stage}"


def register_stage(spec: StageSpec) -> None:
    """Adds a stage at the end of a run; registering a name again replaces it.

    One that trains a policy, with a section that is a `ReinforcementSettings`, is measured and
    drawn as the others are.

    Raises:
      ValueError: it is none.
    """
    if not isinstance(spec, StageSpec):
        raise ValueError(f"stage is {spec!r}, allowed is a StageSpec")
    STAGES[spec.name] = spec
    if issubclass(spec.section, ReinforcementSettings) and spec.name not in POLICY_STAGES:
        POLICY_STAGES.append(spec.name)


def code_stages() -> tuple[str, ...]:
    """Names of the stages that make models with codes."""
    return tuple(
        name for name, spec in STAGES.items() if issubclass(spec.section, CodeFindingSettings)
    )


def section_types() -> dict[str, type[Section]]:
    """Class of every section of a config by its name, in the order of configs."""
    stages = {name: spec.section for name, spec in STAGES.items()}
    optional = {name: stages.pop(name) for name, spec in STAGES.items() if spec.optional}
    return optional | SHARED_SECTIONS | stages


def stage_spec(settings: "Settings", name: str) -> StageSpec:
    """The stage of a name.

    Raises:
      ConfigError: there is none, or this config has no settings for it.
    """
    if name not in STAGES or name not in settings.sections:
        stages = ", ".join(known for known in STAGES if known in settings.sections)
        raise ConfigError(f"config.{name}: no such stage in this config, allowed are {stages}")
    return STAGES[name]


def function_of(reference: Callable | str) -> Callable:
    """A function, or what `"module:function"` stands for."""
    if not isinstance(reference, str):
        return reference
    module, _, function = reference.partition(":")
    return getattr(importlib.import_module(module), function)


def whole_run(settings: "Settings") -> Iterator[tuple[str, "Settings"]]:
    """Every stage of a config with the settings of each of its variants, in order.

    Stages with the same variants take turns: the policy of a metacontroller comes before the next
    metacontroller.
    """
    specs = [spec for name, spec in STAGES.items() if name in settings.sections]
    for variants, group in itertools.groupby(specs, key=lambda spec: spec.variants):
        names = [spec.name for spec in group]
        for chosen in variants(settings):
            for name in names:
                if STAGES[name].takes_part(chosen):
                    yield name, chosen
