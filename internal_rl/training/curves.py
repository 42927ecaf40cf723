"""Curves of a run as one table."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from internal_rl.errors import StageMissingError, StorageError
from internal_rl.extras import needs_extra
from internal_rl.paths import AnyPath, as_path
from internal_rl.training.metrics import METRICS_FILE, read_metrics
from internal_rl.training.stage_directory import StageDirectory, seed_of, stage_of

if TYPE_CHECKING:
    import pandas


def with_episodes(
    metrics: Sequence[Mapping], stage: str, config: Mapping
) -> Sequence[Mapping[str, Any]]:
    """Lines of metrics with the `episodes` played so far; those of other stages as they are.

    Args:
      metrics: lines of `metrics.jsonl`.
      stage: folder, of a stage or of a variant of it.
      config: sections by name; that of the stage tells how many episodes an update has.
    """
    section = config.get(stage_of(stage, config), {})
    episodes = section.get("episodes_per_update") if isinstance(section, Mapping) else None
    if episodes is None:
        return metrics
    return [{**line, "episodes": line["step"] * episodes} for line in metrics]


def curves(workdir: str | os.PathLike, stage: str = "") -> "pandas.DataFrame":
    """Every line of `metrics.jsonl` of a run, as a pandas table.

    Args:
      workdir: work directory of the run; it may still be training.
      stage: folder of one stage, such as `"internal_rl"` or `"metacontroller_forced"`; all of them
        by default.

    Returns:
      One row for each line, with the columns `stage`, `seed`, `step` and the metrics of all stages;
      what a stage does not measure, or not at that step, is NaN. Stages of reinforcement learning
      have `episodes`, those played so far.

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
        lines = with_episodes(read_metrics(file.parent), where["stage"], _config(file.parent))
        rows += [where | line for line in lines]
    if not rows:
        known = sorted({path.parents[1].name for path in folder.glob("*/seed_*/*")})
        raise StageMissingError(
            f"{workdir}: no curves of {stage or 'any stage'}, there are stages"
            f" {', '.join(known) or 'none'}"
        )
    return pandas.DataFrame(rows).sort_values(["stage", "seed", "step"], ignore_index=True)


def _config(folder: AnyPath) -> Mapping:
    """Sections of a stage that has begun; none where `config.json` is missing or damaged."""
    with contextlib.suppress(StorageError, OSError):
        return StageDirectory(folder.parents[1], folder.parent.name, seed_of(folder)).read_config()[
            "config"
        ]
    return {}
