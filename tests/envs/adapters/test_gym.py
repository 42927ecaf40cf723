"""gymnasium's interface, single and vector."""

import dataclasses
import subprocess
import sys
import warnings

import numpy as np
import pytest

import internal_rl as irl
from internal_rl.envs import adapters
from internal_rl.errors import UserError
from tests.envs.adapters.scripted import Script, ScriptedWorld
from tests.training.test_loop import ROOT

gymnasium = pytest.importorskip("gymnasium")
from gymnasium.utils.env_checker import check_env, data_equivalence  # noqa: E402
from gymnasium.vector import AutoresetMode  # noqa: E402
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics  # noqa: E402

GRID, ANT = "internal_rl/GridworldPinpad-v0", "internal_rl/AntPinpad-v0"
NUM_ENVS, NUM_STEPS = 3, 60


@pytest.fixture(autouse=True, scope="module")
def registered():
    assert adapters.register_gym() == [GRID, ANT]


@dataclasses.dataclass(frozen=True)
class ScriptConfig:
    """Settings of a registered world of one's own."""


def register_own(name, script):
    irl.register_world(
        name, lambda _: ScriptedWorld(script), config=ScriptConfig, presets={"only": ScriptConfig()}
    )
    return adapters.register_gym(name)[0]


@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_grid_world_passes_gymnasiums_own_check(render_mode):
    env = gymnasium.make(GRID, preset="smoke", task="0-1-2", render_mode=render_mode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


def test_ant_passes_gymnasiums_own_check():
    env = gymnasium.make(ANT, preset="smoke")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Numbers of an observation have no bounds, as in gymnasium's own MuJoCo worlds.
        warnings.filterwarnings("ignore", message=".*observation space (min|max)imum value is")
        check_env(env.unwrapped, skip_render_check=not can_draw_ants())
    assert env.action_space == gymnasium.spaces.Box(-1.0, 1.0, (8,), np.float32)
    env.reset(seed=0)
    # Beyond the bounds the world clips.
    observation, *_ = env.step(np.full(8, 3.0))
    assert np.isfinite(observation).all()


def can_draw_ants():
    env = adapters.gym_env("ant-pinpad", preset="smoke", render_mode="rgb_array")
    env.reset(seed=0)
    try:
        env.render()
    except UserError:
        return False
    return True


def test_spaces_are_those_of_the_specs():
    env = gymnasium.make(GRID, preset="smoke")
    spec = env.unwrapped.world.observation_spec
    assert env.observation_space == gymnasium.spaces.Box(0, 1, (spec.size,), np.uint8)
    assert env.action_space == gymnasium.spaces.Discrete(4)
    own = adapters.gym_env(ScriptedWorld())
    assert own.observation_space == gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    assert own.action_space == gymnasium.spaces.Box(-2.0, 2.0, (2,), np.float32)


@pytest.mark.parametrize(
    ("script", "terminated", "truncated"),
    [(Script(), False, True), (Script(ends=2), True, False), (Script((0, 0, 1)), True, False)],
)
def test_an_end_and_a_time_limit_are_told_apart(script, terminated, truncated):
    env = gymnasium.make(register_own("scripted", script), preset="only")
    observation, info = env.reset(seed=3)
    assert info == {"visit": -1, "progress": 0, "success": False}
    for time in range(1, script.ends + 1):
        observation, reward, *ends, info = env.step(np.zeros(2))
        assert observation[0] == time and reward == script.reward[time - 1]
        assert ends == ([terminated, truncated] if time == script.ends else [False, False])
    assert info["success"] == (reward > 0)
    # What has ended stays as it is.
    again, reward, *more, _ = env.unwrapped.step(np.zeros(2))
    np.testing.assert_array_equal(observation, again)
    assert reward == 0 and more == ends


def test_info_tells_what_the_world_tells_and_the_task_is_chosen():
    world = irl.make_world("gridworld-pinpad", "smoke")
    for task, goal in ((None, int(world.post_training_task[0])), ("3-1", 3)):
        env = adapters.gym_env(world, task=task)
        _, info = env.reset(seed=0)
        assert info == {"visit": -1, "progress": 0, "subgoal": goal, "success": False}
        assert {type(x) for x in info.values()} == {np.int32, bool}
    for _ in range(20):
        *_, terminated, truncated, info = env.step(env.action_space.sample())
        if terminated or truncated:
            break
    assert not terminated or info["success"] or info["visit"] >= 0


def test_pictures_follow_the_episode():
    env = gymnasium.make(GRID, preset="smoke", render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    for action in range(4):
        env.step(action)
        if not np.array_equal(before, env.render()):
            break
    assert before.dtype == np.uint8 and before.shape[-1] == 3
    assert not np.array_equal(before, env.render())
    assert gymnasium.make(GRID, preset="smoke").metadata["render_fps"] == 4
    assert adapters.gym_env(ScriptedWorld()).metadata == {"render_modes": []}
    with pytest.raises(ValueError, match="render_mode is 'rgb_array', allowed are None"):
        adapters.gym_env(ScriptedWorld(), render_mode="rgb_array")


def test_what_is_returned_may_be_written_to():
    env = adapters.gym_env("gridworld-pinpad", preset="smoke", render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    picture = env.render()
    observation[:] = 1
    np.testing.assert_array_equal(picture, env.render())
    envs = adapters.gym_vector_env("gridworld-pinpad", 2, preset="smoke")
    observations, _ = envs.reset(seed=0)
    observations[:] = 1
    assert observations.flags.writeable


@pytest.mark.parametrize(
    ("id", "options"),
    [(GRID, {"preset": "smoke", "task": "0-1"}), ("scripted", Script((0, 1, 0), ends=2))],
)
def test_vector_version_is_many_single_ones(id, options):
    """The same seeds give the same episodes as gymnasium's own loop over environments."""
    if id == "scripted":
        id, options = register_own("scripted-vector", options), {"preset": "only"}
    versions = [
        gymnasium.make_vec(id, num_envs=NUM_ENVS, vectorization_mode=mode, **options)
        for mode in ("vector_entry_point", "sync")
    ]
    envs, reference = versions
    assert isinstance(envs.unwrapped, gymnasium.vector.VectorEnv)
    assert type(envs.unwrapped).__name__ == "GymVectorEnv"
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    for name in ("observation_space", "action_space"):
        assert getattr(envs, name) == getattr(reference, name)
        assert getattr(envs, f"single_{name}") == getattr(reference, f"single_{name}")
    for seed in (7, None, [5, 3, 8]):
        assert data_equivalence(*(version.reset(seed=seed) for version in versions), exact=True)
        assert envs.np_random_seed == reference.np_random_seed
    envs.action_space.seed(1)
    ended = np.zeros(2, int)
    for step in range(NUM_STEPS):
        actions = envs.action_space.sample()
        results = [version.step(actions) for version in versions]
        assert data_equivalence(*results, exact=True)
        ended += [results[0][2].sum(), results[0][3].sum()]
        if step == NUM_STEPS // 2:
            mask = np.array([True, False, True])
            found = [version.reset(seed=9, options={"reset_mask": mask}) for version in versions]
            assert data_equivalence(*found, exact=True)
    assert ended[0] > 0
    for version in versions:
        version.close()


def test_an_episode_is_followed_by_the_next_one_at_the_next_step():
    envs = adapters.gym_vector_env(ScriptedWorld(Script((0, 1, 0), ends=2)), 2)
    envs.reset(seed=0)
    times, rewards, terminated = [], [], []
    for _ in range(6):
        observations, reward, end, _, infos = envs.step(np.zeros((2, 2)))
        times.append(observations[0, 0])
        rewards.append(reward[0])
        terminated.append(bool(end[0]))
        assert infos["_success"].all()
    assert times == [1, 2, 0, 1, 2, 0]
    assert rewards == [0, 1, 0, 0, 1, 0]
    assert terminated == [False, True, False, False, True, False]


def test_gymnasiums_vector_wrappers_take_it():
    envs = RecordEpisodeStatistics(gymnasium.make_vec(GRID, num_envs=40, preset="smoke"))
    envs.reset(seed=0)
    lengths = []
    for _ in range(NUM_STEPS):
        *_, infos = envs.step(envs.action_space.sample())
        if "episode" in infos:
            lengths += infos["episode"]["l"][infos["_episode"]].tolist()
    assert lengths and max(lengths) <= envs.unwrapped.world.time_limit
    listed = DictInfoToList(gymnasium.make_vec(GRID, num_envs=2, preset="smoke"))
    _, infos = listed.reset(seed=0)
    assert [set(info) for info in infos] == [{"visit", "progress", "subgoal", "success"}] * 2


def test_one_program_steps_all_environments():
    envs = adapters.gym_vector_env("gridworld-pinpad", 40, preset="smoke")
    envs.reset(seed=0)
    for _ in range(NUM_STEPS):
        envs.step(envs.action_space.sample())
    assert envs._go_on._cache_size() == 1


def test_pictures_of_all_environments():
    envs = gymnasium.make_vec(GRID, num_envs=2, preset="smoke", render_mode="rgb_array")
    envs.reset(seed=0)
    pictures = envs.render()
    assert len(pictures) == 2 and not np.array_equal(*pictures)


def test_bad_arguments_are_named():
    env = adapters.gym_env("gridworld-pinpad", preset="smoke")
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action is 4, allowed are the whole numbers 0 to 3"):
        env.step(4)
    with pytest.raises(ValueError, match="num_envs is 0"):
        adapters.gym_vector_env("gridworld-pinpad", 0, preset="smoke")
    envs = adapters.gym_vector_env("gridworld-pinpad", 2, preset="smoke")
    with pytest.raises(gymnasium.error.ResetNeeded):
        envs.step(np.zeros(2, int))
    with pytest.raises(ValueError, match="seed has length 3, allowed is num_envs = 2"):
        envs.reset(seed=[1, 2, 3])
    with pytest.raises(ValueError, match=r"reset_mask is int64\[2\], allowed is bool\[2\]"):
        envs.reset(options={"reset_mask": np.zeros(2, int)})
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=r"actions have shape \(3,\), allowed is \(2,\)"):
        envs.step(np.zeros(3, int))
    with pytest.raises(ValueError, match="from 0 to 4, allowed are the whole numbers 0 to 3"):
        envs.step(np.array([0, 4]))


def test_registering_imports_nothing_heavy():
    program = (
        "import sys, gymnasium, internal_rl.envs.adapters as adapters\n"
        f"assert adapters.register_gym() == [{GRID!r}, {ANT!r}] == adapters.register_gym()\n"
        "assert not {'jax', 'flax', 'mujoco', 'brax', 'gymnax'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_two_worlds_do_not_share_an_id():
    name = "own_gridworld-of_mine"
    assert adapters.register_gym(name) == ["internal_rl/OwnGridworldOfMine-v0"]
    assert adapters.register_gym(name) == ["internal_rl/OwnGridworldOfMine-v0"]
    with pytest.raises(ValueError, match=f"own-gridworld-of-mine: its id .* is that of '{name}'"):
        adapters.register_gym("own-gridworld-of-mine")


def test_a_module_before_the_id_registers():
    program = (
        "import gymnasium\n"
        f"env = gymnasium.make('internal_rl.envs.adapters.gym:{GRID}', preset='smoke')\n"
        "env.reset(seed=0)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_missing_packages_are_named_with_the_command_that_installs_them():
    program = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('gymnasium', 'gymnax', 'brax'):\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from internal_rl.envs import adapters\n"
        "from internal_rl.errors import ConfigError\n"
        "world = 'gridworld-pinpad'\n"
        "doors = [adapters.register_gym, lambda: adapters.gym_env(world),\n"
        "  lambda: adapters.gym_vector_env(world, 2), lambda: adapters.gymnax_env(world),\n"
        "  lambda: adapters.brax_env(world)]\n"
        "for door in doors:\n"
        "    try:\n"
        "        door()\n"
        "    except ConfigError as error:\n"
        "        print(error)\n"
    )
    command = [sys.executable, "-c", program]
    process = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    view = "view of a world needs {0}, which is not installed: pip install 'internal_rl[{1}]'"
    packages = ["gymnasium"] * 3 + ["gymnax"]
    expected = [f"{name}'s {view.format(name, 'gym')}" for name in packages]
    expected.append(f"brax's {view.format('brax', 'ant')}")
    assert process.stdout.splitlines() == expected
