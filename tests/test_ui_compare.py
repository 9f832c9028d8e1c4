"""The view Compare without a server: every method has a row, and a run gives the engine's numbers."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from pages import shown
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from slugdemo import experiment
from slugdemo.__main__ import app
from slugdemo.benchmark import cells, published
from slugdemo.config import CONFIGS
from slugdemo.experiment import CONTROLS
from slugdemo.methods import METHODS
from slugdemo.methods.sae import captions, of_tower
from slugdemo.ui import callbacks, compare, forget, gone, see, table
from slugdemo.ui.state import AppState
from slugdemo.ui.tasks import unwatched
from slugdemo.ui.view import View

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
ROBOT = View("pocket-clip", "robot")


def row(table: dict, name: str) -> dict:
    [found] = [each for each in table["rows"] if each["name"] == name]
    return found


def test_every_method_has_a_row_and_one_that_cannot_serve_says_why(state: AppState) -> None:
    value = shown(state, callbacks.comparing, ROBOT)["compare"]
    names = [each["name"] for each in value["rows"]]
    assert names[:2] == ["original", compare.UNSEEN]
    assert {*names} == {"original", compare.UNSEEN, *METHODS, *CONTROLS}
    for method in METHODS.values():
        reason = row(value, method.name)["reason"]
        assert bool(reason) == ("zero-shot" not in method.hosts)
    assert "There is no reference" in row(value, compare.UNSEEN)["reason"]
    assert value["not_ported"]
    assert value["published"] == []
    assert len(table.show(state, View("pocket-sd", "robot"))["published"]) == 11
    for kind, groups in table.COLUMNS.items():
        keys = [column.key for group in groups for column in group.columns]
        assert len({*keys}) == len(keys) - (
            kind != "zero-shot"
        )  # what is asked of CLIP is beside it


def test_sae_is_greyed_out_where_no_autoencoder_reads_the_text_tower(
    assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = assets / "models" / "pocket-sd"
    for name, part in (("other-text", "text_encoder"), ("other-unet", "unet")):
        shutil.copytree(own, tmp_path / name)
        [file] = (tmp_path / name / part).glob("*.safetensors")
        save_file(
            {key: each * 1.1 for key, each in load_file(file).items()}, file, {"format": "pt"}
        )
    monkeypatch.setenv("SLUGDEMO_MODELS", str(tmp_path))
    state, run = AppState(), CliRunner().invoke
    wanted = {"pocket-sd": "", "other-unet": ""}
    wanted["other-text"] = (
        "sae cannot edit other-text: no sparse autoencoder here was trained on the states of its "
        "text tower."
    )
    for model, reason in wanted.items():
        view = View(model, "robot")
        assert row(table.show(state, view), "sae")["reason"] == reason
        assert ("sae" in table.show(state, view)["many"]["methods"]) == (not reason)
        assert dict(gone.show(state, view)["away"]).get("sae", "") == reason
        told = [m for group in forget.choices(state)["methods"] for m in group["rows"]]
        [sae] = [method for method in told if method["name"] == "sae"]
        assert sae["unable"].get(model, "") == reason
        facts = json.loads(run(app, ["methods", "--model", model, "--json"]).stdout)
        assert [fact["unable"] for fact in facts if fact["name"] == "sae"] == [reason]
        assert (reason in run(app, ["methods", "--model", model]).stdout) or not reason
        assert cells.serves("sae", state.model(model)) == (not reason)
    for call in (callbacks.compare_run, callbacks.method):
        more = {"names": ["sae"]} if call is callbacks.compare_run else {}
        page = shown(state, call, View("other-text", "robot", method="sae"), **more)
        assert page["status"]["text"] == wanted["other-text"]
    erased = run(app, ["erase", "--model", "other-text", "--concept", "robot", "--method", "sae"])
    assert wanted["other-text"] in erased.stderr


def test_the_features_that_sae_turns_off_stand_beside_what_drives_them(state: AppState) -> None:
    view = View("pocket-sd", "cat")
    assert [r["name"] for r in table.show(state, view)["rows"] if r.get("explains")] == ["sae"]
    page = shown(state, callbacks.compare_features, view)
    rows = page["compare"]["features"]["rows"]
    task = experiment.task("pocket-sd", "cat").by("sae")
    edit = experiment.made(task).edit
    assert [str(each["feature"]) for each in rows] == str(edit.params["features"]).split()
    texts, own = captions(task), of_tower(task)
    states = task.model.states(texts)[:, 1:]
    for each in rows:
        active = [max(own.activations(s)[:, each["feature"]].tolist()) for s in states]
        best = sorted(active, reverse=True)[: len(each["shots"])]
        said = [texts.index(shot["caption"]) for shot in each["shots"]]
        assert [active[at] for at in said] == pytest.approx(best, abs=1e-4)
        assert each["share"] == pytest.approx(sum(a > 0 for a in active) / len(texts), abs=0.01)
        assert all(shot["src"].startswith("data:image") for shot in each["shots"])
    away = shown(state, callbacks.compare_features, View("pocket-sd", "cat", anchor="dog"))
    assert away["compare"]["features"]["rows"]
    none = shown(state, callbacks.compare_features, View("pocket-clip", "robot"))
    assert "sae cannot edit zero-shot CLIP" in none["compare"]["features"]["reason"]


def test_a_run_shows_what_the_engine_measures_and_can_be_opened(state: AppState) -> None:
    page = shown(state, callbacks.compare_run, ROBOT, names=["ga"])
    mine = row(page["compare"], "ga")
    task = experiment.task("pocket-clip", "robot").by("ga")
    edit = experiment.erase(task).edit
    for measured in experiment.report(task, [edit]):
        value, low, high, n = mine["values"][measured.metric]
        assert (value, n) == (measured.after, measured.n)
        assert [low, high] == table.bounds(measured)
        assert row(page["compare"], "original")["values"][measured.metric][0] == measured.before
    assert mine["source"] == "here"
    assert {key: [n] for key, n in experiment.size(edit).items()}.items() <= mine["values"].items()
    view = shown(state, callbacks.compare_open, ROBOT, name="ga")["view"]
    assert (view.method, view.strength) == ("ga", edit.strength)
    assert edit.digest.startswith(view.digest)


def test_methods_and_visitors_share_what_a_clip_is_asked(state: AppState) -> None:
    views = [state.settled(replace(ROBOT, method=name)) for name in ("ga", "ft")]
    first, second = (state.task(view, unwatched()) for view in views)
    assert first.evaluation is second.evaluation
    other = state.task(replace(views[0], concept="house"), unwatched())
    assert other.evaluation is not first.evaluation


def test_several_are_run_in_turn_and_a_failure_is_a_row(state: AppState) -> None:
    page = shown(state, callbacks.compare_run, View("pocket-clip", "dog"), names=["ga"])
    assert page["status"]["tone"] == "error" or row(page["compare"], "ga")["note"]
    wrong = shown(state, callbacks.compare_run, ROBOT, names=["sulg"])
    assert "no method 'sulg'" in wrong["status"]["text"]
    away = shown(state, callbacks.compare_open, View("pocket-clip", "house"), name="ft")
    assert "has not been run here" in away["status"]["text"]


def test_a_row_is_shown_on_a_few_pictures_first_and_grows_to_the_report(
    state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "known", lambda _: None)  # so small a model draws nothing known
    size = {"report_own": 10, "report_others": 12, "denoising": 1}
    small = CONFIGS["diffusion"].changed(size)
    monkeypatch.setitem(CONFIGS, "diffusion", small)
    seen: list[dict] = []
    view = state.settled(View("pocket-sd", "robot"))

    def look() -> None:
        seen.append(row(table.show(state, view), "uce"))

    compare.run(state, view, unwatched(), ["uce"], shown=look)
    first, last = seen[0], seen[-1]
    task = experiment.task("pocket-sd", "robot").by("uce")
    edit = experiment.made(task).edit
    assert [*first["values"]][:3] == ["ua", "ira", "cra"]
    for measured in experiment.report(task, [edit])[:3]:
        assert first["values"][measured.metric][3] < measured.n
        assert last["values"][measured.metric][0] == pytest.approx(measured.after, abs=0.1)
        assert last["values"][measured.metric][3] == measured.n
    assert first["note"]
    assert not last["note"]
    before, after = (last["values"][key][0] for key in ("clip_left", "clip_kept"))
    own = see.zero_shot(state, view, task).score("robot", strength=0.0)
    assert (before, after) == (own.forget_acc, own.retain_acc)  # uce leaves CLIP alone
    assert [shot["src"][:10] for shot in last["pictures"]] == ["data:image"] * len(last["pictures"])
    assert len(last["pictures"]) == len(compare.asked(state, view))
    again: list[dict] = []
    compare.run(
        state,
        view,
        unwatched(),
        ["uce"],
        shown=lambda: again.append(row(table.show(state, view), "uce")),
    )
    assert again[-1]["old"]["ua"] == last["values"]["ua"][0]


def test_controls_run_beside_slug_and_are_no_edits_to_open(state: AppState) -> None:
    page = shown(state, callbacks.compare_run, ROBOT, names=["opposite direction"])
    beside, control = (row(page["compare"], name) for name in ("slug", "opposite direction"))
    assert beside["values"]["forget_acc"][0] < control["values"]["forget_acc"][0]
    assert (beside["opens"], control["opens"]) == (True, False)
    wrong = shown(state, callbacks.compare_open, ROBOT, name="opposite direction")
    assert "no method" in wrong["status"]["text"]


def test_what_a_concept_becomes_is_in_the_link_the_edit_and_the_row(state: AppState) -> None:
    view = state.settled(View("pocket-sd", "robot", method="uce", anchor="Cat"))
    assert view.anchor == "cat"
    assert View.parse(parse_qs(view.query())).anchor == "cat"
    value = table.show(state, view)
    for method in METHODS.values():
        assert bool(row(value, method.name)["reason"]) != method.replaces
    edit = experiment.made(state.task(view, unwatched())).edit
    assert edit.about["replace_by"] == "cat"
    kept = replace(view, digest=edit.digest[:16], strength=1.0)
    again = View.parse(parse_qs(replace(kept, tray=(kept.edit,)).query()))
    assert again.tray[0].anchor == "cat"
    assert state.edit(kept, again.tray[0], unwatched()).digest == edit.digest  # made again
    plain = experiment.made(experiment.task("pocket-sd", "robot").by("uce")).edit
    assert edit.digest != plain.digest
    same = shown(state, callbacks.comparing, replace(view, anchor="robot"))
    assert "cannot be replaced by itself" in same["status"]["text"]
    fixed = shown(state, callbacks.method, replace(view, method="cure"))
    assert "cannot replace it by another" in fixed["status"]["text"]


def test_a_row_in_full_and_curves_of_many_concepts(
    state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "COUNTS", (1, 2))  # of so few, something must stay
    shown(state, callbacks.compare_run, ROBOT, names=["ga"])
    found = shown(state, callbacks.compare_detail, ROBOT, name="ga")["compare"]["detail"]
    names, before, after = (found["matrix"][key] for key in ("names", "before", "after"))
    assert names[0] == "robot"
    assert len(before) == len(after) == len(names)
    assert after[0][0] < before[0][0]  # its pictures are less like its name
    assert {point["name"] for point in found["map"]} >= {"robot"}
    page = shown(state, callbacks.compare_many, ROBOT, name="ga", order="together")
    lines = page["compare"]["many"]["lines"]
    mine = [line for line in lines if (line["method"], line["source"]) == ("ga", "here")]
    assert {line["metric"] for line in mine} == {"forget_acc", "retain_acc"}
    assert [[point[0] for point in line["points"]] for line in mine] == [[*compare.COUNTS]] * 2
    wrong = shown(state, callbacks.compare_many, ROBOT, name="ga", order="backwards")
    assert "The order is one of" in wrong["status"]["text"]


def test_a_citation_has_a_key_authors_and_a_number() -> None:
    made = table.bibtex(METHODS["uce"])
    assert made.startswith("@misc{uce,\n  author = {Gandikota and others}")
    assert "eprint = {2308.14761}" in made
    assert table.bibtex(METHODS["negative prompt"]) == ""


CANVAS = """
    ESD    98.58 80.97 93.96  92.15 55.78 44.23   65.55  6163 17.8  4.3
    FMN    88.48 56.77 46.60  45.64 90.63 73.46  131.37   350 17.9  4.2
    UCE    98.40 60.22 47.71  94.31 39.35 34.67  182.01   434  5.1  1.7
    CA     60.82 96.01 92.70  46.67 90.11 81.97   54.21   734 10.1  4.2
    SalUn  86.26 90.39 95.08  86.91 96.35 99.59   61.05   667 30.8  4.0
    SEOT   56.90 94.68 84.31  23.25 95.57 82.71   62.38    95 7.34  0.0
    SPM    60.94 92.39 84.33  71.25 90.79 81.65   59.79 29700  6.9  0.0
    EDiff  92.42 73.91 98.93  86.67 94.03 48.48   81.42  1567 27.8  4.0
    SHS    95.84 80.42 43.27  80.73 81.15 67.99  119.34  1223 31.2  4.0
"""
PRINTED = {  # styles UA IRA CRA, objects UA IRA CRA, FID, seconds, GB of memory, GB of storage
    "UnlearnCanvas, arXiv 2402.11846": CANVAS,
    "SLUG, arXiv 2407.11867": "SLUG 86.29 84.59 88.43 75.43 77.50 81.18 75.97 39 3.61 0.04",
    "RAZOR, arXiv 2603.14819": "RAZOR 99.40 98.97 100 98.80 98.35 100 - 78 4.2 0.06",
}


def test_every_published_digit_is_that_of_its_paper() -> None:
    """The papers' tables as they print them, written down here a second time."""
    printed: dict[str, list[float | None]] = {}
    papers: dict[str, str] = {}
    for paper, text in PRINTED.items():
        for line in filter(None, map(str.split, text.splitlines())):
            printed[line[0]] = [None if digits == "-" else float(digits) for digits in line[1:]]
            papers[line[0]] = paper
    shown = {
        row.method: [*row.style, *row.object, row.fid, row.seconds, row.memory_gb, row.storage_gb]
        for row in published.ROWS
    }
    assert shown == printed
    assert len(published.ROWS) == len(printed)
    for row in published.ROWS:
        assert row.source.startswith(papers[row.method])


def test_the_page_is_given_the_published_digits(state: AppState) -> None:
    rows = table.show(state, View("pocket-sd", "robot"))["published"]
    assert [row["name"] for row in rows] == [row.method for row in published.ROWS]
    for row, own in zip(rows, published.ROWS, strict=True):
        figures = [row[key] for key in ("style", "object", "fid", "seconds", "memory", "storage")]
        assert figures == [*own[1:4], own.seconds, own.memory_gb, own.storage_gb]
        assert row["note"] == f"{own.source}; {own.note}"


@pytest.mark.parametrize(
    ("model", "concept", "of"),
    [
        ("pocket-sd", "robot", "objects"),
        ("pocket-sd", "neon", "styles"),
        ("pocket-clip", "cat", ""),
    ],
)
def test_marks_are_the_published_rates_of_the_concepts_kind(
    state: AppState, model: str, concept: str, of: str
) -> None:
    value = table.show(state, View(model, concept))
    marks = {row["name"]: row for row in value["published"]}
    assert [*marks] == ([row.method for row in published.ROWS] if of else [])
    for own in published.ROWS if of else ():
        ua, ira, cra = own.style if of == "styles" else own.object
        assert marks[own.method]["rates"] == {"ua": ua, "ira": ira, "cra": cra}
        paper, figures, note = marks[own.method]["hover"]
        assert paper == f"{own.method}, from {own.source}"
        assert figures == f"{of}: UA {ua:.2f} %, IRA {ira:.2f} %, CRA {cra:.2f} %"
        base = "Stable Diffusion " + ("V3" if own.method == "RAZOR" else "1.5")
        assert note == f"{base}, not comparable"
    assert not {"published", "EDiff", "SHS"} & {each["name"] for each in value["rows"]}
