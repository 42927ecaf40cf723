"""The compiled functions of a stage: their precision, and what is handed out of one seed."""

import jax
import numpy as np
import pytest

from internal_rl import hosts
from internal_rl.backend import traced_for
from internal_rl.training.loop import run_stage
from internal_rl.training.program import Program
from tests.products import HIGHEST, products_in
from tests.training.toy import make_stage


@pytest.mark.parametrize(
    ("platform", "precision", "expected"),
    [("gpu", "float32", HIGHEST), ("gpu", "bfloat16", None), ("cpu", "float32", None)],
)
def test_a_stage_in_float32_has_exact_products_on_accelerators(platform, precision, expected):
    def evaluate(state, frozen):
        return {"product": state.params["layer"]["weight"] @ frozen["target"]}

    with traced_for(platform):
        program = Program(make_stage(computed={"precision": precision}, evaluate=evaluate))
        program.trace()
    for traced in (program._traced_update, program._traced_evaluation):
        found = products_in(traced.jaxpr.jaxpr)
        assert found and {precision for _, precision in found} == {expected}


@pytest.fixture
def several(monkeypatch):
    """This process as if it were one of several."""
    monkeypatch.setattr(hosts, "several", lambda: True)


def test_of_several_hosts_each_takes_a_seed_and_copies_nothing_that_all_seeds_share(several):
    stage = make_stage(seeds=(0, 1))
    program = Program(stage)
    state = program.initial_state()
    for index in (0, 1):
        own, frozen = program.of_seed(state, index)
        shared = program.frozen["bias"].addressable_data(0)
        assert frozen["bias"].unsafe_buffer_pointer() == shared.unsafe_buffer_pointer()
        np.testing.assert_array_equal(frozen["target"], stage.frozen["target"][index])
        for found in (own, program.state_of_seed(state, index)):
            expected = jax.tree.map(lambda leaf, index=index: leaf[index], state)
            np.testing.assert_array_equal(*(jax.random.key_data(x.key) for x in (found, expected)))
            jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
            assert all(leaf.is_fully_addressable for leaf in jax.tree.leaves(found))


def test_of_a_single_seed_nothing_at_all_is_copied(several):
    program = Program(make_stage())
    state = program.initial_state()
    found = jax.tree.leaves((program.of_seed(state, 0)[1], program.state_of_seed(state, 0).params))
    here = (leaf.addressable_data(0) for leaf in jax.tree.leaves((program.frozen, state.params)))
    for mine, theirs in zip(found, here, strict=True):
        assert mine.unsafe_buffer_pointer() == theirs.unsafe_buffer_pointer()


def test_snapshots_take_the_state_alone(tmp_path, monkeypatch):
    taken = []
    of_seed = Program.of_seed
    monkeypatch.setattr(
        Program,
        "of_seed",
        lambda self, state, index: taken.append(index) or of_seed(self, state, index),
    )
    run_stage(make_stage(16, seeds=(0, 1), snapshot_steps=(4, 8)), tmp_path)
    assert taken == [0, 1]
    assert (tmp_path / "toy" / "seed_1").is_dir()


def test_the_first_host_tells_how_many_devices_each_has(several, caplog):
    caplog.set_level("INFO")
    Program(make_stage())
    assert f"toy: devices of each process: {jax.device_count()}" in caplog.text
