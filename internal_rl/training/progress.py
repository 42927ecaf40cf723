"""Progress of a stage: a bar where somebody watches, lines in a log where nobody does."""

import sys
import time
from collections.abc import Mapping

from absl import logging
from tqdm import tqdm

from internal_rl import hosts

SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """How far a stage has come.

    On a terminal it is one bar. In a file it is a line every half minute, and one for every
    evaluation with its figures.
    """

    def __init__(self, total: int, finished: int, name: str, unit: str):
        """Begins.

        Args:
          total: updates, rounds or shards of the whole stage.
          finished: those done before.
          name: of the stage.
          unit: what is counted, in the singular.
        """
        self._total, self._done, self._first = total, finished, finished
        self._name, self._unit = name, unit
        self._started = self._told = time.monotonic()
        self._bar = None
        if sys.stderr.isatty() and hosts.is_first():
            self._bar = tqdm(
                total=total,
                initial=finished,
                desc=name,
                unit=unit,
                dynamic_ncols=True,
                mininterval=0.5,
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, count: int = 1) -> None:
        """`count` more are done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)

    def tell(self, figures: Mapping[str, float]) -> None:
        """Shows the latest figures.

        Those of an evaluation (`evaluation/...`) are worth a line of their own at once.
        """
        evaluated = {k: v for k, v in figures.items() if k.startswith("evaluation/")}
        if self._bar is not None:
            if "loss" in figures:
                self._bar.set_postfix(loss=f"{figures['loss']:.4f}", refresh=False)
            return
        now = time.monotonic()
        finished = self._done >= self._total
        if not (evaluated or finished or now - self._told >= SECONDS_BETWEEN_LINES):
            return
        self._told = now
        shown = {k: v for k, v in figures.items() if k == "loss"} | evaluated
        text = ", ".join(f"{k.removeprefix('evaluation/')} {v:.4g}" for k, v in shown.items())
        logging.info("%s", f"{self._where(now)}{': ' if text else ''}{text}")

    def _where(self, now: float) -> str:
        rate = (self._done - self._first) / max(now - self._started, 1e-9)
        units = f"{self._unit}s"
        where = f"{self._name}: {self._done:,} of {self._total:,} {units}"
        if not rate or self._done >= self._total:
            return where
        left = (self._total - self._done) / rate
        speed = f"{rate:.3g} {units}/s" if rate >= 0.1 else f"{1 / rate:.3g} s per {self._unit}"
        return f"{where}, {speed}, {left / 60:.1f} min left"
