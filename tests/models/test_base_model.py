"""The base model: its two forms agree, packing leaks nothing, the cut is exact."""

import functools
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from internal_rl.models import cached_attention, transformer
from internal_rl.models.base_model import BaseConfig, BaseModel
from internal_rl.models.transformer import QUERY_BLOCK, relative_position_bucket
from internal_rl.section import SettingError
from internal_rl.types import ActionSpec, ObservationSpec
from tests.parameters import drawn

TOLERANCE = 1e-5


def make_model(block, max_length=12):
    sizes = {"width": 16, "depth": 3, "num_heads": 2, "head_size": 8, "mlp_size": 32}
    config = BaseConfig(block=block, init_scale=1.0, **sizes)
    specs = ObservationSpec("bernoulli", 7, np.uint8), ActionSpec("categorical", 4)
    return BaseModel(*specs, config, max_length)


@functools.partial(jax.jit, static_argnums=0, static_argnames=("layer", "method"))
def compiled_apply(model, params, *inputs, **keywords):
    return model.apply(params, *inputs, **keywords)


def apply(*inputs, **keywords):
    """`model.apply`, compiled: one by one its operations take longer; gives NumPy arrays."""
    return jax.device_get(compiled_apply(*inputs, **keywords))


def bits(*shape):
    return np.random.default_rng(1).integers(0, 2, shape, dtype=np.uint8)


@pytest.fixture(params=["transformer", "hawk"], scope="module")
def setting(request):
    model = make_model(request.param)
    observation = bits(3, 12, 7)
    segment = np.array([[0] * 12, [0] * 5 + [1] * 4 + [-1] * 3, [0] * 2 + [1] * 7 + [2] * 3])
    return model, drawn(model.init, observation, segment), observation, segment


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_step_form_agrees_with_parallel_form(setting, layer):
    model, params, observation, _ = setting
    segment = np.zeros(observation.shape[:2], np.int32)
    residual = apply(model, params, observation, segment, layer=layer, method="lower")
    output = apply(model, params, residual, segment, layer=layer, method="upper")
    state = model.initial_state(observation.shape[0])
    for t in range(observation.shape[1]):
        e, state = apply(model, params, observation[:, t], state, layer=layer, method="lower_step")
        step, state = apply(model, params, e, state, layer=layer, method="upper_step")
        np.testing.assert_allclose(e, residual[:, t], atol=TOLERANCE)
        np.testing.assert_allclose(step.action, output.action[:, t], atol=TOLERANCE)
        np.testing.assert_allclose(step.observation, output.observation[:, t], atol=TOLERANCE)


def test_step_form_with_a_cache_in_chunks_and_rows_that_restart(monkeypatch):
    monkeypatch.setattr(cached_attention, "CPU_CACHE_CHUNK", 4)
    model = make_model("transformer")  # a cache of 3 chunks of 4 steps
    # Every row restarts at times of its own, and the cache is gone round more than twice.
    lengths = [[12, 3, 12], [5, 12, 10], [1, 1, 12, 12, 1]]
    segment = np.array([np.repeat(np.arange(len(row)), row) for row in lengths])
    observation = bits(*segment.shape, 7)
    params = jax.device_put(drawn(model.init, observation, segment))
    expected = apply(model, params, observation, segment).action

    def step(state, inputs):
        x, restarts = inputs
        e, state = model.apply(params, x, model.restart(state, restarts), 1, method="lower_step")
        output, state = model.apply(params, e, state, 1, method="upper_step")
        return state, output.action

    restarts = np.diff(segment, axis=1, prepend=-1) > 0
    inputs = np.moveaxis(observation, 1, 0), restarts.T
    found = jax.jit(lambda: jax.lax.scan(step, model.initial_state(3), inputs)[1])()
    np.testing.assert_allclose(np.moveaxis(found, 0, 1), expected, atol=TOLERANCE)

    # Copies of the program under vmap decide together what is read.
    def alone(inputs):
        return jax.lax.scan(step, model.initial_state(1), inputs)[1]

    rows = jax.tree.map(lambda x: np.moveaxis(x[:, :, None], 1, 0), inputs)
    copies = np.asarray(jax.jit(jax.vmap(alone))(rows))
    np.testing.assert_allclose(copies[:, :, 0], expected, atol=TOLERANCE)


def test_chunks_of_the_cache_out_of_reach_are_not_read(monkeypatch):
    monkeypatch.setattr(cached_attention, "CPU_CACHE_CHUNK", 4)
    model = make_model("transformer")
    params = drawn(model.init, np.zeros((1, 2, 7)), np.zeros((1, 2), np.int32))
    state = jax.device_get(model.initial_state(2))

    def outputs(age):
        """One step, `age` steps after the start, with no number in the last chunk."""
        spoilt = tuple(
            block.replace(
                key=(*block.key[:2], np.full_like(block.key[2], np.nan)),
                value=(*block.value[:2], np.full_like(block.value[2], np.nan)),
                index=np.int32(1),
                length=np.array([0, age], np.int32),
            )
            for block in state
        )
        return apply(model, params, np.ones((2, 7)), spoilt, layer=3, method="lower_step")[0]

    assert np.isfinite(outputs(1)).all()
    assert not np.isfinite(outputs(2)).any()


def test_packed_trajectories_do_not_see_each_other(setting):
    model, params, observation, segment = setting
    packed = apply(model, params, observation, segment)
    parts = [(1, 5, 9), (2, 2, 9), (2, 9, 12)]
    # All of them in a program that is compiled already: what follows them does not matter.
    first = np.zeros_like(observation)
    for index, (row, start, stop) in enumerate(parts):
        first[index, : stop - start] = observation[row, start:stop]
    alone = apply(model, params, first, np.zeros_like(segment))
    for index, (row, start, stop) in enumerate(parts):
        expected = alone.action[index, : stop - start]
        np.testing.assert_allclose(packed.action[row, start:stop], expected, atol=TOLERANCE)


def test_rows_longer_than_a_block_of_queries(monkeypatch):
    model = make_model("transformer", max_length=QUERY_BLOCK + 6)
    lengths = [QUERY_BLOCK + 7, 30, QUERY_BLOCK + 1, 41]
    segment = np.repeat(np.arange(4), lengths)[None]
    observation = bits(*segment.shape, 7)
    params = drawn(model.init, observation, segment)

    def loss(params):
        action = model.apply(params, observation, segment).action
        return jnp.sum(action**2), action

    (_, action), gradients = jax.device_get(jax.jit(jax.value_and_grad(loss, has_aux=True))(params))
    # Each trajectory at the start of a row of its own.
    rows = np.zeros((4, max(lengths), 7), observation.dtype)
    for index, length in enumerate(lengths):
        rows[index, :length] = observation[0, segment[0] == index]
    alone = apply(model, params, rows, np.zeros(rows.shape[:2], np.int32)).action
    for index, length in enumerate(lengths):
        own = action[0, segment[0] == index]
        np.testing.assert_allclose(own, alone[index, :length], atol=TOLERANCE)

    # All at once, and in three blocks that grow with the row.
    for size, most in ((segment.size, 64), (16, 4)):
        monkeypatch.setattr(transformer, "QUERY_BLOCK", size)
        monkeypatch.setattr(transformer, "MAX_BLOCKS", most)
        (_, whole), whole_gradients = jax.jit(
            jax.value_and_grad(lambda params: loss(params), has_aux=True)
        )(params)
        np.testing.assert_allclose(action, whole, atol=TOLERANCE)
        chex.assert_trees_all_close(gradients, whole_gradients, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("length", [1, 64, 143, 5_000, 30_000])
def test_long_rows_and_episodes_are_no_longer_programs(length):
    blocks = transformer.query_blocks(length, length)
    assert len(blocks) <= transformer.MAX_BLOCKS
    assert [i for rows, _ in blocks for i in range(rows.start, rows.stop)] == list(range(length))
    cache = jax.eval_shape(lambda: cached_attention.empty_cache(1, length, 1, 2, jnp.float32))
    assert len(cache.key) <= 64 and cache.num_slots >= length


def attention_by_the_formula(query, key, value, bias, visible):
    scores = jnp.einsum("bhqd,bhkd->bhqk", query, key) + bias
    weight = jax.nn.softmax(jnp.where(visible[:, None], scores, -jnp.inf))
    return jnp.einsum("bhqk,bhkd->bhqd", weight, value)


def test_attention_and_its_gradients_follow_the_formula():
    rng = np.random.default_rng(0)
    shapes = ((2, 3, 4, 5), (2, 3, 7, 5), (2, 3, 7, 5), (3, 4, 7))
    # Large scores: no exponential may overflow.
    inputs = [8 * rng.normal(size=shape).astype(np.float32) for shape in shapes]
    visible = rng.random((2, 4, 7)) < 0.5
    visible[:, :, 0] = True
    weight = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)

    def output_and_gradients(attend):
        def total(*inputs):
            return jnp.sum(weight * attend(*inputs, visible))

        @jax.jit
        def both(*inputs):
            return attend(*inputs, visible), *jax.grad(total, (0, 1, 2, 3))(*inputs)

        return both(*inputs)

    written = output_and_gradients(transformer.attend)
    derived = output_and_gradients(attention_by_the_formula)
    for ours, theirs in zip(written, derived, strict=True):
        assert np.abs(theirs).max() > 0.1
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=1e-4)


def test_tokens_look_back_no_further_than_their_reach():
    model = make_model("transformer", max_length=2)
    segment = np.zeros((1, 9), np.int32)
    observation = bits(1, 9, 7)
    params = drawn(model.init, observation, segment)
    changed = observation.copy()
    changed[:, 0] = 1 - changed[:, 0]
    before = apply(model, params, observation, segment).action
    after = apply(model, params, changed, segment).action
    # Two steps in each of three blocks.
    assert (np.abs(after - before).max((0, 2))[:7] > 1e-4).all()
    np.testing.assert_array_equal(before[:, 7:], after[:, 7:])


def test_predictions_are_causal(setting):
    model, params, observation, segment = setting
    changed = observation.copy()
    changed[:, 6:] = 1 - changed[:, 6:]
    before = apply(model, params, observation, segment).action
    after = apply(model, params, changed, segment).action
    np.testing.assert_allclose(before[:, :6], after[:, :6], atol=TOLERANCE)
    assert np.abs(before[:, 6:] - after[:, 6:]).max() > 1e-3


def test_every_cut_gives_the_same_model(setting):
    model, params, observation, segment = setting
    whole = apply(model, params, observation, segment).action
    residuals = apply(model, params, observation, segment, method="residuals")
    for layer in range(model.depth + 1):
        residual = apply(model, params, observation, segment, layer=layer, method="lower")
        np.testing.assert_allclose(residual, residuals[layer], atol=TOLERANCE)
        upper = apply(model, params, residual, segment, layer=layer, method="upper").action
        np.testing.assert_allclose(upper, whole, atol=TOLERANCE)


def test_layer_outside_the_model_is_refused(setting):
    model, params, observation, segment = setting
    with pytest.raises(ValueError, match="layer is 4, allowed is a whole number from 0 to 3"):
        model.apply(params, observation, segment, 4, method="lower")
    with pytest.raises(SettingError, match=r"layer: 4 given, allowed is 0 to 3 \(base.depth\)"):
        model.config.check_layer("layer", 4)


@pytest.mark.parametrize("observation_head", ["bernoulli", "gaussian"])
@pytest.mark.parametrize(("action_head", "parameters"), [("categorical", 3), ("gaussian", 6)])
def test_heads_of_actions_and_observations_are_chosen_apart(
    observation_head, action_head, parameters
):
    specs = ObservationSpec(observation_head, 5), ActionSpec(action_head, 3)
    model = BaseModel(*specs, make_model("hawk").config, 12)
    params = drawn(model.initial_params)
    output = apply(model, params, np.ones((2, 4, 5)), np.zeros((2, 4), np.int32))
    assert output.action.shape == (2, 4, parameters)
    assert output.observation.shape == (2, 4, 5)


@pytest.mark.parametrize("block", ["transformer", "hawk"])
def test_models_are_pickled_and_are_static_arguments(block):
    model = make_model(block)
    copy = pickle.loads(pickle.dumps(model))
    assert copy == model and hash(copy) == hash(model)
    assert copy.clone(reach=3) != model
    traced = []

    @functools.partial(jax.jit, static_argnums=0)
    def run(model, x):
        traced.append(model)
        return x * model.width

    run(model, 1.0), run(copy, 1.0), run(model.clone(max_length=9), 1.0)
    assert len(traced) == 2


def test_relative_position_buckets_are_exact_then_logarithmic():
    bucket = relative_position_bucket(np.arange(300))
    # First distances of the other 16 buckets of T5: 16 * 8^(i / 16), rounded up.
    firsts = [16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]
    expected = [
        d if d < 16 else 15 + sum(first <= d for first in firsts) for d in range(len(bucket))
    ]
    np.testing.assert_array_equal(bucket, expected)


@pytest.mark.parametrize("block", ["transformer", "hawk"])
def test_initial_kernels_have_the_scale_of_the_config_over_what_they_read(block):
    scale = 0.4  # the default of no module
    sizes = {"width": 256, "depth": 1, "num_heads": 4, "head_size": 32, "mlp_size": 384}
    specs = ObservationSpec("gaussian", 48), ActionSpec("categorical", 32)
    model = BaseModel(*specs, BaseConfig(block=block, init_scale=scale, **sizes), 12)
    params = jax.device_get(jax.jit(model.initial_params)(jax.random.key(0)))
    others = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = "/".join(key.key for key in path[1:])
        if path[-1].key == "kernel":
            # Of block-diagonal kernels the first axis counts the blocks.
            fan_in = leaf.shape[-2]
            np.testing.assert_allclose(leaf.std(), (scale / fan_in) ** 0.5, rtol=0.1, err_msg=name)
            assert np.abs(leaf.mean()) < 0.1 * leaf.std(), name
        else:
            others[path[-1].key] = np.unique(leaf)
    decay = others.pop("decay", None)
    assert (decay is None) == (block == "transformer")
    constants = {"scale": 1.0, "bias": 0.0} | ({"position_bias": 0.0} if decay is None else {})
    assert others == constants
