"""Figures, table and `summary.json` of whatever stages a work directory holds."""

import math

from absl import logging
from ml_collections import ConfigDict

from experiments import launch
from internal_rl.analysis.report import write_report


def main(config: ConfigDict, workdir: str) -> None:
    """Writes `<workdir>/report/`."""
    del config
    write_report(workdir, math.nan)
    logging.info("figures and tables are in %s/report", workdir)


if __name__ == "__main__":
    launch.run(main)
