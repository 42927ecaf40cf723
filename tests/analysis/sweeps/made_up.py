"""Finished runs that nobody has trained."""

import numpy as np

from internal_rl.analysis.results import SeedResults
from internal_rl.analysis.sweeps.sweep import FinishedRun, SweepResults


def seed_results(seed, metrics=(), artifacts=None, *, stage="x", config=None):
    """Results of one seed; a float in `artifacts` becomes an array."""
    arrays = {name: np.asarray(value) for name, value in (artifacts or {}).items()}
    return SeedResults(stage, seed, config or {}, list(metrics), arrays, base=0)


def rate_distortion_results(arms=("frozen", "co-trained"), seeds=3, missing=()):
    """Both arms over alpha: the frozen one jumps between 0.1 and 0.3."""
    rng, runs = np.random.default_rng(0), []
    nlls = {
        "frozen": (0.02, 0.03, 0.06, 0.31, 0.36),
        "co-trained": (0.01, 0.05, 0.12, 0.24, 0.36),
    }
    kls = (3.0, 1.2, 0.35, 0.2, 0.001)
    f1s = {"frozen": (0.2, 0.6, 0.95, 0.4, 0.0), "co-trained": (0.1, 0.2, 0.2, 0.1, 0.0)}
    switches = {"frozen": (20.0, 8.0, 2.1, 1.0, 0.0), "co-trained": (6.0, 2.0, 0.3, 0.1, 0.0)}
    for arm in arms:
        for index, alpha in enumerate((0.0, 0.05, 0.1, 0.3, 1.0)):
            found = [
                seed_results(
                    seed,
                    [{"step": 1, "reference/bayes": 0.38, "reference/goal_given": 0.05}],
                    {
                        "action_nll": nlls[arm][index] + 0.004 * rng.normal(),
                        "kl": kls[index] * np.exp(0.1 * rng.normal()),
                        "f1": f1s[arm][index],
                        "switches_per_trajectory": switches[arm][index],
                    },
                )
                for seed in range(seeds)
            ]
            labels = {"arm": arm, "alpha": alpha}
            runs.append(FinishedRun(f"{arm}_alpha{alpha:g}", labels, {}, found))
    return SweepResults(runs, missing)


def controllers_results(label, values, depths=(4, 6), seeds=5):
    """Success of controllers by layer, higher at the middle and for later values."""
    rng, runs = np.random.default_rng(0), []
    for depth in depths:
        for index, value in enumerate(values):
            layers = np.arange(depth + 1)
            shape = 0.6 * np.exp(-((layers - depth / 2) ** 2) / depth) * (1 + index) / len(values)
            found = [
                seed_results(
                    seed,
                    artifacts={"success": np.clip(shape + 0.04 * rng.random(depth + 1), 0, 1)},
                    config={"base": {"depth": depth}},
                )
                for seed in range(seeds)
            ]
            labels = {"depth": depth} | ({label: value} if label else {})
            runs.append(FinishedRun(f"depth{depth}_{value}", labels, {}, found))
    return SweepResults(runs)


def selection_results(missing=()):
    """Two methods that learn at one rate each, and one that does not."""
    runs = []
    stages = {"discovered": "internal_rl", "raw_actions": "raw_rl"}
    stages["compile"] = "internal_rl_compile"
    tops = {"discovered": {3e-5: 0.2, 1e-4: 0.8, 3e-4: 0.5}, "raw_actions": {3e-5: 0.0, 1e-4: 0.0}}
    tops["compile"] = {3e-5: 0.3, 1e-4: 0.3, 3e-4: 0.1}
    for method, by_rate in tops.items():
        for rate, top in by_rate.items():
            # Equal medians of compile: the rate of 1e-4 has the better mean.
            values = [max(top - 0.1, 0), top, min(top + (0.1 if rate < 1e-4 else 0.2), 1)]
            lines = [{"step": step, "episodes": 100.0 * step} for step in range(1, 9)]
            found = [
                seed_results(
                    seed,
                    [line | {"success": value * line["step"] / 8} for line in lines],
                    {"success": value},
                    stage=stages[method],
                )
                for seed, value in enumerate(values)
            ]
            labels = {"method": method, "rate": rate}
            labels |= {"alpha": 0.1} if method == "discovered" else {}
            section = "raw_rl" if method == "raw_actions" else "internal_rl"
            fields = {f"{section}.learning_rate": rate}
            fields = {"metacontroller.variant": method, **fields} if section != "raw_rl" else fields
            runs.append(FinishedRun(f"{method}_rate{rate:g}", labels, fields, found))
    return SweepResults(runs, missing)
