"""Figures, table and `summary.json` of whatever stages a work directory holds."""

from internal_rl.stages import launch, running

if __name__ == "__main__":
    launch.run(lambda settings, places: running.report(places))
