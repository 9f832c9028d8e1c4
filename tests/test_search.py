"""Laws of the sweep, the step search and the choice."""

import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from slugdemo.search import EVALUATIONS, FARTHEST, Goal, Point, choose, search, sweep

Curve = Callable[[float], float]


def host(forget: Curve, retain: Curve, asked: list[float]) -> Callable[[float], Point]:
    """A host whose answers are known curves, and which notes what it was asked."""

    def evaluate(step: float) -> Point:
        asked.append(step)
        return Point(step, forget(step), retain(step), 20, 100)

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
    points = list(search(host(falls_at(edge), lambda _: 0.0, asked), Goal(), rule="paper"))
    assert asked == [point.step for point in points] == reference(edge)


def test_the_floor_rule_finds_the_smallest_step_that_forgets() -> None:
    for edge in (0.03, 0.1, 0.17, 0.35, 1.3):
        asked: list[float] = []
        keeps = lambda step: 1 - step / 100  # noqa: E731
        points = list(search(host(falls_at(edge), keeps, asked), Goal(0.0, 0.9)))
        chosen = choose(points, Goal(0.0, 0.9))
        assert chosen.feasible
        assert edge <= chosen.point.step <= 1.03 * edge
        assert len(asked) <= EVALUATIONS


def test_the_floor_rule_never_goes_beyond_the_farthest_step() -> None:
    asked: list[float] = []
    points = list(search(host(falls_at(1000.0), lambda _: 1.0, asked), Goal()))
    assert max(asked) == FARTHEST == points[-1].step
    assert not choose(points, Goal()).feasible


def test_the_floor_rule_stops_where_nothing_can_pass() -> None:
    asked: list[float] = []
    evaluate = host(falls_at(5.0), falls_at_inverse(0.15), asked)
    points = list(search(evaluate, Goal(0.0, 0.9)))
    assert asked == [0.1, 0.2]
    assert not choose(points, Goal(0.0, 0.9)).feasible


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
    points = list(search(host(*curves, asked), goal, rule=rule))
    choice = choose(points, goal)
    assert choice.point in points
    assert [point.step for point in points] == asked
    assert choice.feasible == any(goal.met(point) for point in points)
    assert choice.feasible == goal.met(choice.point)
    if choice.feasible:
        assert choice.point.retain == max(point.retain for point in points if goal.met(point))
    else:
        assert goal.miss(choice.point) == min(goal.miss(point) for point in points)


def test_a_search_that_is_no_longer_read_asks_nothing_more() -> None:
    asked: list[float] = []
    for point in search(host(falls_at(9.0), lambda _: 1.0, asked), Goal()):
        if point.step > 0.3:
            break
    assert asked == [0.1, 0.2, 0.4]


def test_points_come_while_the_search_runs() -> None:
    asked: list[float] = []
    running = search(host(falls_at(0.5), lambda _: 1.0, asked), Goal())
    assert asked == []
    assert next(running).step == 0.1
    assert asked == [0.1]


def test_a_budget_is_kept() -> None:
    asked: list[float] = []
    list(search(host(falls_at(0.17), lambda _: 1.0, asked), Goal(), evaluations=3))
    assert asked == [0.1, 0.2, pytest.approx(0.15)]


def test_a_sweep_is_one_point_a_step() -> None:
    asked: list[float] = []
    points = list(sweep(host(falls_at(0.2), lambda _: 1.0, asked), [0, 0.3, 0.1]))
    assert asked == [point.step for point in points] == [0, 0.3, 0.1]
    assert [point.forget for point in points] == [1, 0, 1]


def test_ties_go_to_the_smaller_step() -> None:
    points = [Point(step, 0.0, 0.95, 9, 9) for step in (0.4, 0.2, 0.3)]
    assert choose(points, Goal()).point.step == 0.2


def test_the_reason_is_in_words_with_numbers_of_pictures() -> None:
    goal = Goal(0.0, 0.9)
    good = choose([Point(0.125, 0.0, 0.953, 20, 300)], goal).reason
    assert "12.5% of the layer's norm" in good
    assert "20 pictures" in good
    bad = choose([Point(0.125, 0.25, 0.953, 20, 300)], goal).reason
    assert bad.startswith("No step passes")
    assert "at most 0.0% and at least 90.0%" in bad


def test_a_point_knows_how_sure_it_is() -> None:
    point = Point(0.1, 0.0, 1.0, 10, 1000)
    assert point.forget_interval == (0.0, pytest.approx(0.2775, abs=1e-4))
    assert point.retain_interval == (pytest.approx(0.9962, abs=1e-4), 1.0)
    assert math.isclose(Point(0.1, 0.5, 0.5, 0, 0).forget_interval[1], 1.0)


def test_an_unknown_rule_and_no_points_are_refused() -> None:
    with pytest.raises(ValueError, match="'greedy' is none of"):
        search(lambda _: None, Goal(), rule="greedy")
    with pytest.raises(ValueError, match="0 points"):
        choose([], Goal())


def glancing(forget: Curve, asked: list[float]) -> Callable[[float], Point]:
    whole = host(forget, lambda _: 1.0, asked)
    return lambda step: replace(whole(step), retain=math.nan, n_retain=0)


@pytest.mark.parametrize("rule", ["floor", "paper"])
@pytest.mark.parametrize("edge", [0.03, 0.17, 1.3])
def test_glances_find_the_step_and_one_full_look_confirms_it(rule: str, edge: float) -> None:
    keeps = lambda step: 1 - step / 100  # noqa: E731
    goal, asked, glanced = Goal(0.0, 0.9), [], []
    full = list(search(host(falls_at(edge), keeps, []), goal, rule=rule))
    quick = list(
        search(
            host(falls_at(edge), keeps, asked),
            goal,
            rule=rule,
            glance=glancing(falls_at(edge), glanced),
        )
    )
    assert choose(quick, goal).point == choose(full, goal).point
    assert glanced == [point.step for point in full]
    assert len(asked) == 1


def test_a_glance_that_saw_everything_needs_no_second_look() -> None:
    asked: list[float] = []
    evaluate = host(falls_at(0.17), lambda _: 1.0, asked)
    points = list(search(evaluate, Goal(), glance=evaluate))
    assert asked == [point.step for point in points]
    assert len(set(asked)) == len(asked)


def test_a_glance_alone_is_never_chosen() -> None:
    glimpse = Point(0.1, 0.0, math.nan, 20, 0)
    assert glimpse.retain_interval == (0.0, 1.0)
    assert not Goal().met(glimpse)
    with pytest.raises(ValueError, match="0 points"):
        choose([glimpse], Goal())
    whole = Point(0.2, 0.5, 0.5, 20, 20)
    assert choose([glimpse, whole], Goal()).point is whole
