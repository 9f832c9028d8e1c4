"""What visitors bring and carry away: concepts and edits of their own, files, the tray's history."""

import json
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs

import pytest
import shelves
import torch
from test_ui_flow import TEXT, quiet, shown, world  # noqa: F401  (the fixture)

from slugdemo import edit as edits
from slugdemo import weights
from slugdemo.errors import SlugError
from slugdemo.experiment import Study
from slugdemo.ui import example, exams, flow, forget, ladder, own, take, tray
from slugdemo.ui.guests import Guests
from slugdemo.ui.jobs import Lane, Signal, Watch
from slugdemo.ui.session import World
from slugdemo.ui.view import Kept, View, label

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def files(folder: Path, count: int) -> list[str]:
    """Pictures of a car, as a visitor has them."""
    paths = [folder / f"mine-{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        shelves.picture("car", "neon", 50 + number).resize((200, 150)).save(path)
    return [str(path) for path in paths]


def brought(world: World, view: View, **given: object) -> dict[str, object]:  # noqa: F811
    more = {"visitor": "me", "name": "", "given": None, "make": own.given, **given}
    return shown(world, flow.brought, view, **more)


@pytest.mark.parametrize("model", ["pocket-clip", "pocket-sd", "pocket-llava"])
def test_a_concept_of_ones_own_goes_through_every_block(
    world: World,  # noqa: F811
    tmp_path: Path,
    model: str,
) -> None:
    page = brought(world, View(model), name="my mug", given=files(tmp_path, 5))
    assert page["status"]["text"] == flow.READY
    view = page["view"]
    assert label(view.concept) == "my mug"
    assert page["forget"]["groups"][0]["count"] == 5
    assert page["map"]["front"]
    assert page["collateral"]["forget"][2] == 5
    assert page["take"]["own"]
    assert "my mug" not in {one.name for one in world.shelf.offered}


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
    world: World,  # noqa: F811
    tmp_path: Path,
    name: str,
    count: int,
    said: str,
) -> None:
    page = brought(world, View("pocket-clip"), name=name, given=files(tmp_path, count))
    assert page["status"]["tone"] == "error"
    assert said in page["status"]["text"]
    assert page["status"]["text"].endswith(".")


def test_a_bad_picture_is_named(world: World, tmp_path: Path) -> None:  # noqa: F811
    paths = files(tmp_path, 4)
    Path(paths[2]).write_bytes(b"not a picture")
    page = brought(world, View("pocket-clip"), name="mug", given=paths)
    assert "mine-2.png is not a picture" in page["status"]["text"]
    same = [paths[0]] * 4
    assert "differ" in brought(world, View("pocket-clip"), name="mug", given=same)["status"]["text"]


def test_stable_diffusion_draws_a_concept_of_ones_own(world: World) -> None:  # noqa: F811
    page = brought(world, View("pocket-sd"), name="a red dragon", make=own.drawn)
    assert label(page["view"].concept) == "a red dragon"
    assert page["forget"]["groups"][0]["count"] == own.DRAWN


def test_an_edit_file_of_this_page_brings_its_view_back(world: World, tmp_path: Path) -> None:  # noqa: F811
    view = View("pocket-clip", "cat", TEXT, 0.25)
    path = take.edit_file(world, view, quiet(), room=tmp_path)
    page = brought(world, View("pocket-clip", "dog"), given=str(path), make=own.edit_file)
    back = page["view"]
    assert (back.concept, back.layer, back.step) == ("cat", TEXT, 0.25)
    assert back.tray == ()


def test_an_edit_file_made_elsewhere_lands_in_the_tray(world: World, tmp_path: Path) -> None:  # noqa: F811
    made = world.edit("pocket-clip", Kept("cat", TEXT, 0.3), quiet())
    noise = {name: torch.randn_like(one) for name, one in made.direction.items()}
    other = replace(made, direction=noise, concept="something else")
    edits.save(tmp_path / "other.safetensors", other)
    page = brought(
        world,
        View("pocket-clip", "dog"),
        given=str(tmp_path / "other.safetensors"),
        make=own.edit_file,
    )
    (kept,) = page["view"].tray
    assert label(kept.concept) == "something else"
    applied = world.edits(page["view"], quiet())[0]
    assert weights.cosine(applied.direction, noise) == pytest.approx(1, abs=1e-3)
    world.guests.leave("me")


def test_two_visitors_with_edit_files_of_one_name_never_get_each_others_ladder(
    world: World,  # noqa: F811
    tmp_path: Path,
) -> None:
    made = world.edit("pocket-clip", Kept("cat", TEXT, 0.6), quiet())
    ladders = {}
    for visitor, sign in (("one", 1.0), ("two", -1.0)):
        turned = {name: sign * value for name, value in made.direction.items()}
        edits.save(tmp_path / f"{visitor}.safetensors", replace(made, direction=turned))
        given = str(tmp_path / f"{visitor}.safetensors")
        page = brought(world, View("pocket-clip", "dog"), given=given, make=own.edit_file)
        view = replace(page["view"], layer=TEXT, step=0.2)
        ladders[visitor] = ladder.show(world, view, quiet())["rows"]
        world.guests.leave(visitor)
    assert ladders["one"] != ladders["two"]


def test_a_strange_edit_file_is_refused_in_a_sentence(world: World, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "bad.safetensors").write_bytes(b"x" * 100)
    made = world.edit("pocket-clip", Kept("cat", TEXT, 0.3), quiet()).noted(weights="0" * 64)
    edits.save(tmp_path / "foreign.safetensors", made)
    for name in ("bad", "foreign"):
        given = str(tmp_path / f"{name}.safetensors")
        page = brought(world, View("pocket-clip"), given=given, make=own.edit_file)
        assert page["status"]["tone"] == "error"
        assert page["status"]["text"].endswith(".")


def test_what_was_brought_is_gone_with_its_visitor_unless_the_page_is_reloaded() -> None:
    guests = Guests(grace=0.0)
    kept, lost = guests.bring("a", "kept"), guests.bring("a", "lost")
    room = guests.room("a")
    guests.claim("a again", kept)
    guests.leave("a")
    for _ in range(200):
        if guests.find(lost) is None and not room.exists():
            break
        time.sleep(0.02)
    assert guests.find(lost) is None
    assert not room.exists()
    assert guests.find(kept) == "kept"


@pytest.mark.parametrize("target", ["pocket-clip", "pocket-sd"])
def test_the_edited_model_is_a_whole_folder_with_the_edit_in_it(
    world: World,  # noqa: F811
    tmp_path: Path,
    target: str,
) -> None:
    view = View("pocket-sd", "cat", TEXT, 0.5)
    assert target in [one.name for one in take.targets(world, view)]
    path = take.model_file(world, view, quiet(), room=tmp_path, name=target)
    with zipfile.ZipFile(path) as packed:
        names = packed.namelist()
        assert packed.testzip() is None
    assert any(name.endswith(".safetensors") for name in names)
    note = json.loads((path.with_suffix("") / "slugdemo.json").read_text())
    assert (note[0]["concept"], note[0]["step"]) == ("cat", 0.5)


def test_a_model_without_the_edited_tower_is_not_offered(world: World, tmp_path: Path) -> None:  # noqa: F811
    view = View("pocket-sd", "cat", TEXT, 0.5)
    assert "pocket-llava" not in [one.name for one in take.targets(world, view)]
    with pytest.raises(SlugError):
        take.model_file(world, view, quiet(), room=tmp_path, name="pocket-llava")


def test_the_python_snippet_makes_the_edit_that_is_shown(
    world: World,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("SLUGDEMO_ASSETS", str(world.shelf.folder))
    monkeypatch.setenv("SLUGDEMO_CACHE", str(tmp_path))
    view = View("pocket-clip", "cat", TEXT, 0.25)
    names: dict[str, object] = {"print": lambda *_: None}
    exec(take.show(world, view)["python"], names)
    theirs, study = names["edit"], names["study"]
    assert isinstance(study, Study)
    ours = world.edits(view, quiet())[0]
    assert theirs.step == ours.step
    assert weights.cosine(theirs.direction, ours.direction) == pytest.approx(1, abs=1e-5)
    assert theirs.ratio == pytest.approx(ours.ratio, rel=1e-4)


def test_undo_goes_back_one_change_at_a_time() -> None:
    first = View("m", "c", "l", 0.1)
    second = replace(first, step=0.2).after(first)
    third = replace(second, step=0.3).after(second)
    assert [one.step for one in third.past] == [0.1, 0.2]
    assert replace(third, trace=(0.1,)).after(third).past == third.past
    assert "past" not in third.query()


def test_undo_without_a_past_says_so(world: World) -> None:  # noqa: F811
    page = shown(world, flow.undo, View("pocket-clip", "cat"))
    assert page["status"]["text"] == "There is nothing to undo yet."
    view = View("pocket-clip", "cat", TEXT, 0.2)
    later = replace(view, step=0.4).after(view)
    assert shown(world, flow.undo, later)["view"].step == 0.2


def test_a_renamed_edit_keeps_its_name_in_the_link() -> None:
    view = View("m", "c", tray=(Kept("cat", TEXT, 0.5),))
    named, said = tray.renamed(view, 0, "  the  ~cat~ edit ")
    assert named.tray[0].name == "the cat edit"
    assert "the cat edit" in said
    assert View.parse(parse_qs(named.query())) == named
    assert tray.show(named)["rows"][0]["name"] == "the cat edit"


@pytest.mark.parametrize("model", ["pocket-clip", "pocket-sd", "pocket-llava"])
def test_a_pinned_view_stands_beside_what_is_shown(world: World, model: str) -> None:  # noqa: F811
    vision = "visual.transformer.resblocks.0.mlp.c_fc.weight"
    layer = vision if model == "pocket-llava" else TEXT
    view = View(model, "cat", layer, 0.2)
    page = shown(world, flow.pin, view)
    held = page["pin"]
    assert (held["layer"], held["step"], held["kind"]) == (layer, 0.2, world.kind(model))
    assert {"curve", "see", "collateral", "ladder"} <= held.keys()
    pinned = page["view"]
    assert View.parse(parse_qs(pinned.query())).pinned() == view
    moved = shown(world, flow.concept, replace(pinned, concept="dog", layer="", step=None))
    assert moved["pin"]["layer"] == layer
    assert not shown(world, flow.pin, pinned)["pin"]


def test_the_example_is_shown_as_it_was_made_and_only_for_its_weights(
    world: World,  # noqa: F811
) -> None:
    place = example.place(world.shelf.folder)
    made = example.record(world, model="pocket-clip", concept="fox")
    place.write_text(json.dumps(made, allow_nan=False))
    fresh = World.at(world.shelf.folder, world.cache)
    page = example.shown(fresh)
    assert page["view"].concept == "fox"
    assert example.shown(fresh, parse_qs(made["query"])).keys() == page.keys()
    assert example.shown(fresh, {"model": ["pocket-sd"]}) == {}
    assert {"map", "curve", "ladder", "see", "collateral", "status", "take"} <= page.keys()
    assert not fresh.models.peek("pocket-clip"), "a model was opened to show the example"
    point = made["points"][0]
    key = exams.key(page["view"], page["view"].layer, point["step"])
    assert fresh.results.peek(key).forget == point["forget"]
    made["key"] = "of other weights"
    place.write_text(json.dumps(made))
    assert example.shown(World.at(world.shelf.folder, world.cache)) == {}
    place.unlink()
    assert example.shown(World.at(world.shelf.folder, world.cache)) == {}


def test_who_waits_is_told_the_place_in_the_line_and_can_stop() -> None:
    lane, said = Lane(1, longest=2), []
    with lane.place(quiet()):
        stop = Signal()

        def put(_: str, value: object) -> None:
            said.append(value["text"])
            stop.set()

        with pytest.raises(SlugError, match="Stopped"), lane.place(Watch(put, stop)):
            raise AssertionError("there was no place")
        assert said == ["All places are taken; you are next"]
        lane._line += [object(), object()]
        with pytest.raises(SlugError, match="2 visitors are waiting"), lane.place(quiet()):
            pass
        lane._line.clear()
    with lane.place(quiet()):
        pass


def test_the_formula_holds_with_its_own_numbers(world: World) -> None:  # noqa: F811
    page = shown(world, flow.stepped, View("pocket-clip", "cat", TEXT, 0.25))
    rows = {name: value for name, _, value in page["curve"]["sum"]}
    size = float(rows["length of the layer"].split(",")[0])
    slope = float(rows["length of the forget gradient"])
    assert float(rows["importance"].split("= ")[1]) == pytest.approx(slope / size, rel=1e-2)
    assert float(rows["λ of the paper"].split("= ")[1]) == pytest.approx(
        0.25 * size / slope, rel=1e-2
    )


def test_full_size_models_are_listed_with_what_they_need(world: World) -> None:  # noqa: F811
    groups = {group["title"]: group["rows"] for group in forget.catalogue(world)["models"]}
    assert [rows[0]["name"] for rows in groups.values()] == [
        "pocket-clip",
        "pocket-sd",
        "pocket-llava",
    ]
    away = [row for rows in groups.values() for row in rows if not row["here"]]
    assert {"sd-1.5", "llava-1.5-7b"} <= {row["name"] for row in away}
    assert all("GB" in row["note"] or "MB" in row["note"] for row in away)
    page = shown(world, flow.concept, View("sd-1.5", "cat"))
    assert "not on this machine" in page["status"]["text"]
