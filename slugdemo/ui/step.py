"""STEP: how far to go. The curve along the step, and the search with its trace."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from slugdemo import layers, weights
from slugdemo.config import SETTINGS, Setting
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.layers import LayerScore
from slugdemo.methods.slug import extended, slug
from slugdemo.models.base import Cancelled
from slugdemo.search import Goal, Point, choose, search
from slugdemo.ui import exams, figures, words
from slugdemo.ui.jobs import Watch
from slugdemo.ui.session import World
from slugdemo.ui.view import FARTHEST, Kept, View, label

RUNGS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
GRID = {
    "zero-shot": (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0),
    "diffusion": RUNGS,
    "vlm": RUNGS,
}
UNKNOWING = 0.2  # where to begin when zero-shot CLIP never knew the concept
GUESSES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8)


def unstepped(world: World, view: View, watch: Watch) -> Edit:
    """The edit of the chosen layer, still at step 0."""
    return world.edit(view.model, Kept(view.concept, view.layer, 0.0), watch)


def goal(before: Point, loss: float) -> Goal:
    """Nothing left of the concept, and at most `loss` (or one picture) less of the rest."""
    return Goal(0.0, before.retain - max(loss, 1.01 / before.n_retain))


def guess(world: World, view: View, watch: Watch) -> float:
    """A step to begin with: the best of a few by CLIP's own zero-shot answers."""
    edit = unstepped(world, view, watch)
    evaluate = exams.classes(world, view).exam()(edit)
    loss = SETTINGS["zero-shot"].loss

    def make() -> float:
        before, points = evaluate(0.0), []
        if before.forget <= 0:
            return UNKNOWING  # CLIP cannot say; the host's own curve will
        for step in GUESSES:
            watch.say(f"Trying {words.short(view.layer)} at {words.share(step)} of its norm")
            points.append(evaluate(step))
            if points[-1].forget <= 0:
                break
        return choose(points, goal(before, loss)).point.step

    return world.results.get(("guess", view.model, view.concept, view.layer), make)


def sweep(
    world: World, view: View, watch: Watch, *, shown: Callable[[list[Point]], None]
) -> list[Point]:
    """The points of the curve; `shown` is called with those there are, after each new one."""
    evaluate = exams.exam(world, view, watch)(unstepped(world, view, watch))
    points = []
    for step in GRID[world.kind(view.model)]:
        points.append(evaluate(step))
        shown(points)
    return points


def known(world: World, view: View) -> tuple[list[Point], list[Point]]:
    """The points of the curve and of the search's trace that have been measured already."""
    kind = world.kind(view.model)

    def look(steps: Sequence[float]) -> list[Point]:
        keys = [exams.key(view, view.layer, step) for step in steps]
        found = [world.results.peek(key) or world.results.peek(("glance", *key)) for key in keys]
        return [point for point in found if point is not None]

    return look(GRID[kind]), look(view.trace)


def complete(world: World, view: View) -> bool:
    """Whether the whole curve is measured."""
    return len(known(world, view)[0]) == len(GRID[world.kind(view.model)])


def find(
    world: World, view: View, watch: Watch, *, shown: Callable[[View], None]
) -> tuple[View, str]:
    """The view at the step that the search chose, and why; stopped, the best of what it saw."""
    evaluate = exams.exam(world, view, watch)(unstepped(world, view, watch))
    setting = exams.setting(world, view)
    before, trace = evaluate(0.0), []
    wanted = goal(before, setting.loss)
    try:
        for point in search(_within(evaluate), wanted, evaluations=setting.evaluations):
            trace.append(point)
            view = replace(view, trace=tuple(sorted({*view.trace, round(point.step, 6)})))
            shown(view)
            watch.say(f"Evaluation {len(trace)}: {_seen(point)}", len(trace), setting.evaluations)
    except Cancelled:
        if not trace:
            raise
    choice = choose(trace, wanted)
    step, margin = farther(choice.point.step, setting)
    return replace(view, step=step), f"{words.short(view.layer)}: {choice.reason}{margin}"


def farther(step: float, setting: Setting) -> tuple[float, str]:
    """A searched step with the margin of its host, never beyond the page's farthest; in words too."""
    if not setting.beyond:
        return min(step, FARTHEST), ""
    said = f" As a margin it goes {setting.beyond:.0%} farther."
    return min(round(step * (1 + setting.beyond), 6), FARTHEST), said


def find_everywhere(world: World, view: View, watch: Watch) -> tuple[View, str]:
    """The view at the best layer and step of all front layers, and why (SLUG, sec. 3.2).

    When none of them passes, the layers of the next fronts are asked, as a Study does.
    """
    seen: list[tuple[LayerScore, Point]] = []

    def look(score: LayerScore, point: Point) -> None:
        seen.append((score, point))
        if not point.n_retain:
            world.results.put(("glance", *exams.key(view, score.layer, point.step)), point)
        watch.say(f"{score.tower} {words.short(score.layer)}: {_seen(point)}")

    exam, glance = exams.exams(world, view, watch)
    setting, readable = exams.setting(world, view), world.readers(view.model)
    every = world.scores(view.model, view.concept, watch, unit=view.unit)
    scores = [one for one in every if {*one.tensors} <= readable]
    searched = partial(
        slug,
        world.clip(view.model),
        world.concept(view.concept).name,
        gradients=world.gradients(view.model, view.concept, watch),
        exam=lambda edit: _within(exam(edit)),
        glance=lambda edit: _within(glance(edit)),
        by=view.by,
        unit=view.unit,
        loss=setting.loss,
        evaluations=setting.evaluations,
        watch=look,
    )
    try:
        outcome = searched(editable=readable)
        tried = [one.score for one in outcome.attempts]
        if not outcome.feasible and (rest := layers.behind(scores, tried)):
            outcome = extended(outcome, searched(editable=rest))
    except Cancelled:
        full = [(score, point) for score, point in seen if point.n_retain]
        if not full:
            raise
        score, point = min(full, key=lambda one: (one[1].forget, -one[1].retain))
        return _moved(
            view, score.layer, point.step, seen
        ), f"Stopped; the best so far: {_seen(point)}"
    step, margin = farther(outcome.edit.step, setting)
    layer = outcome.edit.layer
    reason = outcome.reason.replace(layer, words.short(layer))
    return _moved(view, layer, step, seen), f"{reason}{margin}"


def _moved(view: View, layer: str, step: float, seen: list[tuple[LayerScore, Point]]) -> View:
    trace = {round(point.step, 6) for score, point in seen if score.layer == layer}
    return replace(view, layer=layer, step=min(step, FARTHEST), trace=tuple(sorted(trace)))


def _within(evaluate: Callable[[float], Point]) -> Callable[[float], Point]:
    """The same, never beyond the page's farthest step: doubling past it would leave the plot."""
    return lambda step: evaluate(min(step, FARTHEST))


def _seen(point: Point) -> str:
    if not point.n_retain:
        left = words.share(point.forget)
        return f"at {point.step:.1%} of the norm {left} of the concept is left"
    return (
        f"at {point.step:.1%} of the norm {words.share(point.forget)} of the concept and "
        f"{words.share(point.retain)} of the rest are left"
    )


def show(world: World, view: View, watch: Watch) -> dict[str, Any]:
    """The curve as far as it is known, with its formula, its table and its description."""
    edit = unstepped(world, view, watch)
    points, trace = known(world, view)
    step = view.step or 0.0
    figure = figures.curve(points, trace, step=step, ratio=edit.ratio, farthest=FARTHEST)
    size = weights.norm(edit.direction)
    return {
        "figure": figure,
        "step": step,
        "farthest": FARTHEST,
        "formula": formula(edit.at(step), size),
        "rows": [_row(point) for point in sorted({*_by(points), *_by(trace)})],
        "sum": summed(world, view, edit.at(step), size, watch),
        "described": described(view, points),
        "waiting": not points,
    }


def _by(points: Sequence[Point]) -> list[tuple[float, ...]]:
    return [
        (one.step, one.forget, *one.forget_interval, one.retain, *one.retain_interval)
        for one in points
        if one.n_retain
    ]


def _row(numbers: tuple[float, ...]) -> list[str]:
    step, forget, f_low, f_high, retain, r_low, r_high = (f"{one:.1%}" for one in numbers)
    return [step, f"{forget} ({f_low} to {f_high})", f"{retain} ({r_low} to {r_high})"]


def formula(edit: Edit, size: float) -> str:
    """The update with its own numbers."""
    far = f"{edit.step:.3g} · {size:.3g}"
    if not math.isfinite(edit.lam):
        return f"w ← w + {far} · g / ‖g‖"
    return f"w ← w + {far} · g / {size / edit.ratio:.3g}  =  w + {edit.lam:.3g} g"


def summed(world: World, view: View, edit: Edit, size: float, watch: Watch) -> list[list[str]]:
    """The whole calculation for the chosen layer, as (what, formula, with its numbers)."""
    score = world.score(view.model, view.concept, view.layer, watch)
    slope = score.importance * size
    lam = f"{edit.step:.3g} · {size:.4g} / {slope:.4g} = {edit.step * size / slope:.4g}"
    return [
        ["length of the layer", "‖w‖", f"{size:.4g}, {score.params:,} numbers"],
        ["length of the forget gradient", "‖g‖, g = ∇ L_forget(w)", f"{slope:.4g}"],
        ["importance", "‖g‖ / ‖w‖", f"{slope:.4g} / {size:.4g} = {score.importance:.4g}"],
        ["alignment", "cos(g, ∇ L_retain(w))", f"{score.alignment:+.4f}"],
        ["λ of the paper", "step · ‖w‖ / ‖g‖", lam],
        ["the update", "w ← w + λ g", f"w ← w + {edit.step * size / slope:.4g} g"],
    ]


def described(view: View, points: Sequence[Point]) -> str:
    """The curve in a sentence."""
    if not points:
        return f"Nothing is measured yet along {words.short(view.layer)}."
    first, last = points[0], points[-1]
    return (
        f"From step {first.step:.0%} to {last.step:.0%} of the norm of {words.short(view.layer)}, "
        f"“{label(view.concept)}” goes from {words.share(first.forget)} to {words.share(last.forget)} "
        f"recognised, everything else from {words.share(first.retain)} to "
        f"{words.share(last.retain)}."
    )


def check(step: float) -> float:
    """`step`, a finite share of the layer's norm; raises SlugError when it is out of range."""
    if not isinstance(step, int | float) or not 0 <= step <= FARTHEST:
        raise SlugError(f"A step lies between 0 and {FARTHEST:g} of the layer's norm.")
    return round(float(step), 4)
