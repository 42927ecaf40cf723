"""The report as one page: whole, self-contained, escaped, and naming what is not there."""

import base64
import html.parser
import io
import json
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from internal_rl.analysis import study
from internal_rl.analysis.study import Study, register_study
from internal_rl.analysis.table import Row
from internal_rl.errors import ConfigError
from internal_rl.stages import running
from internal_rl.stages.config_file import load_config
from internal_rl.stages.markdown import as_html
from internal_rl.stages.origin import missing_stages
from internal_rl.stages.page import _refused_sweeps
from internal_rl.stages.places import Places
from internal_rl.stages.settings import Settings
from tests.analysis.made_up_run import rl_config, rl_lines, write_run, write_stage
from tests.analysis.test_report import damage

VOID = {"meta", "img", "br", "link", "input", "hr"}
DRAWN = {"base_model", "probe", "steering", "gates", "encoder_injection", "learning"}


class Page(html.parser.HTMLParser):
    """A parsed page: elements with their attributes and text; raises where tags do not match."""

    def __init__(self, text):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "text": "", "inside": [x["id"] for x in self._open if x["id"]]}
        element |= {"id": "", **dict(attributes)}
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag):
        assert self._open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data

    def all(self, tag, inside=""):
        return [
            x for x in self.elements if x["tag"] == tag and (not inside or inside in x["inside"])
        ]


def page_of(workdir):
    return Page((workdir / "report" / "index.html").read_text())


@pytest.fixture(scope="module")
def smoke():
    return Settings.read(load_config("gridworld:smoke"))


@pytest.fixture(scope="module")
def workdir(smoke, tmp_path_factory):
    path = tmp_path_factory.mktemp("run")

    def config_of(folder):
        stage, _, variant = folder.partition("_forced")
        return smoke.stage_config(stage).values

    write_run(path, config_of)
    running.report(Places(path))
    return path


@pytest.fixture(scope="module")
def page(workdir):
    return page_of(workdir)


def test_every_study_of_the_run_has_a_figure_with_a_text_in_its_place(page):
    for name in DRAWN:
        pictures = page.all("img", f"study-{name}")
        assert pictures, name
        for picture in pictures:
            assert picture["src"].startswith("data:image/png;base64,iVBOR")
            assert len(picture["alt"]) > 40 and re.search(r"\d+ runs?", picture["alt"])
            content = base64.b64decode(picture["src"].partition(",")[2])
            width, _ = Image.open(io.BytesIO(content)).size
            assert picture["style"] == f"--pixels: {width}px"
    assert len(page.all("h1")) == 1
    ids = [x["id"] for x in page.elements if x["id"]]
    assert len(ids) == len(set(ids))
    assert {x["href"][1:] for x in page.all("a", "") if x["href"][0] == "#"} <= set(ids)


def test_studies_over_several_runs_have_parts_of_their_own(page):
    (picture,) = page.all("img", "study-sweep-rate_distortion")
    assert "KL of the codes against NLL" in picture["alt"] and "2 runs" in picture["alt"]
    told = " ".join(x["text"] for x in page.all("p", "study-sweep-rate_distortion"))
    assert "2 of 3 runs are finished. Missing: frozen_alpha1." in told
    assert page.all("table", "study-sweep-rate_distortion")


def test_command_seeds_and_commit_stand_beside_every_figure(page, workdir):
    for name in DRAWN:
        told = " ".join(x["text"] for x in page.all("ul", f"study-{name}"))
        assert "python -m experiments." in told and "--config=configs/gridworld.py:smoke" in told
        assert f"--workdir={workdir}" in told
        assert re.search(r"commit ([0-9a-f]{7}|not a checkout|unknown)", told)
    told = page.all("ul", "study-learning")[0]["text"]
    assert "seeds 0, 1, 2, 3 runs, 1 base model" in told
    assert "python -m experiments.raw_rl" in told
    told = page.all("ul", "study-sweep-rate_distortion")[0]["text"]
    assert "experiments.sweep --study=rate_distortion --config=configs/gridworld.py:smoke" in told
    assert re.search(r"runs.*; commit .*; \d+ settings; jax", told)


def test_stages_made_with_other_settings_are_none_of_a_run(smoke, tmp_path):
    for stage in ("pretrain", "raw_rl"):
        values = smoke.stage_config(stage).values
        write_stage(tmp_path, stage, 0, values, [(8, {"loss": 1.0})])

    def states(settings, exactly=True):
        found = missing_stages(settings, Places(tmp_path), exactly=exactly)
        return {missing.stage: missing.state for missing in found}

    found = states(smoke)
    assert found["probe"] == found["compile"] == "not run"
    assert "pretrain" not in found and "raw_rl" not in found
    other = smoke.updated("pretrain", learning_rate=0.5)
    assert states(other)["pretrain"] == states(other)["raw_rl"] == "made with other settings"
    longer = smoke.updated("pretrain", steps=2 * smoke.pretrain.steps)
    assert states(longer)["pretrain"] == "begun"
    # What the stages tell is not one setting where methods have their own.
    assert states(other, exactly=False) == found


def test_runs_of_a_study_that_its_command_does_not_make_are_named(page):
    told = page.all("ul", "study-sweep-rate_distortion")[0]["text"]
    assert "2 of 2 runs were made with other settings: " in told


def test_notes_keep_their_names_and_stages_without_a_line_have_no_updates(smoke, tmp_path):
    values = smoke.stage_config("pretrain").values
    other = {**values, "pretrain": {**values["pretrain"], "optimiser": "Mine"}}
    write_stage(tmp_path, "pretrain", 0, values, [(8, {"loss": 1.0})])
    write_stage(tmp_path, "pretrain", 1, other, [(8, {"loss": 1.0})])
    write_stage(tmp_path, "raw_rl", 0, smoke.stage_config("raw_rl").values, [(8, {"loss": 1.0})])
    (tmp_path / "raw_rl/seed_0/metrics.jsonl").unlink()
    (tmp_path / "raw_rl/seed_0/DONE").unlink()
    running.report(Places(tmp_path))
    told = " ".join(x["text"] for x in page_of(tmp_path).all("ul"))
    assert "Seed 1 was made with pretrain.optimiser=Mine." in told
    assert "no updates" in told and "nan" not in told


def test_what_has_not_been_run_is_listed_with_its_command(page, workdir):
    rows = {x["text"] for x in page.all("tr", "missing")}
    told = next(row for row in rows if row.startswith("internal_rl_forced"))
    command = "python -m experiments.internal_rl --config=configs/gridworld.py:smoke"
    assert command in told and "--config.metacontroller.variant=forced" in told
    assert f"--workdir={workdir}" in told and "not run" in told
    assert any(row.startswith("compile0not run") for row in rows)
    # A younger base model is probed too.
    (younger,) = (row for row in rows if row.startswith("probe"))
    assert younger.startswith("probe_40, 1not run")
    assert not any(row.startswith(("pretrain", "raw_rl")) for row in rows)
    study = next(row for row in rows if row.startswith("study layer_by_depth"))
    assert "experiments.sweep --study=layer_by_depth --config=configs/gridworld.py:smoke" in study
    # What is begun tells in its own part what it lacks.
    assert not any(row.startswith("study rate_distortion") for row in rows)
    # Figures of the method need no selection, comparisons of methods do.
    selection = next(row for row in rows if row.startswith("study selection"))
    assert "not run, no part of a whole run" in selection and "--study=selection" in selection


def test_tables_can_be_sorted(page):
    tables = page.all("table")
    # Quantities, rates of single runs, what is missing, the accounting and a study over runs.
    assert len(tables) == 5
    assert {x.get("class") for x in tables} == {"sortable"}
    assert len(page.all("th", "study-sweep-rate_distortion")) == len(
        page.all("button", "study-sweep-rate_distortion")
    )
    heads = [x["text"] for x in page.all("button", "quantities")]
    assert heads[:3] == ["quantity", "median", "quartiles"] and heads[6] == "base models"
    keys = [x["data-key"] for x in page.all("td", "quantities")]
    assert {"inf", ""} < set(keys)
    assert all(key == "" or key == "inf" or np.isfinite(float(key)) for key in keys)
    script = page.all("script")
    assert len(script) == 1 and "aria-sort" in script[0]["text"]


def test_the_page_asks_no_other_machine(workdir):
    text = (workdir / "report" / "index.html").read_text()
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"https?:|//\w|@import|url\(|fetch\(|XMLHttp", text)
    page = Page(text)
    for element in page.elements:
        assert not {"srcset", "onclick", "onload", "action"} & set(element)
        assert element["tag"] not in ("link", "iframe", "object", "embed", "video", "form")
    policy = next(x["content"] for x in page.all("meta") if "http-equiv" in x)
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_what_is_damaged_is_named_on_the_page(smoke, tmp_path):
    write_run(tmp_path, lambda folder: smoke.stage_config(folder.partition("_forced")[0]).values)
    named = damage(tmp_path)
    running.report(Places(tmp_path))
    page = page_of(tmp_path)
    faults = [x["text"] for x in page.all("li", "faults")]
    for words in named:
        assert sum(words in fault for fault in faults) == 1, words
    assert page.all("img", "study-learning") and not page.all("img", "study-gates")
    assert "No figure" in " ".join(x["text"] for x in page.all("p", "study-gates"))


def test_a_config_that_cannot_be_understood_is_named_and_all_else_is_shown(tmp_path):
    config = {"environment": {"name": ["gridworld-pinpad"]}, **rl_config("raw_rl")}
    write_stage(tmp_path, "raw_rl", 0, config, rl_lines([0.0, 0.1]))
    running.report(Places(tmp_path))
    page = page_of(tmp_path)
    faults = [x["text"] for x in page.all("li", "faults")]
    assert any(fault.startswith("raw_rl, what made it: cannot be told") for fault in faults)
    assert page.all("img", "study-learning")


@pytest.mark.parametrize("done", ['{"steps": "8"}', '{"steps": [[1]]}', '{"a": 1}', "[]", "8"])
def test_what_ends_a_stage_is_named_where_it_tells_no_number(done, smoke, tmp_path):
    write_run(tmp_path, lambda folder: smoke.stage_config(folder.partition("_forced")[0]).values)
    file = tmp_path / "raw_rl" / "seed_0" / "DONE"
    file.write_text(done)
    # What is older than checksums has none to be found by.
    (file.with_name("checksums.json")).unlink(missing_ok=True)
    running.report(Places(tmp_path))
    page = page_of(tmp_path)
    faults = [x["text"] for x in page.all("li", "faults")]
    assert sum("raw_rl/seed_0/DONE: damaged" in fault for fault in faults) == 1, faults
    assert page.all("img", "study-learning")


def test_a_world_from_outside_tells_how_its_stages_are_made(tmp_path):
    config = {"environment": {"name": "castle"}, **rl_config("raw_rl")}
    write_stage(tmp_path, "raw_rl", 0, config, rl_lines([0.0, 0.1]))
    running.report(Places(tmp_path))
    page = page_of(tmp_path)
    assert (
        'irl.run_stages(config, workdir, ["raw_rl"])' in page.all("ul", "study-learning")[0]["text"]
    )
    assert "not known here" in page.all("section")[-1]["text"]


def test_everything_that_comes_from_files_is_escaped(tmp_path, monkeypatch):
    study.all_studies()
    monkeypatch.setattr(study, "_STUDIES", dict(study._STUDIES))
    evil = "<script>alert(1)</script>"
    register_study(
        Study(
            name="mine",
            stages=("raw_rl",),
            rows=lambda stage, seeds: [Row("mine", evil, (1.0,))],
            figures=lambda runs: {"mine": Figure()},
            text=lambda run: f"| {evil} | b |\n|---|---|\n| `{evil}` | {evil} |\n",
            title=evil,
            captions={"mine": f'"{evil}'},
        )
    )
    config = {"environment": {"name": evil}, **rl_config("raw_rl")}
    write_stage(tmp_path, "raw_rl", 0, config, rl_lines([0.0, 0.1]))
    seed = tmp_path / "raw_rl" / "seed_0"
    (seed / "versions.json").write_text(json.dumps({"commit": evil, "jax": evil, "device": evil}))
    np.savez(seed / "artifacts.npz", skipped_studies=np.array([evil]))
    (tmp_path / "raw_rl" / f"seed_{evil.replace('/', '')}").mkdir()
    (tmp_path / "raw_rl" / f"seed_{evil.replace('/', '')}" / "config.json").write_text("{}")
    running.report(Places(tmp_path))
    page = page_of(tmp_path)
    assert len(page.all("script")) == 1 and "alert" not in page.all("script")[0]["text"]
    assert sum(evil in x["text"] for x in page.all("body")) == 1
    assert page.all("img", "study-mine")[0]["alt"].startswith(f'"{evil}')


def test_a_whole_run_makes_what_the_chosen_studies_need(smoke, tmp_path, monkeypatch):
    assert running.needed_stages(smoke, ["steering"]) == {"pretrain", "steer"}
    credit = running.needed_stages(smoke, ["credit"])
    assert {"pretrain", "metacontroller", "internal_rl", "internal_rl_compile"} <= credit
    assert not credit & {"probe", "steer", "raw_rl"}
    assert "raw_rl" in running.needed_stages(smoke)
    ran, reports = [], []
    monkeypatch.setattr(running, "run", lambda settings, stage, places: ran.append(stage))
    monkeypatch.setattr(running, "report", lambda *arguments, **keywords: reports.append(keywords))
    running.run_all(smoke, Places(tmp_path), ["steering"])
    assert ran == ["pretrain", "steer"] and reports == [{"settings": smoke, "only": ["steering"]}]
    with pytest.raises(ConfigError, match="--only: 'nothing' given, allowed are"):
        running.run_all(smoke, Places(tmp_path), ["nothing"])


def test_the_markdown_of_studies_becomes_html():
    made = as_html("One `x < 1`\nparagraph.\n\n- a\n- b\n\n| h | i |\n|---|---:|\n| 1 | <b> |\n")
    assert "<p>One <code>x &lt; 1</code> paragraph.</p>" in made
    assert "<ul><li>a</li><li>b</li></ul>" in made
    head = '<th scope="col"><button type="button" disabled>{}</button></th>'
    assert f"<tr>{head.format('h')}{head.format('i')}</tr>" in made
    assert '<td data-key="&lt;b&gt;">&lt;b&gt;</td>' in made
    assert as_html("") == ""
    assert as_html("a ` b") == "<p>a ` b</p>"


def test_cells_of_studies_are_sorted_by_their_numbers():
    cells = ("–", "never", "**0.97**", "12,345", "-1.5e-05", "`3`", "0.1 to 0.2")
    cells += ("never to never", "frozen", "in to")
    made = as_html("| h |\n|---|\n" + "".join(f"| {cell} |\n" for cell in cells))
    keys = re.findall(r'data-key="(.*?)"', made)
    assert keys == ["", "inf", "0.97", "12345", "-1.5e-05", "3", "0.1", "inf", "frozen", "in to"]


def test_studies_that_a_world_cannot_have_are_told_with_the_reason(smoke):
    ant = Settings.read(load_config("ant:smoke"))
    (line,) = _refused_sweeps(ant)
    assert line.startswith("study ablation_noise: ") and "gridworld-pinpad" in line
    assert not list(_refused_sweeps(smoke))
