"""Stages of a run: a method each, with what it reads from and writes to a work directory."""

from internal_rl.stages.running import run, run_all, run_stages
from internal_rl.stages.settings import Settings, make_config

__all__ = ["Settings", "make_config", "run", "run_all", "run_stages"]
