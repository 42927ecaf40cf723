"""Names of folders: what they stand for, and one line for those that stand for nothing."""

import pathlib

import pytest
from etils.epath import gpath

from internal_rl import paths, pretrained
from internal_rl.errors import ConfigError, StageMissingError, StorageError, UserError
from internal_rl.loading import load
from internal_rl.stages.places import Places
from internal_rl.training.curves import curves
from internal_rl.training.stage_directory import StageDirectory
from internal_rl.training.stage_results import check_stage, load_stage
from tests.stages.test_launch import error_line, run_script
from tests.stores import store

MISSPELT = ["s3x://bucket/run", "gs:/bucket/run", "gs:///run", "gs://", "foo://x", "file:///x"]


@pytest.mark.parametrize("name", MISSPELT)
def test_an_unknown_scheme_is_refused_before_anything_is_written(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = (
        paths.as_path,
        Places,
        curves,
        load,
        lambda name: StageDirectory(name, "toy", 0),
        lambda name: load_stage(name, "toy", 0),
        lambda name: pretrained.install("gridworld-pinpad", "small", name),
    )
    for call in calls:
        with pytest.raises(ConfigError, match=r"'\S+' given, .*allowed is a folder of this mach"):
            call(name)
    with pytest.raises(ConfigError, match=r"^--upstream: '"):
        Places(tmp_path, (name,))
    assert not list(tmp_path.iterdir())


def test_the_command_line_refuses_an_unknown_scheme_in_one_line(tmp_path):
    line = error_line(run_script("--workdir=s3x://bucket/run"))
    assert line.startswith("error: --workdir: 's3x://bucket/run' given, no store is known as s3x:")
    assert not pathlib.Path("s3x:").exists()
    line = error_line(run_script(f"--workdir={tmp_path}/run", "--compilation_cache=gs:/typo"))
    assert line.startswith("error: --compilation_cache: 'gs:/typo' given")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "expected"), [("~", ""), ("~/runs/one", "runs/one"), ("~/a~b", "a~b")]
)
def test_the_home_folder_is_expanded(name, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.as_path(name) == tmp_path / expected
    assert StageDirectory(name, "toy", 0).path == tmp_path / expected / "toy" / "seed_0"
    folder = tmp_path / expected / "toy" / "seed_0"
    folder.mkdir(parents=True)
    assert Places(name).holds("toy", 0) and Places(tmp_path / "none", (name,)).holds("toy", 0)


def test_a_user_without_a_home_is_one_line():
    with pytest.raises(ConfigError, match="'~nobody-of-that-name/run' given, that user has no h"):
        paths.as_path("~nobody-of-that-name/run")


@pytest.mark.parametrize("name", ["runs/one", "/runs/one", "a:b", "./a", "runs/~"])
def test_other_names_are_folders_of_this_machine(name):
    assert paths.as_path(name) == pathlib.Path(name)
    assert isinstance(paths.as_path(name), pathlib.Path)
    assert not paths.is_remote(paths.as_path(name)) and paths.scheme_of(name) == ""


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_names_on_a_store_stay_what_they_are(scheme):
    path = paths.as_path(f"{scheme}://bucket/runs/one")
    assert str(path) == f"{scheme}://bucket/runs/one" and paths.is_remote(path)
    assert str(path / "toy") == f"{scheme}://bucket/runs/one/toy"
    assert paths.scheme_of(path) == scheme


def test_a_bucket_that_is_not_there_is_one_line(monkeypatch):
    with store(monkeypatch, "gs"):
        paths.check_store(paths.as_path("gs://bucket/run"))
        with pytest.raises(
            StorageError, match="--workdir: gs://typo is not there, or this account"
        ):
            Places("gs://typo/run")


def test_a_store_without_buckets_is_asked_for_an_answer_alone(monkeypatch):
    with store(monkeypatch, "hf"):
        paths.check_store(paths.as_path("hf://datasets/somebody/new"))


def test_faults_of_a_store_are_one_line(monkeypatch):
    def fail(self, name):
        raise PermissionError("no credentials\nof any kind")

    with store(monkeypatch, "gs"):
        monkeypatch.setattr(type(gpath._PREFIX_TO_BACKEND["gs"]), "exists", fail)
        with pytest.raises(
            StorageError, match="cannot be reached .PermissionError: no cred.* kind"
        ):
            Places("gs://bucket/run")


def test_a_missing_package_is_one_line_that_names_the_extra(monkeypatch):
    def fail(self, name):
        raise ImportError("Please install gcsfs")

    with store(monkeypatch, "gs"):
        monkeypatch.setattr(type(gpath._PREFIX_TO_BACKEND["gs"]), "exists", fail)
        with pytest.raises(ConfigError, match=r"gcsfs.: pip install 'internal_rl\[gcs\]'"):
            Places("gs://bucket/run")


def test_earlier_stages_are_found_on_a_store(monkeypatch, tmp_path):
    with store(monkeypatch, "gs") as objects:
        objects["gs://bucket/other/toy/seed_0/config.json"] = b"{}"
        places = Places(tmp_path, ("gs://bucket/other",))
        assert places.holds("toy", 0) and not places.holds("toy", 1)
        with pytest.raises(StageMissingError):
            check_stage("gs://bucket/other", "toy", 0)
        with pytest.raises(ConfigError, match="--upstream: 'gs://bucket/none' is not there"):
            Places(tmp_path, ("gs://bucket/none",))


def test_shipped_stages_are_copied_to_a_store_and_read_there(monkeypatch):
    with store(monkeypatch, "gs") as objects:
        workdir = "gs://bucket/run"
        pretrained.install("gridworld-pinpad", "small", workdir)
        assert load(workdir).world.time_limit == load("gridworld-pinpad/small").world.time_limit
        assert not [name for name in objects if name.endswith(".partial")]
        # A stage of the user's own stays, a copy that was cut off is made again.
        mine, half = (f"{workdir}/{stage}/seed_0/" for stage in ("pretrain", "metacontroller"))
        objects[f"{mine}params.msgpack"] = b"mine"
        del objects[f"{half}DONE"]
        objects[f"{workdir}/metacontroller/.seed_0.partial"] = b""
        pretrained.install("gridworld-pinpad", "small", workdir)
        assert objects[f"{mine}params.msgpack"] == b"mine" and f"{half}DONE" in objects


def test_every_refusal_is_a_fault_that_the_user_can_mend():
    assert issubclass(ConfigError, UserError) and issubclass(StorageError, UserError)
