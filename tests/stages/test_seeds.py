"""Several seeds of a stage: each has its own models of the stages before it, in one program."""

import jax
import numpy as np
import pytest

from configs import gridworld
from internal_rl.stages.build import make_base
from internal_rl.stages.places import Places
from internal_rl.stages.running import make_stage
from internal_rl.stages.settings import Settings
from internal_rl.training.program import Program
from internal_rl.training.stage_directory import StageDirectory
from tests.marks import quick

STAGES = ("probe", "steer", "metacontroller", "compile", "internal_rl", "raw_rl")


@pytest.fixture(scope="module")
def settings():
    config = gridworld.get_config("smoke")
    config.pretrain.num_seeds = 2
    for stage in ("compile", "internal_rl", "raw_rl"):
        config[stage].seeds_per_input = 2
    return Settings.read(config)


@pytest.fixture(scope="module")
def places(settings, tmp_path_factory):
    """A work directory whose first stages are finished, with untrained parameters."""
    workdir = tmp_path_factory.mktemp("seeds")
    base = make_base(settings)
    finish(settings, workdir, "pretrain", base.initial_params)
    method = make_stage(settings, "metacontroller", Places(workdir))
    frozen = jax.tree.map(lambda leaf: leaf[0], method.frozen["model"])
    init = jax.jit(lambda key: method.init(key, {"model": frozen, "data": None}).params)
    finish(settings, workdir, "metacontroller", init)
    return Places(workdir)


def finish(settings, workdir, stage, init):
    for seed in settings.seeds_of(stage):
        directory = StageDirectory(workdir, stage, seed)
        directory.begin(settings.stage_config(stage), [seed])
        directory.save_params(jax.jit(init)(jax.random.key(seed)))
        directory.finish(settings.sections[stage].steps)
        directory.release()


def first_leaf(tree):
    return np.asarray(jax.tree.leaves(tree)[0])


def model_of(frozen):
    return frozen["model"] if isinstance(frozen, dict) else frozen


@pytest.mark.parametrize("stage", STAGES)
def test_every_seed_has_the_base_model_that_stands_at_its_place(stage, settings, places):
    made = make_stage(settings, stage, places)
    stacked = first_leaf(model_of(made.frozen).base_params)
    for index, seed in enumerate(settings.seeds_read("pretrain", made.seeds)):
        wanted = first_leaf(places.load(settings, "pretrain", seed))
        np.testing.assert_array_equal(stacked[index], wanted)
    (last,) = made.for_seeds(made.seeds[-1:]).seeds
    assert last == made.seeds[-1]


@pytest.mark.parametrize("stage", quick(STAGES, ("metacontroller", "internal_rl")))
def test_the_seeds_of_a_stage_are_one_program(stage, settings, places):
    made = make_stage(settings, stage, places)
    program = Program(made)
    state = program.state_template()
    num_seeds = len(made.seeds)
    assert all(leaf.shape[0] == num_seeds for leaf in jax.tree.leaves(state))
    update = jax.vmap(made.update, in_axes=(0, made.frozen_axes), spmd_axis_name="seed")
    after, metrics = jax.eval_shape(update, state, made.frozen)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert metrics["loss"].shape == (num_seeds,)


def test_a_shared_base_model_has_no_axis(settings, places):
    one = settings.updated("pretrain", num_seeds=1).updated("probe", seeds_per_input=2)
    made = make_stage(one, "probe", places)
    assert made.frozen_axes["model"].base_params is None
    assert (
        first_leaf(made.frozen["model"].base_params).ndim
        == first_leaf(places.load(settings, "pretrain", 0)).ndim
    )
    assert made.frozen_axes["data"] is None
