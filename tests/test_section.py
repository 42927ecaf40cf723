"""Sections: what a field may be, in one line that names it, and what an absent one means."""

import dataclasses

import pytest

from internal_rl.section import (
    POSITIVE,
    Rule,
    Section,
    SettingError,
    at_least,
    below,
    one_of,
    setting,
    within,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes(Section):
    width: int = setting(8, at_least(1))
    rate: float = setting(0.1, POSITIVE)
    share: float = setting(0.5, within(0, 1))
    decay: float = setting(0.9, below(1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model(Sizes):
    kind: str = setting("a", one_of(("a", "b")))
    deep: bool = setting(False, historical=True)
    ages: tuple[int, ...] = setting((1, 2), Rule(lambda ages: len(ages) > 0, "one age or more"))

    def check(self):
        super().check()
        self.require(self.rate <= self.width, "rate", f"up to width = {self.width}")


def test_defaults_are_allowed_and_fields_can_be_named():
    assert Model().as_dict() == {
        "width": 8,
        "rate": 0.1,
        "share": 0.5,
        "decay": 0.9,
        "kind": "a",
        "deep": False,
        "ages": (1, 2),
    }
    assert Model(kind="b", rate=2).rate == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 0}, "width: 0 given, allowed is 1 or more"),
        ({"width": 1.5}, "width: 1.5 given, allowed is a whole number"),
        ({"width": True}, "width: True given, allowed is a whole number"),
        ({"rate": "x"}, "rate: 'x' given, allowed is a number"),
        ({"rate": float("nan")}, "rate: nan given, allowed is above 0"),
        ({"rate": float("inf")}, r"rate: inf given, allowed is a finite number up to 3.4e\+38"),
        ({"rate": 1e300}, r"rate: 1e\+300 given, allowed is a finite number up to 3.4e\+38"),
        ({"width": 2**31}, "width: 2147483648 given, allowed is a whole number up to 2147483647"),
        ({"decay": 1}, "decay: 1 given, allowed is 0 or more and below 1"),
        ({"share": 1.5}, "share: 1.5 given, allowed is 0 to 1"),
        ({"kind": "c"}, "kind: 'c' given, allowed is a, b"),
        ({"kind": 1}, "kind: 1 given, allowed is text"),
        ({"deep": 1}, "deep: 1 given, allowed is true or false"),
        ({"ages": ()}, r"ages: \(\) given, allowed is one age or more"),
        ({"rate": 9.0}, "rate: 9.0 given, allowed is up to width = 8"),
        (
            {"color": 1},
            "color: unknown field, allowed are ages, decay, deep, kind, rate, share, width",
        ),
    ],
)
def test_what_is_not_allowed_is_named_with_what_is(fields, message):
    with pytest.raises(SettingError, match=f"^{message}$") as caught:
        Model.read(fields)
    assert caught.value.field == next(iter(fields))
    assert f"{caught.value.field}: {caught.value.problem}" == str(caught.value)


def test_an_absent_field_means_its_historical_value():
    assert Model.read({}).deep is True
    assert Model.read({"deep": False}).deep is False
    assert Model.historical()["width"] == 8


def test_a_part_of_a_section_is_a_section_of_its_own():
    assert Model(width=3, kind="b").part(Sizes) == Sizes(width=3)


def test_sections_are_values():
    assert Model() == Model() and hash(Model()) == hash(Model())
    with pytest.raises(dataclasses.FrozenInstanceError):
        Model().width = 3
    with pytest.raises(SettingError, match="width: 0"):
        dataclasses.replace(Model(), width=0)
