"""Statistics over runs against closed forms, plain sorting, and cases with a known answer."""

import itertools
import math
import statistics as plain

import numpy as np
import pytest

from internal_rl.analysis.statistics import bootstrap_interval, quartiles, summarise, wilson

NAN, INF = math.nan, math.inf


def closed_wilson(rate, n):
    """The formula of Wilson (1927)."""
    z = plain.NormalDist().inv_cdf(0.975)
    middle = rate + z**2 / (2 * n)
    half = z * math.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (1, 1), (3, 7), (512, 1024), (999, 1000)])
def test_wilson_is_that_of_the_closed_formula(successes, n):
    np.testing.assert_allclose(wilson(successes / n, n), closed_wilson(successes / n, n), atol=1e-9)


def test_wilson_of_no_success_leaves_room_above_and_none_below():
    low, high = wilson(0.0, 1_000)
    assert low == 0.0 and 0.003 < high < 0.005


def test_wilson_of_what_is_not_known_is_not_known():
    assert np.isnan(wilson(NAN, 10)).all()
    assert np.isnan(wilson(0.5, 0)).all()


@pytest.mark.parametrize(
    ("rate", "n", "message"),
    [(1.5, 10, "rate is 1.5, allowed is 0 to 1"), (0.5, -1, "num_episodes is -1, allowed is 0")],
)
def test_what_is_no_rate_is_refused(rate, n, message):
    with pytest.raises(ValueError, match=message):
        wilson(rate, n)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 10, 30])
def test_the_interquartile_mean_is_that_of_the_middle_of_the_ordered_values(count):
    values = np.random.default_rng(count).normal(size=count)
    ordered = sorted(values.tolist())
    left_out = count // 4
    expected = plain.fmean(ordered[left_out : count - left_out])
    assert summarise(values).mean == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(1,), (2,), (5, 3), (8, 2, 2)])
def test_quartiles_are_numpys(shape):
    values = np.random.default_rng(0).normal(size=shape)
    expected = np.quantile(values, [0.25, 0.5, 0.75], axis=0)
    np.testing.assert_allclose(quartiles(values), expected)
    with_gap = np.concatenate([values, np.full((2, *shape[1:]), NAN)])
    np.testing.assert_allclose(quartiles(with_gap), expected)


def test_one_run_has_a_median_and_no_interval():
    found = summarise([0.4])
    assert (found.count, found.median, found.lower, found.upper, found.mean) == (1, *[0.4] * 4)
    assert np.isnan(found.interval).all()


def test_equal_values_have_an_interval_without_width():
    found = summarise([0.4] * 6)
    assert (found.lower, found.median, found.upper) == (0.4, 0.4, 0.4)
    np.testing.assert_allclose(found.interval, (0.4, 0.4))


def test_runs_without_a_value_do_not_count():
    assert summarise([NAN, 1.0, NAN, 3.0]) == summarise([1.0, 3.0])
    found = summarise([NAN, NAN])
    assert found.count == 0 and np.isnan([found.median, found.mean, *found.interval]).all()
    assert summarise([]).count == 0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([100.0, 200.0, INF], (150.0, 200.0, INF)),
        ([100.0, 200.0, 300.0, INF], (175.0, 250.0, 300.0)),
        ([100.0, INF, INF], (100.0, INF, INF)),
        ([100.0, 200.0, 300.0, 400.0, INF], (200.0, 300.0, 400.0)),
        ([100.0, INF], (100.0, 100.0, INF)),
        ([INF], (INF, INF, INF)),
    ],
)
def test_what_never_happened_counts_as_later_than_all_else(values, expected):
    found = summarise(values)
    assert (found.lower, found.median, found.upper) == expected
    assert np.isnan(found.interval).all()


def cluster_interval(groups):
    """Every resample of a few groups, each with its probability, and their interquartile means."""
    means = []
    for chosen in itertools.product(groups, repeat=len(groups)):
        ordered = sorted(sum(chosen, []))
        left_out = len(ordered) // 4
        means.append(plain.fmean(ordered[left_out : len(ordered) - left_out]))
    return np.percentile(means, [2.5, 97.5], method="inverted_cdf")


@pytest.mark.parametrize(
    "groups",
    [
        [[0.1, 0.2, 0.15], [0.8, 0.9, 0.85], [0.5, 0.45, 0.6]],
        [[0.1], [0.8, 0.9, 0.85, 0.7, 0.95]],
        [[1.0, 2.0], [3.0], [5.0, 6.0, 7.0], [9.0]],
    ],
)
def test_base_models_are_drawn_with_all_of_their_runs(groups):
    """Against all resamples that there are of so few base models."""
    values = [value for group in groups for value in group]
    bases = [f"{i}" for i, group in enumerate(groups) for _ in group]
    found = summarise(values, bases=bases)
    np.testing.assert_allclose(found.interval, cluster_interval(groups), rtol=1e-9)
    order = np.random.default_rng(0).permutation(len(values))
    shuffled = summarise([values[i] for i in order], bases=[bases[i] for i in order])
    np.testing.assert_allclose(shuffled.interval, found.interval, rtol=0.03)
    without = summarise([NAN, *values], bases=["of its own", *bases])
    assert without.interval == found.interval and without.mean == found.mean
    low, high = summarise(values).interval
    assert found.interval[1] - found.interval[0] > high - low


def test_runs_on_one_base_model_say_nothing_about_others():
    assert np.isnan(summarise([0.1, 0.2, 0.3], bases=["0"] * 3).interval).all()
    assert np.isnan(summarise([0.1, 0.2, NAN], bases=["0", "0", "1"]).interval).all()


def test_where_base_models_are_not_known_runs_are_drawn():
    values = [0.1, 0.5, 0.2, 0.9]
    alone = summarise(values)
    assert alone.interval[0] < alone.interval[1]
    for bases in (["0", "0", None, "1"], [None] * 4, ["0", "1", "2", "3"]):
        assert summarise(values, bases=bases) == alone


def test_resamples_without_a_value_are_left_out_unless_they_are_many():
    """The statistic of the interval of a gap is not known where two curves share no rate."""
    values = np.arange(6.0)
    always = bootstrap_interval([values], np.mean)
    rarely = bootstrap_interval([values], lambda x: NAN if x.max() < 4 else np.mean(x))
    assert np.isfinite(rarely).all() and rarely[0] >= always[0]
    often = bootstrap_interval([values], lambda x: NAN if x.min() > 0 or x.max() < 5 else 0.0)
    assert np.isnan(often).all()


def test_the_interval_is_the_same_again_and_holds_the_mean():
    values = np.random.default_rng(2).normal(size=12)
    found = summarise(values)
    assert found == summarise(values)
    assert found.interval != summarise(values, seed=1).interval
    assert found.interval[0] < found.mean < found.interval[1]


def test_the_interval_covers_the_true_value_about_as_often_as_it_says():
    """The interquartile mean of a normal distribution is its centre."""
    samples = np.random.default_rng(3).normal(2.0, 1.0, size=(200, 30))
    intervals = [summarise(sample).interval for sample in samples]
    covered = np.mean([low <= 2.0 <= high for low, high in intervals])
    # Of 200 cases, 0.95 gives 0.90 to 0.99; percentiles of few runs are a little too narrow.
    assert 0.87 <= covered <= 0.99
    widths = [high - low for low, high in intervals]
    # 2 * 1.96 standard errors; the interquartile mean's is 1.09 times that of the mean.
    assert np.mean(widths) == pytest.approx(2 * 1.96 * 1.09 / math.sqrt(30), rel=0.1)
