"""The page's handlers without a server: what a visitor touches, and what the page then shows."""

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs

import pytest
import shelves
import torch

from slugdemo import layers
from slugdemo.errors import SlugError
from slugdemo.gradients import Gradients
from slugdemo.methods.slug import Attempt, Outcome, direction, front
from slugdemo.models.clip import Clip
from slugdemo.search import Choice, Goal, Point
from slugdemo.ui import example, flow, forget, jobs, ladder, locate, see, step, take, tray, words
from slugdemo.ui.jobs import Desk, Signal, Watch
from slugdemo.ui.session import Shop, World
from slugdemo.ui.view import Kept, View
from slugdemo.weights import digest

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
MODELS = ("pocket-clip", "pocket-sd", "pocket-llava")
TEXT = "transformer.resblocks.1.attn.out_proj.weight"


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A tiny world; its models must be the same afterwards."""
    folder = tmp_path_factory.mktemp("world")
    return World.at(shelves.assets(folder / "assets"), folder / "cache")


def shown(world: World, work: object, view: View, **more: object) -> dict[str, object]:
    """What stands in each block at the end of a flow."""
    page: dict[str, object] = {}
    for bundle in Desk().stream("me", lambda watch: work(world, view, watch, **more)):
        page |= bundle
    return page


def quiet() -> Watch:
    return Watch(lambda *_: None)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("concept", ["wizard", "cat", "neon"])
def test_choosing_a_concept_fills_every_block(world: World, model: str, concept: str) -> None:
    page = shown(world, flow.concept, View(model, concept))
    assert page["status"]["text"] == flow.READY
    assert {"forget", "map", "curve", "see", "ladder", "collateral", "layers"} <= page.keys()
    json.dumps({name: page[name] for name in ("map", "curve", "see", "ladder", "collateral")})
    view = page["view"]
    assert view.layer in page["map"]["front"]
    assert 0 < view.step <= 1
    assert View.parse(parse_qs(page["status"]["query"])) == view


def test_only_layers_that_the_host_reads_are_offered(world: World) -> None:
    for model, tower in (("pocket-sd", "text"), ("pocket-llava", "vision")):
        page = shown(world, flow.concept, View(model, "cat"))
        offered = [name for _, name in page["layers"]["choices"]]
        assert offered
        assert {name.startswith("visual.") for name in offered} == {tower == "vision"}
        rows = page["map"]["rows"]
        assert {row["layer"] for row in rows if row["reads"]} == set(offered)


def test_a_layer_that_the_host_does_not_read_is_refused_in_a_sentence(world: World) -> None:
    page = shown(world, flow.layer, View("pocket-sd", "cat", layer="visual.proj"))
    assert page["status"]["tone"] == "error"
    assert "does not read" in page["status"]["text"]
    norm = View("pocket-sd", "cat", layer="transformer.resblocks.1.ln_1.weight")
    assert "norms stay as they are" in shown(world, flow.layer, norm)["status"]["text"]


def test_a_step_of_zero_shows_the_same_before_and_after(world: World) -> None:
    for model in MODELS:
        page = shown(world, flow.stepped, View(model, "cat", layer=layer_of(model), step=0.0))
        seen = page["see"]
        if model == "pocket-clip":
            assert all(bar["before"] == bar["after"] for bar in seen["bars"])
        elif model == "pocket-sd":
            assert seen["before"]["src"] == seen["after"]["src"]
        else:
            assert seen["answers"][0] == seen["answers"][1]
        assert page["collateral"]["unchanged"] == page["collateral"]["others"]


def test_a_large_step_changes_what_is_seen(world: World) -> None:
    page = shown(world, flow.stepped, View("pocket-sd", "cat", layer=TEXT, step=0.9))
    assert page["see"]["before"]["src"] != page["see"]["after"]["src"]
    page = shown(world, flow.stepped, View("pocket-clip", "cat", layer=TEXT, step=0.9))
    assert any(bar["before"] != bar["after"] for bar in page["see"]["bars"])


def test_the_ladder_begins_with_the_unedited_model_and_shares_its_pictures_with_see(
    world: World,
) -> None:
    view = View("pocket-sd", "cat", layer=TEXT, step=0.4, words="a picture of a cat")
    page = shown(world, flow.stepped, view)
    rows = page["ladder"]["rows"]
    assert [row["role"] for row in rows] == ["target", "neighbour", "unrelated"]
    assert page["ladder"]["steps"][0] == 0
    at = page["ladder"]["steps"].index(0.4)
    row = see.cast(world, view)[0]
    again = shown(world, flow.stepped, replace(view, words=row.prompt))
    assert rows[0]["cells"][0]["src"] == again["see"]["before"]["src"]
    assert rows[0]["cells"][at]["src"] == again["see"]["after"]["src"]


def layer_of(model: str) -> str:
    return "visual.transformer.resblocks.0.mlp.c_fc.weight" if model == "pocket-llava" else TEXT


def test_two_edits_in_the_tray_act_together_and_switch_off_alone(world: World) -> None:
    one = View("pocket-clip", "cat", layer=TEXT, step=0.5)
    kept = shown(world, flow.keep, one)["view"]
    assert kept.tray == (Kept("cat", TEXT, 0.5),)
    other = replace(kept, concept="wizard", layer="visual.proj", step=0.5)
    both = shown(world, flow.keep, other)["view"]
    assert [edit.concept for edit in world.edits(both, quiet())] == ["cat", "wizard"]
    off, _ = tray.switched(both, 0)
    assert [kept.on for kept in off.tray] == [False, True]
    assert [edit.concept for edit in world.edits(off, quiet())] == ["wizard"]
    gone = tray.dropped(off, 0)[0]
    assert [kept.concept for kept in gone.tray] == ["wizard"]
    page = shown(world, lambda *given: flow.trayed(*given, "Done."), gone)
    assert [row["on"] for row in page["tray"]["rows"]] == [True]


def test_the_tray_says_when_two_edits_share_a_layer() -> None:
    kept = (Kept("cat", TEXT, 0.1), Kept("dog", TEXT, 0.1))
    assert "add up" in tray.show(View("pocket-clip", "fox", tray=kept))["note"]
    assert not tray.show(View("pocket-clip", "fox", tray=kept[:1]))["note"]
    with pytest.raises(SlugError):
        tray.dropped(View("pocket-clip", "fox", tray=kept), 7)


def test_an_edit_is_not_applied_twice_when_it_is_kept_and_looked_at(world: World) -> None:
    tray = (Kept("cat", TEXT, 0.3),)
    view = View("pocket-clip", "cat", layer=TEXT, step=0.5, tray=tray)
    assert [edit.step for edit in world.edits(view, quiet())] == [0.5]


@pytest.mark.parametrize("work", [flow.find, flow.find_everywhere])
@pytest.mark.parametrize("model", ["pocket-clip", "pocket-llava"])
def test_a_search_ends_with_a_step_and_a_reason(world: World, work: object, model: str) -> None:
    page = shown(world, work, View(model, "dog", layer=layer_of(model), step=0.1))
    if page["status"]["tone"] == "error":  # a random model may not know a dog at all
        assert "nothing to forget" in page["status"]["text"]
        return
    assert page["view"].trace
    assert 0 < page["view"].step <= 1
    assert "layer's norm" in page["status"]["text"]


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_when_no_front_layer_passes_the_page_asks_the_next_fronts_too(
    world: World, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[str]] = []
    good = Point(0.1, 0.0, 1.0, 1, 1)

    def method(
        clip: Clip, concept: str, *, gradients: Gradients, editable: set, **_: object
    ) -> Outcome:
        fronts = front(clip, gradients, editable=editable)
        edits = [direction(clip, concept, score=one, gradients=gradients) for one in fronts]
        asked.append({one.layer for one in fronts})
        sure = len(asked) == passes
        choice = Choice(good if sure else replace(good, forget=0.5), sure, "so it is")
        tried = [Attempt(*pair, choice, (good,)) for pair in zip(fronts, edits, strict=True)]
        return Outcome(tuple(tried), good, Goal(0.0, 0.0), "so it is")

    monkeypatch.setattr(step, "slug", method)
    view, reason = step.find_everywhere(world, View("pocket-llava", "dog"), quiet())
    readable = world.readers("pocket-llava")
    every = [
        one for one in world.scores("pocket-llava", "dog", quiet()) if {*one.tensors} <= readable
    ]
    left = [one for one in every if one.importance > 0 and one.layer not in asked[0]]
    next_ones = {one.layer for one in layers.pareto_front(left)}
    assert next_ones
    assert asked[1:] == ([] if passes == 1 else [next_ones])
    assert ("On the next ones" in reason) == (passes == 2)
    assert view.layer in (asked[1] if passes == 2 else asked[0])


def test_a_search_that_is_stopped_keeps_what_it_found(world: World) -> None:
    stop = Signal()
    seen: list[View] = []

    def put(block: str, value: object) -> None:
        if block == "view" and value.trace:
            seen.append(value)
            stop.set()

    view = View("pocket-clip", "elf", layer=TEXT, step=0.1)
    flow.find(world, view, Watch(put, stop))
    assert len(seen[-1].trace) == 1
    assert seen[-1].step == pytest.approx(seen[-1].trace[0])


def test_stop_ends_a_drawing_within_a_step_and_says_so(world: World) -> None:
    desk, said = Desk(), []

    def work(watch: Watch) -> None:
        host = world.diffusion("pocket-sd")
        host.generate(
            ["a cat"] * 4,
            seeds=[91, 92, 93, 94],
            steps=500,
            cancelled=watch.stop.is_set,
            progress=lambda done, _: watch.put("done", done),
        )

    for bundle in desk.stream("me", work):
        said.append(bundle)
        desk.stop("me")
    assert said[-1]["status"]["tone"] == "calm"
    assert max(bundle.get("done", 0) for bundle in said) < 500


def test_mere_progress_is_told_seldom_and_all_else_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "PACE", 600.0)  # who waits for it hangs
    monkeypatch.setattr(jobs, "FIRST", 0.0)

    def work(watch: Watch) -> None:
        for number in range(1, 41):
            watch.say("Drawing", number, 40)
            time.sleep(0.01)
        watch.put("see", "a picture")
        drawn.wait(10)
        watch.say("Sorting", 1, 2)
        watch.put("status", {"text": "Ready.", "share": None, "tone": "calm"})

    drawn, bundles = threading.Event(), []
    for bundle in Desk().stream("me", work):
        bundles.append(bundle)
        if "see" in bundle:
            drawn.set()
    assert [{*one} for one in bundles] == [{"status"}, {"status", "see"}, {"status"}]
    assert [one["status"]["text"] for one in bundles] == ["Drawing", "Drawing", "Ready."]


def test_a_view_comes_along_with_the_first_thing_to_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "FIRST", 600.0)  # who waits for it hangs

    def work(watch: Watch) -> None:
        watch.put("view", "moved")
        time.sleep(0.01)
        watch.put("see", "a picture")

    bundles = list(Desk().stream("me", work))
    assert bundles == [{"view": "moved", "see": "a picture"}]


def test_each_place_to_work_has_its_share_of_the_cores() -> None:
    before, seen = torch.get_num_threads(), []
    try:
        torch.set_num_threads(2 * jobs.PLACES)
        jobs.share_cores()
        worker = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        worker.start()
        worker.join()
        torch.set_num_threads(1)
        jobs.share_cores()
        assert [*seen, torch.get_num_threads()] == [2, 1]
    finally:
        torch.set_num_threads(before)


def test_one_visitors_stop_leaves_another_alone() -> None:
    desk = Desk()
    steps: dict[str, list[int]] = {"a": [], "b": []}

    def counting(name: str) -> object:
        def work(watch: Watch) -> None:
            for number in range(5):
                watch.check()
                steps[name].append(number)
                watch.put("status", {"text": str(number), "tone": "busy", "share": None})

        return work

    streams = {name: desk.stream(name, counting(name)) for name in "ab"}
    next(streams["a"])
    assert desk.stop("a")
    for name in "ba":
        list(streams[name])
    assert steps["b"] == [0, 1, 2, 3, 4]
    assert not desk.stop("a")


def test_new_work_of_a_visitor_silences_the_old() -> None:
    desk, going = Desk(), threading.Event()

    def old(watch: Watch) -> None:
        watch.put("see", "old")
        going.wait(10)
        watch.put("see", "older than what is shown")

    first = desk.stream("me", old)
    assert next(first) == {"see": "old"}
    assert list(desk.stream("me", lambda watch: watch.put("see", "new"))) == [{"see": "new"}]
    going.set()
    assert list(first) == []


def test_only_work_that_was_left_is_void() -> None:
    desk, seen = Desk(), []

    def work(watch: Watch) -> None:
        seen.append(watch)
        watch.put("see", "something")

    assert list(desk.stream("me", work)) == [{"see": "something"}]
    going = threading.Event()

    def longer(watch: Watch) -> None:
        work(watch)
        going.wait(10)

    left = desk.stream("me", longer)
    next(left)
    left.close()
    going.set()
    assert [watch.stop.void for watch in seen] == [False, True]


def test_every_error_is_a_sentence_and_never_a_traceback(world: World) -> None:
    for view in (
        View("no-model", "cat"),
        View("pocket-clip", "no concept"),
        View("pocket-clip", "cat", layer="no.layer", step=0.1),
        View("pocket-sd", "cat", layer=TEXT, step=0.1, words="long " * 200),
    ):
        page = shown(world, flow.looked if view.layer else flow.concept, view)
        assert page["status"]["tone"] == "error", view
        text = page["status"]["text"]
        assert text.rstrip().endswith("."), text
        assert "Traceback" not in text


def test_a_page_without_models_says_so(tmp_path: Path) -> None:
    page = shown(World.at(tmp_path, tmp_path / "cache"), flow.concept, View())
    assert "no model" in page["status"]["text"]
    example.warm(World.at(tmp_path, tmp_path / "cache"))


def test_missing_model_folders_are_not_offered(tmp_path: Path) -> None:
    shelves.pictures(tmp_path / "concepts", each=1)
    world = World.at(tmp_path, tmp_path / "cache")
    offered = forget.catalogue(world)
    assert not [row for group in offered["models"] for row in group["rows"] if row["here"]]
    assert [group["title"] for group in offered["concepts"]] == ["Characters", "Objects", "Styles"]
    assert "plain" not in [row["name"] for row in offered["concepts"][-1]["rows"]]
    assert all(row["src"].startswith("data:") for g in offered["concepts"] for row in g["rows"])


def test_examples_to_retain_never_show_what_is_forgotten(world: World) -> None:
    for name in ("cat", "neon"):
        concept = world.concept(name)
        assert {one.labels[concept.domain] for one in concept.forget} == {name}
        for part in world.divided(concept):
            assert name not in {one.labels[concept.domain] for one in part}


def test_the_edit_file_is_the_edit_that_is_shown(world: World, tmp_path: Path) -> None:
    from slugdemo import edit as edits

    view = View("pocket-sd", "cat", layer=TEXT, step=0.25)
    loaded = edits.load(
        take.edit_file(world, view, quiet(), room=tmp_path), weights=world.clip("pocket-sd").digest
    )
    assert (loaded.concept, loaded.layer, loaded.step) == ("cat", TEXT, 0.25)
    with pytest.raises(SlugError):
        take.edit_file(world, replace(view, step=0.0), quiet(), room=tmp_path)


def test_links_are_versioned_and_checked() -> None:
    view = View(
        "m", "c", "l", 0.25, 7, "a cat & a dog?", 2, (Kept("x", "y", 0.5, on=False, name="mine"),)
    )
    assert View.parse(parse_qs(view.query())) == view
    for query in ("v=2", "v=1&step=far", "step=7", "step=nan", "seed=-1", "keep=a~b", "seed=1e9"):
        with pytest.raises(SlugError):
            View.parse(parse_qs(query))


def test_results_are_made_once_however_many_ask() -> None:
    shop, made = Shop(4), []

    def make() -> int:
        made.append(1)
        return len(made)

    threads = [threading.Thread(target=shop.get, args=("one", make)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
    for number in range(9):
        shop.get(number, lambda: None)
    assert shop.peek("one") is None


def test_nothing_that_visitors_do_changes_the_models(world: World) -> None:
    clip, text = world.clip("pocket-sd").model, world.diffusion("pocket-sd").text
    before = digest(clip), digest(text)
    shown(world, flow.stepped, View("pocket-sd", "fox", layer=TEXT, step=0.7))
    shown(world, flow.stepped, View("pocket-clip", "fox", layer="visual.proj", step=0.7))
    assert (digest(clip), digest(text)) == before


def test_layers_have_short_names_in_the_order_of_the_network() -> None:
    assert words.short("visual.transformer.resblocks.3.attn.in_proj_weight") == "3 attn.qkv"
    assert words.short("text_projection") == words.short("visual.proj") == "projection"
    names = ["visual.proj", "visual.transformer.resblocks.10.ln_1.weight", "visual.conv1.weight"]
    names.append("visual.transformer.resblocks.2.mlp.c_fc.weight")
    assert sorted(names, key=words.depth) == [names[2], names[3], names[1], names[0]]
    assert words.share(0.001) == "<1 %"
    assert words.change(0.5, 0.25).endswith("25")


def test_the_map_tells_its_picture_in_words(world: World) -> None:
    view = View("pocket-llava", "cat")
    found = locate.locate(world, view, quiet())
    text = locate.described(found, replace(view, layer=found.best()))
    assert "“cat”" in text
    assert "grey" in text
    assert all(words.short(one) in text for one in found.front)


def test_the_goal_allows_for_one_picture_of_noise() -> None:
    from slugdemo.search import Point

    goal = step.goal(Point(0.0, 1.0, 0.9, 5, 10), 0.02)
    assert goal.met(Point(0.1, 0.0, 0.8, 5, 10))
    assert not goal.met(Point(0.1, 0.0, 0.7, 5, 10))


def test_a_picture_of_ones_own_is_looked_at_and_never_in_a_link(
    world: World, tmp_path: Path
) -> None:
    path = tmp_path / "mine.png"
    shelves.picture("car", "neon", 5).resize((900, 700)).save(path)
    view = View("pocket-llava", "cat", layer=layer_of("pocket-llava"), step=0.1)
    page = shown(world, flow.own_picture, view, visitor="me", name="", given=str(path))
    assert page["see"]["pictures"][0]["role"] == "own"
    assert page["view"].own
    assert page["view"].own not in page["status"]["query"]
    path.write_bytes(b"no picture at all")
    page = shown(world, flow.own_picture, view, visitor="me", name="", given=str(path))
    assert (
        page["status"]["text"]
        == "mine.png is not a picture in one of the formats JPEG, PNG, WEBP, GIF, BMP, AVIF."
    )


def test_signed_alignment_makes_other_fronts_and_travels_in_the_link(world: World) -> None:
    view = View("pocket-clip", "cat", layer=TEXT, step=0.1)
    absolute = shown(world, flow.concept, view)["map"]
    page = shown(world, flow.turned, view, by="signed", unit="tensor")
    signed = page["map"]
    assert (absolute["by"], signed["by"]) == ("absolute", "signed")
    rows = {row["layer"]: row for row in signed["rows"]}
    lowest = min(
        (row for row in rows.values() if row["tower"] == "text"), key=lambda row: row["alignment"]
    )
    assert lowest["front"]
    assert View.parse(parse_qs(page["status"]["query"])).by == "signed"
    back = shown(world, flow.turned, page["view"], by="absolute", unit="tensor")
    assert back["map"]["front"] == absolute["front"]


def test_a_group_of_tensors_can_be_a_layer(world: World) -> None:
    view = View("pocket-clip", "cat", layer=TEXT, step=0.1)
    page = shown(world, flow.turned, view, by="absolute", unit="group")
    names = {row["name"]: row["shape"] for row in page["map"]["rows"]}
    assert names["0 mlp"].count(" x ") == 2
    layer = "transformer.resblocks.0.mlp"
    page = shown(world, flow.layer, replace(page["view"], layer=layer))
    assert page["status"]["text"] == flow.READY
    assert len(world.edits(page["view"], quiet())[0].direction) == 2
    assert View.parse(parse_qs(page["status"]["query"])).unit == "group"
    assert "--unit group" in page["take"]["shell"]


def test_narrow_answers_lose_the_opening_that_all_share() -> None:
    told = [[{"text": "This is a picture of a cow."}, {"text": "This is a picture of an owl."}]]
    short = ladder.shorter(told)
    assert [cell["text"] for cell in short[0]] == ["cow", "owl"]
    assert short[0][0]["full"] == "This is a picture of a cow."
    for same in ("This is a cow.", "Yes."):
        assert ladder.shorter([[{"text": same}, {"text": same}]])[0][0]["text"] == same
