"""Sections of a config: frozen dataclasses whose fields know what is allowed.

A section stands beside the code that reads it. Its fields have a default, a rule, and a line in the
docstring of the class; a value that breaks the rule is refused in one line that names the field. A
field that an older `config.json` lacks means its historical value, so that a new field never
invalidates what was trained before there was one.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, TypeVar

_UNSET = object()


class SettingError(ValueError):
    """A setting is not allowed.

    Attributes:
      field: name of the field; empty where several are concerned.
      problem: what is wrong and what is allowed, in one line without the name of the field.
    """

    def __init__(self, field: str, problem: str):
        super().__init__(f"{field}: {problem}" if field else problem)
        self.field = field
        self.problem = problem


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a field may be.

    Attributes:
      holds: whether a value is allowed.
      allowed: the same for readers, as in "allowed is ...".
    """

    holds: Callable[[Any], bool]
    allowed: str


def at_least(lowest: float) -> Rule:
    """A number from `lowest` on."""
    return Rule(lambda value: value >= lowest, f"{lowest} or more")


def within(lowest: float, highest: float) -> Rule:
    """A number from `lowest` to `highest`, both included."""
    return Rule(lambda value: lowest <= value <= highest, f"{lowest} to {highest}")


def below(highest: float, lowest: float = 0) -> Rule:
    """A number from `lowest` on that stays below `highest` in 32 bits too."""
    allowed = f"{lowest} or more and below {highest}"
    return Rule(lambda value: lowest <= value <= highest - 1e-6, allowed)


def one_of(choices: tuple[str, ...]) -> Rule:
    """One of some names."""
    return Rule(lambda value: value in choices, ", ".join(choices))


LARGEST_WHOLE = 2**31 - 1
LARGEST_NUMBER = 3.4e38
"""What numbers of 32 bits hold: programs know no others."""

SIZE = within(1, 2**20)
"""Of a layer; what a machine holds is checked where all sizes are known."""

COUNT = within(1, 1_000)
"""Of what a program holds side by side or one behind the other: seeds, layers, passes."""

LAYERS = within(1, 64)
"""Blocks one behind the other, each of which is traced and compiled for itself."""

POSITIVE = Rule(lambda value: value > 0, "above 0")

SCALE = Rule(lambda value: 1e-6 <= value <= 1e6, "above 0, from 0.000001 to 1000000")
"""What numbers are multiplied or divided by: products of several stay finite in 32 bits."""

WEIGHT = within(0, 1_000_000)
"""Of a term of a sum, or a term itself."""

RATE = Rule(lambda value: 1e-12 <= value <= 1e3, "above 0, from 1e-12 to 1000")
"""Of learning, also of one after the other."""

ANY = Rule(lambda value: True, "any")


def setting(default: Any, rule: Rule = ANY, historical: Any = _UNSET) -> Any:
    """A field of a section.

    Args:
      default: its value unless a config says otherwise.
      rule: what is allowed.
      historical: what a config that was written before there was this field means; the default
        where that changes nothing.
    """
    historical = default if historical is _UNSET else historical
    return dataclasses.field(default=default, metadata={"rule": rule, "historical": historical})


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """Base of all sections.

    Raises:
      SettingError: names the first field whose value is not allowed, and what is.
    """

    replaced: ClassVar[Mapping[str, str]] = {}
    """Names that are no fields, though one may expect them, and what is allowed in their place."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            self._check_field(field)
        self.check()

    def check(self) -> None:
        """Checks how the fields fit together; raises SettingError. Call that of the base too."""

    def require(self, condition: bool, field: str, allowed: str) -> None:
        """Raises SettingError about a field unless `condition` holds."""
        if not condition:
            value = getattr(self, field)
            raise SettingError(field, f"{value!r} given, allowed is {allowed}")

    def _check_field(self, field: dataclasses.Field) -> None:
        value, kind = getattr(self, field.name), field.type
        if kind in _KINDS:
            fits = isinstance(value, (int, float) if kind is float else kind)
            if kind is not bool:
                fits = fits and not isinstance(value, bool)
            self.require(fits, field.name, _KINDS[kind])
        rule = field.metadata.get("rule", ANY)
        self.require(rule.holds(value), field.name, rule.allowed)
        if kind is int:
            fits = abs(value) <= LARGEST_WHOLE
            self.require(fits, field.name, f"a whole number up to {LARGEST_WHOLE}")
        if kind is float:
            # Whole numbers may be larger than any float.
            fits = abs(value) <= LARGEST_NUMBER
            self.require(fits, field.name, f"a finite number up to {LARGEST_NUMBER:g}")

    def part(self, section: type["SectionType"]) -> "SectionType":
        """The fields that this section shares with another class, as an instance of that class."""
        names = [field.name for field in dataclasses.fields(section)]
        return section(**{name: getattr(self, name) for name in names})

    def as_dict(self) -> dict[str, Any]:
        """Fields by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def decisive(self) -> dict[str, Any]:
        """Fields that decide the results of a stage, by name: all but those that nothing reads."""
        return self.as_dict()

    @classmethod
    def historical(cls) -> dict[str, Any]:
        """What a config that lacks a field means, by field."""
        return {
            field.name: field.metadata.get("historical", field.default)
            for field in dataclasses.fields(cls)
        }

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """A section from fields by name; absent ones have their historical value.

        Raises:
          SettingError: a field is unknown or its value is not allowed.
        """
        for name in values:
            cls.check_known(name)
        return cls(**cls.historical() | dict(values))

    @classmethod
    def check_known(cls, name: str) -> None:
        """Raises SettingError unless there is a field of that name."""
        known = cls.historical()
        if name not in known:
            instead = cls.replaced.get(name)
            allowed = f"is {instead}" if instead else f"are {', '.join(sorted(known))}"
            raise SettingError(name, f"unknown field, allowed {allowed}")


SectionType = TypeVar("SectionType", bound=Section)
