"""How far to go: scores, the sweep, the step search, which score to keep, and which candidate.

Knows a callable that turns a strength into a Score, whichever model answers it; knows no tensors.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from slugdemo.edit import OWN_EDIT, Edit
from slugdemo.errors import SlugError
from slugdemo.evaluation import metrics
from slugdemo.layer_names import label

START = 0.1  # the first step, a tenth of the layer's norm (SLUG's code: lambda = R / 10)
EVALUATIONS = 10
TOLERANCE = 0.02  # the floor rule ends when the step is known this well, relative to itself
NEAR = 1.6  # from a step that was suggested, the floor rule goes on by this factor, not by 2
FARTHEST = 3.2  # times the norm of a layer; beyond that little of it is left


@dataclass(frozen=True)
class Score:
    """What an edit does at one strength: accuracies in [0, 1], on n items each.

    `forget_acc` is the accuracy on what shall go, `retain_acc` that on everything else; `parts`
    holds what was measured besides ("ira", "cra", "top 5", ...). A forget-only evaluation leaves
    the rest unmeasured: `retain_acc` is NaN, n_retain 0 and the interval (0, 1).
    """

    strength: float
    forget_acc: float
    retain_acc: float
    n_forget: int
    n_retain: int
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def forget_interval(self) -> metrics.Interval:
        """The 95 % Wilson interval of `forget_acc`."""
        return metrics.wilson(self.forget_acc, self.n_forget)

    @property
    def retain_interval(self) -> metrics.Interval:
        """The 95 % Wilson interval of `retain_acc`."""
        return metrics.wilson(self.retain_acc, self.n_retain)


Evaluate = Callable[[float], Score]
Evaluator = Callable[[Edit], Evaluate]  # an edit -> its score at each strength
Watch = Callable[[Edit, Score], None]  # called after each evaluation; raise to cancel


@dataclass(frozen=True)
class Goal:
    """`forget_acc` at most this, `retain_acc` at least this."""

    max_forget_acc: float = 0.0
    min_retain_acc: float = 0.0

    def met(self, score: Score) -> bool:
        """Whether a score forgets enough and keeps enough."""
        forgotten = score.forget_acc <= self.max_forget_acc
        return forgotten and score.retain_acc >= self.min_retain_acc

    def miss(self, score: Score) -> float:
        """By how much a score misses both parts together; 0 when it meets them."""
        left = max(0.0, score.forget_acc - self.max_forget_acc)
        return left + max(0.0, self.min_retain_acc - score.retain_acc)


def sweep(evaluate: Evaluate, strengths: Iterable[float]) -> Iterator[Score]:
    """A score for each strength, as it is measured."""
    return map(evaluate, strengths)


def search(
    evaluate: Evaluate,
    goal: Goal,
    *,
    rule: str = "floor",
    evaluations: int = EVALUATIONS,
    farthest: float = FARTHEST,
    tolerance: float = TOLERANCE,
    suggested: float | None = None,
    forget_only: Evaluate | None = None,
    margin: float = 0.0,
) -> Iterator[Score]:
    """The scores of a step search in the order of their evaluation, as they are measured.

    Stop reading it to cancel. Which score to keep is for `choose` to say, so a search never ends
    on a failing step when it saw a passing one. Both rules go by what is left of the concept; a
    model that can measure this alone, for less, offers `forget_only`: then the steps are found
    with it, and only the smallest that forgets is evaluated in full, since the rest suffers least
    there: a `margin` beyond it (a fraction of it), and itself where the goal is missed there, but
    not by so much that the interval of what is kept leaves no hope. The
    floor rule never goes beyond `farthest`; no step is evaluated twice. Raises ValueError for a
    rule not in `RULES`.
    """
    if rule not in RULES:
        raise ValueError(f"rule {rule!r} is none of {RULES}")
    ask = forget_only or evaluate
    if rule == "paper":
        scores = paper_rule(ask, goal, evaluations)
    else:
        bounds = Bounds(farthest, tolerance, suggested)
        scores = floor_rule(ask, goal, evaluations, bounds)
    return scores if forget_only is None else _in_two_stages(scores, evaluate, goal, margin)


def _in_two_stages(
    scores: Iterator[Score], evaluate: Evaluate, goal: Goal, margin: float
) -> Iterator[Score]:
    seen = []
    for score in scores:
        seen.append(score)
        yield score
    best = min(seen, key=lambda some: (max(some.forget_acc, goal.max_forget_acc), some.strength))
    if best.n_retain:
        return
    if margin and best.forget_acc <= goal.max_forget_acc:
        beyond = evaluate(best.strength * (1 + margin))
        yield beyond
        if goal.met(beyond) or beyond.retain_interval[1] < goal.min_retain_acc:
            return
    yield evaluate(best.strength)


def paper_rule(evaluate: Evaluate, goal: Goal, evaluations: int) -> Iterator[Score]:
    """SLUG's own search (unlearn_slug.py): so many evaluations (ten), from a tenth of the norm.

    Doubles while what shall go is still there, then bisects; looks at nothing else. The paper
    scores top-5 accuracy and its target is 0. Deviation: the reference returns the last step
    even when that one fails; here `choose` picks among all of them.
    """
    low, high, step = 0.0, math.inf, START
    for _ in range(evaluations):
        score = evaluate(step)
        yield score
        forgotten = score.forget_acc <= goal.max_forget_acc
        low, high = (low, step) if forgotten else (step, high)
        step = (low + high) / 2 if high < math.inf else 2 * step


class Bounds(NamedTuple):
    """Where the floor rule begins and ends."""

    farthest: float
    tolerance: float
    suggested: float | None


def floor_rule(evaluate: Evaluate, goal: Goal, evaluations: int, bounds: Bounds) -> Iterator[Score]:
    """The paper's search with a utility floor; ends when nothing can be gained any more.

    Ends when the smallest step that forgets is known to the tolerance, or when a step keeps too
    little before any step has forgotten enough: farther harms more, nearer forgets less. A
    forget-only evaluation does not measure what is kept and so never ends it that way. From a
    suggested step it goes up or down by `NEAR` until the smallest step lies between two.
    """
    near = bounds.suggested is not None
    factor = NEAR if near else 2.0
    low, high, step = 0.0, math.inf, min(bounds.suggested or START, bounds.farthest)
    for _ in range(evaluations):
        score = evaluate(step)
        yield score
        forgotten = score.forget_acc <= goal.max_forget_acc
        low, high = (low, step) if forgotten else (step, high)
        if high == math.inf:
            harmful = score.n_retain > 0 and score.retain_acc < goal.min_retain_acc
            if harmful or step >= bounds.farthest:
                return
            step = min(factor * step, bounds.farthest)
        else:
            if high - low <= bounds.tolerance * high:
                return
            step = high / factor if near and low == 0 else (low + high) / 2


RULES = ("floor", "paper")


@dataclass(frozen=True)
class Choice:
    """The score to keep, whether it meets the goal, and its rank among those tried, in words."""

    score: Score
    feasible: bool
    reason: str


def choose(scores: Sequence[Score], goal: Goal) -> Choice:
    """The passing score that keeps most, or the one that misses the goal least.

    Forget-only scores are not chosen. Ties go to what forgets more, then to the smaller step.
    Raises ValueError when nothing was measured in full.
    """
    scores = [score for score in scores if score.n_retain]
    if not scores:
        raise ValueError("0 scores to choose from")
    passing = [score for score in scores if goal.met(score)]
    if passing:
        best = max(passing, key=lambda some: (some.retain_acc, -some.forget_acc, -some.strength))
        many = f"It keeps the most of the {len(passing)} steps that meet the goal."
        rank = many if passing[1:] else "It is the only step tried that meets the goal."
        return Choice(best, True, rank)
    best = min(scores, key=lambda some: (goal.miss(some), some.strength))
    return Choice(best, False, f"No step meets the goal; this one comes nearest ({_wish(goal)}).")


def told(edit: Edit, score: Score) -> str:
    """What an edit does at one strength, the result first, in one line."""
    left, kept = (
        round(score.forget_acc * score.n_forget),
        round(score.retain_acc * score.n_retain) if score.n_retain else 0,
    )
    gone = f"gone (0 of {score.n_forget})" if not left else f"left in {left} of {score.n_forget}"
    rest = f", the rest kept ({kept} of {score.n_retain})" if score.n_retain else ""
    return f"{where(edit, score.strength)}: {edit.concept} {gone}{rest}"


def where(edit: Edit, strength: float) -> str:
    """What is changed and how far, in words."""
    name = label(edit.layer) if edit.layer else edit.method
    if edit.unit == OWN_EDIT and strength == 1:
        return name
    return f"{name}, {strength:.1%} {edit.unit}".replace("%", " %")


def _wish(goal: Goal) -> str:
    least = f"at least {goal.min_retain_acc:.1%} kept"
    return f"wanted: at most {goal.max_forget_acc:.1%} left and {least}".replace("%", " %")


@dataclass(frozen=True)
class Attempt:
    """One candidate's step search: the edit at the chosen strength, the choice, every score.

    `narrow`: it meets the goal at the step that was found, and not a margin beyond it.
    """

    edit: Edit
    choice: Choice
    trace: tuple[Score, ...]
    narrow: bool = False


@dataclass(frozen=True)
class Search:
    """What `tune` found: the best attempt first, then the others, the unedited score, the goal.

    `reason` says in words why this candidate and strength were chosen, or that none meets the
    goal.
    """

    attempts: tuple[Attempt, ...]
    before: Score
    goal: Goal
    reason: str

    @property
    def edit(self) -> Edit:
        """The edit to use."""
        return self.attempts[0].edit

    @property
    def score(self) -> Score:
        """What it does."""
        return self.attempts[0].choice.score

    @property
    def feasible(self) -> bool:
        """Whether the chosen score meets the goal, after the margin."""
        return self.attempts[0].choice.feasible


@dataclass(frozen=True)
class Evaluators:
    """What a search may ask: the full score, the forget-only score, and a cheap stand-in.

    `forget_only` measures the concept alone, at less cost; `while_kept` is as full for an edit, but
    asks no more once less than a share of the rest is sure to be kept; `quick` ranks candidates when
    the full evaluation takes long (zero-shot classification in the model's own CLIP). Each of them
    may be None.
    """

    full: Evaluator
    forget_only: Evaluator | None = None
    while_kept: Callable[[Edit, float], Evaluate] | None = None
    quick: "Evaluators | None" = None


@dataclass(frozen=True)
class Tuning:
    """How candidates are searched.

    At most `max_forget_acc` of the concept may be left and at most `max_retain_drop` of the
    retain accuracy lost. A found step goes on by `margin` (a fraction of it). With a `shortlist`
    of n only the n candidates that do best by the quick evaluator are searched at first, from the
    steps that it suggests, the others when none of these meets the goal; 0 searches all. The
    search ends with the first candidate that costs nothing at all, since none can do better; with
    a shortlist, whose candidates come best first and are judged on few items, with the first that
    meets the goal after the margin. The "paper" rule is the paper's and nothing else: ten
    evaluations of every candidate, and no floor, margin, shortlist, early end or further
    candidates, whatever the other fields say.
    """

    rule: str = "floor"
    max_forget_acc: float = 0.0
    max_retain_drop: float = 0.02
    evaluations: int = EVALUATIONS
    margin: float = 0.0
    shortlist: int = 0
    farthest: float = FARTHEST
    tolerance: float = TOLERANCE

    @property
    def effective(self) -> "Tuning":
        """The same with what the paper's rule fixes."""
        if self.rule != "paper":
            return self
        return replace(
            self, max_forget_acc=0.0, max_retain_drop=1.0, evaluations=EVALUATIONS, margin=0.0,
            shortlist=0,
        )  # fmt: skip


def goal_of(before: Score, tuning: Tuning) -> Goal:
    """The goal of a search, from the unedited score."""
    fixed = tuning.effective
    floor = 0.0 if fixed.rule == "paper" else before.retain_acc - fixed.max_retain_drop
    return Goal(fixed.max_forget_acc, floor)


def unwatched(edit: Edit, score: Score) -> None:
    """The watch of those who do not look."""


def tune(
    candidates: Sequence[Edit],
    evaluators: Evaluators,
    tuning: Tuning,
    *,
    further: Callable[[], Sequence[Edit]] = tuple,
    watch: Watch = unwatched,
) -> Search:
    """The best candidate at its best strength: of those that meet the goal, the one that keeps most.

    Every candidate gets a step search; where none meets the goal, the `further` candidates are
    searched too, and the reason says so. Raises SlugError when there is no candidate, or nothing
    to forget because the model does not know the concept.
    """
    if not candidates:
        raise SlugError("No layer of this model has a gradient along which it could forget.")
    fixed = tuning.effective
    before = evaluators.full(candidates[0].at(0.0))(0.0)
    check_known(candidates[0].concept, before, fixed.max_forget_acc)
    goal = goal_of(before, fixed)
    first, rest = _shortlisted(candidates, evaluators.quick, fixed)
    run = partial(
        _searched,
        evaluators=evaluators,
        goal=goal,
        tuning=fixed,
        watch=watch,
        enough=_enough(before, goal, fixed),
    )
    attempts = run(first)
    if rest and not attempts[0].choice.feasible:
        attempts = _ranked([*attempts, *run(rest)], goal)
    count = len(attempts)
    if not attempts[0].choice.feasible and fixed.rule != "paper" and (more := further()):
        near, far = _shortlisted(more, evaluators.quick, fixed)
        attempts = _ranked([*attempts, *run([*near, *far])], goal)
    if not attempts[0].choice.feasible:
        attempts[0] = _in_full(attempts[0], evaluators.full, goal, before.n_retain, watch)
    return Search(tuple(attempts), before, goal, _reason(attempts, count))


def _enough(before: Score, goal: Goal, tuning: Tuning) -> float:
    """What a candidate must keep so that no other one is searched."""
    if tuning.rule == "paper":
        return math.inf
    return goal.min_retain_acc if tuning.shortlist else before.retain_acc


def check_known(concept: str, before: Score, max_forget_acc: float = 0.0) -> None:
    """Raises SlugError when the unedited model does not know what it should forget."""
    if before.forget_acc <= max_forget_acc:
        hits = round(before.forget_acc * before.n_forget)
        raise SlugError(
            f"There is nothing to forget: unedited, the model gets {hits} of {before.n_forget} right "
            f"for {concept!r}. Choose a concept that it knows."
        )


class Suggested(NamedTuple):
    """A candidate, and the step at which its search begins (None: at a tenth of the norm)."""

    edit: Edit
    step: float | None = None


def _shortlisted(
    candidates: Sequence[Edit], quick: Evaluators | None, tuning: Tuning
) -> tuple[list[Suggested], list[Suggested]]:
    """The candidates to search first, best first by the quick evaluators, and the others."""
    plain = [Suggested(edit) for edit in candidates]
    if quick is None or tuning.shortlist == 0:
        return plain, []
    before = quick.full(candidates[0])(0.0)
    if before.forget_acc <= tuning.max_forget_acc:  # CLIP alone does not know it
        return plain, []
    alone = replace(tuning, shortlist=0, margin=0.0, evaluations=EVALUATIONS)
    goal = goal_of(before, alone)
    ranked = _searched(
        plain, evaluators=quick, goal=goal, tuning=alone, watch=unwatched,
        enough=math.inf,
    )  # fmt: skip
    found = [
        Suggested(attempt.edit, attempt.edit.strength if attempt.choice.feasible else None)
        for attempt in ranked
    ]
    return found[: tuning.shortlist], found[tuning.shortlist :]


def _searched(
    candidates: Sequence[Suggested],
    *,
    evaluators: Evaluators,
    goal: Goal,
    tuning: Tuning,
    watch: Watch,
    enough: float,
) -> list[Attempt]:
    """The attempts, best first; ends with the first that keeps at least `enough`."""
    attempts = []
    for edit, step in candidates:
        trace = []
        whole = evaluators.while_kept and evaluators.while_kept(edit, goal.min_retain_acc)
        for score in search(
            whole or evaluators.full(edit),
            goal,
            rule=tuning.rule,
            evaluations=tuning.evaluations,
            farthest=tuning.farthest,
            tolerance=tuning.tolerance,
            suggested=step,
            forget_only=evaluators.forget_only and evaluators.forget_only(edit),
            margin=tuning.margin,
        ):
            trace.append(score)
            watch(edit, score)
        choice = choose(trace, goal)
        attempt = Attempt(edit.at(choice.score.strength), choice, tuple(trace))
        attempt = _with_margin(attempt, evaluators, goal, tuning, watch)
        attempts.append(attempt)
        best = attempt.choice.score.retain_acc
        if attempt.choice.feasible and not attempt.narrow and best >= enough:
            break
    return _ranked(attempts, goal)


def _with_margin(
    attempt: Attempt, evaluators: Evaluators, goal: Goal, tuning: Tuning, watch: Watch
) -> Attempt:
    """The attempt a margin beyond its step if it meets the goal there too, else marked narrow."""
    if not tuning.margin or not attempt.choice.feasible:
        return attempt
    found, longer = attempt.choice.score.strength, 1 + tuning.margin
    if any(score.strength * longer == found for score in attempt.trace):
        found /= longer
    strength, trace = found * longer, attempt.trace
    score = next((s for s in trace if s.n_retain and math.isclose(s.strength, strength)), None)
    if score is None:
        score = evaluators.full(attempt.edit)(strength)
        watch(attempt.edit, score)
        trace = (*trace, score)
    if not goal.met(score):
        return replace(attempt, trace=trace, narrow=True)
    beyond = f"{tuning.margin:.0%} beyond the step that the search found.".replace("%", " %")
    return Attempt(attempt.edit.at(strength), Choice(score, True, f"It goes {beyond}"), trace)


def _in_full(attempt: Attempt, full: Evaluator, goal: Goal, count: int, watch: Watch) -> Attempt:
    """The attempt that comes nearest, with the smallest step that forgets evaluated in full.

    `count` is the number of items that a full evaluation has of what is kept.
    """
    gone = [score.strength for score in attempt.trace if score.forget_acc <= goal.max_forget_acc]
    strength = min(gone, default=attempt.choice.score.strength)
    whole = [score for score in attempt.trace if score.n_retain == count]
    if any(score.strength == strength for score in whole):
        return attempt
    score = full(attempt.edit)(strength)
    watch(attempt.edit, score)
    choice = choose([*whole, score], goal)
    found = attempt.edit.at(choice.score.strength)
    return Attempt(found, choice, (*attempt.trace, score), narrow=choice.feasible)


def _ranked(attempts: Sequence[Attempt], goal: Goal) -> list[Attempt]:
    def rank(attempt: Attempt) -> tuple[float, ...]:
        score, missed = attempt.choice.score, not attempt.choice.feasible
        wanting = missed, attempt.narrow, goal.miss(score)
        return (*wanting, -score.retain_acc, score.forget_acc, score.strength)

    return sorted(attempts, key=rank)


def _reason(attempts: Sequence[Attempt], first: int) -> str:
    best, passed = attempts[0], sum(attempt.choice.feasible for attempt in attempts)
    result, why = told(best.edit, best.choice.score), best.choice.reason
    if len(attempts) == 1:
        return f"{result}. {why}"
    if not passed:
        tried = "on the Pareto fronts" if first == len(attempts) else "on these and the next fronts"
        return (
            f"{result}. None of the {len(attempts)} layers {tried} meets the goal; this one "
            f"comes nearest. {why}"
        )
    if first < len(attempts):
        return f"{result}. No layer on the Pareto fronts meets the goal; this one of the next fronts does. {why}"
    others, also = len(attempts) - 1, passed - 1
    verb = (
        f"{also} meet the goal too" if also > 1 else "one meets it too" if also else "none meets it"
    )
    rest = f"Of the {others} other layers tried {verb}; this one keeps most. " if others else ""
    return f"{result}. {rest}{why}"
