"""The ant's stages at smoke size, through the command line: the scripts of the grid world."""

import functools
import json

import pytest

from tests.stages import test_stages

run_script = functools.partial(test_stages.run_script, world="ant")


def test_models_without_datasets_name_the_command_that_collects_them(tmp_path):
    result = run_script("pretrain", tmp_path)
    assert result.returncode == 2
    assert "python -m experiments.collect" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("--config.data.held_out_shards=2", "data.held_out_shards"),
        ("--config.data.sequence_length=20", "data.sequence_length"),
        ("--config.environment.cell_size=0.0", "cell_size"),
        ("--config.base.num_heads=3", "base.num_heads"),
    ],
)
def test_bad_values_are_named(tmp_path, argument, named):
    result = run_script("pretrain", tmp_path, argument)
    assert result.returncode == 2
    assert named in result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_all_stages_run_and_an_altered_shard_is_refused(tmp_path):
    result = run_script("reproduce", tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    stages = ["expert", "collect", "pretrain", "probe", "steer", "raw_rl"]
    stages += ["compile", "internal_rl_compile"]
    for variant in ("", "_forced", "_unaligned", "_cotrained"):
        stages += [f"metacontroller{variant}", f"internal_rl{variant}"]
    for stage in stages:
        assert (tmp_path / stage / "seed_0" / "DONE").exists(), stage
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    for name in ("internal_rl_success", "raw_rl_success", "switching_f1", "reference_one_step"):
        assert isinstance(summary[name], float), name
    for figure in ("paths", "internal_rl_path", "gates", "pretraining"):
        assert (tmp_path / "report" / f"{figure}.png").exists()
    test_stages.check_page(tmp_path, impossible=["ablation_noise"])

    (tmp_path / "steer" / "seed_0" / "DONE").unlink()
    shard = next((tmp_path / "collect" / "seed_0" / "clean").glob("*.array_record"))
    shard.write_bytes(shard.read_bytes()[:-1])
    result = run_script("steer", tmp_path)
    assert result.returncode == 2
    assert shard.name in result.stderr.splitlines()[-1]
