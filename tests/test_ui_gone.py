"""Attacks on the page without a server: beside the edit that is open, and as a heat map by methods."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

import pytest
from pages import TEXT, shown

from slugdemo import experiment, verdict
from slugdemo.attacks import ATTACKS, ON, embeddings
from slugdemo.evaluation import metrics
from slugdemo.methods import METHODS
from slugdemo.results import HARMONIC, Result
from slugdemo.ui import callbacks, gone, table
from slugdemo.ui.state import AppState
from slugdemo.ui.tasks import Tasks, Watch, unwatched
from slugdemo.ui.view import Kept, View

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
ROBOT = View("pocket-clip", "robot", TEXT, 0.5)
CAT = View("pocket-sd", "cat", TEXT, 0.5)


@pytest.fixture(autouse=True)
def short() -> Iterator[None]:
    """Soft prompts of a few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embeddings, "STEPS", 3)
        patch.setattr(embeddings, "PACE", 0.0)
        yield


def sides(page: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [one for one in page["attack"]["tried"] if one["name"] == name]
    return found["sides"]


# ---- beside the edit that is open


def test_the_page_shows_what_the_engine_gives_and_its_sentence(state: AppState) -> None:
    page = shown(state, callbacks.attacked, ROBOT, names=["typos", "int8"])
    task = experiment.task("pocket-clip", "robot")
    edit = state.edit(ROBOT, ROBOT.edit, unwatched())
    rows: list[Result] = []
    for on in ON[:2]:
        for name in ("typos", "int8"):
            rows += experiment.attack(task, name, edit, on=on)[0]
    mine = {(row.attack, row.on, row.metric): row for row in rows}
    for name in ("typos", "int8"):
        found = sides(page, name)
        for on in ON[:2]:
            row = mine[name, on, "success"]
            assert (found[on]["rate"], found[on]["n"]) == (row.value, row.n)
            assert found[on]["before"] == mine[name, on, "before attack"].value
        assert "There is no reference for 'robot'" in found["reference"]["reason"]
    assert page["status"]["text"].startswith(verdict.summary(rows))
    assert page["attack"]["sentence"] == page["status"]["text"]


def test_what_was_tried_is_not_tried_again_and_a_link_brings_it_back(
    state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = shown(state, callbacks.attacked, ROBOT, names=["hierarchy"])
    link = View.parse(parse_qs(page["status"]["query"]))
    assert link.attack == "hierarchy"
    monkeypatch.setattr(experiment, "attack", None)
    again = shown(state, callbacks.attacking, link)
    assert sides(again, "hierarchy") == sides(page, "hierarchy")
    assert again["attack"]["first"] == ["hierarchy"]
    other = shown(state, callbacks.attacking, replace(link, strength=0.25))
    assert other["attack"]["tried"] == []  # another edit: nothing of it is known


def test_pictures_losses_and_the_best_so_far_are_shown_while_it_runs(state: AppState) -> None:
    lives: list[dict[str, Any]] = []
    watch = Watch(lambda block, value: lives.append(value) if block == "live" else None)  # type: ignore[arg-type]
    gone.run(state, CAT, watch, ["soft prompt"], panel=dict)
    while_edited = [one for one in lives if one.get("on") == "edited"]
    assert any(one["src"] for one in while_edited)
    assert lives[-1] == {}
    found = gone.attempts(state, CAT)["tried"][0]["sides"]["edited"]
    assert len(found["losses"]) == 3
    assert len(found["pictures"]) == found["n"] == 8
    assert [one["hit"] for one in found["pictures"]].count(True) == round(found["rate"] * 8)
    assert found["found"]


def test_stopping_in_the_middle_keeps_what_is_done(state: AppState) -> None:
    view = replace(ROBOT, strength=0.3)
    tasks = Tasks()
    page: dict[str, Any] = {}
    stream = tasks.stream(
        "me", lambda watch: callbacks.attacked(state, view, watch, ["int4", "relearning"])
    )
    for bundle in stream:
        page |= bundle
        if page.get("attack", {}).get("tried"):
            tasks.stop("me")
    assert page["status"]["text"].startswith("Stopped.")
    assert page["live"]["stopped"]
    kept = gone.attempts(state, view)["tried"]
    assert [one["name"] for one in kept] == ["int4"]


def test_all_edits_that_act_are_attacked_together(state: AppState) -> None:
    second = Kept("wizard", "visual.proj", 0.4)
    view = replace(ROBOT, tray=(second,))
    page = shown(state, callbacks.attacked, view, names=["undo"])
    edits = state.applied(state.settled(view), unwatched())
    assert len(edits) == 2
    [row, _], _ = experiment.attack(experiment.task("pocket-clip", "robot"), "undo", edits)
    assert sides(page, "undo")["edited"]["rate"] == row.value
    assert "+" in page["attack"]["edit"]


def test_answers_are_attacked_too(state: AppState) -> None:
    view = View("pocket-llava", "robot", "visual.transformer.resblocks.0.mlp.c_fc.weight", 0.5)
    panel = shown(state, callbacks.attacking, view)["attack"]
    able = [one["name"] for one in panel["attacks"] if not one["reason"]]
    assert {*panel["first"]} <= {*able}
    page = shown(state, callbacks.attacked, view, names=["other questions"])
    assert sides(page, "other questions")["edited"]["n"] > 0


def test_what_cannot_be_tried_is_a_sentence(state: AppState) -> None:
    said = {
        name: shown(state, callbacks.attacked, view, names=[name])["status"]
        for view, name in (
            (ROBOT, "sing"),
            (ROBOT, "inpainting"),
            (replace(ROBOT, layer="", strength=None), "undo"),
            (replace(ROBOT, layer="", method="uce", digest="0" * 16), "int8"),
        )
    }
    assert {status["tone"] for status in said.values()} == {"error"}
    assert "no attack 'sing'" in said["sing"]["text"]
    assert "attacks the latents" in said["inpainting"]["text"]
    assert "no edit to attack yet" in said["undo"]["text"]
    assert "uce" in said["int8"]["text"]  # the edit of another kind of model


# ---- the heat map


def test_the_map_has_every_attack_and_says_why_one_cannot_run(state: AppState) -> None:
    table = shown(state, callbacks.gone_shown, ROBOT)["gone"]
    assert {row["name"] for row in table["rows"]} == {*ATTACKS}
    for row in table["rows"]:
        assert bool(row["reason"]) == ("zero-shot" not in ATTACKS[row["name"]].hosts)
        assert not row["reason"] or not row["cells"]
    able = {name for name, method in METHODS.items() if "zero-shot" in method.hosts}
    assert {*table["columns"]} == {"original", "reference", *able}
    assert {name for name, _ in table["away"]} == {*METHODS} - able


def test_an_empty_cell_is_run_and_opens_with_its_ceiling(state: AppState) -> None:
    empty = shown(state, callbacks.gone_open, ROBOT, method="ga", name="typos")["attack"]
    assert empty["tried"] == []
    assert empty["cell"]["estimate"] > METHODS["ga"].seconds
    page = shown(state, callbacks.gone_run, ROBOT, method="ga", name="typos")
    [row] = [one for one in page["gone"]["rows"] if one["name"] == "typos"]
    cell = row["cells"]["ga"]
    assert cell["source"] == "here"
    assert cell["original"] == row["cells"]["original"]["rate"]
    found = sides(page, "typos")
    assert (found["edited"]["rate"], found["edited"]["n"]) == (cell["rate"], cell["n"])
    ga = next(row for row in table.show(state, ROBOT)["rows"] if row["name"] == "ga")
    rates = {metric: value[0] for metric, value in ga["values"].items()}
    robust = 1 - cell["rate"]
    assert rates[HARMONIC] == metrics.harmonic(
        [1 - rates["forget_acc"], rates["retain_acc"], robust]
    )
    wrong = shown(state, callbacks.gone_run, ROBOT, method="ga", name="inpainting")
    assert "cannot attack" in wrong["status"]["text"]
    alone = shown(state, callbacks.gone_run, ROBOT, method="original", name="int8")
    assert [*sides(alone, "int8")] == ["original"]


def test_shipped_rows_fill_cells_until_something_was_run_here(
    state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Result("pocket-clip", "robot", "ft", "undo", "edited", seconds=2.0)
    rows = [base.of("success", 0.75, 12), base.of("before attack", 0.0, 12)]
    rows.append(replace(base, method="original", on="original").of("success", 1.0, 12))
    monkeypatch.setattr(gone.shipped, "rows", lambda *_: rows)
    [row] = [one for one in gone.show(state, ROBOT)["rows"] if one["name"] == "undo"]
    assert row["cells"]["ft"]["source"] == "shipped"
    assert (row["cells"]["ft"]["rate"], row["cells"]["ft"]["before"]) == (0.75, 0.0)
    assert row["cells"]["original"]["rate"] == 1.0
    told = gone.detail(state, ROBOT, "ft", "undo")
    assert told["sentence"] == "Undo brings it back in 9 of 12 tries."
    assert told["cell"]["here"] is False
