"""Laws of the evaluation: what is asked, what is counted, and what a search never sees."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import house
import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from slugdemo import catalog, data, images, sources
from slugdemo.concept import Concept, Example, prompt, style_prompt
from slugdemo.config import Config
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.evaluation import eval_set, metrics
from slugdemo.evaluation.answer import ASK, AnswerEvaluation, says
from slugdemo.evaluation.fading import Fading
from slugdemo.evaluation.generate import GenerateEvaluation, PictureJudge, picture_judge
from slugdemo.evaluation.judge import Judge, Net, Verdict
from slugdemo.evaluation.neighbours import Neighbours, likeness
from slugdemo.evaluation.prompt_set import (
    SEARCH_SEED,
    TEST_SEED,
    EvalSet,
    EvalSize,
    apart,
    prompt_set,
    spread,
)
from slugdemo.models.base import Watch
from slugdemo.models.llava import Llava
from slugdemo.models.loading import opened
from slugdemo.models.zero_shot import ZeroShot
from slugdemo.search import Goal, Score, search
from slugdemo.task import Task

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.usefixtures("assets"),
]

THINGS = tuple(f"thing {at}" for at in range(40))
EVAL_SET = EvalSet(THINGS, ("plain", "neon", "sepia"), ("thing 3", "thing 4", "thing 5"))
OBJECT, STYLE = Concept("thing 2", "object"), Concept("neon", "style")
SMALL = EvalSize(own=3, others=4, report_own=4, report_others=6, denoising=1, searching=1)


def test_a_thing_is_asked_for_in_every_style_and_others_never_are_it() -> None:
    asked = prompt_set(OBJECT, EVAL_SET, own=6, others=20, seed=0)
    own, rest = asked[:6], asked[6:]
    assert {one.concept for one in own} == {"thing 2"}
    assert {one.style for one in own} == {*EVAL_SET.styles}
    assert len(rest) == 20
    assert "thing 2" not in {one.concept for one in rest}
    assert {one.concept for one in rest} >= {*EVAL_SET.neighbours}


def test_a_style_is_asked_for_on_many_things_and_others_are_in_other_styles() -> None:
    asked = prompt_set(STYLE, EVAL_SET, own=6, others=20, seed=0)
    assert {one.style for one in asked[:6]} == {"neon"}
    assert len({one.concept for one in asked[:6]}) == 6
    assert {one.style for one in asked[6:]} == {"plain", "sepia"}


def test_search_and_test_share_no_noise_and_repeats_differ() -> None:
    searched = prompt_set(OBJECT, EVAL_SET, own=9, others=18, seed=SEARCH_SEED)
    tested = prompt_set(OBJECT, EVAL_SET, own=18, others=40, seed=TEST_SEED)
    assert not {one.seed for one in searched} & {one.seed for one in tested}
    assert len(set(tested)) == len(tested)


def test_the_noise_of_a_prompt_does_not_depend_on_what_is_erased() -> None:
    several = [
        prompt_set(Concept(name, "object"), EVAL_SET, own=6, others=20, seed=0) for name in THINGS
    ]
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
    """What a judge sees when the pictures are what the prompts ask for, but for one mistake each."""

    def __init__(self, names: dict[str, list[str]], seen: Sequence[tuple[str, str]]) -> None:
        self.names, self.seen = names, seen

    def __call__(self, shown: Sequence[Image.Image]) -> dict[str, np.ndarray]:
        scores = {domain: np.zeros((len(shown), len(self.names[domain]))) for domain in self.names}
        for row, (thing, style) in enumerate(self.seen[: len(shown)]):
            scores["concept"][row, self.names["concept"].index(thing)] = 1
            scores["style"][row, self.names["style"].index(style)] = 1
        return scores


def seeing(evaluation: GenerateEvaluation, seen: Sequence[tuple[str, str]]) -> GenerateEvaluation:
    names = evaluation.eval_set.names(evaluation.concept)
    return replace(evaluation, judged_by=PictureJudge("by hand", names, Painted(names, seen)))


def drawn(name: str) -> GenerateEvaluation:
    task = Task(opened("pocket-sd"), catalog.concept(name), Config(size=SMALL))
    return task.evaluation


def test_drawings_count_the_concept_the_rest_and_the_other_domain_as_by_hand() -> None:
    evaluation = drawn("cat")
    asked = [(one.concept, one.style) for one in evaluation.searched]
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
    score = seeing(evaluation, seen).evaluator()(some_edit("cat"))(0.0)
    assert (score.forget_acc, score.n_forget) == (1 / 3, 3)
    assert (score.retain_acc, score.n_retain) == (4 / 7, 7)
    assert score.parts == {"ira": 3 / 4, "cra": 5 / 7}


def test_a_forget_only_score_is_the_full_one_on_the_concept() -> None:
    evaluation = drawn("cat")
    seen = [("cat", "plain")] * 3 + [("dog", "plain")] * 9
    full, quick = (seeing(evaluation, seen).evaluator(), seeing(evaluation, seen).forget_only())
    edit = some_edit("cat")
    score = quick(edit)(0.1)
    assert (score.forget_acc, score.n_forget) == (full(edit)(0.1).forget_acc, 3)
    assert math.isnan(score.retain_acc)
    assert score.n_retain == 0


def test_a_search_draws_in_its_own_number_of_steps_and_a_report_in_another() -> None:
    evaluation = drawn("cat")
    asked = [(one.concept, one.style) for one in evaluation.tested]
    taken: list[int] = []
    watch = Watch(lambda _, total: taken.append(total))
    size = replace(SMALL, searching=2, denoising=3)
    evaluation = replace(seeing(evaluation, asked), size=size, watch=watch)
    edit = some_edit("cat")
    evaluation.evaluator()(edit)(0.1)
    evaluation.forget_only()(edit)(0.1)
    assert {*taken} == {2}
    taken.clear()
    evaluation.seen([edit])
    assert {*taken} == {3}


def test_pictures_of_the_concept_are_begun_once_for_all_its_edits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = Task(opened("pocket-clip"), catalog.concept("cat"), Config(size=SMALL))
    evaluation = task.classified
    begun: list[str] = []
    only = ZeroShot.only

    def counted(host: ZeroShot, target: str) -> ZeroShot:
        begun.append(target)
        return only(host, target)

    monkeypatch.setattr(ZeroShot, "only", counted)
    for strength in (0.0, 0.1, 0.2):
        evaluation.forget_only()(some_edit("cat"))(strength)
    assert begun == ["cat"]


def test_unlearn_canvas_rows_come_from_the_test_noise() -> None:
    evaluation = drawn("cat")
    asked = [(one.concept, one.style) for one in evaluation.tested]
    rows = {row.metric: row for row in seeing(evaluation, asked).report([some_edit("cat")])}
    wanted = ("ua", "ira", "cra", "rest")
    assert [rows[name].after for name in wanted] == [0, 1, 1, 1]
    assert [rows[name].n for name in ("ua", "ira", "cra")] == [4, 6, 10]
    assert {one.seed for one in evaluation.tested}.isdisjoint(
        one.seed for one in evaluation.searched
    )


def test_neighbours_and_the_rest_are_counted_apart_and_the_target_nowhere() -> None:
    shown = np.array(["cat", "dog", "wolf", "tree", "tree", "car"])
    right = np.array([True, True, False, True, False, True])
    near = {"look": {"dog", "wolf"}, "name": {"car"}}
    rows = apart(near, shown, (np.ones(6, bool), right), "cat")
    assert [(row.metric, row.before, row.after, row.n) for row in rows] == [
        ("near by look", 1.0, 0.5, 2),
        ("near by name", 1.0, 1.0, 1),
        ("rest", 1.0, 0.5, 2),
    ]
    assert rows[0].interval[0] < 0.5 < rows[0].interval[1]


def test_neighbours_are_the_nearest_in_each_way(assets: Path) -> None:  # noqa: ARG001
    task = Task(opened("pocket-clip"), catalog.concept("cat"), Config())
    found = task.near()
    assert {*found.nearness} == {"look", "name", "meaning"}
    assert "cat" not in found.nearness["name"]
    texts = task.clip.encode_text(task.clip.tokenize([prompt("cat"), prompt("robot")]))
    assert found.nearness["meaning"]["robot"] == pytest.approx(float(texts[0] @ texts[1]))
    names = [f"thing {at}" for at in range(8)]
    table = {name: float(at) for at, name in enumerate(names)}
    assert Neighbours({"look": table}).among(names) == {"look": {"thing 7", "thing 6"}}
    assert likeness("golf ball", "ball") > likeness("golf ball", "wolf") > likeness("cat", "xyz")


def test_distances_to_real_pictures_are_those_of_the_judges_features() -> None:
    evaluation = drawn("cat")
    rows = {row.metric: row for row in evaluation.report([])}
    fid = rows["judge-FID"]
    assert fid.before == fid.after > 0
    assert math.isnan(fid.interval[0])
    others = [one for one in evaluation.tested if one.concept != "cat"]
    shown, shipped = evaluation.pictures([], others), eval_set.judge()
    assert shipped is not None
    held = [e for e in catalog.held_out() if e.labels["concept"] != "cat"]
    real = shipped.features([images.read(e.image) for e in held]).numpy()
    own = shipped.features(shown).numpy()
    assert fid.after == pytest.approx(metrics.frechet(own, real), rel=1e-5)
    assert rows["judge-KID"].after == pytest.approx(metrics.kernel_distance(own, real), rel=1e-5)


def test_other_columns_of_clip_are_counted_as_by_hand(assets: Path) -> None:  # noqa: ARG001
    task = Task(opened("pocket-clip"), catalog.concept("cat"), Config())
    evaluation = task.evaluation
    rows = {row.metric: row for row in evaluation.report([some_edit("cat")])}
    assert rows["background"].before == 1.0
    assert rows["forget_acc@5"].after >= rows["forget_acc"].after
    styles = task.eval_set.styles
    test = catalog.held_out()
    text = task.clip.encode_text(task.clip.tokenize([style_prompt(name) for name in styles]))
    shown = task.clip.encode_image(data.pixels(test, task.clip.transform))
    told = (shown @ text.T).argmax(1).tolist()
    right = [styles[at] == e.labels["style"] for at, e in zip(told, test, strict=True)]
    assert rows["style"].before == pytest.approx(np.mean(right))
    assert rows["style"].n == len(test)
    words = task.clip.encode_text(task.clip.tokenize([prompt("cat")]))[0]
    own = [(e.labels["concept"] == "cat") for e in test]
    inside = task.clip.encode_image(data.pixels(task.concept.forget, task.clip.transform)) @ words
    outside = (shown @ words)[torch.tensor(own)]
    area = metrics.auc(inside.detach().numpy(), outside.detach().numpy())
    assert rows["membership AUC"].before == pytest.approx(area)


def test_a_judge_who_does_not_know_the_concept_does_not_judge() -> None:
    shipped, one = eval_set.judge(), opened("pocket-clip")
    known = picture_judge(
        shipped, lambda: one.clip, concept=Concept("cat", "object"), eval_set=EVAL_SET
    )
    mug = Concept("my mug", "custom")
    unknown = picture_judge(shipped, lambda: one.clip, concept=mug, eval_set=EVAL_SET)
    assert known.who == "judge"
    assert unknown.who == "unedited CLIP"
    shown = house.pictures(3, seed=1)
    scores = unknown.look(shown)
    assert scores["concept"].shape == (3, len(unknown.names["concept"]))
    assert "my mug" in unknown.names["concept"]


def some_edit(concept: str, *, layer: str = "transformer.resblocks.1.mlp.c_fc.weight") -> Edit:
    return replace(tiny.edit(tiny.clip_model(), layer, 0.3), concept=concept)


def talk(labels: Sequence[str], name: str) -> AnswerEvaluation:
    """A evaluation on the tiny LLaVA, whose pictures are labelled with what it says of them."""
    one = opened("pocket-llava")
    some = catalog.held_out()[: len(labels)]
    shown = [
        replace(example, labels={"concept": label, "style": "plain"})
        for example, label in zip(some, labels, strict=True)
    ]
    own = tuple(example for example in shown if example.labels["concept"] == name)
    rest = tuple(example for example in shown if example.labels["concept"] != name)
    concept = Concept(name, "object", own, rest)
    names = EvalSet(("a",), ("plain",), test=tuple(shown))
    size = EvalSize(own=8, others=8, report_own=8, report_others=8)
    return AnswerEvaluation(concept, one.host, names, size)


def test_answers_count_names_of_the_concept_and_of_the_rest(assets: Path) -> None:  # noqa: ARG001
    one = opened("pocket-llava")
    shown = [images.read(example.image) for example in catalog.held_out()[:6]]
    said = one.host.answer(shown, [ASK["concept"]] * 6)
    labels = [said[0], *said[1:3], "never said", *said[4:6]]
    evaluation = talk(labels, said[0])
    own = labels.count(said[0])
    score = evaluation.evaluator()(some_edit("x"))(0.0)
    hits = sum(label != "never said" for label in labels) - own
    assert (score.forget_acc, score.n_forget) == (1.0, own)
    besides = own + math.ceil((6 - own) / 4)  # asked about style and background
    assert score.n_retain == (6 - own) + 2 * besides
    assert score.retain_acc == pytest.approx((hits + besides) / score.n_retain)  # no style is named
    rows = {row.metric: row for row in evaluation.report([])}
    assert rows["forget_acc"][1:4] == (1.0, 1.0, own)
    assert rows["retain_acc"].before == pytest.approx(hits / (6 - own))
    assert rows["background"].after == 1.0


def test_a_search_asks_the_rest_to_the_end_only_while_enough_may_still_be_kept() -> None:
    labels = ["x", "x", *["never said"] * 10]  # nothing of the rest is named: at most 2 in 3 right
    evaluation = talk(labels, "x")
    edit = some_edit("x", layer="visual.transformer.resblocks.1.mlp.c_fc.weight")
    whole = evaluation.evaluator()(edit)(0.01)
    assert evaluation.while_kept(edit, 0.0)(0.01) == whole
    ended = evaluation.while_kept(edit, 0.99)(0.01)
    assert ended.n_retain < whole.n_retain
    assert ended.retain_interval[1] < 0.99
    assert (ended.forget_acc, ended.n_forget) == (whole.forget_acc, whole.n_forget)


def test_what_the_unedited_model_says_is_asked_once_and_an_edit_is_asked_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evaluation = talk(["x", "x", "y", "y"], "x")
    asked: list[int] = []
    answer = Llava.answer

    def counted(host: Llava, shown: list, questions: list[str], **more: object) -> list[str]:
        asked.append(len(questions))
        return answer(host, shown, questions, **more)

    monkeypatch.setattr(Llava, "answer", counted)
    evaluate = evaluation.evaluator()(
        some_edit("x", layer="visual.transformer.resblocks.1.mlp.c_fc.weight")
    )
    first, again = evaluate(0.0), evaluate(0.0)
    assert first == again
    before = sum(asked)
    assert before == 4 + 2 * 3  # all, and two questions more about the concept and half the rest
    evaluate(0.3)
    assert sum(asked) == 2 * before


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
    evaluation = Task(opened("pocket-clip"), concept, Config(), EvalSet()).evaluation
    assert [*evaluation.host.classes] == ["mug", *(f"a thing of number {at}" for at in range(4))]
    assert evaluation.held_out is None
    assert evaluation.report([]) == []
    assert assets.is_dir()


def _examples(folder: Path) -> list[Example]:
    return [
        replace(example, caption=example.caption or "a picture of a mug")
        for example in sources.read(folder).examples
    ]


def test_top_k_never_asks_for_more_than_the_classes_can_tell() -> None:
    assert [EvalSize(top=5).best(classes) for classes in (3, 9, 18, 173)] == [1, 2, 3, 5]
    assert EvalSize(top=1).best(173) == 1
    paper = EvalSize(top=5, strict_top=True)
    assert [paper.best(classes) for classes in (2, 3, 9, 173)] == [1, 2, 5, 5]


def test_a_rehearsal_sees_no_test_picture_and_none_that_it_searches_on() -> None:
    concept, around = eval_set.rehearsal(catalog.concept("robot"))
    held = {str(one.image) for one in around.test}
    assert "robot" in {one.labels["concept"] for one in around.test}
    assert not held & {str(one.image) for one in catalog.held_out()}
    assert not held & {str(one.image) for one in (*concept.forget, *concept.retain)}
    assert around.noise not in (SEARCH_SEED, TEST_SEED)


def test_a_model_draws_its_own_examples_once(assets: Path) -> None:
    one = opened("pocket-sd")
    folder, said = eval_set.drawn(one, "my mug", count=3)
    assert folder.is_relative_to(assets / "cache")
    assert said == ()  # the judge does not know it
    when = [file.stat().st_mtime_ns for file in sorted(folder.iterdir())]
    assert len(when) == 3
    assert eval_set.drawn(one, "my mug", count=3) == (folder, ())
    assert [file.stat().st_mtime_ns for file in sorted(folder.iterdir())] == when
    concept = catalog.concept("my mug", forget=folder)
    assert {example.caption for example in concept.forget} == {"a picture of my mug"}
    with pytest.raises(SlugError, match="draws no pictures"):
        eval_set.drawn(opened("pocket-clip"), "my mug", count=3)


@pytest.mark.parametrize("allowed", [0, 2])
def test_fading_finds_the_step_that_all_pictures_would_show_with_fewer_looks(allowed: int) -> None:
    lasts = np.array([0.05, 0.3, 0.12, 0.3, 0.02, 0.21, 0.08, 0.17, 0.11])
    looks = 0

    def look(which: Sequence[int], strength: float) -> np.ndarray:
        nonlocal looks
        looks += len(which)
        return lasts[list(which)] > strength

    def plainly(strength: float) -> Score:
        return Score(strength, float((lasts > strength).mean()), math.nan, 9, 0)

    goal = Goal(max_forget_acc=allowed / 9)
    bounds = {"tolerance": 0.05, "suggested": 0.06}
    found = list(search(Fading(9, allowed, look).score, goal, **bounds))
    whole = list(search(plainly, goal, **bounds))
    assert [score.strength for score in found] == [score.strength for score in whole]
    for ours, theirs in zip(found, whole, strict=True):
        assert goal.met(replace(ours, retain_acc=1)) == goal.met(replace(theirs, retain_acc=1))
        assert ours.n_forget == 9 or ours.forget_acc * ours.n_forget > allowed
    assert looks < 0.6 * 9 * len(whole)


class RedOrBlue(Judge):
    """Red pictures are neon cats and blue ones plain dogs, whatever was asked for."""

    def __call__(self, pictures: Sequence[Image.Image]) -> Verdict:
        red = torch.tensor([float(picture.getpixel((0, 0))[0]) for picture in pictures])
        seen = torch.stack([red, 255 - red], 1)
        return Verdict(seen, seen.flip(1))


def test_drawn_pictures_are_those_in_which_the_judge_sees_the_concept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judge = RedOrBlue(Net(2, 2, widths=(2, 2)).eval(), ["cat", "dog"], ["plain", "neon"])
    monkeypatch.setattr(eval_set, "judge", lambda: judge)
    shown = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "red", "blue", "red")]
    cats, dogs = shown[::2], shown[1::2]
    assert eval_set.recognised(shown, "Cats") == eval_set.recognised(shown, "neon") == cats
    assert eval_set.recognised(shown, "dog") == dogs
    assert eval_set.recognised(shown, "my mug") == shown

    here = opened("pocket-sd")
    monkeypatch.setattr(type(here.host), "generate", lambda *_, **__: shown)
    folder, (said,) = eval_set.drawn(here, "dog", count=5)
    assert [Image.open(file).getpixel((0, 0)) for file in folder.iterdir()] == [(0, 0, 255)] * 2
    assert said == (
        "The judge sees 'dog' in 2 of the 5 pictures that were drawn of it; the others are left out."
    )
    shown[:] = cats[:1] * 4
    for _ in range(2):  # also when they lie in the cache
        with pytest.raises(SlugError, match=r"'dog' in 0 of the 4 .*, and 2 are needed"):
            eval_set.drawn(here, "dog", count=4)
