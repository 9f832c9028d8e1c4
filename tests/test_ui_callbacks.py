"""The page's callbacks without a server: what a visitor touches, and what the page then shows."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import house
import pytest
from pages import MODELS, TEXT, files, layer_of, shown
from typer.testing import CliRunner

from slugdemo import catalog, experiment, gradients
from slugdemo.__main__ import app
from slugdemo.benchmark import shipped
from slugdemo.config import CONFIGS
from slugdemo.edit import load, qualified
from slugdemo.errors import SlugError
from slugdemo.evaluation import eval_set
from slugdemo.methods import METHODS
from slugdemo.methods.method import Method
from slugdemo.models.loading import opened
from slugdemo.task import Task
from slugdemo.ui import callbacks, edits, forget, locate, see, step
from slugdemo.ui.state import DRAWN, AppState
from slugdemo.ui.tasks import Signal, Tasks, Watch, unwatched
from slugdemo.ui.view import Kept, View, label
from slugdemo.weights import Weights, digest

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("concept", ["wizard", "neon"])
def test_choosing_a_concept_fills_every_block(state: AppState, model: str, concept: str) -> None:
    page = shown(state, callbacks.concept, View(model, concept))
    assert page["status"]["text"] == callbacks.READY
    assert {"choice", "forget", "map", "curve", "see", "collateral", "ladder", "export"} <= {*page}
    assert len(page["curve"]["rows"]) > 4
    view = page["view"]
    link = View.parse(parse_qs(page["status"]["query"]))
    assert link == replace(view, past=(), trace=())


def known(state: AppState, model: str, folder: Path) -> View:
    """A view of something that a tiny random model knows: what it says anyway."""
    if model != "pocket-llava":
        return View(model, "robot" if model == "pocket-clip" else "cat")
    given = {"visitor": "me", "given": files(folder, 5)}
    for letter in "XVBSJ":
        view = forget.uploaded(state, View(model), unwatched(), name=letter, **given)
        task = state.task(view, unwatched())
        if task.evaluators.full(task.edit({}))(0.0).forget_acc:
            return view
    raise AssertionError("it says none of these letters")


@pytest.mark.parametrize("model", MODELS)
def test_pictures_of_ones_own_wait_for_their_own_gradient_alone(
    state: AppState, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUGDEMO_CACHE", str(tmp_path / "cache"))
    state.keep_ready(model)
    taken, gradient = [], gradients.gradient

    def counted(*given: Any, loss: gradients.Loss, **more: Any) -> Weights:  # noqa: ANN401
        taken.append(loss)
        return gradient(*given, loss=loss, **more)

    monkeypatch.setattr(gradients, "gradient", counted)
    given = {"visitor": "me", "given": files(tmp_path, 5), "name": "my mug"}
    view = forget.uploaded(state, View(model), unwatched(), **given)
    assert state.task(view, unwatched()).front
    assert taken == [gradients.forget_loss]


def engine(state: AppState, view: View) -> Task:
    """The task of a view, by the engine alone."""
    here = opened(view.model)
    names = (state.concept(view.concept), CONFIGS[here.kind], state.eval_set(view.concept))
    return Task(here, *names)


@pytest.mark.parametrize("model", MODELS)
def test_the_page_finds_what_the_engine_finds(state: AppState, model: str, tmp_path: Path) -> None:
    """One configuration through the page's handler, through the command line and the library."""
    start = known(state, model, tmp_path)
    page = shown(state, callbacks.run, start)
    found = experiment.erase(engine(state, start))
    view = page["view"]
    assert qualified(view.layer) == found.edit.layer
    assert view.strength == pytest.approx(found.edit.strength, abs=1e-4)
    assert page["status"]["text"] == f"{found.headline}."
    assert page["status"]["more"] == found.reason
    assert step.erase(state, start, unwatched()).erasure.after == found.after
    at = f"{100 * found.after.strength:.1f} %"
    row = next(row for row in page["curve"]["rows"] if row[0] == at)
    low, high = found.after.forget_interval
    assert row[1] == f"{found.after.forget_acc:.1%} ({low:.1%} to {high:.1%})".replace("%", " %")
    low, high = found.after.retain_interval
    assert row[2] == f"{found.after.retain_acc:.1%} ({low:.1%} to {high:.1%})".replace("%", " %")
    own = [] if model != "pocket-llava" else ["--forget", str(tmp_path)]
    words = ["erase", "--model", model, "--concept", label(start.concept), *own]
    result = CliRunner().invoke(app, [*words, "--no-test", "--json"])
    facts = json.loads(result.stdout)
    assert (facts["layer"], facts["strength"]) == (found.edit.layer, found.edit.strength)
    assert (facts["feasible"], facts["headline"]) == (found.feasible, found.headline)
    for key, score in (("before", found.before), ("after", found.after)):
        assert facts[f"forget_{key}"] == score.forget_acc
        assert facts[f"retain_{key}"] == score.retain_acc
    assert facts["intervals"]["forget"] == list(found.after.forget_interval)
    assert facts["intervals"]["retain"] == list(found.after.retain_interval)


@pytest.mark.parametrize("model", MODELS)
def test_the_step_search_is_the_engines_on_that_layer(
    state: AppState, model: str, tmp_path: Path
) -> None:
    start, layer = known(state, model, tmp_path), layer_of(model)
    page = shown(state, callbacks.find, replace(start, layer=layer, strength=0.1))
    found = experiment.erase(engine(state, start), layer=layer)
    assert page["view"].strength == pytest.approx(found.edit.strength, abs=1e-4)
    assert page["status"]["more"] == found.reason
    tried = {round(score.strength, 6) for score in found.search.attempts[0].trace}
    assert tried - {0.0} <= {*page["view"].trace}


@pytest.mark.parametrize("model", ["pocket-clip", "pocket-sd"])
def test_the_controls_are_the_engines(state: AppState, model: str, tmp_path: Path) -> None:
    view = replace(known(state, model, tmp_path), layer=TEXT, strength=0.3)
    rows = shown(state, callbacks.compared, view)["comparison"]["rows"]
    task = engine(state, view)
    edit = METHODS[view.method].of_layer(task, task.layer(TEXT)).at(0.3)
    controls = experiment.controls(task, edit)
    assert [row["name"] for row in rows] == ["before", view.method, *controls]
    for row, control in zip(rows[2:], controls.values(), strict=True):
        score = task.evaluators.full(control)(control.strength)
        assert row["forget"] == [score.forget_acc, *score.forget_interval, score.n_forget]
        assert row["retain"] == [score.retain_acc, *score.retain_interval, score.n_retain]


def test_only_layers_that_the_model_reads_are_offered(state: AppState) -> None:
    for model, tower in (("pocket-sd", "text"), ("pocket-llava", "vision")):
        page = shown(state, callbacks.concept, View(model, "cat"))
        offered = [name for _, name in page["layers"]["choices"]]
        assert offered
        assert {name.startswith("visual.") for name in offered} == {tower == "vision"}
        rows = page["map"]["rows"]
        assert {row["layer"] for row in rows if row["reads"]} == set(offered)


def test_a_layer_that_the_model_does_not_read_is_refused_in_a_sentence(state: AppState) -> None:
    page = shown(state, callbacks.layer, View("pocket-sd", "cat", layer="visual.proj"))
    assert page["status"]["tone"] == "error"
    assert "does not read" in page["status"]["text"]
    norm = View("pocket-sd", "cat", layer="transformer.resblocks.1.ln_1.weight")
    assert "norms stay as they are" in shown(state, callbacks.layer, norm)["status"]["text"]


@pytest.mark.parametrize("model", MODELS)
def test_a_strength_of_zero_shows_the_same_before_and_after(state: AppState, model: str) -> None:
    view = View(model, "cat", layer=layer_of(model), strength=0.0)
    page = shown(state, callbacks.changed, view)
    seen = page["see"]
    if model == "pocket-clip":
        assert all(bar["before"] == bar["after"] for bar in seen["bars"])
    elif model == "pocket-sd":
        assert seen["before"]["src"] == seen["after"]["src"]
    else:
        assert seen["answers"][0] == seen["answers"][1]
    assert page["collateral"]["unchanged"] == page["collateral"]["others"]


def test_a_large_step_changes_what_is_seen(state: AppState) -> None:
    page = shown(state, callbacks.changed, View("pocket-sd", "cat", layer=TEXT, strength=0.9))
    assert page["see"]["before"]["src"] != page["see"]["after"]["src"]
    page = shown(state, callbacks.changed, View("pocket-clip", "cat", layer=TEXT, strength=0.9))
    assert any(bar["before"] != bar["after"] for bar in page["see"]["bars"])


def test_the_ladder_begins_with_the_unedited_model_and_shares_its_pictures_with_see(
    state: AppState,
) -> None:
    view = View("pocket-sd", "cat", layer=TEXT, strength=0.4, words="a picture of a cat")
    page = shown(state, callbacks.changed, view)
    rows = page["ladder"]["rows"]
    assert [row["role"] for row in rows] == ["target", "neighbour", "unrelated"]
    assert page["ladder"]["steps"][0] == 0
    at = page["ladder"]["steps"].index(0.4)
    row = see.cast(state, view)[0]
    again = shown(state, callbacks.changed, replace(view, words=row.prompt))
    assert rows[0]["cells"][0]["src"] == again["see"]["before"]["src"]
    assert rows[0]["cells"][at]["src"] == again["see"]["after"]["src"]


def test_two_edits_in_the_tray_act_together_and_switch_off_alone(state: AppState) -> None:
    view = View("pocket-clip", "cat", layer=TEXT, strength=0.5)
    kept, _ = edits.keep(view)
    assert kept.tray == (Kept("cat", TEXT, 0.5),)
    other = replace(kept, concept="wizard", layer="visual.proj", strength=0.5)
    both, _ = edits.keep(other)
    assert [edit.concept for edit in state.applied(both, unwatched())] == ["cat", "wizard"]
    off, _ = edits.switched(both, 0)
    assert [kept.on for kept in off.tray] == [False, True]
    assert [edit.concept for edit in state.applied(off, unwatched())] == ["wizard"]
    gone = edits.dropped(off, 0)[0]
    assert [kept.concept for kept in gone.tray] == ["wizard"]
    page = shown(state, callbacks.changed, gone)
    assert [row["on"] for row in page["tray"]["rows"]] == [True]


def test_a_search_that_is_stopped_keeps_what_it_found(state: AppState) -> None:
    stop = Signal()
    seen: list[View] = []

    def put(block: str, value: object) -> None:
        if block == "view" and value.trace:
            seen.append(value)
            stop.set()

    view = View("pocket-clip", "robot", layer=TEXT, strength=0.1)
    callbacks.find(state, view, Watch(put, stop))
    assert seen[-1].trace
    assert seen[-1].strength == pytest.approx(seen[-1].trace[-1], abs=1e-4)


def test_stop_ends_a_drawing_within_a_step_and_says_so(state: AppState) -> None:
    running, said = Tasks(), []

    def work(watch: Watch) -> None:
        state.opened("pocket-sd").host.generate(
            ["a cat"] * 4,
            seeds=[91, 92, 93, 94],
            steps=500,
            cancelled=watch.stop.is_set,
            progress=lambda done, _: watch.put("done", done),
        )

    for bundle in running.stream("me", work):
        said.append(bundle)
        running.stop("me")
    assert said[-1]["status"]["tone"] == "calm"
    assert max(bundle.get("done", 0) for bundle in said) < 500


def test_every_error_is_a_sentence_and_never_a_traceback(state: AppState) -> None:
    for view in (
        View("no-model", "cat"),
        View("pocket-clip", "no concept"),
        View("pocket-clip", "cat", method="no method"),
        View("pocket-clip", "cat", layer="no.layer", strength=0.1),
        View("pocket-sd", "cat", layer=TEXT, strength=0.1, words="long " * 200),
    ):
        page = shown(state, callbacks.changed if view.layer else callbacks.concept, view)
        assert page["status"]["tone"] == "error", view
        text = page["status"]["text"]
        assert text.rstrip()[-1] in ".?", text
        assert "Traceback" not in text


def test_a_concept_without_pictures_is_drawn_and_an_unknown_one_gets_near_matches(
    state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = shown(state, callbacks.concept, View("pocket-clip", "dogs"))  # the judge sees cats only
    assert page["status"]["text"].startswith(f"The judge sees 'dog' in 0 of the {DRAWN} pictures")
    monkeypatch.setattr(eval_set, "judge", lambda: None)
    page = shown(state, callbacks.concept, View("pocket-clip", "dogs"))  # a synonym, not shown
    assert page["view"].concept == "dog"
    assert page["forget"]["groups"][0]["count"] == DRAWN
    assert page["status"]["text"] == callbacks.READY
    page = shown(state, callbacks.concept, View("pocket-clip", "wizzard"))
    assert page["status"]["tone"] == "error"
    assert "wizard" in page["status"]["text"]


def test_a_page_without_models_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUGDEMO_ASSETS", str(tmp_path))
    page = shown(AppState(), callbacks.concept, View())
    assert "no model" in page["status"]["text"]
    callbacks.warm(AppState())


def test_missing_model_folders_are_not_offered(
    assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "concepts").symlink_to(assets / "concepts")
    monkeypatch.setenv("SLUGDEMO_ASSETS", str(tmp_path))
    offered = forget.choices(AppState())
    assert not [row for group in offered["models"] for row in group["rows"] if row["here"]]
    assert [group["title"] for group in offered["concepts"]] == ["Characters", "Objects", "Styles"]
    assert "plain" not in [row["name"] for row in offered["concepts"][-1]["rows"]]
    assert all(row["src"].startswith("data:") for g in offered["concepts"] for row in g["rows"])


def test_every_method_is_offered_with_its_time_or_the_reason_why_not(state: AppState) -> None:
    rows = [row for group in forget.choices(state)["methods"] for row in group["rows"]]
    assert {row["name"] for row in rows} == {*METHODS}
    for row in rows:
        for model, took in row["seconds"].items():
            assert took == shipped.seconds(model, row["name"], METHODS[row["name"]].seconds)
        for kind, reason in row["unable"].items():
            assert (reason == "") == (kind in METHODS[row["name"]].hosts)


def test_the_edit_file_is_the_edit_that_is_shown(state: AppState, tmp_path: Path) -> None:
    view = View("pocket-sd", "cat", layer=TEXT, strength=0.25)
    path = edits.edit_file(state, view, unwatched(), room=tmp_path)
    loaded = load(path, weights=state.opened("pocket-sd").clip.digest)
    assert (loaded.concept, loaded.layer, loaded.strength) == ("cat", f"text/{TEXT}", 0.25)
    page = shown(state, callbacks.changed, replace(view, strength=0.0))
    assert page["status"]["text"] == callbacks.READY
    for nothing in (replace(view, strength=0.0), replace(view, layer="")):
        with pytest.raises(SlugError):
            edits.edit_file(state, nothing, unwatched(), room=tmp_path)


def test_nothing_that_visitors_do_changes_the_models(state: AppState) -> None:
    opened = state.opened("pocket-sd")
    before = digest(opened.clip.model), digest(opened.host.text)
    shown(state, callbacks.changed, View("pocket-sd", "robot", layer=TEXT, strength=0.7))
    shown(state, callbacks.changed, View("pocket-clip", "robot", layer="visual.proj", strength=0.7))
    assert (digest(opened.clip.model), digest(opened.host.text)) == before


def test_the_map_tells_its_picture_in_words(state: AppState) -> None:
    view = View("pocket-llava", "cat")
    found = locate.locate(state.task(view, unwatched()))
    text = locate.described(found, replace(view, layer=found.best()))
    assert "“cat”" in text
    assert "grey" in text
    assert all(locate.label(layer) in text for layer in found.front)


def test_a_picture_of_ones_own_is_looked_at_and_never_in_a_link(
    state: AppState, tmp_path: Path
) -> None:
    path = tmp_path / "mine.png"
    house.pictures(1, seed=5)[0].resize((900, 700)).save(path)
    view = View("pocket-llava", "cat", layer=layer_of("pocket-llava"), strength=0.1)
    more = {"visitor": "me", "name": "", "given": str(path)}
    page = shown(state, callbacks.own_picture, view, **more)
    assert page["see"]["pictures"][0]["role"] == "own"
    assert page["view"].own
    assert page["view"].own not in page["status"]["query"]
    path.write_bytes(b"no picture at all")
    page = shown(state, callbacks.own_picture, view, **more)
    assert page["status"]["text"].startswith("mine.png is not a picture in one of the formats")


def test_signed_alignment_makes_other_fronts_and_travels_in_the_link(state: AppState) -> None:
    view = View("pocket-clip", "cat", layer=TEXT, strength=0.1)
    absolute = shown(state, callbacks.concept, view)["map"]
    page = shown(state, callbacks.turned, view, alignment="signed", granularity="tensor")
    signed = page["map"]
    assert (absolute["alignment"], signed["alignment"]) == ("absolute", "signed")
    rows = {row["layer"]: row for row in signed["rows"]}
    text = [row for row in rows.values() if row["tower"] == "text"]
    assert min(text, key=lambda row: row["alignment"])["front"]
    assert View.parse(parse_qs(page["status"]["query"])).alignment == "signed"
    back = shown(state, callbacks.turned, page["view"], alignment="absolute", granularity="tensor")
    assert back["map"]["front"] == absolute["front"]


def test_a_group_of_tensors_can_be_a_layer(state: AppState) -> None:
    view = View("pocket-clip", "cat", layer=TEXT, strength=0.1)
    page = shown(state, callbacks.turned, view, alignment="absolute", granularity="group")
    names = {row["name"]: row["shape"] for row in page["map"]["rows"]}
    assert names["layer 0 MLP"].count(" x ") == 2
    layer = "transformer.resblocks.0.mlp"
    page = shown(state, callbacks.layer, replace(page["view"], layer=layer))
    assert page["status"]["text"] == callbacks.READY
    assert len(state.applied(page["view"], unwatched())[0].delta) == 2
    assert View.parse(parse_qs(page["status"]["query"])).granularity == "group"
    assert "--granularity group" in page["export"]["shell"]


# ---- methods that edit no chosen layer


def _doubled(task: Task) -> object:
    """A method of its own: the projections of both towers, a tenth longer."""
    task.step("Training", 0, 2)
    weights = task.clip.named()
    task.step("Training", 1, 2)
    return task.edit({"text/text_projection": weights["text_projection"].detach() * 0.1})


@pytest.fixture
def doubled(monkeypatch: pytest.MonkeyPatch) -> str:
    """A method that is in the registry for one test only."""
    both = ("zero-shot", "diffusion")
    made = Method("doubled", _doubled, "trained", both, ("text",), "texts", "nobody", seconds=2.0)
    monkeypatch.setitem(METHODS, "doubled", made)
    return "doubled"


@pytest.mark.parametrize("model", ["pocket-clip", "pocket-sd"])
def test_any_methods_edit_behaves_like_every_other(
    state: AppState, model: str, doubled: str, tmp_path: Path
) -> None:
    page = shown(state, callbacks.method, View(model, "cat", TEXT, 0.2, method=doubled))
    view = page["view"]
    assert (view.layer, view.strength, view.method) == ("", 1.0, doubled)
    assert page["status"]["tone"] == "calm"
    assert page["choice"]["method"] == doubled
    assert page["ladder"]["steps"][-1] == 2.0
    assert page["curve"]["farthest"] == 2.0
    assert "‖Δ‖" in page["curve"]["formula"]
    (edit,) = state.applied(view, unwatched())
    assert [*edit.delta] == ["text/text_projection"]
    moved = shown(state, callbacks.changed, replace(view, strength=1.5))
    assert moved["status"]["text"] == callbacks.READY
    kept, _ = edits.keep(moved["view"])
    assert kept.tray[0].place == view.edit.place
    link = View.parse(parse_qs(moved["status"]["query"]))
    for there in (state, AppState()):  # on this server by its digest, elsewhere made again
        again = shown(there, callbacks.concept, link)
        assert again["view"].strength == 1.5
        assert there.applied(again["view"], unwatched())[0].digest == edit.digest
    path = edits.edit_file(state, view, unwatched(), room=tmp_path)
    back = shown(
        state,
        callbacks.brought,
        View(model, "robot"),
        make=edits.opened,
        visitor="me",
        name="",
        given=str(path),
    )
    assert back["view"].method == doubled or back["view"].tray
    layer = shown(state, callbacks.layer, replace(view, layer=TEXT))["view"]
    assert (layer.method, layer.layer) == (View.method, TEXT)


def test_a_method_that_cannot_serve_says_why(state: AppState, doubled: str) -> None:
    page = shown(state, callbacks.method, View("pocket-llava", "cat", method=doubled))
    assert page["status"]["tone"] == "error"
    assert "cannot edit vision-language models" in page["status"]["text"]


def test_a_method_can_be_stopped_while_it_trains(state: AppState, doubled: str) -> None:
    running, said = Tasks(), []

    def work(watch: Watch) -> None:
        watch.stop.set()
        callbacks.method(state, View("pocket-clip", "cat", method=doubled), watch)

    for bundle in running.stream("me", work):
        said.append(bundle)
    assert said[-1]["status"]["tone"] == "calm"
    assert "Stopped" in said[-1]["status"]["text"]


def test_the_state_is_of_these_assets(state: AppState, assets: Path) -> None:
    assert catalog.assets() == assets
    assert [model.name for model in state.offers] == [*MODELS]
