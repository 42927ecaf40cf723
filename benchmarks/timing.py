"""Stopwatch of the benchmarks: programs and the machine's bounds, measured in turns.

A rate alone says little: it is shown beside what the machine can do at best, the rate of matrix
products in the precision of the programs and the memory bandwidth. Both are measured again beside
every repetition of every program, so that whatever else runs on the machine disturbs both sides of
a comparison.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from tqdm import tqdm

from internal_rl.errors import ConfigError
from internal_rl.host_threads import available_cores

CLOCKS = ("wall", "cpu")
# Bytes of the array that is copied; several times the last-level cache of a large CPU.
COPY_BYTES = 256 * 2**20
# A bound is measured over several calls in a row that last at least this long together.
BOUND_SECONDS = 0.05


def make_clock(name: str) -> Callable[[], float]:
    """A function that returns seconds.

    Args:
      name: `"wall"`, or `"cpu"` for the time that this process spent on its core, which does not
        count what other processes take from it.

    Raises:
      ConfigError: unknown name, or `"cpu"` with several cores or an accelerator, where the time
        of a processor would leave out the waiting.
    """
    if name not in CLOCKS:
        raise ConfigError(f"--clock: '{name}' given, allowed is {', '.join(CLOCKS)}")
    if name == "wall":
        return time.perf_counter
    if jax.default_backend() != "cpu" or available_cores() > 1:
        raise ConfigError("--clock: 'cpu' given, allowed is wall unless one CPU core runs all")
    return time.process_time


@dataclasses.dataclass(frozen=True)
class Timing:
    """Repetitions of one program.

    Attributes:
      seconds: `(R,)` duration of each repetition.
      matmul_rate: `(R,)` rate of matrix products beside each of them, FLOP/s.
      copy_rate: `(R,)` memory bandwidth beside each of them, bytes read plus written per second.
    """

    seconds: np.ndarray
    matmul_rate: np.ndarray
    copy_rate: np.ndarray

    @property
    def best(self) -> float:
        """Shortest repetition, seconds."""
        return float(self.seconds.min())

    def rate(self, amount: float) -> float:
        """`amount` per second, at the best repetition."""
        return float(amount) / self.best

    def share_of_matmul(self, flops: float) -> float:
        """Share of the matrix multiplication rate, median over the repetitions.

        Args:
          flops: multiplications plus additions in one repetition, see `benchmarks.flops`.
        """
        return float(np.median(flops / self.seconds / self.matmul_rate))

    def share_of_copy(self, num_bytes: float) -> float:
        """Share of the memory bandwidth, median over the repetitions."""
        return float(np.median(num_bytes / self.seconds / self.copy_rate))

    def share_of_bounds(self, flops: float, num_bytes: float) -> float:
        """Share of the time that arithmetic and memory traffic one after the other would take."""
        bound = flops / self.matmul_rate + num_bytes / self.copy_rate
        return float(np.median(bound / self.seconds))


class Stopwatch:
    """Measures programs beside the bounds of the machine.

    Attributes:
      repeats: repetitions of every program.
      matmul_rates: best rate seen for each shape `"MxKxN"`, FLOP/s.
      copy_rate: best memory bandwidth seen, bytes read plus written per second.
    """

    def __init__(
        self,
        clock: str,
        repeats: int,
        shapes: tuple[tuple[int, int, int], ...],
        dtype: DTypeLike = jnp.float32,
    ):
        """Measures the bounds once.

        Args:
          clock: see `make_clock`.
          repeats: repetitions of every program.
          shapes: `(M, K, N)` of the matrix products tried; the fastest is the reference.
          dtype: of the products.
        """
        if repeats < 1:
            raise ConfigError(f"--repeats: {repeats} given, allowed is 1 or more")
        self._clock = make_clock(clock)
        self.repeats = repeats
        self._matmul = jax.jit(jnp.matmul)
        self._dtype = dtype
        # In place: a new array for every call would measure the operating system's paging.
        self._copy = jax.jit(lambda x: x + 1.0, donate_argnums=0)
        self._copied = jnp.zeros(COPY_BYTES // 4)
        self.copy_rate = 0.0
        self.matmul_rates = {}
        self._fastest = shapes[0]
        for shape in dict.fromkeys(shapes):
            self.matmul_rates["x".join(map(str, shape))] = 0.0
            for _ in range(repeats):
                self._time_matmul(shape)
        self._fastest = max(dict.fromkeys(shapes), key=lambda s: self._best_of(s))

    @property
    def matmul_rate(self) -> float:
        """Best matrix multiplication rate seen, FLOP/s."""
        return max(self.matmul_rates.values())

    def _best_of(self, shape) -> float:
        return self.matmul_rates["x".join(map(str, shape))]

    def time(self, program: Callable) -> float:
        """Seconds of one call until its results are there."""
        start = self._clock()
        jax.block_until_ready(program())
        return max(self._clock() - start, 1e-9)

    def _rate(self, program: Callable, amount: float) -> float:
        """Best `amount` per second of some calls in a row; the first one may compile."""
        jax.block_until_ready(program())
        times = [self.time(program)]
        while sum(times) < BOUND_SECONDS:
            times.append(self.time(program))
        return amount / min(times)

    def _time_matmul(self, shape) -> float:
        m, k, n = shape
        left, right = jnp.ones((m, k), self._dtype), jnp.ones((k, n), self._dtype)
        rate = self._rate(lambda: self._matmul(left, right), 2.0 * m * k * n)
        name = "x".join(map(str, shape))
        self.matmul_rates[name] = max(rate, self.matmul_rates[name])
        return rate

    def _copy_once(self) -> jax.Array:
        self._copied = self._copy(self._copied)
        return self._copied

    def _time_copy(self) -> float:
        rate = self._rate(self._copy_once, 2.0 * COPY_BYTES)
        self.copy_rate = max(rate, self.copy_rate)
        return rate

    def measure(self, programs: Mapping[str, Callable], name: str) -> dict[str, Timing]:
        """Runs programs in turns, each between two measurements of the bounds.

        Args:
          programs: functions without arguments that return arrays; the first call, which compiles,
            is not counted.
          name: what the progress bar says.
        """
        rounds = {label: [] for label in programs}
        total = len(programs) * (self.repeats + 1)
        with tqdm(total=total, desc=name, leave=False) as bar:
            for program in programs.values():
                jax.block_until_ready(program())
                bar.update()
            for _ in range(self.repeats):
                before = self._time_matmul(self._fastest), self._time_copy()
                for label, program in programs.items():
                    seconds = self.time(program)
                    after = self._time_matmul(self._fastest), self._time_copy()
                    rounds[label].append((seconds, *np.mean([before, after], axis=0)))
                    before = after
                    bar.update()
        return {label: Timing(*np.array(values).T) for label, values in rounds.items()}
