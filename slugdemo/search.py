"""How far to go: points, the sweep, the step search, and which point to keep.

Knows a callable that turns a step into a Point, whatever host answers it; knows no tensors.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from slugdemo.edit import Edit
from slugdemo.evaluation import metrics

START = 0.1  # the first step, a tenth of the layer's norm (SLUG's code: lambda = R / 10)
EVALUATIONS = 10
TOLERANCE = 0.02  # the floor rule ends when the step is known this well, relative to itself
FARTHEST = 3.2  # times the norm of a layer; beyond that little of it is left


@dataclass(frozen=True)
class Point:
    """What one step does: shares in [0, 1] of what is still there, on n pictures each.

    `forget` speaks of what shall go, `retain` of everything else; `parts` holds what a host
    measured besides ("ira", "cra", "top 5", ...). A glance leaves the rest unmeasured: `retain`
    is NaN, n_retain 0 and the interval (0, 1).
    """

    step: float
    forget: float
    retain: float
    n_forget: int
    n_retain: int
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def forget_interval(self) -> metrics.Interval:
        """The 95 % Wilson interval of `forget`."""
        return metrics.wilson(self.forget, self.n_forget)

    @property
    def retain_interval(self) -> metrics.Interval:
        """The 95 % Wilson interval of `retain`."""
        return metrics.wilson(self.retain, self.n_retain)


Evaluate = Callable[[float], Point]
Exam = Callable[[Edit], Evaluate]  # what a host offers: an edit -> what each step of it does


@dataclass(frozen=True)
class Goal:
    """`forget` at most this, `retain` at least this."""

    forget: float = 0.0
    retain: float = 0.0

    def met(self, point: Point) -> bool:
        """Whether a point forgets enough and keeps enough."""
        return point.forget <= self.forget and point.retain >= self.retain

    def miss(self, point: Point) -> float:
        """By how much a point misses both parts together; 0 when it meets them."""
        return max(0.0, point.forget - self.forget) + max(0.0, self.retain - point.retain)


def sweep(evaluate: Evaluate, steps: Iterable[float]) -> Iterator[Point]:
    """A point for each step, as it is measured."""
    return map(evaluate, steps)


def search(
    evaluate: Evaluate,
    goal: Goal,
    *,
    rule: str = "floor",
    evaluations: int = EVALUATIONS,
    glance: Evaluate | None = None,
) -> Iterator[Point]:
    """The points of a step search in the order of their evaluation, as they are measured.

    Stop reading it to cancel. Which point to keep is for `choose` to say, so a search never ends
    on a failing step when it saw a passing one. Both rules go by what is left of the concept; a
    host that can measure this alone, for less, offers a `glance`: then the steps are found by
    glances, and only the smallest that forgets is evaluated in full, since the rest suffers least
    there. Raises ValueError for a rule not in `RULES`.
    """
    if rule not in RULES:
        raise ValueError(f"rule {rule!r} is none of {tuple(RULES)}")
    if glance is None:
        return RULES[rule](evaluate, goal, evaluations)
    return _glancing(RULES[rule](glance, goal, evaluations), evaluate, goal)


def _glancing(points: Iterator[Point], evaluate: Evaluate, goal: Goal) -> Iterator[Point]:
    seen = []
    for point in points:
        seen.append(point)
        yield point
    best = min(seen, key=lambda one: (max(one.forget, goal.forget), one.step))
    if best.n_retain == 0:
        yield evaluate(best.step)


def paper_rule(evaluate: Evaluate, goal: Goal, evaluations: int) -> Iterator[Point]:
    """SLUG's own search (unlearn_slug.py): so many evaluations (ten), from a tenth of the norm.

    Doubles while what shall go is still there, then bisects; looks at nothing else. The paper
    scores top-5 accuracy and its target is 0. Deviation: the reference returns the last step
    even when that one fails; here `choose` picks among all of them.
    """
    low, high, step = 0.0, math.inf, START
    for _ in range(evaluations):
        point = evaluate(step)
        yield point
        low, high = (low, step) if point.forget <= goal.forget else (step, high)
        step = (low + high) / 2 if high < math.inf else 2 * step


def floor_rule(evaluate: Evaluate, goal: Goal, evaluations: int) -> Iterator[Point]:
    """The paper's search with a utility floor; ends when nothing can be gained any more.

    Ends when the smallest step that forgets is known to `TOLERANCE`, or when a step keeps too
    little before any step has forgotten enough: farther harms more, nearer forgets less. Never
    goes beyond `FARTHEST`.
    """
    low, high, step = 0.0, math.inf, START
    for _ in range(evaluations):
        point = evaluate(step)
        yield point
        forgotten = point.forget <= goal.forget
        low, high = (low, step) if forgotten else (step, high)
        if high == math.inf:
            step *= 2
            # after a glance retain is NaN, which is less than nothing
            if point.retain < goal.retain or step > FARTHEST:
                return
        else:
            if high - low <= TOLERANCE * high:
                return
            step = (low + high) / 2


RULES = {"floor": floor_rule, "paper": paper_rule}


@dataclass(frozen=True)
class Choice:
    """The point to keep, whether it meets the goal, and why it was chosen, in words."""

    point: Point
    feasible: bool
    reason: str


def choose(points: Sequence[Point], goal: Goal) -> Choice:
    """The passing point that keeps most, or the one that misses the goal least.

    Points of a glance are not chosen. Ties go to what forgets more, then to the smaller step.
    Raises ValueError when no point was measured in full.
    """
    points = [point for point in points if point.n_retain]
    if not points:
        raise ValueError("0 points to choose from")
    passing = [point for point in points if goal.met(point)]
    if passing:
        best = max(passing, key=lambda one: (one.retain, -one.forget, -one.step))
        many = f"the most of the {len(passing)} steps that pass"
        rank = many if passing[1:] else "the only step tried that passes"
        return Choice(best, True, f"{_words(best)}, {rank}.")
    best = min(points, key=lambda one: (goal.miss(one), one.step))
    return Choice(best, False, f"No step passes; the least bad one: {_words(best)}, {_wish(goal)}.")


def _words(point: Point) -> str:
    return (
        f"at {point.step:.1%} of the layer's norm {point.forget:.1%} of what shall go is left "
        f"({point.n_forget} pictures) and {point.retain:.1%} of the rest ({point.n_retain})"
    )


def _wish(goal: Goal) -> str:
    return f"where at most {goal.forget:.1%} and at least {goal.retain:.1%} were wanted"
