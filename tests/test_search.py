"""Laws of the sweep, the step search and the choice."""

import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from slugdemo.edit import LAYER_NORM, Edit
from slugdemo.errors import SlugError
from slugdemo.search import (
    EVALUATIONS,
    FARTHEST,
    Evaluate,
    Evaluator,
    Evaluators,
    Goal,
    Score,
    Tuning,
    choose,
    search,
    sweep,
    tune,
)

Curve = Callable[[float], float]


def host(forget: Curve, retain: Curve, asked: list[float]) -> Callable[[float], Score]:
    """A host whose answers are known curves, and which notes what it was asked."""

    def evaluate(step: float) -> Score:
        asked.append(step)
        return Score(step, forget(step), retain(step), 20, 100)

    return evaluate


def falls_at(edge: float) -> Curve:
    return lambda step: 0.0 if step >= edge else 1.0


def reference(edge: float) -> list[float]:
    """The steps of unlearn_slug.py, written the boring way, for a forget score that ends at edge."""
    ratio, low, high, steps = 0.1, 0.0, None, []
    for _ in range(10):
        steps.append(ratio)
        if ratio >= edge:
            high = ratio
            ratio = (low + high) / 2
        else:
            low = ratio
            ratio = ratio * 2 if high is None else (low + high) / 2
    return steps


@pytest.mark.parametrize("edge", [0.003, 0.1, 0.17, 0.35, 3.0, 1000.0])
def test_the_papers_rule_asks_exactly_what_the_reference_asks(edge: float) -> None:
    asked: list[float] = []
    scores = list(search(host(falls_at(edge), lambda _: 0.0, asked), Goal(), rule="paper"))
    assert asked == [score.strength for score in scores] == reference(edge)


def test_the_floor_rule_finds_the_smallest_step_that_forgets() -> None:
    for edge in (0.03, 0.1, 0.17, 0.35, 1.3):
        asked: list[float] = []
        keeps = lambda step: 1 - step / 100  # noqa: E731
        scores = list(search(host(falls_at(edge), keeps, asked), Goal(0.0, 0.9)))
        chosen = choose(scores, Goal(0.0, 0.9))
        assert chosen.feasible
        assert edge <= chosen.score.strength <= 1.03 * edge
        assert len(asked) <= EVALUATIONS


def test_the_floor_rule_never_goes_beyond_the_farthest_step() -> None:
    asked: list[float] = []
    scores = list(search(host(falls_at(1000.0), lambda _: 1.0, asked), Goal()))
    assert max(asked) == FARTHEST == scores[-1].strength
    assert not choose(scores, Goal()).feasible


def test_the_floor_rule_stops_where_nothing_can_pass() -> None:
    asked: list[float] = []
    evaluate = host(falls_at(5.0), falls_at_inverse(0.15), asked)
    scores = list(search(evaluate, Goal(0.0, 0.9)))
    assert asked == [0.1, 0.2]
    assert not choose(scores, Goal(0.0, 0.9)).feasible


def falls_at_inverse(edge: float) -> Curve:
    return lambda step: 1.0 if step < edge else 0.5


@pytest.mark.parametrize("rule", ["floor", "paper"])
@pytest.mark.parametrize("seed", range(60))
def test_a_search_never_ends_on_a_failing_step_when_a_passing_one_was_seen(
    rule: str, seed: int
) -> None:
    dice = random.Random(seed)
    curves = [lambda _: dice.choice([0, 0.1, 0.5, 1]), lambda _: dice.choice([0.5, 0.9, 1])]
    goal, asked = Goal(0.0, dice.choice([0.0, 0.9])), []
    scores = list(search(host(*curves, asked), goal, rule=rule))
    choice = choose(scores, goal)
    assert choice.score in scores
    assert [score.strength for score in scores] == asked
    assert choice.feasible == any(goal.met(score) for score in scores)
    assert choice.feasible == goal.met(choice.score)
    if choice.feasible:
        assert choice.score.retain_acc == max(
            score.retain_acc for score in scores if goal.met(score)
        )
    else:
        assert goal.miss(choice.score) == min(goal.miss(score) for score in scores)


def test_a_search_that_is_no_longer_read_asks_nothing_more() -> None:
    asked: list[float] = []
    for score in search(host(falls_at(9.0), lambda _: 1.0, asked), Goal()):
        if score.strength > 0.3:
            break
    assert asked == [0.1, 0.2, 0.4]


def test_scores_come_while_the_search_runs() -> None:
    asked: list[float] = []
    running = search(host(falls_at(0.5), lambda _: 1.0, asked), Goal())
    assert asked == []
    assert next(running).strength == 0.1
    assert asked == [0.1]


def test_a_budget_is_kept() -> None:
    asked: list[float] = []
    list(search(host(falls_at(0.17), lambda _: 1.0, asked), Goal(), evaluations=3))
    assert asked == [0.1, 0.2, pytest.approx(0.15)]


def test_a_sweep_is_one_score_a_step() -> None:
    asked: list[float] = []
    scores = list(sweep(host(falls_at(0.2), lambda _: 1.0, asked), [0, 0.3, 0.1]))
    assert asked == [score.strength for score in scores] == [0, 0.3, 0.1]
    assert [score.forget_acc for score in scores] == [1, 0, 1]


def test_ties_go_to_the_smaller_step() -> None:
    scores = [Score(step, 0.0, 0.95, 9, 9) for step in (0.4, 0.2, 0.3)]
    assert choose(scores, Goal()).score.strength == 0.2


def test_the_reason_says_whether_the_goal_is_met() -> None:
    goal = Goal(0.0, 0.9)
    good = choose([Score(0.125, 0.0, 0.953, 20, 300)], goal).reason
    assert good == "It is the only step tried that meets the goal."
    bad = choose([Score(0.125, 0.25, 0.953, 20, 300)], goal).reason
    assert bad.startswith("No step meets the goal")
    assert "at most 0.0 % left and at least 90.0 % kept" in bad


def test_a_score_knows_how_sure_it_is() -> None:
    score = Score(0.1, 0.0, 1.0, 10, 1000)
    assert score.forget_interval == (0.0, pytest.approx(0.2775, abs=1e-4))
    assert score.retain_interval == (pytest.approx(0.9962, abs=1e-4), 1.0)
    assert math.isclose(Score(0.1, 0.5, 0.5, 0, 0).forget_interval[1], 1.0)


def test_an_unknown_rule_and_no_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="'greedy' is none of"):
        search(lambda _: None, Goal(), rule="greedy")
    with pytest.raises(ValueError, match="0 scores"):
        choose([], Goal())


def concept_alone(forget: Curve, asked: list[float]) -> Callable[[float], Score]:
    whole = host(forget, lambda _: 1.0, asked)
    return lambda step: replace(whole(step), retain_acc=math.nan, n_retain=0)


@pytest.mark.parametrize("rule", ["floor", "paper"])
@pytest.mark.parametrize("edge", [0.03, 0.17, 1.3])
def test_forget_only_scores_find_the_step_and_one_full_look_confirms_it(
    rule: str, edge: float
) -> None:
    keeps = lambda step: 1 - step / 100  # noqa: E731
    goal, asked, cheap = Goal(0.0, 0.9), [], []
    full = list(search(host(falls_at(edge), keeps, []), goal, rule=rule))
    quick = list(
        search(
            host(falls_at(edge), keeps, asked),
            goal,
            rule=rule,
            forget_only=concept_alone(falls_at(edge), cheap),
        )
    )
    assert choose(quick, goal).score == choose(full, goal).score
    assert cheap == [score.strength for score in full]
    assert len(asked) == 1


def test_a_forget_only_score_that_saw_everything_needs_no_second_look() -> None:
    asked: list[float] = []
    evaluate = host(falls_at(0.17), lambda _: 1.0, asked)
    scores = list(search(evaluate, Goal(), forget_only=evaluate))
    assert asked == [score.strength for score in scores]
    assert len(set(asked)) == len(asked)


def test_a_forget_only_score_alone_is_never_chosen() -> None:
    partial = Score(0.1, 0.0, math.nan, 20, 0)
    assert partial.retain_interval == (0.0, 1.0)
    assert not Goal().met(partial)
    with pytest.raises(ValueError, match="0 scores"):
        choose([partial], Goal())
    whole = Score(0.2, 0.5, 0.5, 20, 20)
    assert choose([partial, whole], Goal()).score is whole


def test_no_step_is_evaluated_twice_and_none_lies_beyond_the_farthest() -> None:
    for edge in (0.01, 0.7, 0.95, 1.0, 9.0):
        asked: list[float] = []
        list(search(host(falls_at(edge), lambda _: 1.0, asked), Goal(), farthest=1.0))
        assert len({*asked}) == len(asked)
        assert max(asked) <= 1.0


CANDIDATES = [
    Edit("cat", "slug", {}, 0.0, LAYER_NORM, about={"layer": f"text/{name}"}) for name in "abc"
]


def by_layer(curves: dict[str, tuple[Curve, Curve]], asked: list[str]) -> Evaluator:
    """Known curves for each candidate: (forget accuracy, retain accuracy) by strength."""

    def evaluator(edit: Edit) -> Evaluate:
        forget, retain = curves[edit.layer.removeprefix("text/")]

        def evaluate(strength: float) -> Score:
            asked.append(edit.layer.removeprefix("text/"))
            return Score(strength, forget(strength), retain(strength), 20, 100)

        return evaluate

    return evaluator


def keeps(slope: float) -> Curve:
    return lambda strength: max(0.0, 1 - slope * strength)


def test_the_margin_counts_for_who_is_best_and_for_whether_the_goal_is_met() -> None:
    steep = lambda strength: 1.0 if strength < 0.21 else 0.5  # noqa: E731
    curves = {
        "a": (falls_at(0.2), steep),
        "b": (falls_at(0.2), keeps(0.1)),
        "c": (falls_at(0.2), keeps(0.2)),
    }
    found = tune(
        CANDIDATES, Evaluators(by_layer(curves, [])), Tuning(max_retain_drop=0.1, margin=0.1)
    )
    assert found.edit.layer == "text/b"  # a keeps all at its step, and breaks a margin beyond it
    assert found.feasible
    assert found.goal.met(found.score)
    assert found.edit.strength == found.score.strength == pytest.approx(1.1 * 0.2, rel=0.03)
    assert [attempt.edit.layer for attempt in found.attempts] == ["text/b", "text/c", "text/a"]


def test_without_room_for_a_margin_the_step_itself_is_kept() -> None:
    steep = lambda strength: 1.0 if strength < 0.21 else 0.5  # noqa: E731
    found = tune(
        CANDIDATES[:1],
        Evaluators(by_layer({"a": (falls_at(0.2), steep)}, [])),
        Tuning(max_retain_drop=0.1, margin=0.1),
    )
    assert found.feasible
    assert found.goal.met(found.score)
    assert found.edit.strength == pytest.approx(0.2, rel=0.03)


@pytest.mark.parametrize("passing", ["a", "c", "next", "nowhere"])
@pytest.mark.parametrize("rule", ["floor", "paper"])
def test_shortlist_then_the_others_then_the_next_fronts_but_not_by_the_paper(
    passing: str, rule: str
) -> None:
    never = (lambda _: 1.0, lambda _: 1.0)
    good = (falls_at(0.2), lambda _: 1.0)
    further = Edit("cat", "slug", {}, 0.0, LAYER_NORM, about={"layer": "text/next"})
    curves = {name: good if name == passing else never for name in ("a", "b", "c", "next")}
    ranks = {"a": good, "b": never, "c": never, "next": never}  # the quick one likes a
    asked: list[str] = []
    found = tune(
        CANDIDATES,
        Evaluators(by_layer(curves, asked), quick=Evaluators(by_layer(ranks, []))),
        Tuning(rule=rule, shortlist=1),
        further=lambda: [further],
    )
    wanted = {"a": {"a"}, "c": {"a", "b", "c"}}.get(passing, {"a", "b", "c", "next"})
    if rule == "paper":
        wanted = {"a", "b", "c"}
    assert {*asked} == wanted
    assert found.feasible == (passing in wanted)
    assert ("of the next fronts does" in found.reason) == (passing == "next" and rule == "floor")


@pytest.mark.parametrize("kept", [(0.6, 0.7, 0.65), (0.6, 1.0, 0.65), (0.6, 0.7, 1.0)])
def test_who_surely_keeps_too_little_is_not_asked_to_the_end_but_the_nearest_one_is(
    kept: tuple[float, ...],
) -> None:
    curves = {
        name: (falls_at(0.2), lambda step, share=share: share if step else 1.0)
        for name, share in zip("abc", kept, strict=True)
    }
    full, trace = by_layer(curves, []), []

    def alone(edit: Edit) -> Evaluate:
        return lambda step: replace(full(edit)(step), retain_acc=float("nan"), n_retain=0)

    def while_kept(edit: Edit, least: float) -> Evaluate:
        def some(step: float) -> Score:
            score = full(edit)(step)
            few = replace(score, n_retain=20)
            return few if few.retain_interval[1] < least else score

        return some

    found = tune(
        CANDIDATES,
        Evaluators(full, alone, while_kept),
        Tuning(margin=0.1),
        watch=lambda edit, score: trace.append((edit.layer, score.n_retain)),
    )
    best = max(range(3), key=lambda at: kept[at])
    assert found.edit.layer == f"text/{'abc'[best]}"
    assert found.feasible == (kept[best] == 1)
    assert found.score.n_retain == 100
    assert [n for layer, n in trace if layer == "text/a" and n] == [20]
    if not found.feasible:  # the nearest at the step that was found, not a margin beyond it
        assert trace[-1] == (found.edit.layer, 100)
        assert found.score.strength == min(
            score.strength for score in found.attempts[0].trace if score.forget_acc == 0
        )


def test_candidates_of_the_next_fronts_come_best_first_by_the_quick_evaluator() -> None:
    good, never = (falls_at(0.2), lambda _: 1.0), (lambda _: 1.0, lambda _: 1.0)
    further = [
        Edit("cat", "slug", {}, 0.0, LAYER_NORM, about={"layer": f"text/{name}"}) for name in "xyz"
    ]
    curves = {"a": never, "x": good, "y": good, "z": good}
    ranks = {"a": good, "x": never, "y": never, "z": good}
    asked: list[str] = []
    found = tune(
        CANDIDATES[:1],
        Evaluators(by_layer(curves, asked), quick=Evaluators(by_layer(ranks, []))),
        Tuning(shortlist=1),
        further=lambda: further,
    )
    assert {*asked} == {"a", "z"}
    assert found.edit.layer == "text/z"


def test_without_candidates_or_anything_to_forget_there_is_a_sentence() -> None:
    ignorant = by_layer({"a": (lambda _: 0.0, lambda _: 1.0)}, [])
    with pytest.raises(SlugError, match=r"nothing to forget.*0 of 20"):
        tune(CANDIDATES[:1], Evaluators(ignorant), Tuning())
    with pytest.raises(SlugError, match="No layer"):
        tune([], Evaluators(ignorant), Tuning())


def test_a_suggested_step_near_the_edge_saves_evaluations_and_finds_the_same() -> None:
    for edge in (0.03, 0.2, 1.1):
        for off in (0.8, 1.0, 1.2):
            asked: list[float] = []
            scores = list(
                search(
                    host(falls_at(edge), lambda _: 1.0, asked),
                    Goal(),
                    tolerance=0.1,
                    suggested=off * edge,
                )
            )
            assert edge <= choose(scores, Goal()).score.strength <= edge / 0.9
            assert len(asked) <= 5


def test_the_search_ends_with_the_first_candidate_that_costs_nothing() -> None:
    asked: list[str] = []
    good, costly = (falls_at(0.2), lambda _: 1.0), (falls_at(0.2), keeps(0.01))
    curves = {"a": costly, "b": good, "c": good}
    found = tune(CANDIDATES, Evaluators(by_layer(curves, asked)), Tuning(margin=0.1))
    assert {*asked} == {"a", "b"}
    assert found.edit.layer == "text/b"
    asked.clear()
    tune(CANDIDATES, Evaluators(by_layer(curves, asked)), Tuning(rule="paper"))
    assert {*asked} == {"a", "b", "c"}


def test_the_margin_is_looked_at_first_and_the_step_itself_only_when_that_keeps_too_little() -> (
    None
):
    for edge, expected in ((0.9, [1.1]), (0.22, [1.1, 1.0])):
        asked: list[float] = []
        full = falls_at(0.2), (lambda step, edge=edge: 1.0 if step <= edge else 0.5)
        look = by_layer({"a": full}, [])(CANDIDATES[0])

        def whole(step: float, look: Evaluate = look, asked: list[float] = asked) -> Score:
            asked.append(step)
            return look(step)

        def alone(step: float, look: Evaluate = look) -> Score:
            return replace(look(step), retain_acc=float("nan"), n_retain=0)

        found = Evaluators(lambda _, w=whole: w, lambda _, a=alone: a)
        best = tune(CANDIDATES[:1], found, Tuning(margin=0.1)).attempts[0]
        step = min(s.strength for s in best.trace if s.forget_acc == 0)
        assert [ask / step for ask in asked[1:]] == pytest.approx(expected)  # the first is at 0
        assert best.narrow == (len(expected) == 2)
        assert best.edit.strength == asked[-1]
