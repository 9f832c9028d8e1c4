"""Laws of boards and studies: what is asked, what is counted, and what a search never sees."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import house
import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from slugdemo import catalog, layers
from slugdemo import data as examples
from slugdemo import eval_set as world
from slugdemo import images as pictures
from slugdemo.concept import Concept, Example
from slugdemo.config import SETTINGS, Setting
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.evaluation import Answers, Drawings, Size, World
from slugdemo.evaluation.answer import ASK, says
from slugdemo.evaluation.generate import Eyes, eyes
from slugdemo.evaluation.prompt_set import SEARCH_SEED, TEST_SEED, orders, spread
from slugdemo.experiment import Study
from slugdemo.gradients import Gradients
from slugdemo.methods import METHODS
from slugdemo.methods.slug import Attempt, Outcome, direction, extended, front
from slugdemo.models.clip import Clip
from slugdemo.models.loading import Opened, opened
from slugdemo.search import Choice, Goal, Point
from slugdemo.weights import cosine, norm

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

THINGS = tuple(f"thing {at}" for at in range(40))
WORLD = World(THINGS, ("plain", "neon", "sepia"), ("thing 3", "thing 4", "thing 5"))
OBJECT, STYLE = Concept("thing 2", "object"), Concept("neon", "style")
SMALL = Size(own=3, others=4, test_own=4, test_others=6)


@pytest.fixture(scope="module", autouse=True)
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny assets folder, with a cache of its own."""
    folder = house.build(tmp_path_factory.mktemp("assets"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLUGDEMO_ASSETS", str(folder))
        patch.setenv("SLUGDEMO_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def robot(assets: Path) -> Study:  # noqa: ARG001
    return Study(opened("pocket-clip"), catalog.concept("robot"), Setting(loss=0.3))


def test_a_thing_is_asked_for_in_every_style_and_others_never_are_it() -> None:
    asked = orders(OBJECT, WORLD, own=6, others=20, seed=0)
    own, rest = asked[:6], asked[6:]
    assert {one.concept for one in own} == {"thing 2"}
    assert {one.style for one in own} == {*WORLD.styles}
    assert len(rest) == 20
    assert "thing 2" not in {one.concept for one in rest}
    assert {one.concept for one in rest} >= {*WORLD.neighbours}


def test_a_style_is_asked_for_on_many_things_and_others_are_in_other_styles() -> None:
    asked = orders(STYLE, WORLD, own=6, others=20, seed=0)
    assert {one.style for one in asked[:6]} == {"neon"}
    assert len({one.concept for one in asked[:6]}) == 6
    assert {one.style for one in asked[6:]} == {"plain", "sepia"}


def test_search_and_test_share_no_noise_and_repeats_differ() -> None:
    searched = orders(OBJECT, WORLD, own=9, others=18, seed=SEARCH_SEED)
    tested = orders(OBJECT, WORLD, own=18, others=40, seed=TEST_SEED)
    assert not {one.seed for one in searched} & {one.seed for one in tested}
    assert len(set(tested)) == len(tested)


def test_the_noise_of_a_prompt_does_not_depend_on_what_is_erased() -> None:
    several = [orders(Concept(name, "object"), WORLD, own=6, others=20, seed=0) for name in THINGS]
    rest = [{one[:2]: one.seed for one in asked[6:]} for asked in several]
    for other in rest:
        shared = rest[0].keys() & other.keys()
        assert len(shared) >= 12  # an unedited model draws these once for all concepts
        assert all(rest[0][pair] == other[pair] for pair in shared)


def test_a_spread_is_even_and_as_long_as_asked_for() -> None:
    assert spread(list("abcdefgh"), 4) == ["a", "c", "e", "g"]
    assert spread(["a", "b"], 5) == ["a", "b", "a", "b", "a"]
    with pytest.raises(SlugError, match="no other concepts"):
        spread([], 3)


@pytest.mark.parametrize(
    ("answer", "there"),
    [
        ("This is a picture of a cat.", True),
        ("A CAT and a dog.", True),
        ("A category.", False),
        ("A bobcat.", False),
        ("", False),
    ],
)
def test_an_answer_names_a_thing_by_its_whole_word(answer: str, there: bool) -> None:
    assert says(answer, "cat") is there


class Painted:
    """What eyes see when the pictures are what the prompts ask for, but for one mistake each."""

    def __init__(self, names: dict[str, list[str]], seen: Sequence[tuple[str, str]]) -> None:
        self.names, self.seen = names, seen

    def __call__(self, shown: Sequence[Image.Image]) -> dict[str, np.ndarray]:
        scores = {domain: np.zeros((len(shown), len(self.names[domain]))) for domain in self.names}
        for row, (thing, style) in enumerate(self.seen[: len(shown)]):
            scores["concept"][row, self.names["concept"].index(thing)] = 1
            scores["style"][row, self.names["style"].index(style)] = 1
        return scores


def seeing(board: Drawings, seen: Sequence[tuple[str, str]]) -> Drawings:
    names = board.world.names(board.concept)
    return replace(board, eyes=Eyes("by hand", names, Painted(names, seen)))


def drawn(name: str) -> Drawings:
    work = Study(opened("pocket-sd"), catalog.concept(name), Setting(size=SMALL))
    return replace(work.board, denoising=1)


def test_drawings_count_the_concept_the_rest_and_the_other_domain_as_by_hand() -> None:
    board = drawn("cat")
    asked = [(one.concept, one.style) for one in board.searched]
    assert [thing for thing, _ in asked][:3] == ["cat"] * 3
    looks = [style for _, style in asked]
    wrong = {"neon": "sepia", "sepia": "neon", "plain": "neon"}
    seen = [
        ("cat", looks[0]),  # still there, in its style
        ("robot", looks[1]),  # gone, in its style
        ("robot", wrong[looks[2]]),  # gone, and its style too
        asked[3],  # as it should be
        asked[4],
        ("cat", looks[5]),  # the wrong thing in the right style
        (asked[6][0], wrong[looks[6]]),  # the right thing in the wrong style
    ]
    point = seeing(board, seen).exam()(some_edit("cat"))(0.0)
    assert (point.forget, point.n_forget) == (1 / 3, 3)
    assert (point.retain, point.n_retain) == (4 / 7, 7)
    assert point.parts == {"ira": 3 / 4, "cra": 5 / 7}


def test_a_glance_sees_the_concept_alone_and_the_same_of_it() -> None:
    board = drawn("cat")
    seen = [("cat", "plain")] * 3 + [("dog", "plain")] * 9
    full, quick = (seeing(board, seen).exam(), seeing(board, seen).glance())
    edit = some_edit("cat")
    point = quick(edit)(0.1)
    assert (point.forget, point.n_forget) == (full(edit)(0.1).forget, 3)
    assert math.isnan(point.retain)
    assert point.n_retain == 0


def test_unlearn_canvas_rows_come_from_the_test_noise() -> None:
    board = drawn("cat")
    asked = [(one.concept, one.style) for one in board.tested]
    rows = {row.measure: row for row in seeing(board, asked).rows([some_edit("cat")])}
    assert {name: row.after for name, row in rows.items()} == {"ua": 0, "ira": 1, "cra": 1}
    assert [rows[name].n for name in ("ua", "ira", "cra")] == [4, 6, 10]
    assert {one.seed for one in board.tested}.isdisjoint(one.seed for one in board.searched)


def test_a_judge_who_does_not_know_the_concept_does_not_judge() -> None:
    shipped, one = world.judge(), opened("pocket-clip")
    known = eyes(shipped, lambda: one.clip, concept=Concept("cat", "object"), world=WORLD)
    mug = Concept("my mug", "custom")
    unknown = eyes(shipped, lambda: one.clip, concept=mug, world=WORLD)
    assert known.who == "judge"
    assert unknown.who == "unedited CLIP"
    shown = house.pictures(3, seed=1)
    scores = unknown.look(shown)
    assert scores["concept"].shape == (3, len(unknown.names["concept"]))
    assert "my mug" in unknown.names["concept"]


def some_edit(concept: str, *, layer: str = "transformer.resblocks.1.mlp.c_fc.weight") -> Edit:
    return replace(tiny.edit(tiny.clip_model(), layer, 0.3), concept=concept)


def talk(labels: Sequence[str], name: str) -> Answers:
    """A board on the tiny LLaVA, whose pictures are labelled with what it says of them."""
    one = opened("pocket-llava")
    some = catalog.held_out()[: len(labels)]
    shown = [
        replace(example, labels={"concept": label, "style": "plain"})
        for example, label in zip(some, labels, strict=True)
    ]
    own = tuple(example for example in shown if example.labels["concept"] == name)
    rest = tuple(example for example in shown if example.labels["concept"] != name)
    concept = Concept(name, "object", own, rest)
    world = World(("a",), ("plain",), test=tuple(shown))
    return Answers(concept, one.host, world, Size(own=8, others=8, test_own=8, test_others=8))


def test_answers_count_names_of_the_concept_and_of_the_rest(assets: Path) -> None:  # noqa: ARG001
    one = opened("pocket-llava")
    shown = [pictures.read(example.image) for example in catalog.held_out()[:6]]
    said = one.host.answer(shown, [ASK["concept"]] * 6)
    labels = [said[0], *said[1:3], "never said", *said[4:6]]
    board = talk(labels, said[0])
    own = labels.count(said[0])
    point = board.exam()(some_edit("x"))(0.0)
    hits = sum(label != "never said" for label in labels) - own
    assert (point.forget, point.n_forget) == (1.0, own)
    besides = own + math.ceil((6 - own) / 2)  # asked about style and background
    assert point.n_retain == (6 - own) + 2 * besides
    assert point.retain == pytest.approx((hits + besides) / point.n_retain)  # no style is named
    rows = {row.measure: row for row in board.rows([])}
    assert rows["forget"][1:] == (1.0, 1.0, own)
    assert rows["retain"].before == pytest.approx(hits / (6 - own))
    assert rows["background"].after == 1.0


def test_a_study_finds_an_edit_that_holds_on_pictures_no_search_has_seen(robot: Study) -> None:
    outcome = robot.erase()
    rows = {row.measure: row for row in robot.rows([outcome.edit])}
    assert outcome.feasible
    assert outcome.point.forget == 0
    assert rows["forget"].after < 0.2 < rows["forget"].before
    assert rows["retain"].after > 0.6
    assert outcome.edit.about["weights"] == robot.clip.digest
    assert float(outcome.edit.about["gradient_forget_pictures"]) == len(robot.concept.forget)
    assert {"gradients", "search", "test"} <= robot.clock.seconds.keys()


def test_gradient_search_and_test_share_no_picture_to_keep(robot: Study) -> None:
    gradient, searched = ({str(one.image) for one in part} for part in robot._parts)
    tested = {str(one.image) for one in catalog.held_out()}
    assert gradient
    assert searched
    assert not gradient & searched
    assert not (gradient | searched | {str(e.image) for e in robot.concept.forget}) & tested


def test_a_layer_that_is_named_is_the_only_one_tried(robot: Study) -> None:
    outcome = robot.erase(layer="visual.proj")
    assert [one.score.layer for one in outcome.attempts] == ["visual.proj"]


def test_a_step_that_is_given_is_measured_not_searched(robot: Study) -> None:
    outcome = robot.erase(layer="visual.proj", step=0.2)
    assert outcome.edit.step == 0.2
    assert [point.step for point in outcome.attempts[0].trace] == [0.2]
    with pytest.raises(SlugError, match="name the layer"):
        robot.erase(step=0.2)


def test_an_edit_goes_beyond_its_searched_step_as_far_as_it_is_told(robot: Study) -> None:
    plain = robot.erase(layer="visual.proj").edit.step
    farther = Study(robot.opened, robot.concept, replace(robot.setting, beyond=0.5))
    outcome = farther.erase(layer="visual.proj")
    assert outcome.edit.step == outcome.point.step == pytest.approx(1.5 * plain)
    assert float(outcome.edit.about["retain_after"]) == outcome.point.retain
    assert "50% farther" in outcome.reason


def test_an_unknown_layer_is_a_sentence_with_those_on_the_front(robot: Study) -> None:
    with pytest.raises(SlugError, match=r"no layer 'nope'.*On the front are: "):
        robot.direction("nope")


def test_controls_are_as_long_as_the_edit_and_point_elsewhere(robot: Study) -> None:
    edit = robot.erase(layer="visual.proj").edit
    controls = robot.controls(edit)
    assert controls.keys() == {"-g", "random direction", "random layer"}
    assert cosine(controls["-g"].delta(), edit.delta()) == pytest.approx(-1)
    lost = controls["random direction"]
    assert norm(lost.delta()) == pytest.approx(norm(edit.delta()), rel=1e-4)
    assert abs(cosine(lost.delta(), edit.delta())) < 0.3
    assert controls["random layer"].layer != edit.layer


def test_a_style_is_forgotten_among_styles(assets: Path) -> None:  # noqa: ARG001
    work = Study(opened("pocket-clip"), catalog.concept("sepia"), Setting(loss=1.0))
    assert {*work.board.host.classes} == {*house.STYLES}
    outcome = work.erase()
    assert outcome.before.forget == 1.0
    assert outcome.point.forget == 0.0


def test_a_host_reads_one_tower_only() -> None:
    for name, tower in (("pocket-sd", "text"), ("pocket-llava", "vision")):
        work = Study(opened(name), catalog.concept("cat"), Setting(size=SMALL))
        assert {one.tower for one in work.scores} == {tower}
        assert not [one.layer for one in work.scores if "ln_" in one.layer]


def test_retain_pictures_without_labels_are_classes_of_their_own(
    tmp_path: Path, assets: Path
) -> None:
    for at, picture in enumerate(house.pictures(4, seed=9)):
        (tmp_path / "rest").mkdir(exist_ok=True)
        picture.save(tmp_path / "rest" / f"{at}.png")
        (tmp_path / "rest" / f"{at}.txt").write_text(f"a thing of number {at}")
        (tmp_path / "own").mkdir(exist_ok=True)
        picture.rotate(90).save(tmp_path / "own" / f"{at}.png")
    rest = [replace(one, labels={}) for one in _examples(tmp_path / "rest")]
    own = [replace(one, labels={"concept": "mug"}) for one in _examples(tmp_path / "own")]
    concept = Concept("mug", "custom", tuple(own), tuple(rest))
    board = Study(opened("pocket-clip"), concept, Setting(), World()).board
    assert [*board.host.classes] == ["mug", *(f"a thing of number {at}" for at in range(4))]
    assert board.held_out is None
    assert board.rows([]) == []
    assert assets.is_dir()


def _examples(folder: Path) -> list[Example]:
    return list(examples.folder(folder, caption="a picture of a mug"))


def test_gradients_are_remembered_between_studies(assets: Path) -> None:
    batches, counts = [], []
    counted = partial(batches.append, 1)
    for _ in range(2):
        Study(opened("pocket-clip"), catalog.concept("house"), tick=counted).gradients  # noqa: B018
        counts.append(len(batches))
    assert counts[0] == counts[1] > 0
    assert list((assets / "cache" / "gradients").glob("*.safetensors"))


def test_opened_parts_are_read_once(assets: Path) -> None:  # noqa: ARG001
    one: Opened = opened("pocket-sd")
    assert one.host is one.host
    assert one.clip is one.clip


def test_a_search_with_a_margin_forgets_more_and_still_counts_the_rest_in_full() -> None:
    near, far = (
        Study(opened("pocket-clip"), catalog.concept("robot"), Setting(loss=1.0, size=Size(top=k)))
        for k in (1, 2)
    )
    edit = near.direction("transformer.resblocks.0.mlp.c_fc.weight")
    for step in (0.0, 0.05, 0.2):
        one, two = (work.board.exam()(edit)(step) for work in (near, far))
        assert two.forget >= one.forget == two.parts["top 1"]
        assert two.retain == one.retain


def test_top_k_never_asks_for_more_than_the_classes_can_tell() -> None:
    assert [Size(top=5).best(classes) for classes in (3, 9, 18, 173)] == [1, 2, 3, 5]
    assert Size(top=1).best(173) == 1


def test_a_shortlist_of_one_leaves_one_layer_to_a_slow_host() -> None:
    one, concept = opened("pocket-sd"), catalog.concept("robot")
    every = Study(one, concept, Setting(loss=1.0))
    short = Study(one, concept, Setting(loss=1.0, shortlist=1))
    assert len(every.front) > 1
    assert every.shortlist == every.editable
    assert short.shortlist in [frozenset(layer.tensors) for layer in every.front]


TURNS = ("shortlist", "front", "next front", "nowhere")


@pytest.mark.parametrize("rule", ["floor", "paper"])
@pytest.mark.parametrize("passing", TURNS)
def test_when_no_layer_passes_the_next_ones_are_asked_but_not_by_the_paper(
    passing: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[str]] = []
    goal, good = Goal(0.0, 0.0), Point(0.1, 0.0, 1.0, 1, 1)
    first = 1 + TURNS.index(passing)

    def method(
        clip: Clip, concept: str, *, gradients: Gradients, editable: set, **_: object
    ) -> Outcome:
        fronts = front(clip, gradients, editable=editable)
        edits = [direction(clip, concept, score=one, gradients=gradients) for one in fronts]
        passes = len(asked) == first  # after the one that makes the shortlist
        point = good if passes else replace(good, forget=0.5)
        choice = Choice(point, passes, "so it is")
        tried = [Attempt(*pair, choice, (point,)) for pair in zip(fronts, edits, strict=True)]
        asked.append({one.layer for one in fronts})
        return Outcome(tuple(tried), point, goal, "so it is")

    monkeypatch.setitem(METHODS, "told", method)
    setting = Setting("told", shortlist=1, rule=rule)
    study = Study(opened("pocket-sd"), catalog.concept("robot"), setting)
    outcome = study.erase()
    fronts = {layer.layer for layer in study.front}
    short = {one.layer for one in study.front if {*one.tensors} <= study.shortlist}
    behind = [one for one in study.scores if one.importance > 0 and one.layer not in fronts]
    further = {one.layer for one in layers.pareto_front(behind)}
    assert len(fronts) > len(short) == 1
    assert further
    turns = [fronts, short, fronts - short, further][: 4 if rule == "floor" else 3]
    assert asked == turns[: first + 1]
    assert outcome.feasible == (first < len(turns))
    told = {one.score.layer for one in outcome.attempts}
    assert told == set().union(*asked[1:])
    assert outcome.attempts[0].score.layer in (asked[-1] if outcome.feasible else fronts)
    assert ("On the next ones" in outcome.reason) == ((passing, rule) == ("next front", "floor"))
    assert ("and on the next ones passes" in outcome.reason) == (
        (passing, rule) == ("nowhere", "floor")
    )


def test_when_nothing_passes_anywhere_the_least_bad_of_all_fronts_is_told() -> None:
    def outcome(layer: str, left: float) -> Outcome:
        score = layers.LayerScore(layer, "vision", 1, 1.0, 0.0, (layer,))
        point = Point(0.1, left, 1.0, 10, 10)
        edit = Edit("cat", layer, {layer: torch.ones(1)}, 0.1)
        attempt = Attempt(score, edit, Choice(point, False, "so it is"), (point,))
        return Outcome((attempt,), point, Goal(0.0, 1.0), "so it is")

    both = extended(outcome("first", 0.4), outcome("next", 0.2))
    assert [one.score.layer for one in both.attempts] == ["next", "first"]
    assert both.reason.startswith("None of the 2 layers")
    assert "next comes nearest" in both.reason
    assert not both.feasible


def test_a_model_draws_its_own_examples_once(assets: Path) -> None:
    one = opened("pocket-sd")
    folder = world.drawn(one, "my mug", count=3)
    assert folder.is_relative_to(assets / "cache")
    when = [file.stat().st_mtime_ns for file in sorted(folder.iterdir())]
    assert len(when) == 3
    assert world.drawn(one, "my mug", count=3) == folder
    assert [file.stat().st_mtime_ns for file in sorted(folder.iterdir())] == when
    concept = catalog.concept("my mug", forget=folder)
    assert {example.caption for example in concept.forget} == {"a picture of my mug"}
    with pytest.raises(SlugError, match="draws no pictures"):
        world.drawn(opened("pocket-clip"), "my mug", count=3)


def test_a_rehearsal_sees_no_test_picture_and_none_that_it_searches_on() -> None:
    concept, around = world.rehearsal(catalog.concept("robot"))
    held = {str(one.image) for one in around.test}
    assert "robot" in {one.labels["concept"] for one in around.test}
    assert not held & {str(one.image) for one in catalog.held_out()}
    assert not held & {str(one.image) for one in (*concept.forget, *concept.retain)}
    assert around.noise not in (SEARCH_SEED, TEST_SEED)


def test_a_setting_changes_where_something_is_given_and_only_there() -> None:
    one = SETTINGS["diffusion"]
    assert one.changed({"loss": None, "top": None}) == one
    other = one.changed({"loss": 0.5, "top": 7})
    assert (other.loss, other.size.top) == (0.5, 7)
    assert replace(other, loss=one.loss, size=one.size) == one
