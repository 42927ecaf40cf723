"""The scripts of `launch/` print what they would do, and that is what the project knows."""

import os
import pathlib
import shutil
import subprocess

import pytest
import yaml

from tests.commands import ROOT, faults_of, scripts_in, words_of

LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
TPU_COMMANDS = ("create", "install", "start", "follow", "status", "stop", "fetch", "delete")
PLACE = ("--name=paper", "--zone=us-west4-a", "--workdir=gs://my-bucket/paper")
# What is called outside of the project, by whom.
KNOWN = {
    "tpu_vm.sh": {"gcloud", "git", "mkdir", "rm", "tar"},
    "slurm.sh": {"sbatch", "srun"},
}


def launch(script, *arguments, path=None):
    """Runs a script with the programs of the system alone, or with those of `path`."""
    environment = {"PATH": path or os.defpath, "HOME": "nowhere"}
    return subprocess.run(
        ["bash", LAUNCH / script, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )


def printed(script, *arguments):
    """The commands that `--dry_run` prints."""
    process = launch(script, *arguments, "--dry_run") if "--" not in arguments else None
    if process is None:
        place = arguments.index("--")
        process = launch(script, *arguments[:place], "--dry_run", *arguments[place:])
    assert process.returncode == 0 and not process.stderr, process.stderr
    return [line for line in process.stdout.splitlines() if not line.startswith("#")]


def all_printed():
    """What every command of every script prints, on one host and on several."""
    lines = []
    for kind in ("v5litepod-1", "v5litepod-8", "v5litepod-32"):
        for command in TPU_COMMANDS:
            lines += printed("tpu_vm.sh", command, *PLACE, f"--type={kind}", "--spot")
    one = ("--", "experiments.pretrain", "--config=configs/gridworld.py:small")
    lines += printed("tpu_vm.sh", "start", *PLACE, *one, "--config.pretrain.num_seeds=1")
    lines += printed("tpu_vm.sh", "fetch", *PLACE[:2], "--workdir=runs/paper", "--project=mine")
    lines += printed(
        "slurm.sh", "--workdir=/shared/run", "--nodes=4", "--partition=gpu", "--time=1:0"
    )
    lines += printed("slurm.sh", "--workdir=/shared/run", "--account=me", "--gpus_per_node=0", *one)
    return lines


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash_that_the_linter_likes(script):
    subprocess.run(["bash", "-n", script], check=True)
    linter = shutil.which("shellcheck")
    if linter is None:
        pytest.skip("shellcheck is not installed")
    command = [linter, "--external-sources", "--source-path=SCRIPTDIR/..", script]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 0, process.stdout


def test_every_printed_script_and_flag_is_one_of_the_project():
    calls = [call for line in all_printed() for call in scripts_in(line)]
    assert {call[0] for call in calls} == {"experiments.reproduce", "experiments.pretrain"}
    assert any("--coordinator=auto" in call for call in calls)
    assert not faults_of(calls)


def test_a_flag_that_is_not_there_is_noticed():
    (line,) = printed("tpu_vm.sh", "start", *PLACE, "--", "experiments.pretrain", "--stepps=3")
    assert "stepps" in faults_of(scripts_in(line))[0]


def test_only_known_programs_are_called_and_nothing_is_undefined():
    for line in all_printed():
        words = words_of(line)
        assert words[0] in set().union(*KNOWN.values()), line
        for word in words:
            command = word.partition("--command=")[2]
            if command:
                # What is run on the other machine is shell too.
                subprocess.run(["bash", "-n", "-c", command], check=True)
                assert "$" not in command.replace("$(", "").replace("$!", "").replace("$?", "")
            assert not word.endswith("="), line


@pytest.mark.parametrize("command", TPU_COMMANDS)
def test_a_dry_run_calls_nothing(command, tmp_path):
    for name in ("gcloud", "git", "tar"):
        stub = tmp_path / name
        stub.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
        stub.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.defpath}"
    process = launch("tpu_vm.sh", command, *PLACE, "--dry_run", path=path)
    assert process.returncode == 0 and process.stdout
    assert not (tmp_path / "called").exists()


def test_without_dry_run_the_same_commands_are_called(tmp_path):
    stub = tmp_path / "gcloud"
    stub.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    stub.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.defpath}"
    process = launch("tpu_vm.sh", "start", *PLACE, path=path)
    (line,) = printed("tpu_vm.sh", "start", *PLACE)
    assert process.stdout.splitlines() == words_of(line)[1:]


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("tpu_vm.sh", (), "no command given, allowed are create"),
        ("tpu_vm.sh", ("begin",), "begin: unknown command"),
        ("tpu_vm.sh", ("create", "--zone=z"), "--name: not given"),
        ("tpu_vm.sh", ("create", "--name=n"), "--zone: not given, allowed is for example"),
        ("tpu_vm.sh", ("create", *PLACE, "--kind=3"), "--kind=3: unknown setting"),
        ("tpu_vm.sh", ("create", *PLACE, "--type=v5"), "--type: 'v5' given"),
        ("tpu_vm.sh", ("start", *PLACE[:2]), "--workdir: not given"),
        ("tpu_vm.sh", ("start", *PLACE[:2], "--workdir=gs:/b/r"), "--workdir: 'gs:/b/r' given"),
        ("tpu_vm.sh", ("start", *PLACE[:2], "--workdir=r", "--type=v5litepod-16"), "several hosts"),
        ("tpu_vm.sh", ("start", *PLACE, "--", "rm"), "program: 'rm' given"),
        ("tpu_vm.sh", ("stop", *PLACE, "--", "experiments.probe"), "only start takes a script"),
        ("slurm.sh", (), "--workdir: not given"),
        ("slurm.sh", ("--workdir=r", "--nodes=two"), "--nodes: 'two' given"),
        ("slurm.sh", ("--workdir=r", "--nodes=0"), "--nodes: 0 given"),
        ("slurm.sh", ("--workdir=r", "--grace=10"), "--grace: 10 given, allowed is 60 or more"),
        ("slurm.sh", ("--workdir=r", "--node=1"), "--node=1: unknown setting"),
    ],
)
def test_what_is_missing_or_wrong_is_one_line(script, arguments, message):
    process = launch(script, *arguments)
    assert process.returncode == 2 and not process.stdout
    assert process.stderr.startswith("error: ") and process.stderr.count("\n") == 1
    assert message in process.stderr


@pytest.mark.parametrize("script", ["tpu_vm.sh", "slurm.sh"])
def test_help_names_every_setting_of_the_script(script):
    text = (LAUNCH / script).read_text()
    told = launch(script, "--help").stdout
    for line in text.splitlines():
        setting = line.strip().partition("=*)")[0]
        if setting.startswith("--") and setting != line.strip():
            assert f"  {setting}=" in told, setting
    assert "--dry_run" in told and "set -e" not in told


def test_a_job_is_queued_again_when_the_run_was_told_to_stop(tmp_path):
    def run_job(code):
        for name, body in {
            "srun": f"exit {code}",
            "scontrol": f'echo "$@" > {tmp_path}/asked',
        }.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
            (tmp_path / name).chmod(0o755)
        (tmp_path / "asked").unlink(missing_ok=True)
        path = f"{tmp_path}{os.pathsep}{os.defpath}"
        process = subprocess.run(
            ["bash", LAUNCH / "slurm.sh", "in_job", "python", "experiments.reproduce"],
            env={"PATH": path, "SLURM_JOB_ID": "7"},
        )
        return process.returncode, (tmp_path / "asked").exists()

    assert run_job(143) == (143, True)
    assert run_job(0) == (0, False)
    assert run_job(2) == (2, False)
    run_job(143)
    assert (tmp_path / "asked").read_text() == "requeue 7\n"


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, ""),
        ({"SLURM_GPUS_ON_NODE": "8"}, "cuda,cpu"),
        ({"SLURM_GPUS_ON_NODE": "8", "JAX_PLATFORMS": "rocm"}, "rocm"),
    ],
)
def test_a_job_with_gpus_does_not_go_on_without_them(given, asked, tmp_path):
    (tmp_path / "srun").write_text('#!/bin/sh\necho "<${JAX_PLATFORMS:-}>"\n')
    (tmp_path / "srun").chmod(0o755)
    process = subprocess.run(
        ["bash", LAUNCH / "slurm.sh", "in_job", "python", "experiments.reproduce"],
        env={"PATH": f"{tmp_path}{os.pathsep}{os.defpath}", "SLURM_JOB_ID": "7"} | given,
        capture_output=True,
        text=True,
    )
    assert process.stdout == f"<{asked}>\n", process.stderr


@pytest.fixture(scope="module")
def sky_task():
    return yaml.safe_load((LAUNCH / "sky.yaml").read_text())


def test_the_task_of_skypilot_calls_what_the_project_knows(sky_task):
    assert set(sky_task) == {"name", "resources", "workdir", "envs", "setup", "run"}
    assert 143 in sky_task["resources"]["job_recovery"]["recover_on_exit_codes"]
    for text in (sky_task["setup"], sky_task["run"]):
        subprocess.run(["bash", "-n", "-c", text], check=True)
    command = sky_task["run"].splitlines()[-1]
    values = sky_task["envs"] | {"WORKDIR": "gs://my-bucket/paper", "several": "--coordinator=auto"}
    for name, value in values.items():
        command = command.replace(f'"${name}"', value).replace(f"${name}", value)
    assert "$" not in command
    (call,) = scripts_in(command)
    assert not faults_of([call])


def test_skypilot_itself_reads_the_task(sky_task):
    sky = pytest.importorskip("sky")
    task = sky.Task.from_yaml_config(sky_task, env_overrides=[("WORKDIR", "gs://my-bucket/paper")])
    (resources,) = task.resources
    assert resources.use_spot and "tpu-v5litepod-8" in resources.accelerators


def test_the_scripts_can_be_run():
    for script in ("tpu_vm.sh", "slurm.sh"):
        assert os.access(pathlib.Path(LAUNCH / script), os.X_OK)
