"""Datasets from plain arrays: every trajectory once and whole, or a line that says why not."""

import itertools
import time

import jax
import numpy as np
import pytest

from internal_rl.experts.dataset import Dataset, with_next_observation

NUM, STEPS = 40, 9


def arrays(discrete=True, binary=False, extra=1, seed=0):
    """Trajectories that can be told apart by their observations, with rubbish behind their ends."""
    rng = np.random.default_rng(seed)
    length = rng.integers(2, STEPS + 1, NUM)
    if binary:
        # The number of the trajectory and the time in binary digits.
        number, now = np.mgrid[:NUM, : STEPS + extra]
        bits = (number * 16 + now)[..., None] >> np.arange(10) & 1
        observation = bits.astype(np.int64)
    else:
        observation = rng.normal(size=(NUM, STEPS + extra, 10))
    action = rng.integers(0, 5, (NUM, STEPS)) if discrete else rng.normal(size=(NUM, STEPS, 2))
    subgoal = rng.integers(0, 3, (NUM, STEPS))
    for i, end in enumerate(length):
        observation[i, end + extra :] = 77
        action[i, end:] = -99
        subgoal[i, end:] = -99
    return {"observation": observation, "action": action, "length": length, "subgoal": subgoal}


def unpacked(rows):
    """The trajectories of rows, as dictionaries by the bytes of their first observation."""
    found = {}
    rows = jax.tree.map(np.asarray, rows)
    for row, segments in enumerate(rows.segment):
        padding = segments < 0
        assert (np.diff(padding.astype(int)) >= 0).all()
        assert not rows.mask[row, padding].any() and not rows.observation[row, padding].any()
        assert not rows.action[row, padding].any()
        kept = segments[~padding]
        assert kept[0] == 0 and set(np.diff(kept)) <= {0, 1}
        for number in range(kept.max() + 1):
            own = segments == number
            name = rows.observation[row, own][0].tobytes()
            assert name not in found
            fields = ("observation", "action", "mask", "subgoal")
            found[name] = {
                field: None if getattr(rows, field) is None else getattr(rows, field)[row, own]
                for field in fields
            }
    return found


@pytest.mark.parametrize("extra", [1, 0])
@pytest.mark.parametrize(("discrete", "binary"), [(True, True), (False, False)])
def test_every_trajectory_is_packed_once_and_whole(discrete, binary, extra):
    given = arrays(discrete, binary, extra)
    data = Dataset.from_arrays(**given, sequence_length=32, held_out=7, seed=3)
    kind = np.uint8 if binary else np.float32
    for rows in data.arrays.values():
        assert rows.segment.shape[1] == 32 and rows.next_observation is None
        assert rows.observation.dtype == kind
        assert rows.action.dtype == (np.int32 if discrete else np.float32)
        assert rows.subgoal.dtype == rows.segment.dtype == np.int32 and rows.mask.dtype == bool
        assert ((rows.subgoal == -1) == (rows.segment == -1)).all()
    train, held_out = (unpacked(data.arrays[name]) for name in ("train", "held_out"))
    assert len(train) == NUM - 7 and len(held_out) == 7 and not train.keys() & held_out.keys()
    found = train | held_out
    for i, length in enumerate(given["length"]):
        # Where what the last action led to is not known, that action is left out.
        acts = length - (1 - extra)
        one = found[given["observation"][i, 0].astype(kind).tobytes()]
        seen = given["observation"][i, : acts + 1].astype(kind)
        np.testing.assert_array_equal(one["observation"], seen)
        np.testing.assert_array_equal(one["mask"], np.arange(acts + 1) < acts)
        expected = given["action"][i, :acts].astype(one["action"].dtype)
        np.testing.assert_array_equal(one["action"][:-1], expected)
        assert not one["action"][-1].any()
        np.testing.assert_array_equal(one["subgoal"][:-1], given["subgoal"][i, :acts])
        assert one["subgoal"][-1] == given["subgoal"][i, acts - 1]


@pytest.mark.parametrize("extra", [1, 0])
def test_every_target_comes_with_the_observation_behind_it(extra):
    given = arrays(extra=extra)
    rows = Dataset.from_arrays(**given, held_out=1).arrays["train"]
    rows = jax.tree.map(np.asarray, with_next_observation(rows))
    seen = given["observation"].astype(np.float32)
    following = {one.tobytes(): other for row in seen for one, other in itertools.pairwise(row)}
    for row, token in np.argwhere(rows.mask):
        expected = following[rows.observation[row, token].tobytes()]
        np.testing.assert_array_equal(rows.next_observation[row, token], expected)


def test_rows_are_four_times_the_longest_trajectory_and_well_filled():
    given = arrays()
    data = Dataset.from_arrays(**given)
    assert data.sequence_length == 4 * (given["length"].max() + 1)
    train = data.arrays["train"]
    number = sum(segment.max() + 1 for segment in train.segment)
    assert number == NUM - 4 and data.trajectories_per_row == number / len(train.segment)
    assert (train.segment[:-3] >= 0).mean() > 0.8


def test_labels_are_optional():
    given = arrays()
    del given["subgoal"]
    data = Dataset.from_arrays(**given)
    assert not data.labelled and Dataset.from_arrays(**arrays()).labelled
    assert data.references(jax.random.key(0), 10) == {}
    _, batch = jax.jit(data.next)(data.init(jax.random.key(0), 3), data.arrays)
    assert batch.subgoal is None and data.held_out(None, 3, data.arrays).subgoal is None
    assert batch.next_observation.shape == (3, data.sequence_length, 10)


def test_order_and_what_is_held_out_depend_on_the_seed_alone():
    one, again, other = (Dataset.from_arrays(**arrays(), seed=seed) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, one.arrays, again.arrays)
    held_out = [unpacked(data.arrays["held_out"]).keys() for data in (one, other)]
    assert len(held_out[0]) == 4 and held_out[0] != held_out[1]


@pytest.mark.parametrize(
    ("share", "number"), [(0.0, 1), (0.25, 10), (np.float32(0.5), 20), (39, 39), (np.int64(1), 1)]
)
def test_held_out_is_a_share_or_a_number_of_trajectories(share, number):
    rows = Dataset.from_arrays(**arrays(), held_out=share).arrays["held_out"]
    assert len(unpacked(rows)) == number


def test_whole_numbers_beyond_0_and_1_and_booleans():
    given = arrays(binary=True)
    more = given["observation"].copy()
    more[:, 0, 0] = 2
    kinds = {
        np.uint8: [given["observation"], given["observation"] > 0],
        np.float32: [more, given["observation"].astype(np.float64)],
    }
    for kind, observations in kinds.items():
        for observation in observations:
            data = Dataset.from_arrays(**given | {"observation": observation})
            assert data.arrays["train"].observation.dtype == kind


def changed(array, index, value):
    array = np.array(array)
    array[index] = value
    return array


GIVEN = arrays()
REAL = arrays(discrete=False)
WRONG = [
    ({"observation": GIVEN["observation"][:, :, 0]}, "observation has the shape"),
    ({"observation": GIVEN["observation"][:, :-2]}, r"observation .* allowed is \(40, 9, d\) or"),
    ({"observation": GIVEN["observation"][:-1]}, "observation has the shape"),
    ({"observation": GIVEN["observation"][:, :, :0]}, "observation has the shape"),
    ({"observation": GIVEN["observation"].astype(str)}, "observation is of <U"),
    ({"observation": changed(GIVEN["observation"], (3, 0, 1), np.nan)}, "observation holds NaN"),
    ({"observation": changed(GIVEN["observation"], (3, 0, 1), 1e300)}, "observation holds NaN"),
    ({"action": GIVEN["action"][:, 0]}, "action has the shape"),
    ({"action": GIVEN["action"][:, :0]}, "action has the shape"),
    ({"action": GIVEN["action"].astype(float)}, "action is of float64, allowed are whole"),
    ({"action": changed(GIVEN["action"], (2, 0), -1)}, "action holds -1, allowed is 0 to"),
    ({"action": changed(GIVEN["action"], (2, 0), 2**31)}, "action holds 2147483648, allowed is"),
    ({"action": [[0, 1], [1]]}, "action is no array, allowed are rows of the same length"),
    ({"action": changed(REAL["action"], (3, 0, 1), np.inf)}, "action holds NaN or infinity"),
    ({"action": GIVEN["action"] > 0}, "action is of bool, allowed are whole numbers"),
    ({name: array[:1] for name, array in GIVEN.items()}, "action holds 1 trajectories, allowed"),
    ({"length": GIVEN["length"][:-1]}, r"length has the shape \(39,\), allowed is \(40,\)"),
    ({"length": GIVEN["length"] * 1.0}, "length is of float64, allowed are whole numbers"),
    ({"length": changed(GIVEN["length"], 5, 0)}, "length holds 0, allowed is 1 to 9"),
    ({"length": changed(GIVEN["length"], 5, 10)}, "length holds 10, allowed is 1 to 9"),
    (
        {
            "observation": GIVEN["observation"][:, :-1],
            "length": changed(GIVEN["length"], 5, 1),
        },
        "length holds 1, allowed is 2 to 9",
    ),
    ({"subgoal": GIVEN["subgoal"][:, 1:]}, r"subgoal has the shape .* allowed is \(40, 9\)"),
    ({"subgoal": GIVEN["subgoal"] / 2}, "subgoal is of float64, allowed are whole numbers"),
    ({"subgoal": changed(GIVEN["subgoal"], (2, 0), -1)}, "subgoal holds -1, allowed is 0 to"),
    ({"sequence_length": 9}, "sequence_length is 9, allowed is a whole number from 10 on"),
    ({"sequence_length": 64.0}, "sequence_length is 64.0, allowed is a whole number"),
    ({"held_out": 1.0}, "held_out is 1.0, allowed is a share"),
    ({"held_out": float("nan")}, "held_out is nan, allowed is a share"),
    ({"held_out": 0}, "held_out is 0, allowed is a share"),
    ({"held_out": 40}, "held_out is 40, allowed is .* from 1 to 39"),
    ({"held_out": -0.1}, "held_out is -0.1, allowed is a share"),
    ({"held_out": True}, "held_out is True, allowed is a share"),
    ({"held_out": "some"}, "held_out is 'some', allowed is a share"),
    ({"seed": -1}, "seed is -1, allowed is a whole number from 0 on"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        Dataset.from_arrays(**GIVEN | changes)
    assert "\n" not in str(caught.value) and "allowed" in str(caught.value)


def test_many_short_trajectories_are_packed_in_seconds():
    rng = np.random.default_rng(0)
    num, steps = 100_000, 12
    length = rng.integers(1, steps + 1, num)
    observation = rng.normal(size=(num, steps + 1, 4)).astype(np.float32)
    started = time.process_time()
    data = Dataset.from_arrays(observation, rng.integers(0, 4, (num, steps)), length)
    assert time.process_time() - started < 10
    tokens = sum((rows.segment >= 0).sum() for rows in data.arrays.values())
    assert tokens == length.sum() + num
    assert np.mean(data.arrays["train"].segment < 0) < 0.05
