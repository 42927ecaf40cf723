"""Every command of the page on Cloud TPUs is one that the scripts, the flags or gcloud know."""

import re
import shlex

import pytest
import yaml

from internal_rl.stages.catalogue import STAGES
from internal_rl.stages.command import OTHERS
from tests.commands import ROOT, faults_of, scripts_in
from tests.test_launch_scripts import launch

PAGE = (ROOT / "docs" / "cloud_tpu.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"^```bash\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
]
GCLOUD = (
    "gcloud auth login",
    "gcloud config set project",
    "gcloud services enable tpu.googleapis.com",
    "gcloud storage buckets create",
    "gcloud compute tpus tpu-vm list --zone=",
    "gcloud compute tpus tpu-vm scp",
)
OTHER_TOOLS = ("tensorboard --logdir=", "python -m pip wheel", "pip install", "sky jobs logs")


def of(beginning):
    return [line for line in COMMANDS if line.startswith(beginning)]


def test_there_are_commands_of_every_kind():
    for beginning in ("launch/tpu_vm.sh", "launch/slurm.sh", "sky jobs launch", "internal-rl"):
        assert of(beginning), beginning
    for command in ("create", "install", "start", "follow", "status", "stop", "fetch", "delete"):
        assert of(f"launch/tpu_vm.sh {command} "), command


@pytest.mark.parametrize("line", sorted(set(of("launch/"))))
def test_scripts_take_what_the_page_gives_them(line):
    script, *arguments = shlex.split(line)
    place = arguments.index("--") if "--" in arguments else len(arguments)
    dry = [*arguments[:place], "--dry_run", *arguments[place:]]
    process = launch(script.removeprefix("launch/"), *dry)
    assert process.returncode == 0, process.stderr


def test_the_projects_own_flags_know_what_the_page_gives_them():
    calls = [call for line in of("python -m experiments") for call in scripts_in(line)]
    for line in of("launch/"):
        calls += [[*words] for words in [shlex.split(line.partition(" -- ")[2])] if words]
    for line in of("internal-rl"):
        _, name, *flags = shlex.split(line)
        assert name in (*OTHERS, *STAGES)
        calls.append([f"experiments.{name}", *flags])
    calls = [call if _names_a_workdir(call) else [*call, "--workdir=runs"] for call in calls]
    assert len(calls) > 5
    assert not faults_of(calls)


def _names_a_workdir(call):
    return any(argument.startswith("--workdir=") for argument in call)


def test_every_other_command_is_one_of_a_known_tool():
    own = {*of("launch/"), *of("python -m experiments"), *of("internal-rl"), *of("sky jobs launch")}
    for line in COMMANDS:
        assert line in own or line.startswith((*GCLOUD, *OTHER_TOOLS)), line
    task = yaml.safe_load((ROOT / "launch" / "sky.yaml").read_text())
    for line in of("sky jobs launch"):
        words = shlex.split(line)
        assert (ROOT / words[3]).exists()
        assert words[words.index("--env") + 1].partition("=")[0] in task["envs"]


def test_the_table_of_estimates_has_a_row_for_every_stage_and_is_marked():
    table = PAGE.partition("<!-- Filled from")[2].partition("<!-- end of the table -->")[0]
    rows = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert rows == {name for name in STAGES if name not in ("expert", "collect")}
