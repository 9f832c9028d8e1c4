"""SLUG: one layer, one direction, one step (Cai, Tan, Asif, ICML 2025, arXiv 2407.11867).

Knows which layers to try and which answer to prefer; the host that is looked at judges each step,
through an `exam`, and the method does not know which host that is.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from slugdemo import layers
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.gradients import Gradients
from slugdemo.layers import LayerScore
from slugdemo.models import towers
from slugdemo.models.clip import Clip
from slugdemo.search import EVALUATIONS, Choice, Exam, Goal, Point, choose, search

Watch = Callable[[LayerScore, Point], None]  # called after each evaluation; raise to cancel
LOSS = 0.02  # how much retain accuracy an edit may cost, unless the caller says otherwise


@dataclass(frozen=True)
class Attempt:
    """One layer's step search: its edit at the chosen step, the choice, every point measured."""

    score: LayerScore
    edit: Edit
    choice: Choice
    trace: tuple[Point, ...]


@dataclass(frozen=True)
class Outcome:
    """The best attempt first, then the runners-up, with the unedited point and the goal.

    `reason` says in words why this layer and step were chosen, or that nothing passed.
    """

    attempts: tuple[Attempt, ...]
    before: Point
    goal: Goal
    reason: str

    @property
    def edit(self) -> Edit:
        """The edit to use."""
        return self.attempts[0].edit

    @property
    def point(self) -> Point:
        """What it does."""
        return self.attempts[0].choice.point

    @property
    def feasible(self) -> bool:
        """Whether it forgets enough and keeps enough."""
        return self.attempts[0].choice.feasible


def unwatched(score: LayerScore, point: Point) -> None:
    """The watch of those who do not look."""


def direction(clip: Clip, concept: str, *, score: LayerScore, gradients: Gradients) -> Edit:
    """The edit of one layer, unstepped: along +grad L_f, as long as the layer itself."""
    weights = clip.named()
    gradient = {name: gradients.forget[name] for name in score.tensors}
    layer = {name: weights[name] for name in score.tensors}
    edit = Edit.along(gradient, layer, concept=concept, name=score.layer)
    return edit.noted(model=clip.name, weights=clip.digest, method="slug")


def slug(
    clip: Clip,
    concept: str,
    *,
    gradients: Gradients,
    exam: Exam,
    glance: Exam | None = None,
    editable: Collection[str] | None = None,
    unit: str = "tensor",
    by: str = "absolute",
    rule: str = "floor",
    loss: float = LOSS,
    forget: float = 0.0,
    evaluations: int = EVALUATIONS,
    watch: Watch = unwatched,
) -> Outcome:
    """The best (layer, step) over the Pareto fronts of both towers, with the runners-up.

    Every front layer gets a step search judged by `exam`, and by `glance` where the host offers
    this cheaper look at the concept alone (see `search`); the best passing one keeps most. The
    goal: at most `forget` left of the concept, and at most `loss` of the retain score lost (the
    paper's rule has no such floor). `editable` names the tensors that the host reads (all if
    None). Raises SlugError when the model does not know the concept or no layer can be edited.
    """
    fronts = front(clip, gradients, editable=editable, unit=unit, by=by)
    directions = [direction(clip, concept, score=one, gradients=gradients) for one in fronts]
    before = exam(directions[0])(0.0)
    if before.forget <= forget:
        raise SlugError(
            f"There is nothing to forget: the model recognises {before.forget:.0%} of the "
            f"{before.n_forget} pictures of {concept!r} as it is."
        )
    goal = Goal(forget, 0.0 if rule == "paper" else before.retain - loss)
    attempts = []
    for score, edit in zip(fronts, directions, strict=True):
        look, trace = glance and glance(edit), []
        options: dict[str, Any] = {"rule": rule, "evaluations": evaluations, "glance": look}
        for point in search(exam(edit), goal, **options):
            trace.append(point)
            watch(score, point)
        attempts.append(_attempt(score, edit, goal=goal, before=before, trace=trace))
    attempts.sort(key=lambda one: _rank(one, goal))
    return Outcome(tuple(attempts), before, goal, _reason(attempts))


def joined(one: Outcome, other: Outcome) -> Outcome:
    """The outcome of two searches with one goal, on different layers, as if they were one."""
    attempts = sorted((*one.attempts, *other.attempts), key=lambda some: _rank(some, one.goal))
    return Outcome(tuple(attempts), one.before, one.goal, _reason(attempts))


def extended(outcome: Outcome, further: Outcome) -> Outcome:
    """An outcome on the Pareto fronts where no layer passes, and that on the next fronts, as one."""
    both = joined(outcome, further)
    if further.feasible:
        reason = f"No layer on the Pareto fronts passes. On the next ones, {further.reason}"
    else:
        best = both.attempts[0]
        reason = (
            f"None of the {len(both.attempts)} layers on the Pareto fronts and on the next ones "
            f"passes. {best.score.layer} comes nearest. {best.choice.reason}"
        )
    return replace(both, reason=reason)


def front(
    clip: Clip,
    gradients: Gradients,
    *,
    editable: Collection[str] | None = None,
    unit: str = "tensor",
    by: str = "absolute",
) -> list[LayerScore]:
    """The Pareto fronts over the layers that the host reads, first stages first.

    In this order a host can go on from the activations that it has. Raises SlugError when no
    layer is left.
    """
    scores = layers.scores(clip.named(), gradients, unit=unit)
    if editable is not None:
        scores = [one for one in scores if set(one.tensors) <= set(editable)]
    moving = [one for one in scores if one.importance > 0]
    if not moving:
        raise SlugError("No layer of this model has a gradient along which it could forget.")
    chains = {name: towers.chain(clip.model, name) for name in towers.TOWERS}

    def depth(score: LayerScore) -> tuple[str, int]:
        return score.tower, towers.first_reader(chains[score.tower], score.tensors)

    return sorted(layers.pareto_front(moving, by=by), key=depth)


def _attempt(
    score: LayerScore, edit: Edit, *, goal: Goal, before: Point, trace: list[Point]
) -> Attempt:
    choice = choose(trace, goal)
    point = choice.point
    figures = {
        "forget_before": before.forget,
        "forget_after": point.forget,
        "retain_before": before.retain,
        "retain_after": point.retain,
        "n_forget": point.n_forget,
        "n_retain": point.n_retain,
    }
    noted = edit.at(point.step).noted(**{key: repr(value) for key, value in figures.items()})
    return Attempt(score, noted, choice, tuple(trace))


def _rank(attempt: Attempt, goal: Goal) -> tuple[float, ...]:
    point = attempt.choice.point
    return (not attempt.choice.feasible, goal.miss(point), -point.retain, point.forget, point.step)


def _reason(attempts: list[Attempt]) -> str:
    best, passed = attempts[0], sum(one.choice.feasible for one in attempts)
    if not passed:
        return (
            f"None of the {len(attempts)} layers on the Pareto fronts passes. "
            f"{best.score.layer} comes nearest. {best.choice.reason}"
        )
    others, also = len(attempts) - 1, passed - 1
    verb = f"{also} pass too" if also > 1 else "one passes too" if also else "none passes"
    rest = f"; of the {others} other front layers {verb}" if others else ""
    return f"{best.score.layer} keeps most{rest}: {best.choice.reason}"
