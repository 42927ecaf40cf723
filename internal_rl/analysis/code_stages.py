"""What studies share that look at every stage which finds codes, those of users included.

Figures of the metacontroller have plain names, those of another stage end with its name: `gates`,
`gates_compile`. What they show is the same, and so are their captions.
"""

import functools
from collections.abc import Callable, Iterator, Mapping

from matplotlib.figure import Figure

from internal_rl.analysis.results import RunResults
from internal_rl.methods.code_finding import CODE_STAGES
from internal_rl.training.stage_directory import stage_of

Figures = Mapping[str, Figure | None]


def code_stages() -> tuple[str, ...]:
    """Stages that find codes, for `Study.stages`."""
    return tuple(CODE_STAGES)


def of_each_stage(draw: Callable[[RunResults, str], Figures]) -> Callable[[RunResults], Figures]:
    """Makes `Study.figures`, which draw every stage that finds codes, of a function of one stage.

    Args:
      draw: `draw(run, stage)`: figures of a stage by file name.
    """

    @functools.wraps(draw)
    def figures(run: RunResults) -> Figures:
        found: dict[str, Figure | None] = {}
        for stage in code_stages():
            ending = "" if stage == "metacontroller" else f"_{stage}"
            found |= {name + ending: figure for name, figure in draw(run, stage).items()}
        return found

    return figures


class Captions(Mapping[str, str]):
    """`Study.captions` by file name; each holds for the figures of other stages too."""

    def __init__(self, **captions: str):
        self._captions = captions

    def __getitem__(self, name: str) -> str:
        return self._captions[stage_of(name, self._captions)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._captions)

    def __len__(self) -> int:
        return len(self._captions)
