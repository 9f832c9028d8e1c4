"""The controls beside the edit, and the endpoints without a server."""

import base64

import pytest
import shelves
import torch
from test_ui_flow import TEXT, quiet, shown, state  # noqa: F401  (the fixture)

from slugdemo import weights
from slugdemo.errors import SlugError
from slugdemo.ui import api, compare, flow, forget, step
from slugdemo.ui.session import AppState
from slugdemo.ui.view import View

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def calls(state: AppState) -> dict:
    return {name: getattr(api.Api(state), name) for name in api.NAMES}


def test_controls_are_as_long_as_the_edit_and_point_elsewhere(state: AppState) -> None:
    edit = step.unstepped(state, View("pocket-clip", "cat", TEXT, 0.3), unwatched())
    back, lot = compare.opposite(edit), compare.random(edit, seed=3)
    size = weights.norm(edit.delta)
    assert weights.cosine(edit.delta, back.delta) == pytest.approx(-1, abs=1e-5)
    assert abs(weights.cosine(edit.delta, lot.delta)) < 0.3
    for other in (back, lot, compare.random(edit, seed=4)):
        assert weights.norm(other.delta) == pytest.approx(size, rel=1e-5)
        assert other.layer != edit.layer  # or one would be remembered as the other
    again = compare.random(edit, seed=3)
    assert all(torch.equal(again.delta[name], lot.delta[name]) for name in lot.delta)


@pytest.mark.parametrize("model", ["pocket-clip", "pocket-sd"])
def test_the_comparison_names_every_control_with_its_numbers(state: AppState, model: str) -> None:
    page = shown(state, callbacks.compared, View(model, "cat", TEXT, 0.3))
    rows = page["comparison"]["rows"]
    assert [row["name"] for row in rows] == ["before", *compare.CONTROLS]
    for row in rows:
        for share, low, high, n in (row["forget"], row["retain"]):
            assert 0 <= low <= share <= high <= 1
            assert n > 0


def test_endpoints_answer_with_plain_data(calls: dict) -> None:
    assert {one["name"] for one in calls["models"]()} == {
        "pocket-clip",
        "pocket-sd",
        "pocket-llava",
    }
    assert "cat" in [one["name"] for one in calls["concepts"]()]
    assert any(row["front"] for row in calls["rank_layers"]("pocket-clip", "cat"))
    points = calls["sweep"]("pocket-clip", "cat", TEXT, [0.0, 0.5])
    assert [point["step"] for point in points] == [0.0, 0.5]


def test_endpoints_apply_edits_only_when_asked(calls: dict) -> None:
    plain = calls["generate"]("pocket-sd", "a cat", 3)
    edited = calls["generate"]("pocket-sd", "a cat", 3, "cat", TEXT, 0.8)
    assert plain == calls["generate"]("pocket-sd", "a cat", 3)
    assert plain != edited
    picture = forget.source(shelves.picture("cat", "plain", 1))
    beliefs = calls["classify"]("pocket-clip", picture, "cat")
    assert sum(beliefs.values()) == pytest.approx(1, abs=1e-4)
    assert beliefs != calls["classify"]("pocket-clip", picture, "cat", TEXT, 0.8)
    assert isinstance(calls["ask"]("pocket-llava", picture, "What is it?")["answer"], str)


def test_endpoints_refuse_nonsense_in_a_sentence(calls: dict) -> None:
    junk = "data:image/png;base64," + base64.b64encode(b"no picture").decode()
    for call in (
        lambda: calls["classify"]("pocket-clip", junk, "cat"),
        lambda: calls["classify"]("pocket-clip", "x" * 5_000_000, "cat"),
        lambda: calls["ask"]("pocket-sd", junk, "What?"),
        lambda: calls["sweep"]("pocket-clip", "cat", TEXT, [7.0]),
        lambda: calls["rank_layers"]("pocket-clip", "nobody"),
    ):
        with pytest.raises(SlugError, match=r"\.$"):
            call()
