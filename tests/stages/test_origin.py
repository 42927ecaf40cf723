"""Which command makes the seeds that a run has, and what a run tells of its settings."""

import dataclasses
import itertools

import pytest

from internal_rl.analysis.results import SeedResults, read_run
from internal_rl.stages import running
from internal_rl.stages.config_file import load_config
from internal_rl.stages.origin import (
    command_that_made,
    missing_stages,
    origin_of,
    seed_flags,
    settings_of_run,
)
from internal_rl.stages.places import Places
from internal_rl.stages.settings import Settings
from tests.analysis.made_up_run import rl_config, rl_lines, write_stage
from tests.stages.test_page import page_of


@pytest.fixture(scope="module")
def small():
    return Settings.read(load_config("gridworld:small"))


def seeds_of(settings, stage, some=None):
    config = settings.stage_config(stage).values
    return [
        SeedResults(stage, seed, config, (), {}, settings.reads(stage, seed))
        for seed in some or settings.seeds_of(stage)
    ]


def given(settings, flags):
    """The settings with flags."""
    fields = dict(flag.removeprefix("--config.").split("=") for flag in flags)
    some = fields.pop("--seeds", "")
    seed = int(fields.pop("seed", settings.seed))
    changed = settings.with_fields({name: int(value) for name, value in fields.items()})
    return dataclasses.replace(changed, seed=seed), [int(x) for x in some.split(",") if x]


@pytest.mark.parametrize("stage", ["pretrain", "probe", "metacontroller", "internal_rl", "raw_rl"])
@pytest.mark.parametrize("first", [0, 7])
def test_the_seeds_of_the_command_are_those_there_are_and_stand_on_the_same(small, stage, first):
    for bases, each in itertools.product((1, 2, 3, 5), (1, 2, 3)):
        fields = {"pretrain.num_seeds": bases, "raw_rl.seeds_per_input": each}
        fields["metacontroller.seeds_per_input"] = each
        run = dataclasses.replace(small.with_fields(fields), seed=first)
        every = run.seeds_of(stage)
        for some in (every, every[:1], every[-1:]):
            flags = seed_flags(small, stage, seeds_of(run, stage, some))
            again, chosen = given(small, flags)
            assert tuple(chosen or again.seeds_of(stage)) == some
            assert set(some) <= set(again.seeds_of(stage))
            for seed in some:
                assert again.reads(stage, seed) == run.reads(stage, seed)


def test_as_few_flags_are_told_as_will_do(small):
    one_base = small.with_fields({"pretrain.num_seeds": 1})
    for run, stage, some, expected in (
        (small, "metacontroller", None, []),
        (small, "internal_rl", None, []),
        (small, "metacontroller", (0, 1, 2), ["--seeds=0,1,2"]),
        (one_base, "metacontroller", None, ["--config.pretrain.num_seeds=1"]),
        (one_base, "internal_rl", None, ["--config.pretrain.num_seeds=1"]),
        (one_base, "pretrain", None, ["--seeds=0"]),
        (dataclasses.replace(small, seed=7), "pretrain", None, ["--config.seed=7"]),
    ):
        assert seed_flags(small, stage, seeds_of(run, stage, some)) == expected


def test_what_only_a_config_of_ones_own_has_is_made_from_python(small):
    config = small.stage_config("raw_rl").values
    told = command_that_made(SeedResults("raw_rl", 0, config, (), {}))
    assert told.startswith("python -m experiments.raw_rl --config=configs/gridworld.py:small")
    own = config | {"base": config["base"] | {"block": "lstm"}}
    for stage, stored in (("raw_rl", own), ("scratch_rl", config)):
        told = command_that_made(SeedResults(stage, 0, stored, (), {}))
        assert told.startswith(f'irl.run_stages(config, workdir, ["{stage}"])')


def write_policies(path, settings):
    """A run of raw actions alone."""
    for seed in settings.seeds_of("raw_rl"):
        values = settings.stage_config("raw_rl").values
        values["raw_rl"] |= rl_config("raw_rl")["raw_rl"]
        reads = settings.reads("raw_rl", seed)
        write_stage(path, "raw_rl", seed, values, rl_lines([0.0, 0.5]), reads=reads)


def test_software_is_that_of_all_seeds(small, tmp_path):
    write_policies(tmp_path, small.with_one_seed())
    (tmp_path / "raw_rl" / "seed_1").mkdir()
    for name in ("config.json", "DONE", "metrics.jsonl"):
        text = (tmp_path / "raw_rl" / "seed_0" / name).read_text()
        (tmp_path / "raw_rl" / "seed_1" / name).write_text(text)
    (tmp_path / "raw_rl" / "seed_1" / "versions.json").write_text(
        '{"commit": "abcdef0", "jax": "9.9.9", "device": "moon"}'
    )
    seeds = read_run(tmp_path)["raw_rl"]
    assert "jax 9.9.9 on moon" in origin_of(tmp_path, seeds).software
    assert origin_of(tmp_path, seeds).software.count(" and ") == 1
    assert origin_of(tmp_path, seeds[:1]).software.count(" and ") == 0


def test_first_seed_and_numbers_of_seeds_that_are_proved_are_those_of_the_run(small, tmp_path):
    run = dataclasses.replace(small.with_fields({"pretrain.num_seeds": 1}), seed=7)
    write_policies(tmp_path, run)
    found, flags = settings_of_run(read_run(tmp_path))
    assert found.seed == 7 and found.pretrain.num_seeds == 1
    assert {"--config.seed=7", "--config.pretrain.num_seeds=1"} <= set(flags)
    missing = {x.stage: x.seeds for x in missing_stages(found, Places(tmp_path, arguments=flags))}
    assert missing["pretrain"] == (7,) and missing["metacontroller"] == (7, 8, 9)
    assert "raw_rl" not in missing


def test_the_page_names_upstream_and_compares_with_the_settings_that_it_is_given(small, tmp_path):
    upstream, workdir = tmp_path / "up", tmp_path / "own"
    upstream.mkdir()
    run = small.with_one_seed()
    write_policies(workdir, run)
    running.report(Places(workdir, (str(upstream),)), settings=run)
    page = page_of(workdir)
    codes = [x["text"] for x in page.all("code", "study-learning")]
    assert f"--workdir={workdir} --upstream={upstream}" in codes[0]
    rows = {x["text"].partition("python")[0] for x in page.all("tr", "missing")}
    assert "pretrain0not run" in rows and "metacontroller0not run" in rows
    told = " ".join(x["text"] for x in page.all("p", "missing"))
    assert "those of the preset" not in told
    running.report(Places(workdir, (str(upstream),)))
    told = " ".join(x["text"] for x in page_of(workdir).all("p", "missing"))
    assert "those of the preset" in told
