"""What an installation brings: the package alone, with its configs, weights and commands."""

import pathlib
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("setuptools", minversion="70.1")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    # Built from a copy: setuptools leaves a folder behind.
    source = folder / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a checkout")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([*command, "-w", folder, source], check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        yield archive


def test_a_wheel_holds_nothing_beside_the_package(wheel):
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"internal_rl"}


def test_a_wheel_holds_configs_weights_and_the_mark_of_types(wheel):
    names = set(wheel.namelist())
    assert {f"internal_rl/configs/{name}.py" for name in ("gridworld", "ant")} <= names
    assert {
        "internal_rl/py.typed",
        *(f"internal_rl/stages/page.{x}" for x in ("html", "js")),
    } <= names
    examples = [path.name for path in (ROOT / "examples").iterdir() if path.is_file()]
    assert {f"internal_rl/examples/{name}" for name in examples} <= names
    for stage in (ROOT / "internal_rl" / "pretrained").glob("*/*/*/seed_*/params.msgpack"):
        assert str(stage.relative_to(ROOT)) in names
    assert not [name for name in names if "test" in name.rpartition("/")[0].split("/")]


def test_a_wheel_brings_the_command_and_its_papers(wheel):
    def text(ending):
        name = next(name for name in wheel.namelist() if name.endswith(ending))
        return wheel.read(name).decode()

    assert "internal-rl = internal_rl.stages.command:main" in text("entry_points.txt")
    metadata = text("METADATA")
    assert "License-Expression: Apache-2.0" in metadata or "License: Apache-2.0" in metadata
    required = [
        line
        for line in metadata.splitlines()
        if line.startswith("Requires-Dist") and "extra ==" not in line
    ]
    assert not [line for line in required if "mujoco" in line or "brax" in line or "grain" in line]
