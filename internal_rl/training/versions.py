"""What a run is computed with: packages, devices, and the code itself."""

import functools
import hashlib
import importlib.metadata
import pathlib
import platform
import subprocess

import jax

_PACKAGES = (
    *("internal_rl", "jax", "jaxlib", "flax", "optax"),
    *("orbax-checkpoint", "numpy", "mujoco", "brax"),
)


def package_versions() -> dict[str, str | int]:
    """Versions of Python and of the packages that decide the numbers, the devices, the commit."""
    versions: dict[str, str | int] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    device = jax.devices()[0]
    where = {"platform": device.platform, "device": device.device_kind}
    where["num_devices"] = jax.device_count()
    return versions | where | {"commit": source_commit()}


@functools.cache
def source_commit() -> str:
    """The git commit of the checkout that runs, with `+changes` where files differ from it."""
    root = pathlib.Path(__file__).parents[2]
    if not (root / ".git").exists() or not (root / "setup.py").exists():
        return "not a checkout"

    def git(*arguments):
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "-uno")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}{'+changes' if changes else ''}"


@functools.cache
def code_fingerprint() -> str:
    """SHA-256 over the source files of the package, wherever it is installed."""
    root = pathlib.Path(__file__).parents[1]
    found = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        found.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
        found.update(content)
    return found.hexdigest()
