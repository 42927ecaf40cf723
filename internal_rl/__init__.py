"""Internal reinforcement learning: steering a frozen sequence model by its own abstractions."""

from internal_rl.host_threads import guard_host_threads

__version__ = "0.1.0"

# What was done about the threads of XLA's CPU runtime, for logs that start later.
HOST_THREADS = guard_host_threads()
