"""What the expert reaches, by which later stages are measured (method §2, §6)."""

from collections.abc import Sequence

from internal_rl.analysis.results import SeedResults
from internal_rl.analysis.study import Study
from internal_rl.analysis.table import Row, make_row

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


STUDY = Study(
    name="expert",
    stages=("expert",),
    rows=rows,
    order=0,
    title="The expert",
)
