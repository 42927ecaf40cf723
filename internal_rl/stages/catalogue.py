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

from internal_rl.envs.world import CAPABILITIES, capabilities, kept_by_first
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
from internal_rl.methods.code_finding import CODE_STAGES, CodeFindingSettings
from internal_rl.methods.reinforcement.trainer import POLICY_STAGES, ReinforcementSettings
from internal_rl.models.base_model import BaseConfig
from internal_rl.section import Section
from internal_rl.training.settings import SeedsPerInput
from internal_rl.training.stage_directory import is_of
from internal_rl.types import World

if TYPE_CHECKING:
    from internal_rl.stages.settings import Settings

SHARED_SECTIONS: dict[str, type[Section]] = {"data": DataSection, "base": BaseConfig}
"""Sections of a config that belong to no stage of their own."""


def _only_one(settings: "Settings") -> list["Settings"]:
    return [settings]


def _always(settings: "Settings") -> bool:
    return True


def methods() -> dict[str, tuple[str, ...]]:
    """Methods that a whole run compares, and the sections in which their settings may differ."""
    variants = dict.fromkeys(discovery.VARIANTS, ("metacontroller", "internal_rl"))
    others = (stage for stage in CODE_STAGES if stage != "metacontroller")
    codes = {stage: (stage, "internal_rl") for stage in others}
    return {**variants, **codes, "raw_actions": ("raw_rl",)}


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
    if codes == "metacontroller":
        return _variant_folder(settings, name)
    return f"{name}_{STAGES[codes].folder(settings, codes) if codes in STAGES else codes}"


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


@kept_by_first(maxsize=16)
def _tells_next_subgoal(world: World) -> bool:
    return hasattr(world, "num_subgoals") and "subgoals" in capabilities(world)


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
      follows_subgoals: only worlds that tell this and whose timesteps tell the next one have it.
      folder: `folder(settings, name)`: name of its folder, another one for each variant.
      variants: settings of everything that a whole run makes of the stage.
      takes_part: `takes_part(settings)`: whether the stage belongs to one of these, where it shares
        them with other stages.
      like: name of a stage of the package, such as `"raw_rl"`: what presets say of its section is
        said of this one too, as far as it has the fields; empty for none. What they say of this one
        itself comes on top.
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
    follows_subgoals: bool = False
    folder: Callable[["Settings", str], str] = lambda settings, name: name
    variants: Callable[["Settings"], list["Settings"]] = _only_one
    takes_part: Callable[["Settings"], bool] = _always
    like: str = ""

    def __post_init__(self):
        if (self.make is None) == (self.run is None):
            raise ValueError(f"stage {self.name}: make and run given, allowed is one of them")

    def inputs(self, settings: "Settings") -> tuple[str, ...]:
        """`depends_on` for these settings.

        Raises:
          ConfigError: the stage's own section is not among them.
        """
        found = self.depends_on(settings) if callable(self.depends_on) else self.depends_on
        if self.name not in found:
            raise ConfigError(
                f"stage {self.name}: depends_on gives {found!r}, allowed are names of sections with"
                f" '{self.name}', its own, among them"
            )
        return found

    def lacks(self, world: World) -> str:
        """What the stage needs and a world does not tell; empty where the world can have it."""
        if self.follows_subgoals and not _tells_next_subgoal(world):
            return CAPABILITIES["subgoals"]
        return "num_subgoals" if self.needs_subgoals and not hasattr(world, "num_subgoals") else ""

    def suits(self, world: World) -> bool:
        """Whether a world can have the stage."""
        return not self.lacks(world)

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
            follows_subgoals=True,
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

SHIPPED_STAGES = tuple(STAGES)
"""Those of this package."""

_WITH_SCRIPT = (*SHIPPED_STAGES, "sweep")

# Sections and fields of a config, and folders of a run, that are no stages.
_TAKEN = (
    *(*SHARED_SECTIONS, "environment", "preset", "seed", "precision", "quickstart"),
    *("report", "sweep"),
)


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
    drawn as the others are. So is one that finds codes, with a section that is a
    `CodeFindingSettings`; a whole run also trains a policy that chooses among them.

    Raises:
      ValueError: it is none, its name is that of something else, it is like no stage, or its
        section does not count seeds for each seed of its input, or is none of those that it depends
        on.
    """
    if not isinstance(spec, StageSpec):
        raise ValueError(f"stage is {spec!r}, allowed is a StageSpec")
    _check_name(spec)
    if spec.like and spec.like not in SHIPPED_STAGES:
        known = ", ".join(SHIPPED_STAGES)
        raise ValueError(f"stage {spec.name}: like is {spec.like!r}, allowed are {known}")
    if not callable(spec.depends_on) and spec.name not in spec.depends_on:
        raise ValueError(
            f"stage {spec.name}: depends_on is {spec.depends_on!r}, allowed are names of sections"
            f" with '{spec.name}', its own, among them: other settings are another stage"
        )
    if spec.input and not issubclass(spec.section, SeedsPerInput):
        raise ValueError(
            f"stage {spec.name}: section is {spec.section.__name__}, allowed for a stage with an"
            " input is one that inherits SeedsPerInput"
        )
    STAGES[spec.name] = spec
    lists = ((POLICY_STAGES, ReinforcementSettings), (CODE_STAGES, CodeFindingSettings))
    for listed, section in lists:
        if not issubclass(spec.section, section):
            listed[:] = [name for name in listed if name != spec.name]
        elif spec.name not in listed:
            listed.append(spec.name)


def _check_name(spec: StageSpec) -> None:
    """Raises ValueError where folders of a stage would be taken for those of something else."""
    given = f"stage: '{spec.name}' given, allowed"
    if spec.name in _TAKEN:
        raise ValueError(f"{given} is any other name than {', '.join(_TAKEN)}")
    if issubclass(spec.section, CodeFindingSettings) and spec.name in discovery.VARIANTS:
        raise ValueError(
            f"{given} for codes is any other name than {', '.join(discovery.VARIANTS)}, the"
            " variants of the metacontroller, whose policies have folders such as"
            f" internal_rl_{spec.name}"
        )
    for other in STAGES:
        if other != spec.name and (is_of(spec.name, other) or is_of(other, spec.name)):
            raise ValueError(
                f"{given} beside the stage {other} is a name such that none of both begins with the"
                " other and '_', as variants of a stage do"
            )


def unsuited(settings: "Settings", stage: str) -> str:
    """Why the world of some settings cannot have a stage, in one line; empty where it can."""
    lacking = STAGES[stage].lacks(settings.world)
    if not lacking:
        return ""
    return (
        f"environment.name: '{settings.environment['name']}' tells no subgoals, allowed for the"
        f" stage {stage} are worlds with {lacking}"
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
    metacontroller. So does that of a stage from outside that finds codes.
    """
    specs = [spec for name, spec in STAGES.items() if name in settings.sections]
    for variants, group in itertools.groupby(specs, key=lambda spec: spec.variants):
        names = [spec.name for spec in group]
        for chosen in variants(settings):
            for name in names:
                if STAGES[name].takes_part(chosen):
                    yield from _with_policy(name, chosen)


def _with_policy(stage: str, settings: "Settings") -> Iterator[tuple[str, "Settings"]]:
    """A stage, and behind one from outside that finds codes the policy that chooses among them."""
    if stage not in CODE_STAGES or STAGES[stage].variants is _code_variants:
        yield stage, settings
        return
    chosen = _with_codes(settings.as_selected(stage), stage)
    yield stage, chosen
    if chosen.internal_rl:
        yield "internal_rl", chosen
