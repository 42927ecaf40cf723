"""A page, figures, tables and `summary.json` of whatever stages a work directory holds."""

from internal_rl.stages import launch

if __name__ == "__main__":
    launch.run_report()
