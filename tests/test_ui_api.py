"""The endpoints without a server."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import house
import pytest
from gradio.utils import get_upload_folder
from pages import MODELS, TEXT

from slugdemo import experiment, images
from slugdemo.attacks import ATTACKS
from slugdemo.errors import SlugError
from slugdemo.methods import METHODS
from slugdemo.ui import api
from slugdemo.ui.state import AppState

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def calls(state: AppState) -> dict[str, Callable[..., Any]]:
    return {name: api.asked(getattr(api.Api(state), name)) for name in api.NAMES}


def picture() -> str:
    return images.source(house.pictures(1, seed=9)[0])


def test_endpoints_answer_with_plain_data(calls: dict) -> None:
    assert {model["name"] for model in calls["models"]()} == {*MODELS}
    assert "cat" in [concept["name"] for concept in calls["concepts"]()]
    assert {method["name"] for method in calls["methods"]()} == {*METHODS}
    assert any(row["front"] for row in calls["rank_layers"]("pocket-clip", "cat"))
    scores = calls["sweep"]("pocket-clip", "cat", TEXT, [0.0, 0.5])
    assert [score["strength"] for score in scores] == [0.0, 0.5]


def test_erase_gives_what_the_engine_gives_and_its_edit_can_be_used(calls: dict) -> None:
    found = experiment.erase(experiment.task("pocket-clip", "robot"))
    said = calls["erase"]("pocket-clip", "robot")
    assert said["layer"] == found.task.layer(found.edit.layer).layer
    assert said["strength"] == pytest.approx(found.edit.strength, abs=1e-4)
    assert (said["feasible"], said["reason"]) == (found.feasible, found.reason)
    assert (said["forget_before"], said["forget_after"]) == (
        found.before.forget_acc,
        found.after.forget_acc,
    )
    assert said["intervals"]["retain"] == found.after.retain_interval
    assert base64.b64decode(said["safetensors"])


def test_rows_of_methods_and_of_attacks_are_the_engines(calls: dict) -> None:
    found = calls["compare"]("pocket-clip", "robot", "slug")
    assert {row["split"] for row in found} == {"search", "report"}
    task = experiment.task("pocket-clip", "robot")
    edit = experiment.erase(task).edit
    for measured in experiment.report(task, [edit]):
        [row] = [r for r in found if (r["metric"], r["split"]) == (measured.metric, "report")]
        assert (row["value"], row["n"]) == (measured.after, measured.n)
    assert {attack["name"] for attack in calls["attacks"]()} == {*ATTACKS}
    [said, before] = calls["attack"]("pocket-clip", "robot", "typos", "original")
    assert (said["metric"], before["metric"], said["on"]) == (
        "success",
        "before attack",
        "original",
    )
    with pytest.raises(SlugError, match="no edit to attack"):
        calls["attack"]("pocket-clip", "robot", "typos")


def test_endpoints_apply_edits_only_when_asked(calls: dict) -> None:
    plain = calls["generate"]("pocket-sd", "a cat", 3)
    edited = calls["generate"]("pocket-sd", "a cat", 3, "cat", TEXT, 0.8)
    assert plain == calls["generate"]("pocket-sd", "a cat", 3)
    assert plain != edited
    beliefs = calls["classify"]("pocket-clip", picture(), "cat")
    assert sum(beliefs.values()) == pytest.approx(1, abs=1e-4)
    assert beliefs != calls["classify"]("pocket-clip", picture(), "cat", TEXT, 0.8)
    assert isinstance(calls["ask"]("pocket-llava", picture(), "What is it?")["answer"], str)


def test_endpoints_refuse_nonsense_in_a_sentence(calls: dict) -> None:
    junk = "data:image/png;base64," + base64.b64encode(b"no picture").decode()
    for call in (
        lambda: calls["classify"]("pocket-clip", junk, "cat"),
        lambda: calls["classify"]("pocket-clip", "x" * 5_000_000, "cat"),
        lambda: calls["ask"]("pocket-sd", junk, "What?"),
        lambda: calls["sweep"]("pocket-clip", "cat", TEXT, [7.0]),
        lambda: calls["rank_layers"]("pocket-clip", "nobody"),
        lambda: calls["erase"]("pocket-clip", "cat", "no method"),
        lambda: calls["generate"]("pocket-sd", "a cat", 1.5),
        lambda: calls["generate"]("pocket-sd", "a cat", True),
        lambda: calls["generate"]("pocket-sd", "a \ud800 cat", 1),
        lambda: calls["models"]("too much"),
    ):
        with pytest.raises(SlugError, match=r"[.?]$"):
            call()


def test_no_argument_of_an_edit_is_passed_over(calls: dict) -> None:
    drawing = {"model": "pocket-sd", "prompt": "a cat", "seed": 0}
    with pytest.raises(SlugError, match="A strength belongs to an edit"):
        calls["generate"](**drawing, concept="cat", strength=0.3)
    with pytest.raises(SlugError, match="belongs to a concept"):
        calls["generate"](**drawing, layer=TEXT, strength=0.3)


def test_a_picture_comes_in_lines_as_bare_base64_or_as_a_file(calls: dict, tmp_path: Path) -> None:
    bare = picture().partition(",")[2]
    lines = base64.encodebytes(base64.b64decode(bare)).decode()
    brought = Path(get_upload_folder()) / f"{uuid4()}.webp"
    brought.parent.mkdir(parents=True, exist_ok=True)
    brought.write_bytes(base64.b64decode(bare))
    kept = tmp_path / "kept.webp"
    kept.write_bytes(brought.read_bytes())
    of_gradio = {"_type": "gradio.FileData"}
    file = {"path": str(brought), "meta": of_gradio}
    try:
        wanted = calls["classify"]("pocket-clip", picture(), "cat")
        for given in (bare, lines, f"data:image/webp;base64,{lines}", file):
            assert calls["classify"]("pocket-clip", given, "cat") == wanted
        for given in ({"path": str(brought)}, {"path": str(kept), "meta": of_gradio}, {}, 3):
            with pytest.raises(SlugError, match=r"^“picture” (is|names) a "):
                calls["classify"]("pocket-clip", given, "cat")
    finally:
        brought.unlink()


def test_a_whole_number_may_come_as_a_float(calls: dict) -> None:
    assert calls["generate"]("pocket-sd", "a cat", 3.0) == calls["generate"](
        "pocket-sd", "a cat", 3
    )
