"""What a compiled TPU program costs, read from its text.

XLA's TPU compiler writes its own estimate, `estimated_cycles`, beside every operation that it
schedules. Here they are added up, those in the body of a loop as often as the loop runs. How often
is known for scans; a loop that ends when data say so carries a name (`jax.named_scope`), and its
trip count has to be stated.

Of kernels written in Pallas there is no such estimate. What there is are their instructions in the
order in which the chip will run them, a bundle a cycle (`kernel_cycles`), and the time that their
arrays take from the chip's memory and back; the longer of both counts.
"""

import dataclasses
import functools
import math
import os
import pathlib
import re
import string
from collections.abc import Mapping, Sequence

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPERATION = re.compile(r"(?:^|[\s)}\]])([a-z][a-z0-9\-]*)\(")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_WHILE = re.compile(r"condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_CALLED = re.compile(r"(?:calls|to_apply|called_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TWO_BRANCHES = re.compile(r"true_computation=%?([\w.\-]+), false_computation=%?([\w.\-]+)")
_NAME = re.compile(r'op_name="([^"]*)"')
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+)\[([\d,]*)\]")
_BUNDLE = re.compile(r"^\s*(?:0x[0-9a-f]+|0)\s+([A-Z]*)\s*: (>*)")
_LOOP_END = re.compile(r"scmp\.\w+\.s32\.totalorder [^,]+, (\d+) /\* loop exit test \*/")
_DUMP = re.compile(r"^\d+-(.+)-\d+-final_bundles\.txt$")
_OPERANDS = re.compile(r"custom-call\(([^)]*)\)")
# Memory space 1 of a layout is that of the core itself.
_ON_CORE = "S(1)"
_CONSTANT = re.compile(r"^s32\[\][^ ]* constant\((\d+)\)")


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one run of a program on one chip.

    Attributes:
      cycles: sum of XLA's estimates.
      collectives: by kind, `(count, bytes)`: how often, and bytes of the results on one chip.
      assumed: by name, the trip count that was taken for a loop that ends when data say so.
      parts: cycles by the name of the operation that they belong to.
    """

    cycles: float = 0.0
    collectives: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    assumed: Mapping[str, float] = dataclasses.field(default_factory=dict)
    parts: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def plus(self, other: "Cost", times: float = 1.0) -> "Cost":
        """The sum with `times` runs of another one."""
        collectives = dict(self.collectives)
        for kind, found in other.collectives.items():
            count, size = collectives.get(kind, (0.0, 0.0))
            collectives[kind] = (count + times * found[0], size + times * found[1])
        parts = dict(self.parts)
        for name, cycles in other.parts.items():
            parts[name] = parts.get(name, 0.0) + times * cycles
        cycles = self.cycles + times * other.cycles
        return Cost(cycles, collectives, {**self.assumed, **other.assumed}, parts)


# How arrays lie in a TPU's memory: the last axis in tiles of 128, that before in tiles of 8.
TILES = (128, 8)


def bytes_of(shape: str, tiles: Sequence[int] = ()) -> int:
    """Bytes of all arrays in the text of a type, such as `(f32[8,4]{1,0}, s32[])`.

    Args:
      shape: the text.
      tiles: what the last axis is filled up to multiples of, then the one before, and so on.
    """
    total = 0
    for kind, sizes in _ARRAY.findall(shape):
        bits = 8 if kind == "pred" else int(kind.lstrip(string.ascii_lowercase))
        axes = [int(size) for size in sizes.split(",") if size]
        for place, tile in zip(range(-1, -len(axes) - 1, -1), tiles, strict=False):
            axes[place] = -(-axes[place] // tile) * tile
        total += math.prod(axes) * bits // 8
    return total


def kernel_dump_options(folder: str | os.PathLike) -> str:
    """Options of libtpu (`LIBTPU_INIT_ARGS`) that make it write what `kernel_cycles` reads."""
    wanted = "--xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=.*final_bundles"
    return f"--xla_jf_dump_to={folder} {wanted}"


def kernel_cycles(folder: pathlib.Path) -> dict[str, int]:
    """Cycles of each operation that libtpu has written into a folder, by name without number.

    Of several with one name those that are kernels count, and of these the longest: what is done
    to the results of a kernel has its name too.
    """
    found = {}
    for path in folder.iterdir():
        name = _DUMP.match(path.name)
        if name:
            text = path.read_text(errors="replace")
            cost = (" = custom-call(" in text, bundles_run(text))
            name = _without_number(name.group(1))
            found[name] = max(cost, found.get(name, cost))
    return {name: cycles for name, (_, cycles) in found.items()}


def bundles_run(text: str) -> int:
    """Bundles that a listing of them stands for: those of a loop as often as it runs."""
    found = [(_BUNDLE.match(line), _LOOP_END.search(line)) for line in text.splitlines()]
    lines = [(line.group(1), len(line.group(2)), end) for line, end in found if line]
    starts = [index for index, (label, _, _) in enumerate(lines) if label == "LB"]
    times = [1] * len(lines)
    # Inner loops first: what ends an outer one is not in them.
    taken = set()
    for start in sorted(starts, key=lambda index: -lines[index][1]):
        depth = lines[start][1]
        following = [index for index in starts if index > start and lines[index][1] <= depth]
        stop = min(following, default=len(lines))
        # Not every bundle in a loop is marked with its depth.
        last = max(index for index in range(start, stop) if lines[index][1] >= depth)
        own = [index for index in range(start, last + 1) if index not in taken]
        ends = [lines[index][2] for index in own if lines[index][2]]
        taken.update(own)
        if ends:
            for index in range(start, last + 1):
                times[index] *= int(ends[-1].group(1))
    return sum(times)


def _without_number(name: str) -> str:
    """`block_forward` for `block_forward.7`; later passes of the compiler number anew."""
    return name.partition(".")[0]


class Program:
    """The text of a compiled program.

    Attributes:
      trips: trip counts of named loops that end when data say so.
      other_trips: that of all other such loops.
      kernels: cycles of kernels by their names, see `kernel_cycles`.
      bytes_per_cycle: that the chip's memory gives or takes.
    """

    def __init__(
        self,
        text: str,
        trips: Mapping[str, float],
        other_trips: float = 1.0,
        kernels: Mapping[str, float] | None = None,
        bytes_per_cycle: float = math.inf,
    ):
        """Reads the text; other arguments as the attributes."""
        self.trips, self.other_trips = trips, other_trips
        kernels = kernels or {}
        self._bytes_per_cycle = bytes_per_cycle
        self._computations: dict[str, list[str]] = {}
        current, entry, types = None, None, {}
        for line in text.splitlines():
            header = _HEADER.match(line)
            if header:
                current = self._computations.setdefault(header.group(2), [])
                entry = header.group(2) if header.group(1) else entry
            elif line.startswith("}"):
                current = None
            elif current is not None:
                found = _INSTRUCTION.match(line)
                if found:
                    name, instruction = found.groups()
                    types[name] = _type(instruction)
                    cycles = kernels.get(_without_number(name))
                    if cycles and 'custom_call_target="tpu_custom_call"' in instruction:
                        cycles = max(cycles, self._memory_cycles(instruction, types))
                        instruction += f' "estimated_cycles":"{cycles:.0f}"'
                    current.append(instruction)
        if entry is None:
            raise ValueError("the text holds no entry computation, allowed is that of a program")
        self._entry = entry

    def _memory_cycles(self, instruction: str, types: Mapping[str, str]) -> float:
        """Cycles that the arrays of a kernel take on their way, but for those on the core."""
        operands = _OPERANDS.search(instruction).group(1)
        arrays = [types.get(name, "") for name in re.findall(r"%([\w.\-]+)", operands)]
        moved = [text for text in (*arrays, _type(instruction)) if _ON_CORE not in text]
        return sum(bytes_of(text, TILES) for text in moved) / self._bytes_per_cycle

    def cost(self) -> Cost:
        """Cost of one run."""
        return self._cost_of(self._entry)

    @functools.cache  # noqa: B019 (a program lives as long as its benchmark)
    def _cost_of(self, name: str) -> Cost:
        cost = Cost()
        for instruction in self._computations.get(name, ()):
            cost = cost.plus(self._cost_of_instruction(instruction))
        return cost

    def _cost_of_instruction(self, text: str) -> Cost:
        operation = _operation(text)
        if operation == "while":
            condition, body = _WHILE.search(text).groups()
            trips, assumed = self._trip_count(text, condition)
            once = self._cost_of(body).plus(self._cost_of(condition))
            return Cost(assumed=assumed).plus(once, trips)
        if operation == "conditional":
            costs = [self._cost_of(branch) for branch in _branches(text)]
            return max(costs, key=lambda cost: cost.cycles)
        if operation.removesuffix("-start") in COLLECTIVES:
            kind = operation.removesuffix("-start")
            size = bytes_of(text[: text.index(f" {operation}(")])
            # A started collective is a pair of its operands and results.
            size = size / 2 if operation.endswith("-start") and kind != "all-reduce" else size
            return _own_cycles(text).plus(Cost(collectives={kind: (1.0, size)}))
        cost = _own_cycles(text)
        called = _CALLED.search(text)
        if called and operation in ("call", "fusion", "async-start", "custom-call"):
            inner = self._cost_of(called.group(1))
            # What is fused is part of the estimate of the fusion, but for collectives.
            hidden = operation == "fusion" or cost.cycles
            cost = cost.plus(Cost(collectives=inner.collectives) if hidden else inner)
            if operation == "fusion":
                cost = cost.plus(self._kernels_in(called.group(1)))
        return cost

    def _kernels_in(self, name: str) -> Cost:
        """Kernels of a fusion, which its estimate leaves out."""
        cost = Cost()
        for instruction in self._computations.get(name, ()):
            if _operation(instruction) == "custom-call":
                cost = cost.plus(_own_cycles(instruction))
        return cost

    def _trip_count(self, text: str, condition: str) -> tuple[float, dict[str, float]]:
        """How often a loop runs, and by its name what was assumed."""
        found = _TRIPS.search(text)
        if found:
            return float(found.group(1)), {}
        name = _name(text)
        # `.../vmap(scope)/while`: the scope that the loop itself stands in.
        scope = re.search(r"([^/]+)/while[^/]*$", name)
        for word in re.findall(r"\w+", scope.group(1)) if scope else ():
            if word in self.trips:
                return self.trips[word], {word: self.trips[word]}
        limit = self._limit(condition)
        if limit is not None:
            return limit, {}
        return self.other_trips, {name: self.other_trips}

    def _limit(self, condition: str) -> float | None:
        """The constant that a counter is compared with, where a condition is no more than that."""
        lines = self._computations.get(condition, [])
        if any("fusion(" in line or "while(" in line for line in lines):
            return None
        constants = [_CONSTANT.match(line) for line in lines]
        constants = [float(found.group(1)) for found in constants if found]
        less = [line for line in lines if "direction=LT" in line]
        return constants[0] if len(constants) == 1 and len(less) == 1 else None


def _operation(text: str) -> str:
    """Kind of an instruction."""
    found = _OPERATION.search(text)
    return found.group(1) if found else ""


def _type(text: str) -> str:
    """Type of what an instruction gives, with its layout."""
    return text.partition(f" {_operation(text)}(")[0]


def _name(text: str) -> str:
    """What an instruction was traced from."""
    found = _NAME.search(text)
    return found.group(1) if found else "unnamed"


def _own_cycles(text: str) -> Cost:
    """XLA's estimate of an instruction, without what it calls."""
    found = _CYCLES.search(text)
    if not found:
        return Cost()
    cycles = float(found.group(1))
    return Cost(cycles, parts={_name(text): cycles})


def _branches(text: str) -> list[str]:
    """Computations that a conditional chooses from."""
    found = _BRANCHES.search(text)
    if found:
        return [name.strip().lstrip("%") for name in found.group(1).split(",")]
    return list(_TWO_BRANCHES.search(text).groups())
