"""Most of the tests' time is compiling: they compile with little optimisation, and nothing twice.

`JAX_DISABLE_MOST_OPTIMIZATIONS=0 pytest` runs them as users run them. Workers and the scripts that
tests start share what is compiled in a folder that goes with the session. It stays if
`JAX_COMPILATION_CACHE_DIR` names one, and a second session then takes a fraction of the time.
"""

import importlib.util
import mmap
import os
import pathlib
import shutil
import tempfile

import pytest

# XLA's older emitter of fused loops, no division of a program among threads, and no search for what
# loops could do without: together they halve the seconds that it takes to compile.
QUICK_OPTIONS = {
    "xla_cpu_use_fusion_emitters": "false",
    "xla_cpu_parallel_codegen_split_count": "1",
    "xla_disable_hlo_passes": (
        "simplify-while-loops,while-loop-invariant-code-motion,while-loop-constant-sinking"
    ),
}


def _options_known(names) -> set[str]:
    """Those of the options that this version of XLA knows: an unknown one ends the process."""
    spec = importlib.util.find_spec("jaxlib")
    found = set()
    for path in pathlib.Path(spec.origin).parent.glob("*.so"):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            # As a text of its own; a name that is merely reserved stands in longer ones.
            found |= {name for name in names if data.find(f"\0{name}\0".encode()) >= 0}
    return found


if os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1":
    _flags = os.environ.get("XLA_FLAGS", "")
    # Workers and scripts that tests start inherit them.
    for _name in sorted(_options_known([name for name in QUICK_OPTIONS if name not in _flags])):
        _flags += f" --{_name}={QUICK_OPTIONS[_name]}"
    os.environ["XLA_FLAGS"] = _flags.strip()
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


@pytest.fixture(scope="session", autouse=True)
def one_phase():
    """Rollouts keep their slots to the end: each smaller number of slots is a program of its own.

    `tests/envs/test_slots.py` tests them with several phases, where users have them.
    """
    from internal_rl.envs import slots

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slots, "MAX_PHASES", 1)
        yield


def pytest_unconfigure(config):
    del config
    if _made:
        shutil.rmtree(_made, ignore_errors=True)
