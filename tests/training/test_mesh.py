"""Seeds and rows spread over several devices give what one device gives."""

import json
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from internal_rl.training.loop import run_stage
from internal_rl.training.mesh import make_mesh, num_shares, spread, total
from internal_rl.training.stage_results import load_stage
from tests.devices import several_devices
from tests.training.test_loop import ROOT
from tests.training.toy import make_stage


@pytest.mark.parametrize(
    ("num_seeds", "num_devices", "shape"), [(1, 1, (1, 1)), (2, 4, (2, 2)), (10, 4, (2, 2))]
)
def test_seeds_take_devices_first_and_rows_the_rest(num_seeds, num_devices, shape):
    mesh = make_mesh(num_seeds, jax.devices() * num_devices)
    assert mesh.devices.shape == shape
    assert mesh.axis_names == ("seed", "data")


def test_one_device_and_meshes_of_somebody_else_share_nothing_out():
    def shares():
        return jnp.int32(num_shares()), total(jnp.ones(()))

    assert tuple(spread(shares)()) == (1, 1)
    for name, kind in (("data", AxisType.Explicit), ("rows", AxisType.Auto)):
        mesh = jax.make_mesh((1,), (name,), axis_types=(kind,))
        with jax.set_mesh(mesh):
            assert tuple(jax.jit(spread(shares))()) == (1, 1)


def test_an_update_runs_in_an_explicit_mesh():
    stage = make_stage()
    frozen = jax.tree.map(lambda x: x[0] if x.ndim else x, stage.frozen)
    plain = jax.jit(stage.update)(stage.init(jax.random.key(0), frozen), frozen)
    with jax.set_mesh(jax.make_mesh((1,), ("data",), axis_types=(AxisType.Explicit,))):
        state = stage.init(jax.random.key(0), frozen)
        explicit = jax.jit(stage.update)(state, frozen)
    chex.assert_trees_all_close(explicit[0].params, plain[0].params, rtol=1e-6)


def test_four_devices_train_the_same_as_one(tmp_path):
    command = [sys.executable, "-m", "tests.training.toy", str(tmp_path / "four"), "40", "2"]
    subprocess.run(command, cwd=ROOT, check=True, env=several_devices(4), capture_output=True)
    run_stage(make_stage(seeds=(0, 1)), tmp_path / "one")
    for seed in (0, 1):
        four, one = (load_stage(tmp_path / name, "toy", seed)[0] for name in ("four", "one"))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4), four, one)


def test_a_run_goes_on_with_fewer_devices_and_says_so(tmp_path):
    command = [sys.executable, "-m", "tests.training.toy", str(tmp_path), "40", "1"]
    subprocess.run(command, cwd=ROOT, check=True, env=several_devices(4), capture_output=True)
    run_stage(make_stage(60, log_every=20, checkpoint_every=40), tmp_path)
    run_stage(make_stage(60, log_every=20, checkpoint_every=40), tmp_path / "undisturbed")
    moved, one = (load_stage(path, "toy", 0)[0] for path in (tmp_path, tmp_path / "undisturbed"))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4), moved, one)
    versions = json.loads((tmp_path / "toy" / "seed_0" / "versions.json").read_text())
    assert versions["num_devices"] == 4
    assert versions["later"] == [{"from_step": 40, "num_devices": 1}]
