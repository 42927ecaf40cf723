"""Curves of a run as one table."""

import os
from typing import TYPE_CHECKING

from internal_rl.errors import StageMissingError
from internal_rl.extras import needs_extra
from internal_rl.paths import as_path
from internal_rl.training.metrics import METRICS_FILE, read_metrics
from internal_rl.training.stage_directory import seed_of

if TYPE_CHECKING:
    import pandas


def curves(workdir: str | os.PathLike, stage: str = "") -> "pandas.DataFrame":
    """Every line of `metrics.jsonl` of a run, as a pandas table.

    Args:
      workdir: work directory of the run; it may still be training.
      stage: folder of one stage, such as `"internal_rl"` or `"metacontroller_forced"`; all of them
        by default.

    Returns:
      One row for each line, with the columns `stage`, `seed`, `step` and the metrics of all stages;
      what a stage does not measure, or not at that step, is NaN.

    Raises:
      StageMissingError: there are no curves.
      ConfigError: pandas is not installed.
    """
    with needs_extra("tables", "curves"):
        import pandas

    rows, folder = [], as_path(workdir)
    for file in sorted(folder.glob(f"{stage or '*'}/seed_*/{METRICS_FILE}")):
        seed = seed_of(file.parent)
        if seed is None:
            continue
        where = {"stage": file.parent.parent.name, "seed": seed}
        rows += [where | line for line in read_metrics(file.parent)]
    if not rows:
        known = sorted({path.parents[1].name for path in folder.glob("*/seed_*/*")})
        raise StageMissingError(
            f"{workdir}: no curves of {stage or 'any stage'}, there are stages"
            f" {', '.join(known) or 'none'}"
        )
    return pandas.DataFrame(rows).sort_values(["stage", "seed", "step"], ignore_index=True)
