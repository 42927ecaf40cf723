"""Most of the tests' time is compiling: they compile with little optimisation, and nothing twice.

`JAX_DISABLE_MOST_OPTIMIZATIONS=0 pytest` runs them as users run them. Workers and the scripts that
tests start share what is compiled in a folder that goes with the session. It stays if
`JAX_COMPILATION_CACHE_DIR` names one, and a second session then takes a fraction of the time.
"""

import os
import shutil
import tempfile

os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

_made = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _made = tempfile.mkdtemp(prefix="compiled_")
    # Workers are started later and inherit it.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _made


# Files that take longest, longest first: a worker that begins with one at the end would be the only
# one at work.
LONGEST = (
    "tests/examples/test_examples.py",
    "tests/stages/test_stages.py",
    "tests/experts/test_two_devices.py",
    "tests/envs/test_physics.py",
    "tests/methods/test_internal_rl.py",
    "tests/experts/test_x64_and_mesh.py",
    "tests/stages/test_launch.py",
    "tests/stages/test_x64.py",
    "tests/testing/test_worlds.py",
    "tests/analysis/test_study.py",
)


def pytest_collection_modifyitems(items):
    """Puts the longest files first."""
    place = {name: index for index, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(place)))


def pytest_unconfigure(config):
    del config
    if _made:
        shutil.rmtree(_made, ignore_errors=True)
