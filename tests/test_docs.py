"""The documentation says what is there: sections, links, files, figures, excerpts of code."""

import importlib.util
import json
import os
import pathlib
import pkgutil
import re
import shutil
import subprocess
import sys

import pytest
import yaml

import internal_rl
from experiments.results import put_into, results_text
from internal_rl.checksums import write_checked_json
from internal_rl.errors import ConfigError, StorageError
from internal_rl.stages.config_file import load_config
from internal_rl.stages.settings import Settings
from tests.analysis.made_up_run import rl_config, rl_lines, write_run, write_stage

ROOT = pathlib.Path(__file__).parents[1]
CODE = ("internal_rl", "experiments", "configs", "benchmarks", "examples")
PAGES = [
    *(ROOT / name for name in ("README.md", "BUILD_NOTES.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
LONGEST_NOTES = 200
SHIPPED = sorted(
    folder.relative_to(ROOT).as_posix()
    for folder in (ROOT / "internal_rl" / "pretrained").glob("*/*")
    if folder.is_dir() and folder.parent.name != "__pycache__"
)
RECORDS = sorted(
    folder.relative_to(ROOT).as_posix()
    for folder in (ROOT / "docs" / "records").glob("*")
    if folder.is_dir()
)
FENCE = re.compile(r"^```(\w*)(?: title=\"(.+?)\")?\n(.*?)^```", re.DOTALL | re.MULTILINE)

SOURCES = sorted((ROOT / "internal_rl").rglob("*.py"))
MODULES = {path.stem for path in (ROOT / "internal_rl").iterdir() if path.suffix in ("", ".py")}


def page_name(page):
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_section_of_the_method_that_the_code_cites_is_there():
    sections = set(re.findall(r"^## §(\d+) ", (ROOT / "docs/method.md").read_text(), re.MULTILINE))
    assert sections == {"1", "2", "3", "4", "5", "6", "7"}
    for folder in CODE:
        for path in (ROOT / folder).rglob("*.py"):
            cited = set(re.findall(r"§(\d+)", path.read_text()))
            assert cited <= sections, path


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_to_files(page):
    text = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path = target.partition("#")[0]
        if path and not re.match(r"[a-z]+:", target):
            assert (page.parent / path).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_files_and_modules_that_are_named_are_there(page):
    text = page.read_text()
    folders = "|".join((*CODE, "tests", "docs"))
    named = set(re.findall(rf"(?<![\w/.<>-])((?:{folders})/[\w./-]+\.(?:py|md|ipynb|json))", text))
    for span in re.findall(r"`([^`\n]+)`", text):
        named |= {word for word in span.split() if re.fullmatch(r"\w[\w/]*/\w+\.py", word)}
    for path in named:
        assert (ROOT / path).exists() or (ROOT / "internal_rl" / path).exists(), path
    for folder, name in re.findall(r"\b(experiments|benchmarks)\.(\w+)", text):
        assert (ROOT / folder / f"{name}.py").exists(), f"{folder}.{name}"


def is_there(name):
    """Whether a dotted name leads from the package to something."""
    try:
        pkgutil.resolve_name(f"internal_rl.{name}")
    except (ImportError, AttributeError):
        return False
    return True


def test_names_of_the_package_that_are_told_are_there():
    parts = "|".join(sorted(MODULES))
    for page in [*PAGES, *SOURCES]:
        if page.name == "CHANGELOG.md":
            continue  # It tells names that were.
        names, text = [], page.read_text()
        if page.suffix == ".md":
            names = re.findall(r"(?<![\w./])irl\.(\w+(?:\.\w+)*)", text)
            text = text.replace("`internal_rl.", "`")
        names += re.findall(rf"`((?:{parts})\.\w+(?:\.\w+)*)`", text)
        names = [name for name in names if not re.search(r"\.(py|json|tar)\b", name)]
        missing = {name for name in names if not is_there(name)}
        assert not missing, f"{page}: {missing}"


def test_the_reference_lists_what_its_modules_define():
    listed = []
    for page in sorted((ROOT / "docs" / "reference").glob("*.md")):
        found = re.findall(
            r"^::: ([\w.]+)\n(?: {4}.*\n)*? {6}members: \[(.*?)\]", page.read_text(), re.MULTILINE
        )
        listed += [(module, name) for module, names in found for name in names.split(", ")]
    assert len(listed) > 100
    for module, name in listed:
        thing = pkgutil.resolve_name(f"{module}:{name}")
        assert getattr(thing, "__module__", module) == module, f"{module}.{name}"


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "mkdocs.yml", ROOT / "CITATION.cff"], ids=page_name
)
def test_no_page_names_a_place_of_one_machine(page):
    assert not re.findall(r"(?<![\w.])/(?:work|tmp|root|home|mnt)/\S*", page.read_text())


def test_the_notes_are_short():
    assert len((ROOT / "BUILD_NOTES.md").read_text().splitlines()) <= LONGEST_NOTES


def test_licence_and_citation_fit_the_package():
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == internal_rl.__version__
    assert citation["license"] == "Apache-2.0"
    assert "2512.20605" in citation["preferred-citation"]["url"]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "tutorials" in str(page)], ids=page_name
)
def test_excerpts_stand_in_the_files_that_they_are_from(page):
    for language, title, code in FENCE.findall(page.read_text()):
        assert not title or language == "python"
        if title.endswith(".ipynb"):
            cells = json.loads((ROOT / title).read_text())["cells"]
            assert any(code.rstrip("\n") in "".join(cell["source"]) for cell in cells), code
        elif title:
            assert code in (ROOT / title).read_text(), code


def tutorial_on_arrays():
    """The Python blocks of the tutorial, in order."""
    blocks = FENCE.findall((ROOT / "docs/tutorials/arrays.md").read_text())
    return [code for language, _, code in blocks if language == "python"]


def test_arrays_become_data_as_the_tutorial_shows():
    names = {}
    exec("\n".join(tutorial_on_arrays()[:2]), names)
    assert names["data"].labelled
    assert names["data"].arrays["train"].observation.shape[1:] == (64, 8)


@pytest.mark.slow
def test_methods_learn_from_arrays_as_the_tutorial_shows():
    code = "\n".join(tutorial_on_arrays())
    # The same in a few updates of each method.
    shortened, count = re.subn(r"steps=\d+", "steps=2", code)
    assert count == 4
    names = {}
    exec(shortened, names)
    assert 0 <= float(names["figures"]["f1"]) <= 1


@pytest.mark.parametrize("folder", SHIPPED + RECORDS)
def test_figures_of_shipped_runs_and_records_are_those_of_their_folders(folder, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs/results.md").read_text()
    assert put_into(text, folder) == text


def test_results_tell_base_models_that_lie_upstream(tmp_path):
    for seed in range(2):
        write_stage(tmp_path / "base", "pretrain", seed, {}, [(1, {"loss": 0.5})])
        config = rl_config("internal_rl")
        write_stage(tmp_path / "run", "internal_rl", seed, config, rl_lines([0.0, 0.1]))
    assert "base model" not in results_text(tmp_path / "run")
    told = results_text(tmp_path / "run", [tmp_path / "base"])
    assert "| seed 1 (base model 1) |" in told and "2 runs, 2 base models" in told


def test_results_of_a_stage_without_figures_are_one_line(tmp_path):
    write_stage(tmp_path, "collect", 0, {}, [(48, {})])
    (told,) = results_text(tmp_path).splitlines()
    assert told.startswith("**collect** – ") and ", 48 shards, " in told


def test_results_tell_studies_over_several_runs(tmp_path):
    write_run(tmp_path)
    told = results_text(tmp_path)
    assert "**study rate_distortion** – `python -m experiments.sweep --study=rate_dist" in told
    assert "\n2 of 3 runs are finished. Missing: frozen_alpha1.\n" in told
    assert "\n| arm | α | NLL |" in told and "\n| frozen | 0.3 |" in told
    alone = tmp_path / "alone"
    shutil.copytree(tmp_path / "sweep", alone / "sweep")
    (alone / "sweep/of_mine").mkdir()
    shutil.copy(alone / "sweep/rate_distortion/sweep.json", alone / "sweep/of_mine/sweep.json")
    told = results_text(alone)
    assert told.startswith("**study of_mine** – left out, nothing that is called so is known here")
    assert "\n**study rate_distortion** – `python -m experiments.sweep --study=rate_dist" in told


def test_runs_of_a_study_that_its_command_does_not_make_are_noted(tmp_path):
    settings = Settings.read(load_config("gridworld:smoke"))
    write_run(tmp_path, lambda folder: settings.stage_config(folder.partition("_forced")[0]).values)
    assert "**2 of 2 runs were made with other settings: " in results_text(tmp_path)


def test_minutes_are_those_of_all_programs_and_commits_those_of_all_parts(tmp_path):
    for seed, (seconds, group) in enumerate([(60.0, [0, 1]), (60.0, [0, 1]), (120.0, [2])]):
        config = rl_config("internal_rl")
        write_stage(tmp_path, "internal_rl", seed, config, [(1, {"seconds": seconds})])
        file = tmp_path / f"internal_rl/seed_{seed}/config.json"
        write_checked_json(file, json.loads(file.read_text()) | {"seeds": group})
    file = tmp_path / "internal_rl/seed_2/versions.json"
    later = [{"from_step": 5, "commit": "abc1234", "device": "toaster"}]
    write_checked_json(file, json.loads(file.read_text()) | {"later": later})
    told = results_text(tmp_path).splitlines()[0]
    assert ", 3.0 minutes, 3 runs" in told and " and abc1234, " in told
    assert "**seed 2 went on from 5 with device toaster**" in told


def test_a_stage_that_is_known_elsewhere_does_not_hide_the_others(tmp_path):
    write_run(tmp_path)
    environment = {"environment": {"name": "gridworld-pinpad"}, "mystage": {"depth": 1}}
    write_stage(tmp_path, "mystage", 0, environment, [(1, {"loss": 0.5})])
    assert "**mystage** – " in results_text(tmp_path)


def test_every_setting_has_a_meaning(hooks):
    rows = [line for line in hooks.settings_text().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert not [row for row in rows if re.search(r"\|\s*\|$", row)]


def test_the_documentation_is_built_strictly(tmp_path):
    for name in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(name)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stderr[-3000:]
    assert (tmp_path / "site" / "reference" / "settings" / "index.html").exists()


def test_results_are_renewed_in_their_block_alone(tmp_path):
    block = "<!-- results of {} -->\n| old |\n<!-- end of results -->\n"
    text = f"head\n{block.format(tmp_path)}between\n{block.format('runs/other')}tail\n"
    with pytest.raises(StorageError, match="holds no stage of a run, nothing to tell"):
        put_into(text, tmp_path)
    with pytest.raises(StorageError, match="holds no stage of a run, nothing to tell"):
        results_text(tmp_path)
    write_stage(tmp_path, "internal_rl", 0, rl_config("internal_rl"), rl_lines([0.0, 0.1]))
    found = put_into(text, tmp_path)
    assert found.startswith("head\n") and "**internal_rl**" in found
    assert found.endswith(f"between\n{block.format('runs/other')}tail\n")
    assert found.count("| old |") == 1
    # Of a block without an end the next one's is not taken.
    torn = text.replace("<!-- end of results -->", "", 1)
    with pytest.raises(ConfigError, match="--into: "):
        put_into(torn, tmp_path)


def test_results_tell_what_is_unfinished_and_what_is_otherwise(tmp_path):
    config = rl_config("internal_rl")
    other = {"internal_rl": config["internal_rl"] | {"learning_rate": 0.5}}
    same = {"internal_rl": config["internal_rl"] | {"learning_rate": 0.1}}
    write_stage(tmp_path, "internal_rl", 0, same, rl_lines([0.0, 0.1]))
    write_stage(tmp_path, "internal_rl", 1, other, rl_lines([0.0, 0.1]))
    write_stage(tmp_path, "internal_rl", 2, same, rl_lines([0.0, 0.1]))
    (tmp_path / "internal_rl/seed_2/DONE").unlink()
    told = results_text(tmp_path).splitlines()[0]
    assert "**seed 1 was made with internal_rl.learning_rate=0.5**" in told
    assert "**seed 2 is not finished: 2 updates so far**" in told
    assert told.count("**seed") == 2


def test_hours_on_tpus_are_those_of_the_measured_cycles():
    """One table tells cycles of an update, the other one what follows at 1.5 GHz."""
    cycles, hours = {}, {}
    for line in (ROOT / "docs/performance.md").read_text().splitlines():
        if found := re.match(r"\| grid world, `(\w+)` \| (.*) \|$", line):
            cells = found[2].split(" | ")
            cycles[found[1]] = [float(cells[i].split()[0].rstrip(";")) for i in (0, 1, 3)]
    for line in (ROOT / "docs/cloud_tpu.md").read_text().splitlines():
        if found := re.match(r"\| `(\w+)` \| ([\d,]+) \| (.*\(.* ms\)) \|$", line):
            hours[found[1]] = (int(found[2].replace(",", "")), found[3].split(" | "))
    assert set(hours) == set(cycles) and len(hours) == 7
    for stage, (updates, cells) in hours.items():
        for millions, cell in zip(cycles[stage], cells, strict=True):
            told, milliseconds = re.fullmatch(r"(.*) \(([\d.]+) ms\)", cell).groups()
            assert float(milliseconds) == pytest.approx(millions / 1.5, rel=0.01, abs=0.1)
            expected = updates * float(milliseconds) / 3.6e6
            assert told == ("below 0.1" if expected < 0.1 else f"{expected:.1f}")
