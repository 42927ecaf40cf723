"""Internal reinforcement learning: steering a frozen sequence model by its own abstractions."""

from internal_rl.host_compiler import guard_host_compiler
from internal_rl.host_memory import keep_host_memory
from internal_rl.host_threads import guard_host_threads

__version__ = "0.1.0"

# What was done about XLA's CPU runtime, its memory and compiler, for logs that start later.
HOST_THREADS = guard_host_threads()
HOST_MEMORY = keep_host_memory()
HOST_COMPILER = guard_host_compiler()
