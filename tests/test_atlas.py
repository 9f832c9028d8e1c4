"""The atlas: entries are what the engine finds, shown without a model, and never when stale."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from pages import shown
from typer.testing import CliRunner

from slugdemo import catalog, experiment
from slugdemo.__main__ import app
from slugdemo.benchmark import atlas, choices
from slugdemo.benchmark.atlas import Entry, Place, Shipped, Store
from slugdemo.config import CONFIGS
from slugdemo.edit import clip_name
from slugdemo.models.loading import opened
from slugdemo.task import Task
from slugdemo.ui import atlas as ui_atlas
from slugdemo.ui import callbacks, locate
from slugdemo.ui.state import AppState
from slugdemo.ui.view import View

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
BLOCKS = {"map", "curve", "ladder", "see", "collateral", "status", "export", "forget", "choice"}


KNOWN = {"pocket-clip": "robot", "pocket-sd": "cat"}  # what the tiny models know


@pytest.fixture(scope="module", autouse=True)
def made(assets: Path) -> dict[str, Entry]:
    """An entry for each tiny model, shipped with the tiny assets."""
    store, found = Store(assets / "atlas"), {}
    for model, concept in KNOWN.items():
        here = opened(model)
        task = Task(here, catalog.concept(concept), CONFIGS[here.kind])
        found[model], pictures = atlas.make(task, atlas.key(model))
        store.add(found[model], pictures)
        assert not found[model].problem
    assert store.pack() == len(KNOWN)
    return found


def test_an_entry_holds_what_the_engine_finds(made: dict[str, Entry]) -> None:
    entry = made["pocket-clip"]
    task = experiment.task("pocket-clip", entry.concept)
    found = experiment.erase(task)
    assert (entry.layer, entry.strength) == (
        clip_name(found.edit.layer),
        round(found.edit.strength, 4),
    )
    assert (entry.before, entry.after, entry.goal) == (found.before, found.after, found.goal)
    assert (entry.feasible, entry.reason) == (found.feasible, found.reason)
    assert entry.layers == tuple(task.every_score)
    assert entry.front == tuple(score.layer for score in task.front)
    along = experiment.sweep(task, entry.layer, [score.strength for score in entry.curve])
    assert entry.curve == tuple(along)


def test_entries_survive_the_file(made: dict[str, Entry], assets: Path) -> None:
    shipped = Shipped(assets / "atlas")
    for model, entry in made.items():
        again = shipped.find(model, entry.concept, entry.key)
        assert again is not None
        assert atlas.compared(entry, again)
        assert all(one == now for _, one, now in atlas.compared(entry, again))
        assert (again.layers, again.curve) == (entry.layers, entry.curve)
    names = {c["picture"] for row in made["pocket-sd"].ladder for c in row}
    assert names <= {*shipped.pictures}


@pytest.mark.parametrize("model", KNOWN)
def test_a_preset_is_shown_without_a_model_as_live_work_shows_it(
    made: dict[str, Entry], model: str, assets: Path
) -> None:
    entry, fresh = made[model], AppState()
    page = shown(fresh, callbacks.concept, View(model, entry.concept))
    assert page.keys() >= BLOCKS
    assert not fresh.models.items(), "a model was opened"
    link = parse_qs(page["status"]["query"])
    assert ui_atlas.opened(fresh, link)["view"] == page["view"]
    (assets / "atlas").rename(assets / "away")
    try:
        live = shown(AppState(), callbacks.run, View(model, entry.concept))
    finally:
        (assets / "away").rename(assets / "atlas")
    for block in ("map", "layers", "curve", "collateral", "choice"):
        assert page[block] == live[block], block
    assert page["export"] | {"models": []} == live["export"] | {"models": []}
    assert page["status"]["text"] == live["status"]["text"]
    assert page["view"] == replace(live["view"], past=())
    drop = ("src",) if model == "pocket-sd" else ()
    assert bare(page["see"], drop) == bare(live["see"], drop)
    assert bare(page["ladder"]["rows"], drop) == bare(live["ladder"]["rows"], drop)


def bare(value: object, drop: tuple[str, ...]) -> object:
    """The same without some keys, at any depth, in the types of JSON."""
    text = json.dumps(value)
    return json.loads(
        text, object_hook=lambda row: {key: row[key] for key in row if key not in drop}
    )


def test_a_touch_goes_on_from_what_was_shown_without_the_retain_gradient(
    made: dict[str, Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, fresh = made["pocket-clip"], AppState()
    monkeypatch.setattr("slugdemo.task.retain_gradient", None)
    page = shown(fresh, callbacks.concept, View("pocket-clip", entry.concept))
    moved = shown(fresh, callbacks.changed, replace(page["view"], strength=0.5))
    assert moved["status"]["text"] == callbacks.READY
    assert moved["curve"]["rows"] == page["curve"]["rows"]
    other = next(layer for layer in entry.front if layer != entry.layer)
    assert shown(fresh, callbacks.layer, View("pocket-clip", entry.concept, layer=other))["curve"]


DIFFERS: dict[str, Callable[[View], View]] = {
    "alignment": lambda view: replace(view, alignment="signed"),
    "granularity": lambda view: replace(view, granularity="group"),
    "seed": lambda view: replace(view, seed=1),
    "strength": lambda view: replace(view, strength=0.777),
    "question": lambda view: replace(view, words="a house"),
    "picture": lambda view: replace(view, picture=1),
    "tray": lambda view: replace(view, tray=(view.edit,)),
    "method": lambda view: replace(view, method="slug orthogonal"),
}


@pytest.mark.parametrize("what", DIFFERS)
def test_nothing_is_shown_at_once_when_something_differs(made: dict[str, Entry], what: str) -> None:
    entry, fresh = made["pocket-clip"], AppState()
    view = ui_atlas.preset(fresh, View("pocket-clip", entry.concept))["view"]
    assert ui_atlas.preset(fresh, view)
    assert ui_atlas.preset(fresh, DIFFERS[what](view)) == {}


def test_a_stale_entry_is_never_shown(
    made: dict[str, Entry], assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = View("pocket-clip", made["pocket-clip"].concept)
    assert ui_atlas.preset(AppState(), view)
    changed = CONFIGS["zero-shot"].changed({"seed": 1})
    with monkeypatch.context() as patch:
        patch.setitem(CONFIGS, "zero-shot", changed)
        assert ui_atlas.preset(AppState(), view) == {}
    folder = shutil.copytree(assets, tmp_path / "assets")
    monkeypatch.setenv("SLUGDEMO_ASSETS", str(folder))
    assert ui_atlas.preset(AppState(), view)
    for file in ("models/pocket-clip/open_clip_model.safetensors", "concepts/retain.parquet"):
        path, kept = folder / file, (folder / file).read_bytes()
        path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        assert ui_atlas.preset(AppState(), view) == {}, file
        path.write_bytes(kept)
    assert ui_atlas.preset(AppState(), view)
    (folder / "atlas" / atlas.ENTRIES).write_bytes(b"half of it")
    assert ui_atlas.preset(AppState(), view) == {}


def test_other_code_is_said(made: dict[str, Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    view = View("pocket-clip", made["pocket-clip"].concept)
    assert ui_atlas.OLDER not in ui_atlas.preset(AppState(), view)["status"]["more"]
    monkeypatch.setattr(ui_atlas, "code_version", lambda: "other")
    assert ui_atlas.OLDER in ui_atlas.preset(AppState(), view)["status"]["more"]


def test_computing_again_shows_both(made: dict[str, Entry]) -> None:
    entry = made["pocket-clip"]
    page = shown(AppState(), callbacks.again, View("pocket-clip", entry.concept))
    assert all(one == now for _, one, now in page["again"]["rows"])
    assert "Every line agrees" in page["status"]["text"]
    nothing = shown(AppState(), callbacks.again, View("pocket-clip", "house"))
    assert nothing["status"]["text"] == ui_atlas.NOTHING


def test_the_command_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["benchmark", "atlas", "--models", "pocket-clip", "--concepts", "robot,cat"]
    words += ["--out", str(tmp_path / "out"), "--json"]
    first = CliRunner().invoke(app, words)
    assert first.exit_code == 0, first.output
    assert "about" in first.stderr
    kept = json.loads(first.stdout)
    assert {row["concept"] for row in kept} == {"robot", "cat"}
    [one, *_] = sorted((tmp_path / "out" / "entries").glob("*.json"))
    one.write_text(one.read_text()[:100])  # as if it had been killed in the middle of writing
    for table in (atlas.ENTRIES, atlas.PICTURES):
        (tmp_path / "out" / table).unlink()
    done: list[Place] = []

    compute = atlas.compute

    def counted(where: Place) -> tuple[Entry, atlas.Pictures]:
        done.append(where)
        return compute(where)

    monkeypatch.setattr(atlas, "compute", counted)
    second = CliRunner().invoke(app, words)
    assert len(done) == 1
    assert {row["layer"] for row in json.loads(second.stdout)} == {row["layer"] for row in kept}
    assert Shipped(tmp_path / "out").concepts("pocket-clip") == ["cat", "robot"]
    shutil.rmtree(tmp_path / "out" / "entries")  # the tables are all that came with the app
    third = CliRunner().invoke(app, words)
    assert len(done) == 1, "what the tables hold was computed again"
    assert json.loads(third.stdout) == json.loads(second.stdout)
    assert Shipped(tmp_path / "out").concepts("pocket-clip") == ["cat", "robot"]


def test_the_view_atlas_draws_every_entry_and_opens_a_cell(made: dict[str, Entry]) -> None:
    entry, state = made["pocket-sd"], AppState()
    page = shown(state, callbacks.mapping, View("pocket-sd", "robot"))["atlas"]
    assert not state.models.items()
    [row] = [row for group in page["groups"] for row in group["rows"]]
    assert (row["concept"], row["layer"]) == (entry.concept, entry.layer)
    assert {one["layer"] for one in page["layers"]} == {*entry.editable}
    assert sum(one["chosen"] for one in page["layers"]) == 1
    assert len(row["front"]) == len(entry.front)
    fallen = {one["name"] for one in entry.collateral["rows"] if one["after"] < one["before"]}
    assert page["lost"]["rows"][0]["total"] == len(fallen)
    other = next(layer for layer in entry.editable if layer != entry.layer)
    found = shown(state, callbacks.atlas_open, View("pocket-clip"), concept_name="cat", layer=other)
    assert (found["view"].concept, found["view"].layer) == ("cat", other)


def test_the_papers_claim_is_counted(made: dict[str, Entry]) -> None:
    entry = made["pocket-clip"]
    text = replace(entry, layer="transformer.resblocks.0.attn.out_proj.weight")
    vision = replace(entry, layer="visual.transformer.resblocks.2.attn.in_proj_weight")
    against = replace(entry, layer="visual.transformer.resblocks.0.mlp.c_fc.weight")
    assert "Here that holds:" in ui_atlas.said([text, text, vision] * 2)
    assert "Here that holds in part:" in ui_atlas.said([text, against] * 3)
    assert "does not hold:" in ui_atlas.said([against, replace(text, layer="text_projection")] * 3)
    assert "4 of 6 chosen layers are in the text tower" in ui_atlas.said([text, text, vision] * 2)
    assert "none in the vision tower" in ui_atlas.said([text] * 5)
    assert "Too few presets" in ui_atlas.said([text] * 4)


def test_choices_are_those_of_the_gradients_that_differ(assets: Path, tmp_path: Path) -> None:
    task = experiment.task("pocket-clip", "robot")
    found = [*choices.spread(task)]
    config, *others = found
    assert config.layer == locate.locate(task).best()
    assert (config.overlap, config.rank) == (1.0, 1.0)
    assert {one.what for one in others} >= {"seed", "batch", "forget pictures"}
    other = Task(task.opened, task.concept, task.config.changed({"seed": 2}))
    [seed] = [one for one in others if (one.what, one.value) == ("seed", "2")]
    assert seed.layer == choices.promising(other).layer
    assert seed.rank == pytest.approx(1.0), "the forget gradient hangs on no seed"
    store, place = choices.Store(tmp_path), Place("pocket-clip", "robot")
    store.add(place, found)
    store.pack([place])
    key = atlas.keyed("pocket-clip")
    assert str(choices.shipped(tmp_path, {"pocket-clip": key})) == str(found)  # NaN is not NaN
    assert choices.shipped(tmp_path, {"pocket-clip": "other"}) == []
    del assets


def test_gradients_tracing_and_chance_choose_layers() -> None:
    task = experiment.task("pocket-clip", "robot")
    found = {one.value: one for one in choices.ways(task)}
    assert {*found} == {"gradients", "causal tracing", choices.RANDOM}
    erasure = experiment.erase(task)
    mine = found["gradients"]
    assert (mine.layer, mine.strength) == (clip_name(erasure.edit.layer), erasure.edit.strength)
    assert mine.forget_acc == erasure.after.forget_acc
    assert found["causal tracing"].layer.endswith(("out_proj.weight", "c_proj.weight"))


def test_a_shipped_entry_is_what_is_computed_now() -> None:
    """The cheapest real entry, recomputed with the real weights."""
    shipped = Shipped(Path(__file__).parents[1] / "assets" / "atlas")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SLUGDEMO_ASSETS")
        key = atlas.key("pocket-clip")
        names = shipped.concepts("pocket-clip")
        if not names or (entry := shipped.find("pocket-clip", names[0], key)) is None:
            pytest.skip("no entry of the present weights is shipped")
        now, _ = atlas.make(
            Task(opened("pocket-clip"), catalog.concept(names[0]), CONFIGS["zero-shot"]), key
        )
    differing = [line for line in atlas.compared(entry, now) if line[1] != line[2]]
    assert differing == []
