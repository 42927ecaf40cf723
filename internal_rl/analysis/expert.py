"""What the expert reaches, by which later stages are measured (method §2, §6)."""

from collections.abc import Sequence

from internal_rl.analysis.results import RunResults, SeedResults
from internal_rl.analysis.statistics import summarise
from internal_rl.analysis.study import Study
from internal_rl.analysis.table import Row, make_row

SUCCESS = "post_training/success"

_TASKS = {"pretraining": "pretraining tasks", "post_training": "post-training task"}
_LABELS = {
    "success": "success of mean actions",
    "solvable_success": "success where the layout allows it",
    "steps_per_colour": "steps per colour",
}


def rows(stage: str, seeds: Sequence[SeedResults]) -> list[Row]:
    """Success and speed on the pretraining tasks and on the post-training task."""
    del stage
    return [
        make_row(
            f"expert_{tasks}_{name}",
            f"{_TASKS[tasks]}, {label}",
            seeds,
            lambda s, name=f"{tasks}/{name}": s.last(name),
            (lambda s: s.evaluation_episodes) if name == "success" else None,
        )
        for tasks in _TASKS
        for name, label in _LABELS.items()
    ]


def success_of_expert(run: RunResults) -> float:
    """Median over experts of their success on the post-training task; NaN where it is not known."""
    return summarise([results.last(SUCCESS) for results in run.get("expert", ())]).median


STUDY = Study(
    name="expert",
    stages=("expert",),
    rows=rows,
    order=0,
    title="The expert",
)
