"""With `JAX_ENABLE_X64=1` the states of all stages keep their types, and results stay float32."""

import os
import subprocess
import sys

import pytest

from tests.training.test_loop import ROOT

CODE = """
import pathlib, sys, tempfile
import jax
import jax.numpy as jnp
from configs import gridworld
from internal_rl.stages.build import make_base
from internal_rl.stages.places import Places
from internal_rl.stages.running import make_stage
from internal_rl.stages.settings import Settings
from internal_rl.training.program import Program
from tests.stages.test_seeds import STAGES, finish

settings = Settings.read(gridworld.get_config("smoke"))
workdir = tempfile.mkdtemp()
places = Places(workdir)
finish(settings, workdir, "pretrain", make_base(settings).initial_params)
stage = make_stage(settings, "metacontroller", places)
frozen = {"model": stage.frozen["model"], "data": None}
finish(settings, workdir, "metacontroller", lambda key: stage.init(key, frozen).params)

def types(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)

assert jnp.zeros(1).dtype == jnp.float64
for name in ("pretrain", *STAGES):
    stage = make_stage(settings, name, places)
    program = Program(stage)
    state, count = program.state_template(), jax.ShapeDtypeStruct((), jnp.int32)
    after, metrics = jax.eval_shape(program._updates, state, program.frozen, count)
    assert types(after) == types(state), name
    wide = {k: v.dtype for k, v in metrics.items() if v.dtype != jnp.float32}
    assert not wide, (name, wide)
    params = jax.eval_shape(stage.params, state)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params)), name
    jax.eval_shape(stage.evaluate, state, program.frozen)
"""


@pytest.mark.slow
def test_every_stage_keeps_the_types_of_its_state():
    environment = os.environ | {"JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu"}
    process = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert process.returncode == 0, process.stderr[-3000:]
