"""Do codes carry over? The paper's two tests as a study, see `analysis.code_tests` (method §5)."""

import math
from collections.abc import Mapping, Sequence

import chex
import numpy as np
from matplotlib.figure import Figure

from internal_rl.analysis.code_stages import Captions, code_stages, of_each_stage
from internal_rl.analysis.code_tests import ARMS, TESTS, CodeTests, Reached, examine_codes
from internal_rl.analysis.drawing import legend, palette, panels, tell
from internal_rl.analysis.injected_paths import Pairs, draw_pairs
from internal_rl.analysis.results import RunResults, SeedResults, standing, with_artifact, world_of
from internal_rl.analysis.statistics import wilson
from internal_rl.analysis.study import Arrays, Study, StudyContext, as_arrays
from internal_rl.analysis.table import Row, make_row, variant_prefixes
from internal_rl.methods.code_tests import CodeTestSettings
from internal_rl.methods.evaluation import evaluation_key

PREFIX = "sampled_code_"
"""How names of artifacts begin."""

_TITLES = {"step": "at a step", "unseen": "unseen transition"}
_LABELS = {
    "step": {
        "with": "sampled code injected at a step, reaches its colour (paper, ant: 0.36)",
        "without": "colour of the sampled code reached without it, at a step (paper, ant: 0.23)",
    },
    "unseen": {
        "with": "sampled code injected, takes an unseen transition (paper, ant: 0.24)",
        "without": "unseen transition of the sampled code taken without it (paper, ant: 0.10)",
    },
}
"""Labels by test and arm, beside the paper's figures (appendix B.3.2)."""

_NOTHING = Reached(*np.zeros((3, 1)))
"""Of a seed that has not been tested yet."""


def arrays_of(found: CodeTests) -> dict[str, chex.Array]:
    """What a stage keeps of the tests: counts and, where there are any, pairs of paths."""
    arrays = {f"{PREFIX}found": found.found}
    for test, reached in found.reached.items():
        arrays |= as_arrays(reached, f"{PREFIX}{test}_")
    return arrays | ({} if found.pairs is None else as_arrays(found.pairs, f"{PREFIX}pairs_"))


def measure(context: StudyContext) -> dict[str, chex.Array]:
    """`arrays_of` the tests."""
    settings = context.method.config.part(CodeTestSettings)
    key, count = evaluation_key("injection"), context.num_episodes
    return arrays_of(examine_codes(context.world, context.model, key, count, settings))


def reached_of(artifacts: Arrays) -> dict[str, Reached]:
    """`Reached` by test, of what a stage has kept; without those that it has not."""
    found = {}
    for test in TESTS:
        if f"{PREFIX}{test}_tried" in artifacts:
            names = ("tried", "with_code", "without_code")
            found[test] = Reached(*(artifacts[f"{PREFIX}{test}_{name}"] for name in names))
    return found


def _pooled(seeds: Sequence[SeedResults]) -> dict[str, Reached]:
    """`Reached` by test over all seeds."""
    found = {}
    for results in seeds:
        for test, reached in reached_of(results.artifacts).items():
            found[test] = found[test].plus(reached) if test in found else reached
    return found


def rows(stage: str, seeds: Sequence[SeedResults]) -> list[Row]:
    """Codes that were found, and how often they lead to their colour.

    A seed that has not been tested yet keeps its place.
    """
    key, label = variant_prefixes(stage)

    def found(choose):
        name = f"{PREFIX}found"
        return lambda s: float(choose(s.artifacts[name])) if name in s.artifacts else math.nan

    def rate(test, arm):
        return lambda s: reached_of(s.artifacts).get(test, _NOTHING).rate(arm)

    def episodes(test):
        return lambda s: reached_of(s.artifacts).get(test, _NOTHING).total

    name = f"{key}codes_{PREFIX}"
    table = [
        make_row(f"{name}found", f"{label}sampled codes that were kept", seeds, found(np.sum)),
        make_row(
            f"{name}fewest",
            f"{label}sampled codes that were kept, fewest of a colour",
            seeds,
            found(np.min),
        ),
    ]
    for test in _pooled(seeds):
        table += [
            make_row(f"{name}{test}_{arm}", label + told, seeds, rate(test, arm), episodes(test))
            for arm, told in _LABELS[test].items()
        ]
    return table


def text(run: RunResults) -> str:
    """How many codes of each colour were found, over all seeds."""
    lines = []
    for stage in sorted(filter(STUDY.looks_at, run)):
        found = [s.artifacts[f"{PREFIX}found"] for s in with_artifact(run, stage, f"{PREFIX}found")]
        if found:
            counts = enumerate(np.sum(found, axis=0))
            told = ", ".join(f"{number} of colour {colour}" for colour, number in counts)
            lines.append(f"- {stage}: sampled codes that were kept: {told}\n")
    return "".join(lines)


@of_each_stage
def figures(run: RunResults, stage: str) -> dict[str, Figure | None]:
    """Rates of all seeds, and pairs of paths of the first one."""
    seeds = with_artifact(run, stage, f"{PREFIX}found")
    if not seeds:
        return {}
    label = variant_prefixes(stage)[1]
    rates, paths = draw_rates(_pooled(seeds)), _draw_paths(seeds[0])
    if rates is not None:
        tell(rates, f"{label}Episodes of {standing(seeds)}")
    if paths is not None:
        tell(paths, f"{label}{standing(seeds[:1])}")
    return {"code_injection": rates, "injected_paths": paths}


def _draw_paths(results: SeedResults) -> Figure | None:
    names = {name: f"{PREFIX}pairs_{name}" for name in Pairs.__dataclass_fields__}
    world = world_of(results)
    if names["place"] not in results.artifacts or world is None:
        return None
    pairs = Pairs(**{name: results.artifacts[key] for name, key in names.items()})
    return draw_pairs(pairs, world.grid_size)


def draw_rates(reached: Mapping[str, Reached]) -> Figure | None:
    """How often the place of a sampled code is the next one visited, with it and without.

    Bars carry Wilson's intervals over episodes. None without any episode.

    Args:
      reached: by test.
    """
    reached = {test: counts for test, counts in reached.items() if counts.total}
    if not reached:
        return None
    figure, axes = panels(1, 1, (5.2, 3.6))
    panel, width = axes[0, 0], 0.36
    for i, (arm, colour) in enumerate(zip(ARMS, palette(2), strict=True)):
        at = np.arange(len(reached)) + (i - 0.5) * 1.08 * width
        heights = np.array([counts.rate(arm) for counts in reached.values()])
        ends = np.array([wilson(counts.rate(arm), counts.total) for counts in reached.values()]).T
        bars = panel.bar(at, heights, width, color=colour, label=f"{arm} the code")
        panel.bar_label(bars, fmt="%.2f", fontsize=8, padding=8)
        # Rounding may put an end on the wrong side of a rate of 0 or 1.
        spread = np.maximum(np.abs(ends - heights), 0.0)
        panel.errorbar(at, heights, spread, fmt="none", color="0.2", capsize=3, linewidth=1.0)
    labels = [f"{_TITLES[test]}\n{counts.total} episodes" for test, counts in reached.items()]
    panel.set_xticks(range(len(reached)), labels)
    panel.set(ylim=(0, 1.1), ylabel="next place is that of the code")
    panel.grid(False, axis="x")
    legend(panel, ncols=2, loc="upper center")
    figure.suptitle("Codes out of random rollouts, in other episodes", fontsize=11)
    return figure


STUDY = Study(
    name="injection",
    stages=code_stages,
    needs=frozenset({"visits", "layouts", "free_running"}),
    measure=measure,
    rows=rows,
    figures=figures,
    text=text,
    order=25,
    title="Codes out of random rollouts, injected into other episodes",
    captions=Captions(
        code_injection="How often the place of a sampled code is the next one visited, with the "
        "code and without it: injected at a fixed step, and where pretraining has no such "
        "transition. Bars carry 95 % intervals over episodes (Wilson).",
        injected_paths="Pairs of paths of the same episode, without and with a sampled code.",
    ),
)
