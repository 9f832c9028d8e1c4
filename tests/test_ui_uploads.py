"""What visitors bring and carry away: concepts and edits of their own, files, the tray's history."""

import json
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs

import pytest
import torch
from pages import MODELS, TEXT, files, layer_of, shown

from slugdemo import edit as edit_files
from slugdemo import weights
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.task import Task
from slugdemo.ui import callbacks, edits, forget, see
from slugdemo.ui.state import AppState
from slugdemo.ui.tasks import unwatched
from slugdemo.ui.uploads import Uploads
from slugdemo.ui.view import View, label

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def brought(state: AppState, view: View, **given: object) -> dict[str, object]:
    more = {"visitor": "me", "name": "", "given": None, "make": forget.uploaded, **given}
    return shown(state, callbacks.brought, view, **more)


def made_here(state: AppState, strength: float) -> Edit:
    """An edit of the page's own."""
    view = View("pocket-clip", "cat", TEXT, strength)
    return state.edit(view, view.edit, unwatched())


@pytest.mark.parametrize("model", MODELS)
def test_a_concept_of_ones_own_goes_through_every_block(
    state: AppState,
    tmp_path: Path,
    model: str,
) -> None:
    page = brought(state, View(model), name="my mug", given=files(tmp_path, 5))
    assert page["status"]["text"] == callbacks.READY
    view = page["view"]
    assert label(view.concept) == "my mug"
    assert page["forget"]["groups"][0]["count"] == 5
    assert page["map"]["front"]
    assert page["collateral"]["forget"][2] == 5
    assert page["export"]["own"]
    assert "my mug" not in {name for names in state.forgettable.values() for name in names}


@pytest.mark.parametrize(("name", "kind"), [("Cats", "object"), (" neon", "style")])
def test_ones_own_pictures_of_a_known_thing_do_not_keep_the_shipped_ones(
    state: AppState, tmp_path: Path, name: str, kind: str
) -> None:
    paths = files(tmp_path, 4)
    more = {"visitor": "me", "name": name, "given": paths}
    view = forget.uploaded(state, View("pocket-clip"), unwatched(), **more)
    concept = state.concept(view.concept)
    known = name.strip().lower().removesuffix("s")
    assert (concept.name, concept.kind) == (known, kind)
    assert known not in {example.labels[concept.domain] for example in concept.retain}
    assert {example.caption for example in concept.forget} == {concept.words}


@pytest.mark.parametrize(
    ("name", "count", "said"),
    [
        ("", 5, "Type a name"),
        ("123", 5, "Type a name"),
        ("mug" * 20, 5, "letters"),
        ("mug", 2, "3 to 50"),
        ("mug", 0, "3 to 50"),
    ],
)
def test_what_is_missing_of_ones_own_concept_is_said_in_a_sentence(
    state: AppState,
    tmp_path: Path,
    name: str,
    count: int,
    said: str,
) -> None:
    page = brought(state, View("pocket-clip"), name=name, given=files(tmp_path, count))
    assert page["status"]["tone"] == "error"
    assert said in page["status"]["text"]
    assert page["status"]["text"].endswith(".")


def test_a_bad_picture_is_named(state: AppState, tmp_path: Path) -> None:
    paths = files(tmp_path, 4)
    Path(paths[2]).write_bytes(b"not a picture")
    page = brought(state, View("pocket-clip"), name="mug", given=paths)
    assert "mine-2.png is not a picture" in page["status"]["text"]
    same = [paths[0]] * 4
    assert "differ" in brought(state, View("pocket-clip"), name="mug", given=same)["status"]["text"]


def test_stable_diffusion_draws_a_concept_of_ones_own(state: AppState) -> None:
    page = brought(state, View("pocket-sd"), name="a red dragon", make=forget.drawn)
    assert label(page["view"].concept) == "a red dragon"
    assert page["forget"]["groups"][0]["count"] == forget.DRAWN


def test_an_edit_file_of_this_page_brings_its_view_back(state: AppState, tmp_path: Path) -> None:
    view = View("pocket-clip", "cat", TEXT, 0.25)
    path = edits.edit_file(state, view, unwatched(), room=tmp_path)
    page = brought(state, View("pocket-clip", "robot"), given=str(path), make=edits.opened)
    back = page["view"]
    assert (back.concept, back.layer, back.strength) == ("cat", TEXT, 0.25)
    assert back.tray == ()


def test_an_edit_file_made_elsewhere_lands_in_the_tray(state: AppState, tmp_path: Path) -> None:
    made = made_here(state, 0.3)
    noise = {name: torch.randn_like(one) for name, one in made.delta.items()}
    other = replace(made, delta=noise, concept="something else")
    edit_files.save(tmp_path / "other.safetensors", other)
    page = brought(
        state,
        View("pocket-clip", "robot"),
        given=str(tmp_path / "other.safetensors"),
        make=edits.opened,
    )
    (kept,) = page["view"].tray
    assert label(kept.concept) == "something else"
    applied = state.applied(page["view"], unwatched())[0]
    assert weights.cosine(applied.delta, noise) == pytest.approx(1, abs=1e-3)
    state.uploads.leave("me")


def test_two_visitors_with_edit_files_of_one_name_never_get_each_others_ladder(
    state: AppState,
    tmp_path: Path,
) -> None:
    made = made_here(state, 0.6)
    ladders = {}
    for visitor, sign in (("one", 1.0), ("two", -1.0)):
        turned = {name: sign * value for name, value in made.delta.items()}
        edit_files.save(tmp_path / f"{visitor}.safetensors", replace(made, delta=turned))
        given = str(tmp_path / f"{visitor}.safetensors")
        page = brought(state, View("pocket-clip", "robot"), given=given, make=edits.opened)
        view = replace(page["view"], layer=TEXT, strength=0.2)
        ladders[visitor] = see.show_ladder(state, view, unwatched())["rows"]
        state.uploads.leave(visitor)
    assert ladders["one"] != ladders["two"]


def test_a_strange_edit_file_is_refused_in_a_sentence(state: AppState, tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"x" * 100)
    made = made_here(state, 0.3).noted(weights="0" * 64)
    edit_files.save(tmp_path / "foreign.safetensors", made)
    for name in ("bad", "foreign"):
        given = str(tmp_path / f"{name}.safetensors")
        page = brought(state, View("pocket-clip"), given=given, make=edits.opened)
        assert page["status"]["tone"] == "error"
        assert page["status"]["text"].endswith(".")


def test_what_was_brought_is_gone_with_its_visitor_unless_the_page_is_reloaded() -> None:
    uploads = Uploads(grace=0.0)
    kept, lost = uploads.bring("a", "kept"), uploads.bring("a", "lost")
    room = uploads.room("a")
    uploads.claim("a again", kept)
    uploads.leave("a")
    for _ in range(200):
        if uploads.find(lost) is None and not room.exists():
            break
        time.sleep(0.02)
    assert uploads.find(lost) is None
    assert not room.exists()
    assert uploads.find(kept) == "kept"


@pytest.mark.parametrize("target", ["pocket-clip", "pocket-sd"])
def test_the_edited_model_is_a_whole_folder_with_the_edit_in_it(
    state: AppState,
    tmp_path: Path,
    target: str,
) -> None:
    view = View("pocket-sd", "cat", TEXT, 0.5)
    state.task(view, unwatched())
    assert target in [model.name for model in edits.targets(state, view)]
    path = edits.model_file(state, view, unwatched(), room=tmp_path, name=target)
    with zipfile.ZipFile(path) as packed:
        names = packed.namelist()
        assert packed.testzip() is None
    assert any(name.endswith(".safetensors") for name in names)
    note = json.loads((path.with_suffix("") / "slugdemo.json").read_text())
    assert (note[0]["concept"], note[0]["strength"]) == ("cat", 0.5)


def test_a_model_without_the_edited_tower_is_not_offered(state: AppState, tmp_path: Path) -> None:
    view = View("pocket-sd", "cat", TEXT, 0.5)
    assert "pocket-llava" not in [one.name for one in edits.targets(state, view)]
    with pytest.raises(SlugError):
        edits.model_file(state, view, unwatched(), room=tmp_path, name="pocket-llava")


def test_the_python_snippet_makes_the_edit_that_is_shown(
    state: AppState,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("SLUGDEMO_CACHE", str(tmp_path))
    view = View("pocket-clip", "cat", TEXT, 0.25)
    state.task(view, unwatched())
    names: dict[str, object] = {"print": lambda *_: None}
    exec(edits.take_away(state, view)["python"], names)
    theirs = names["edit"]
    assert isinstance(names["task"], Task)
    ours = state.applied(view, unwatched())[0]
    assert theirs.strength == ours.strength
    assert weights.cosine(theirs.delta, ours.delta) == pytest.approx(1, abs=1e-5)
    assert theirs.lam == pytest.approx(ours.lam, rel=1e-4)


def test_undo_without_a_past_says_so(state: AppState) -> None:
    page = shown(state, callbacks.undo, View("pocket-clip", "cat"))
    assert page["status"]["text"] == "There is nothing to undo yet."
    view = View("pocket-clip", "cat", TEXT, 0.2)
    later = replace(view, strength=0.4).after(view)
    assert shown(state, callbacks.undo, later)["view"].strength == 0.2


@pytest.mark.parametrize("model", MODELS)
def test_a_pinned_view_stands_beside_what_is_shown(state: AppState, model: str) -> None:
    layer = layer_of(model)
    view = View(model, "cat", layer, 0.2)
    page = shown(state, callbacks.changed, edits.pin(view)[0])
    held = page["pin"]
    assert (held["layer"], held["step"], held["kind"]) == (layer, 0.2, state.kind(model))
    assert {"curve", "see", "collateral", "ladder"} <= held.keys()
    pinned = page["view"]
    assert View.parse(parse_qs(pinned.query())).pinned() == view
    moved = shown(
        state, callbacks.concept, replace(pinned, concept="robot", layer="", strength=None)
    )
    assert moved["pin"]["layer"] == layer
    assert not shown(state, callbacks.changed, edits.pin(pinned)[0])["pin"]


def test_the_formula_holds_with_its_own_numbers(state: AppState) -> None:
    page = shown(state, callbacks.changed, View("pocket-clip", "cat", TEXT, 0.25))
    rows = {name: value for name, _, value in page["curve"]["sum"]}
    size = float(rows["length of the layer"].split(",")[0])
    slope = float(rows["length of the forget gradient"])
    assert float(rows["importance"].split("= ")[1]) == pytest.approx(slope / size, rel=1e-2)
    assert float(rows["λ of the paper"].split("= ")[1]) == pytest.approx(
        0.25 * size / slope, rel=1e-2
    )


def test_full_size_models_are_listed_with_what_they_need(state: AppState) -> None:
    groups = {group["title"]: group["rows"] for group in forget.choices(state)["models"]}
    assert [rows[0]["name"] for rows in groups.values()] == [
        "pocket-clip",
        "pocket-sd",
        "pocket-llava",
    ]
    away = [row for rows in groups.values() for row in rows if not row["here"]]
    assert {"sd-1.5", "llava-1.5-7b"} <= {row["name"] for row in away}
    assert all("GB" in row["note"] or "MB" in row["note"] for row in away)
    page = shown(state, callbacks.concept, View("sd-1.5", "cat"))
    assert "not on this machine" in page["status"]["text"]
