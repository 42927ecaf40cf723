"""Internal reinforcement learning: steering a frozen sequence model by its own abstractions.

    import internal_rl as irl

    agent = irl.load("gridworld-pinpad/small")
    episodes = agent.rollout(num_episodes=256, key=jax.random.key(0))
    found = agent.discover(episodes)

Everything below is imported when it is first used; none of it defines command-line flags.
"""

import importlib
import sys

if sys.platform == "win32":
    raise ImportError("internal_rl does not run on Windows itself: use WSL (Linux) or macOS")

from internal_rl.host_compiler import guard_host_compiler
from internal_rl.host_memory import keep_host_memory
from internal_rl.host_threads import guard_host_threads

__version__ = "0.1.0"

# What was done about XLA's CPU runtime, its memory and compiler, for logs that start later.
HOST_THREADS = guard_host_threads()
HOST_MEMORY = keep_host_memory()
HOST_COMPILER = guard_host_compiler()

# The public face: names and the modules that hold them; an empty name stands for the module.
_PUBLIC = {
    "Agent": ("internal_rl.agent", "Agent"),
    "load": ("internal_rl.loading", "load"),
    "ActionSpec": ("internal_rl.types", "ActionSpec"),
    "ObservationSpec": ("internal_rl.types", "ObservationSpec"),
    "Timestep": ("internal_rl.types", "Timestep"),
    "Trajectory": ("internal_rl.types", "Trajectory"),
    "Dataset": ("internal_rl.experts.dataset", "Dataset"),
    "SteeredModel": ("internal_rl.models.steered_model", "SteeredModel"),
    "adapters": ("internal_rl.envs.adapters", ""),
    "register_gym": ("internal_rl.envs.adapters", "register_gym"),
    "capabilities": ("internal_rl.envs.world", "capabilities"),
    "make_data": ("internal_rl.experts.data_section", "make_data"),
    "make_world": ("internal_rl.envs.world", "make"),
    "register_world": ("internal_rl.envs.world", "register_world"),
    "register_block": ("internal_rl.models.blocks", "register_block"),
    "register_study": ("internal_rl.analysis.study", "register_study"),
    "register_sweep": ("internal_rl.analysis.sweeps.sweep", "register_sweep"),
    "curves": ("internal_rl.training.curves", "curves"),
    "register_logger": ("internal_rl.training.loggers", "register_logger"),
    "make_config": ("internal_rl.stages.settings", "make_config"),
    "run_stages": ("internal_rl.stages", "run_stages"),
    "studies": ("internal_rl.studies", ""),
    "testing": ("internal_rl.testing", ""),
}

if "gymnasium" in sys.modules:
    # `gymnasium.make` knows the worlds of this package, as users of gymnasium expect of an import.
    importlib.import_module("internal_rl.envs.adapters").register_gym()

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'internal_rl' has no attribute '{name}'")
    module, attribute = _PUBLIC[name]
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
