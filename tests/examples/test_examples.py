"""What the examples and the README show works as it stands there."""

import ast
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.acting.episodes import Episodes
from internal_rl.envs.world import DataRequest

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def run(arguments, folder):
    """A script that is started in another folder, from which only the package is seen."""
    command = [sys.executable, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


def test_a_world_of_ones_own_goes_through_all_stages(tmp_path):
    process = run([EXAMPLES / "own_world.py", tmp_path / "castle", "smoke"], tmp_path)
    assert process.returncode == 0, process.stderr[-3000:]
    workdir = tmp_path / "castle"
    for stage in ("pretrain", "probe", "metacontroller", "internal_rl", "raw_rl"):
        assert (workdir / stage / "seed_0" / "DONE").exists(), stage
    summary = json.loads((workdir / "report" / "summary.json").read_text())
    for name in ("internal_rl_success", "raw_rl_success", "switching_f1", "reference_constant"):
        assert isinstance(summary[name], float), name
    assert (workdir / "report" / "gates.png").exists()
    # What the world does not tell is said, not guessed.
    table = (workdir / "report" / "table.md").read_text()
    assert re.search(r"study \w+ left out: .*layouts", table), table
    assert not (workdir / "report" / "paths.png").exists()


def test_what_the_castle_holds_out_is_in_no_training():
    spec = importlib.util.spec_from_file_location("own_world", EXAMPLES / "own_world.py")
    castle = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(castle)
    world = castle.CastleWorld(castle.CastleConfig())
    steps = castle.CROSSINGS  # before the first room, all of which every walk has

    def walks(rows):
        """The signs at the first crossings of every walk."""
        first = np.diff(rows.segment, axis=1, prepend=-1) != 0
        found = np.argwhere(first & (rows.segment >= 0))
        signs = rows.observation[..., : castle.K]
        return {signs[row, start : start + steps].tobytes() for row, start in found}

    data = {
        role: castle.make_data(DataRequest(world, None, role)) for role in ("pretraining", "clean")
    }
    trained, held_out = (
        walks(data["pretraining"].arrays["train"]),
        walks(data["clean"].arrays["held_out"]),
    )
    assert len(trained) > 5_000 and len(held_out) > 500
    # Six crossings of five signs repeat by chance, one of 2^30 times.
    assert len(trained & held_out) < 3


def test_a_block_of_ones_own_trains_steps_and_steers(tmp_path):
    process = run([EXAMPLES / "own_block.py", tmp_path / "gru"], tmp_path)
    assert process.returncode == 0, process.stderr[-3000:]
    with np.load(tmp_path / "gru" / "steer" / "seed_0" / "artifacts.npz") as artifacts:
        assert artifacts["success"].shape == (3,)


def test_an_environment_of_gymnax_becomes_a_world(tmp_path):
    pytest.importorskip("gymnax")
    process = run([EXAMPLES / "gymnax_world.py"], tmp_path)
    assert process.returncode == 0, process.stderr[-3000:]
    assert process.stdout == "a world that stages and methods can act in\n"


@pytest.mark.parametrize("name", ["own_world.py", "own_block.py"])
def test_examples_stay_short(name):
    allowed = {"own_world.py": 150, "own_block.py": 60}[name]
    assert len((EXAMPLES / name).read_text().splitlines()) <= allowed


def test_the_first_command_of_the_readme_shortened(tmp_path):
    command = re.search(r"pip install -e \. && python (.*)", (ROOT / "README.md").read_text())[1]
    short = {"episodes_per_update": 16, "evaluation_episodes": 16}
    steps = [
        argument
        for stage in ("internal_rl", "raw_rl")
        for argument in (
            f"--config.quickstart.{stage}.steps=2",
            *(f"--config.{stage}.{field}={value}" for field, value in short.items()),
        )
    ]
    arguments = [sys.executable, *command.split(), *steps, f"--workdir={tmp_path}"]
    process = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    assert re.fullmatch(
        r"internal RL solves [\d.]+% of the held-out task's episodes, raw-action RL 0.0%,"
        r" after 32 and 32 episodes \([\d.]+ minutes\)\n",
        process.stdout,
    )
    assert (tmp_path / "report" / "reinforcement_learning.png").exists()
    # It has one seed, and so has what could be run beside it, with commands that say so.
    page = (tmp_path / "report" / "index.html").read_text()
    missing = re.findall(
        r"<tr><th scope=.row.>(\w+)</th><td>([\d, ]*)</td><td>not run</td>.*", page
    )
    assert {"probe", "compile", "internal_rl_forced"} <= {stage for stage, _ in missing}
    assert {seeds for stage, seeds in missing} == {"0"}
    assert page.count("--config.raw_rl.seeds_per_input=1") >= len(missing)


def readme_block(word):
    """The Python block of the README that holds a word."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return next(block for block in blocks if word in block)


def test_the_readme_steers_a_shipped_model_in_twelve_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    block = readme_block("irl.load")
    assert len([line for line in block.splitlines() if line.strip()]) <= 12
    names = {}
    exec(block, names)
    assert (tmp_path / "gates.png").exists()
    episodes, steered, found = names["episodes"], names["steered"], names["found"]
    assert names["residual"].shape == (*episodes.active.shape, 64)
    assert found.code.shape == (*episodes.active.shape, 8)
    assert jnp.any(steered.visit != episodes.visit)
    # The code is of a step that every episode has.
    (place,) = re.findall(r"inject=found\.code\[(\d+), (\d+)\]", block)
    assert int(place[1]) < episodes.length.min()
    example = (EXAMPLES / "steer_a_shipped_model.py").read_text()
    assert block.splitlines()[-1] in example


def test_the_example_compares_first_visits():
    tree = ast.parse((EXAMPLES / "steer_a_shipped_model.py").read_text())
    kept = (ast.Import, ast.ImportFrom, ast.FunctionDef)
    tree.body = [node for node in tree.body if isinstance(node, kept)]
    names = {}
    exec(compile(tree, "steer_a_shipped_model.py", "exec"), names)
    visit = jnp.array([[-1, 3, 0, 0], [-1, -1, 3, 0], [-1, -1, 0, 0], [0, 2, -1, -1]])
    active = jnp.arange(4) < jnp.array([2, 3, 2, 4])[:, None]
    # The third one ends without a visit: the zeros behind its end are none.
    assert names["first_visit"](Episodes(active, visit=visit)).tolist() == [3, 3, -1, 0]


def test_the_readme_makes_and_updates_a_method():
    names = {"irl": __import__("internal_rl"), "jax": jax}
    exec(readme_block("Pretraining"), names)
    assert np.isfinite(names["metrics"]["loss"])


def test_every_cell_of_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = json.loads((EXAMPLES / "steer_a_shipped_model.ipynb").read_text())["cells"]
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    reached = {
        name: float(jnp.mean(names["first_visit"](names[name]) == names["colour"]))
        for name in ("alone", "steered")
    }
    assert reached["steered"] > reached["alone"]
    assert isinstance(names["agent"].model.layer, int) and jax.tree.leaves(names["agent"].model)
