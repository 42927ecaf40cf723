"""Statistics over runs: medians and quartiles as in the paper, and how sure such figures are.

The paper shows median and quartiles over runs (method §6). Beside them stand the interquartile mean
with an interval from bootstrapping, which uses few runs better than a median does (Agarwal et al.
2021), and Wilson intervals of success rates, which tell how much of a single run's rate is the luck
of its episodes. The first interval speaks of other base models with runs on them, as runs that
stand on one are not independent, the second one of other episodes of the same run.

A value that is NaN is no value and is left out. A value that is infinite stands for something that
never happened, such as the episodes until a success that was not reached; it counts, so that a
median over runs is "never" where most of them never got there.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
"""Share of cases in which an interval should hold the true value."""

TRIMMED = 0.25
"""Share of the runs that the interquartile mean leaves out at either end, rounded down to runs."""

NUM_RESAMPLES = 2_000
NOTHING = (math.nan, math.nan)


@dataclasses.dataclass(frozen=True)
class Summary:
    """What is told of the values of several runs.

    Attributes:
      count: runs that have a value, `n`.
      median: over these; NaN without any, as the next three.
      lower: first quartile, by linear interpolation between ordered values.
      upper: third quartile.
      mean: interquartile mean; of fewer than four runs the mean of them all.
      interval: lower and upper end of the interval of the interquartile mean; NaN for fewer than
        two base models (two runs, where these are not known), which say nothing about others, and
        where a value is infinite. Equal values give an interval without width.
    """

    count: int
    median: float
    lower: float
    upper: float
    mean: float
    interval: tuple[float, float]


def quartiles(values: np.ndarray) -> np.ndarray:
    """Quartiles over the first axis, by linear interpolation as in NumPy.

    Between a number and an infinite value there is nothing to interpolate: it is the smallest value
    that as large a share of the runs does not exceed.

    Args:
      values: `(runs, ...)`; NaN is left out, infinite values are allowed.

    Returns:
      `(3, ...)`: lower quartile, median, upper quartile; NaN where there is no value.
    """
    ordered = np.sort(np.asarray(values, float), axis=0)
    count = np.sum(~np.isnan(ordered), axis=0, keepdims=True)
    found = []
    for share in (0.25, 0.5, 0.75):
        place = share * np.maximum(count - 1, 0)
        below, above = np.floor(place).astype(int), np.ceil(place).astype(int)
        low, high = (np.take_along_axis(ordered, index, axis=0) for index in (below, above))
        with np.errstate(invalid="ignore"):
            between = low + (place - below) * (high - low)
        # The smallest value that as large a share of the runs does not exceed.
        reached = np.maximum(np.ceil(share * count).astype(int) - 1, 0)
        step = np.take_along_axis(ordered, reached, axis=0)
        between = np.where(np.isinf(high), step, between)
        found.append(np.where(below == above, low, between)[0])
    return np.stack(found)


def interquartile_mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean over an axis without a quarter of the values at either end, see `TRIMMED`.

    NaN is left out; NaN where there is no value.
    """
    ordered = np.sort(np.moveaxis(np.asarray(values, float), axis, -1), axis=-1)
    count = np.sum(~np.isnan(ordered), axis=-1, keepdims=True)
    cut = (TRIMMED * count).astype(int)
    place = np.arange(ordered.shape[-1])
    kept = (place >= cut) & (place < count - cut)
    with np.errstate(invalid="ignore"):
        return np.sum(np.where(kept, ordered, 0.0), axis=-1) / np.sum(kept, axis=-1)


def summarise(values: Sequence[float], seed: int = 0, bases: Sequence[str | None] = ()) -> Summary:
    """Summary over runs.

    Args:
      values: one per run.
      seed: of the resampling; the same values and seed give the same interval.
      bases: on which base model each run stands, None where that is not known; empty where nothing
        of the kind is.
    """
    values = np.asarray(values, float)
    known = ~np.isnan(values)
    if len(bases) == len(values):
        bases = [base for base, there in zip(bases, known, strict=True) if there]
    else:
        bases = [None] * np.count_nonzero(known)
    values = values[known]
    if not len(values):
        return Summary(0, math.nan, math.nan, math.nan, math.nan, NOTHING)
    lower, median, upper = (float(value) for value in quartiles(values))
    mean = float(interquartile_mean(values))
    return Summary(len(values), median, lower, upper, mean, _interval(values, bases, seed))


def _interval(values: np.ndarray, bases: Sequence[str | None], seed: int) -> tuple[float, float]:
    """Bootstrap of the interquartile mean over base models, each with all of its runs.

    Runs on one base model are not independent. Where that of any run is not known, over runs.
    """
    names = list(range(len(values))) if None in bases else bases
    groups = [values[[name == one for name in names]] for one in dict.fromkeys(names)]
    if len(groups) < 2 or not np.all(np.isfinite(values)):
        return NOTHING
    together = np.full((len(groups), max(map(len, groups))), math.nan)
    for row, group in zip(together, groups, strict=True):
        row[: len(group)] = group

    def of_drawn(chosen, axis):
        drawn = together[np.moveaxis(chosen, axis, -1)]
        return interquartile_mean(drawn.reshape(*drawn.shape[:-2], -1))

    return bootstrap_interval((np.arange(len(groups)),), of_drawn, seed, vectorized=True)


def bootstrap_interval(
    samples: Sequence[np.ndarray],
    statistic: Callable[..., np.ndarray | float],
    seed: int = 0,
    *,
    vectorized: bool = False,
) -> tuple[float, float]:
    """Percentile bootstrap of a statistic of one or more samples, each resampled on its own.

    Resamples for which the statistic is NaN are left out.

    Args:
      samples: `(n_i,)` each, two values or more.
      statistic: of as many arrays, each with as many values as its sample.
      seed: of the resampling.
      vectorized: the statistic takes `axis` and gives many values at once.

    Returns:
      Lower and upper end; NaN where fewer than half of the resamples have a value.
    """
    # Percentiles: the bias-corrected kind is not defined for values that are all equal.
    with warnings.catch_warnings():
        # What is told of resamples without a value: they are counted below.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            samples,
            statistic,
            confidence_level=CONFIDENCE,
            n_resamples=NUM_RESAMPLES,
            method="percentile",
            vectorized=vectorized,
            rng=np.random.default_rng(seed),
        )
    values = found.bootstrap_distribution
    if np.isnan(values).mean() > 0.5:
        return NOTHING
    edge = 100 * (1 - CONFIDENCE) / 2
    low, high = np.nanpercentile(values, (edge, 100 - edge))
    return float(low), float(high)


def wilson(rate: float, num_episodes: int) -> tuple[float, float]:
    """Wilson's interval of a success rate.

    Args:
      rate: share of episodes with a success; NaN where there is none.
      num_episodes: how many episodes it is the share of; 0 where that is not known.

    Returns:
      Lower and upper end; NaN where rate or episodes are not known.

    Raises:
      ValueError: the rate is no share, or the number is negative.
    """
    if num_episodes < 0:
        raise ValueError(f"num_episodes is {num_episodes}, allowed is 0 or more")
    if math.isnan(rate) or num_episodes == 0:
        return NOTHING
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"rate is {rate:g}, allowed is 0 to 1")
    test = stats.binomtest(round(rate * num_episodes), num_episodes)
    interval = test.proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)
