"""The view Compare without a server: every method has a row, and a run gives the engine's numbers."""

import pytest
from pages import shown

from slugdemo import experiment
from slugdemo.benchmark import published
from slugdemo.methods import METHODS
from slugdemo.ui import callbacks, compare
from slugdemo.ui.state import AppState
from slugdemo.ui.view import View

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
ROBOT = View("pocket-clip", "robot")


def row(table: dict, name: str) -> dict:
    [found] = [each for each in table["rows"] if each["name"] == name]
    return found


def test_every_method_has_a_row_and_one_that_cannot_serve_says_why(state: AppState) -> None:
    table = shown(state, callbacks.comparing, ROBOT)["compare"]
    assert table["rows"][0]["name"] == "original"
    assert {each["name"] for each in table["rows"]} == {"original", *METHODS}
    for method in METHODS.values():
        reason = row(table, method.name)["reason"]
        assert bool(reason) == ("zero-shot" not in method.hosts)
    assert table["not_ported"]
    assert table["published"] == []
    assert len(compare.show(state, View("pocket-sd", "robot"))["published"]) == 11


def test_a_run_shows_what_the_engine_measures_and_can_be_opened(state: AppState) -> None:
    page = shown(state, callbacks.compare_run, ROBOT, names=["ga"])
    mine = row(page["compare"], "ga")
    task = experiment.task("pocket-clip", "robot").by("ga")
    edit = experiment.erase(task).edit
    for measured in experiment.report(task, [edit]):
        value, low, high, n = mine["values"][measured.metric]
        assert (value, n) == (measured.after, measured.n)
        assert (low, high) == measured.interval
        assert row(page["compare"], "original")["values"][measured.metric][0] == measured.before
    assert mine["source"] == "here"
    assert mine["params"] == sum(tensor.numel() for tensor in edit.delta.values())
    view = shown(state, callbacks.compare_open, ROBOT, name="ga")["view"]
    assert (view.method, view.strength) == ("ga", edit.strength)
    assert edit.digest.startswith(view.digest)


def test_several_are_run_in_turn_and_a_failure_is_a_row(state: AppState) -> None:
    page = shown(state, callbacks.compare_run, View("pocket-clip", "dog"), names=["ga"])
    assert page["status"]["tone"] == "error" or row(page["compare"], "ga")["note"]
    wrong = shown(state, callbacks.compare_run, ROBOT, names=["sulg"])
    assert "no method 'sulg'" in wrong["status"]["text"]
    away = shown(state, callbacks.compare_open, View("pocket-clip", "house"), name="ft")
    assert "has not been run here" in away["status"]["text"]


def test_published_digits_are_those_of_the_papers() -> None:
    rows = {each.method: each for each in published.ROWS}
    assert rows["SLUG"].style == (86.29, 84.59, 88.43)
    assert rows["SLUG"].object == (75.43, 77.50, 81.18)
    assert (rows["SLUG"].seconds, rows["SLUG"].memory_gb, rows["SLUG"].storage_gb) == (
        39,
        3.61,
        0.04,
    )
    assert rows["ESD"].style == (98.58, 80.97, 93.96)
    assert rows["UCE"].object == (94.31, 39.35, 34.67)
    assert rows["SPM"].seconds == 29700
    assert rows["RAZOR"].object == (98.80, 98.35, 100.0)
