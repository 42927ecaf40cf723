"""Values for fields of a config, good, odd and wrong; texts of tasks, task sets and floor plans.

All of them are what stands behind the equals sign of `--config.SECTION.FIELD=`.
"""

import random
from collections.abc import Callable, Mapping
from typing import Any

from internal_rl.section import ANY, Section

WRONG = (
    *("", " ", "None", "true", "False", "inf", "-inf", "nan", "1e400", "1e-400", "-0", "0x10"),
    *("1_000", "+5", "1.5", "-1.5", "1e3", "[]", "{}", "()", "(1,)", "[1, 2]", "{'a': 1}", "'1'"),
    *("abc", "\u00b2", "\u0663", "\U0001f41c", "\udcff", "a\tb", "a\nb", "%s", "{0}", "$HOME"),
    *("../..", "1,2", "lambda: 0", "1+1", "__import__('os')", "9" * 400, "a" * 3_000),
    *("(" * 300, "-" * 9_000 + "1"),
)
WHOLE = (0, 1, -1, 2, 3, 4, 5, 7, 64, 1_000, 10**4, 10**6, 2**20, 2**31 - 1, 2**31, 10**12, 10**30)
NUMBERS = (0.0, 1.0, -1.0, 0.5, 0.1, 2.0, 10.0, 1e-3, 1e-8, 1e-30, 1e-45, 1e6, 1e30, 3.4e38, 1e300)
TUPLES = (
    *("()", "(1,)", "(2,)", "(4,)", "(8,)", "(2, 4)", "(4, 2)", "(2, 2)", "(0,)", "(-1,)", "(3,)"),
    *("(1.5,)", "('a',)", "(True,)", "((1,),)", "(None,)", "[4]", "4", "2,4", "(10**9,)", "(16,)"),
    *("(2147483648,)", "(1000000,)", "(16, 16, 16)", f"({'4, ' * 200})", "(100000, 100000)"),
)
SIGNS = "0123456789-,:walksp#./ x\u00b2\n"


def value_of(draw: random.Random, section: type | None, name: str, values: Mapping) -> str:
    """A value for a field.

    Args:
      draw: randomness.
      section: class of its section; None for fields of none.
      name: of the field.
      values: all fields of the config by dotted name, to take others from; under `name` alone the
        field's own one.
    """
    own = values[name]
    if draw.random() < 0.1:
        return draw.choice(WRONG)
    if draw.random() < 0.05:
        return str(values[draw.choice(sorted(values))])
    if isinstance(own, bool):
        return draw.choice(("true", "false"))
    if isinstance(own, int):
        return str(_whole(draw, own, values))
    if isinstance(own, float):
        return str(_number(draw, own, values))
    if isinstance(own, tuple):
        return draw.choice(TUPLES)
    choices = _choices(section, name)
    return draw.choice(choices) if choices else draw.choice((own, *WRONG))


def _whole(draw: random.Random, own: int, values: Mapping[str, Any]) -> int | str:
    """Near its own value, near that of another field, or at some edge."""
    others = [value for value in values.values() if type(value) is int]
    near = (own, own + 1, own - 1, 2 * own, own // 2, draw.randint(1, 8), draw.randint(0, 40))
    beside = draw.choice(others) + draw.choice((-1, 0, 1))
    edge = draw.choice(WHOLE if draw.random() < 0.8 else NUMBERS)
    return draw.choice((draw.choice(near), draw.choice(near), beside, edge))


def _number(draw: random.Random, own: float, values: Mapping[str, Any]) -> float:
    others = [value for value in values.values() if type(value) in (int, float)]
    near = (own, own * draw.uniform(0, 3), draw.uniform(0, 1), -own, own + 1)
    edge = draw.choice(NUMBERS) * draw.choice((1, 1, 1, -1))
    return draw.choice((draw.choice(near), draw.choice(others), edge, edge))


def _choices(section: type | None, name: str) -> list[str]:
    """Names that a field knows."""
    if section is None or not issubclass(section, Section):
        return []
    (field,) = (one for one in section.__dataclass_fields__.values() if one.name == name)
    rule = field.metadata.get("rule", ANY)
    return [] if rule is ANY else rule.allowed.split(", ")


def task_text(draw: random.Random, num_colours: int) -> str:
    """A task, most of them with colours that there are, in one of the two ways to write it."""
    colours = [draw.randrange(num_colours + draw.choice((0, 0, 0, 1)))]
    for _ in range(draw.randint(0, 5)):
        others = [colour for colour in range(num_colours) if colour != colours[-1]]
        colours.append(draw.choice(others or [0]))
    return draw.choice(("", "-")).join(map(str, colours))


def task_list(draw: random.Random, num_colours: int) -> str:
    """Tasks separated by commas."""
    return ",".join(task_text(draw, num_colours) for _ in range(draw.randint(1, 4)))


def task_set_text(draw: random.Random, num_colours: int) -> str:
    """The name of a task set."""
    if draw.random() < 0.1:
        return draw.choice(("gridworld-pinpad", "ant-pinpad"))
    kind, length = draw.choice(("walks", "pair-walks")), draw.randint(1, 5)
    return f"{kind}:{draw.randint(1, num_colours + 1)}:{length}:{task_text(draw, num_colours)}"


def floor_plan_text(draw: random.Random, grid_size: int, num_walls: int) -> str:
    """Rows of cells with so many walls."""
    cells = ["#"] * num_walls + ["."] * max(grid_size**2 - num_walls, 0)
    return _rows(draw, cells, grid_size)


def homes_text(draw: random.Random, grid_size: int, num_colours: int) -> str:
    """Rows of cells with every colour once."""
    cells = [*map(str, range(num_colours)), *["."] * max(grid_size**2 - num_colours, 0)]
    return _rows(draw, cells, grid_size)


def _rows(draw: random.Random, cells: list[str], grid_size: int) -> str:
    draw.shuffle(cells)
    rows = ("".join(cells[i : i + grid_size]) for i in range(0, len(cells), grid_size))
    return "/".join(rows)


def disturbed(draw: random.Random, text: str) -> str:
    """A text as it is, with some signs changed, repeated, cut, or noise in its place."""
    kind = draw.randrange(8)
    if kind < 3:
        return text
    if kind == 3:
        return "".join(draw.choices(SIGNS, k=draw.randint(0, 30)))
    if kind == 4:
        return text[: draw.randint(0, len(text))] * draw.choice((1, 2, 50))
    for _ in range(draw.randint(1, 3)):
        at = draw.randint(0, len(text))
        text = text[:at] + draw.choice(("", draw.choice(SIGNS))) + text[at + draw.randint(0, 1) :]
    return text


TEXTS: Mapping[str, Callable[[random.Random, Mapping[str, Any]], str]] = {
    "environment.tasks": lambda draw, v: task_set_text(draw, v["environment.num_colours"]),
    "environment.floor_plan": lambda draw, v: floor_plan_text(
        draw, v["environment.grid_size"], v["environment.num_walls"]
    ),
    "environment.homes": lambda draw, v: homes_text(
        draw, v["environment.grid_size"], v["environment.num_colours"]
    ),
    "pretrain.curriculum_tasks": lambda draw, v: task_list(draw, v["environment.num_colours"]),
    "collect.curriculum_tasks": lambda draw, v: task_list(draw, v["environment.num_colours"]),
    "internal_rl.task": lambda draw, v: task_text(draw, v["environment.num_colours"]),
    "raw_rl.task": lambda draw, v: task_text(draw, v["environment.num_colours"]),
}
"""Fields that hold a text with a grammar of its own, and what draws a valid one."""
