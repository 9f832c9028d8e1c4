"""STEP: how far to go. What the search finds, the curve along the strength, and the controls beside.

All of it is the engine's: the page adds that it can be watched, stopped and remembered.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from slugdemo import experiment, search, weights
from slugdemo.edit import LAYER_NORM, Edit, qualified
from slugdemo.errors import SlugError
from slugdemo.experiment import Erasure
from slugdemo.ladder import strengths
from slugdemo.layer_names import TOWERS
from slugdemo.layers import LayerScore
from slugdemo.methods import named
from slugdemo.models.base import Cancelled
from slugdemo.search import Evaluators, Score
from slugdemo.task import Task
from slugdemo.ui import jobs, plots
from slugdemo.ui.state import AppState, by_layer, score_key
from slugdemo.ui.tasks import Watch
from slugdemo.ui.view import DIGEST, View, label, place, share

UNKNOWN = 0.2  # where to begin when CLIP itself does not know the concept


def unstepped(state: AppState, view: View, watch: Watch) -> Edit:
    """The edit that is looked at, at strength 0."""
    return state.edit(view, view.edit, watch).at(0.0)


def unit(edit: Edit) -> str:
    """ "layer" when strength 1 is the norm of the layer, "own" when it is the method's own edit."""
    return "layer" if edit.unit == LAYER_NORM else "own"


def farthest(edit: Edit, strength: float) -> float:
    """Where the slider ends."""
    end = 1.0 if unit(edit) == "layer" else 2.0
    return end if strength <= end else float(math.ceil(strength))


def grid(state: AppState, view: View, edit: Edit) -> tuple[float, ...]:
    """The strengths of the curve: fewer where a score takes long."""
    return strengths(state.kind(view.model), unit(edit))


def start(state: AppState, view: View, watch: Watch) -> float:
    """A strength to begin with: that of the engine's search with the quickest evaluator there is.

    1 for an edit in the method's own unit.
    """
    edit = unstepped(state, view, watch)
    if unit(edit) == "own":
        return 1.0
    key = ("start", view.model, view.concept, edit.digest)
    return state.shown.get(key, lambda: _start(state, view, edit, watch))


def _start(state: AppState, view: View, edit: Edit, watch: Watch) -> float:
    task = state.task(view, watch)
    tuning = replace(task.config.tuning, margin=0.0, shortlist=0)
    quick = task.evaluators.quick or Evaluators(task.evaluators.full)

    def look(tried: Edit, score: Score) -> None:
        watch.say(f"Trying {search.where(tried, score.strength)}")

    try:
        found = search.tune([edit], Evaluators(quick.full), tuning, watch=look)
    except SlugError:  # CLIP cannot say; the model's own curve will
        return UNKNOWN
    return round(found.edit.strength, 4)


# ---- measuring


def known(state: AppState, view: View, edit: Edit) -> tuple[list[Score], list[Score]]:
    """The scores of the curve and of the search's trace that have been measured already."""

    def look(strengths: Sequence[float]) -> list[Score]:
        found = []
        for strength in strengths:
            for which in jobs.EVALUATORS:
                if score := state.scores.peek(score_key(view, edit.digest, strength, which)):
                    found.append(score)
                    break
        return found

    return look(grid(state, view, edit)), look(view.trace)


def complete(state: AppState, view: View, watch: Watch) -> bool:
    """Whether the whole curve is measured."""
    edit = unstepped(state, view, watch)
    return len(known(state, view, edit)[0]) == len(grid(state, view, edit))


def sweep(state: AppState, view: View, watch: Watch, *, shown: Callable[[], None]) -> None:
    """Measures the curve; `shown` is called after each new score."""
    edit, known = unstepped(state, view, watch), state.measured(view)

    def hear(told: jobs.Told) -> None:
        state.hear(view, told)
        shown()

    jobs.scores(state.task(view, watch), hear, edit, grid(state, view, edit), known)


# ---- the curve


def show(state: AppState, view: View, watch: Watch) -> dict[str, Any]:
    """The curve as far as it is known, with its formula, its table and its description."""
    edit, task = unstepped(state, view, watch), state.task(view, watch)
    scores, trace = known(state, view, edit)
    at = edit.at(view.strength or 0.0)
    about = About(
        unit=edit.unit,
        farthest=farthest(edit, at.strength),
        ratio=float(edit.about.get("ratio", "nan")),
        formula=formula(at),
        sum=summed(task, view, at),
    )
    return curve(view, scores, trace, about)


@dataclass(frozen=True)
class About:
    """What the curve says of an edit besides its scores; `ratio` is ||w|| / ||g||, NaN without one."""

    unit: str
    farthest: float
    ratio: float
    formula: str
    sum: list[list[str]]

    @classmethod
    def of_layer(cls, view: View, score: LayerScore, *, size: float, ratio: float) -> "About":
        """The same of the edit of one layer of norm `size`, without the edit itself."""
        strength = view.strength or 0.0
        return cls(
            unit=LAYER_NORM,
            farthest=1.0 if strength <= 1.0 else float(math.ceil(strength)),
            ratio=ratio,
            formula=_layer_formula(strength, size, ratio),
            sum=_method_rows(view.method) + _layer_sum(strength, size, score),
        )


def curve(
    view: View, scores: Sequence[Score], trace: Sequence[Score], about: About
) -> dict[str, Any]:
    """The curve of some scores and of those that a search has tried."""
    strength = view.strength or 0.0
    figure = plots.curve(
        scores, trace, strength=strength, ratio=about.ratio, farthest=about.farthest
    )
    full = {score.strength: score for score in (*scores, *trace) if score.n_retain}
    return {
        "figure": figure,
        "step": strength,
        "farthest": about.farthest,
        "unit": about.unit,
        "formula": about.formula,
        "rows": [_row(full[at]) for at in sorted(full)],
        "sum": about.sum,
        "described": described(view, scores),
        "waiting": not scores,
    }


def _row(score: Score) -> list[str]:
    rates = []
    for rate, (low, high) in (
        (score.forget_acc, score.forget_interval),
        (score.retain_acc, score.retain_interval),
    ):
        rates.append(f"{rate:.1%} ({low:.1%} to {high:.1%})")
    return [cell.replace("%", " %") for cell in (f"{score.strength:.1%}", *rates)]


def formula(edit: Edit) -> str:
    """The update with its own numbers."""
    if not edit.delta:
        numbers = ", ".join(f"{name} {value}" for name, value in edit.params.items())
        return f"no weight changes; {edit.rule} at every denoising step ({numbers})"
    size = weights.norm(edit.delta)
    if edit.unit != LAYER_NORM:
        return f"w ← w + {edit.strength:.3g} · Δ,  ‖Δ‖ = {size:.3g}"
    if not math.isfinite(edit.lam):
        return f"w ← w + {edit.strength:.3g} · {size:.3g} · g / ‖g‖"
    return _layer_formula(edit.strength, size, float(edit.about["ratio"]))


def _layer_formula(strength: float, size: float, ratio: float) -> str:
    far, lam = f"{strength:.3g} · {size:.3g}", strength * ratio
    return f"w ← w + {far} · g / {size / ratio:.3g}  =  w + {lam:.3g} g"


def summed(task: Task, view: View, edit: Edit) -> list[list[str]]:
    """The whole calculation for what is looked at, as (what, formula, with its numbers)."""
    rows = _method_rows(edit.method)
    if not edit.delta:
        return [*rows, *([name, "", str(value)] for name, value in edit.params.items())]
    size = weights.norm(edit.delta)
    if not view.layer or not edit.layer or not math.isfinite(edit.lam):
        numbers = sum(tensor.numel() for tensor in edit.delta.values())
        parts = " and ".join(TOWERS.get(part, part) for part in edit.parts)
        return [
            *rows,
            ["what it changes", "", f"{len(edit.delta)} tensors of {parts}"],
            ["length of the edit", "‖Δ‖", f"{size:.4g}, {numbers:,} numbers"],
            ["the update", "w ← w + s Δ", f"w ← w + {edit.strength:.4g} Δ"],
        ]
    score = next(s for s in task.scores if qualified(s.layer) == edit.layer)
    return rows + _layer_sum(edit.strength, size, score)


def _method_rows(name: str) -> list[list[str]]:
    method = named(name) if name in experiment.METHODS else None
    rows = [["method", method.group if method else "", method.cite if method else name]]
    if method and method.deviations:
        rows.append(["deviations from the paper", "", method.deviations])
    return rows


def _layer_sum(strength: float, size: float, score: LayerScore) -> list[list[str]]:
    slope = score.importance * size
    lam = f"{strength:.3g} · {size:.4g} / {slope:.4g} = {strength * size / slope:.4g}"
    return [
        ["length of the layer", "‖w‖", f"{size:.4g}, {score.params:,} numbers"],
        ["length of the forget gradient", "‖g‖, g = ∇ L_forget(w)", f"{slope:.4g}"],
        ["importance", "‖g‖ / ‖w‖", f"{slope:.4g} / {size:.4g} = {score.importance:.4g}"],
        ["alignment", "cos(g, ∇ L_retain(w))", f"{score.alignment:+.4f}"],
        ["λ of the paper", "step · ‖w‖ / ‖g‖", lam],
        ["the update", "w ← w + λ g", f"w ← w + {strength * size / slope:.4g} g"],
    ]


def described(view: View, scores: Sequence[Score]) -> str:
    """The curve in a sentence."""
    where = place(view.edit)
    if not scores:
        return f"Nothing is measured yet along {where}."
    first, last = scores[0], scores[-1]
    return (
        f"From strength {share(first.strength)} to {share(last.strength)} of {where}, "
        f"“{label(view.concept)}” goes from {share(first.forget_acc)} to "
        f"{share(last.forget_acc)} recognised, everything else from {share(first.retain_acc)} to "
        f"{share(last.retain_acc)}."
    )


# ---- the search


@dataclass(frozen=True)
class Found:
    """The view of an edit that was found, the result in one line, and why it was chosen."""

    view: View
    headline: str
    reason: str
    erasure: Erasure | None = None


def erase(state: AppState, view: View, watch: Watch) -> Found:
    """What the view's method finds for its concept: layer and step, or whatever it changes."""
    return _found(state, view, watch, "", lambda _view: None)


def find_step(state: AppState, view: View, watch: Watch, *, shown: Callable[[View], None]) -> Found:
    """The step that the search finds on the chosen layer; `shown` sees the view grow."""
    return _found(state, replace(view, method=by_layer(view)), watch, view.layer, shown)


def _found(
    state: AppState, view: View, watch: Watch, layer: str, shown: Callable[[View], None]
) -> Found:
    tried: list[tuple[Edit, Score]] = []

    def hear(told: jobs.Told) -> None:
        state.hear(view, told)
        _, edit, score = told
        tried.append((edit, score))
        if layer and score.strength:
            shown(_moved(task, view, tried[-1], tried))

    task, known = state.task(view, watch), state.measured(view)
    try:
        erasure = state.workers.run(jobs.erase, task, hear, layer, known)
    except Cancelled:
        full = [pair for pair in tried if pair[1].n_retain and pair[1].strength]
        if not full:
            raise
        best = min(full, key=lambda pair: (pair[1].forget_acc, -pair[1].retain_acc))
        line = f"Stopped; the best so far: {search.told(*best)}"
        return Found(_moved(task, view, best, tried), line, line)
    edit = erasure.edit
    if not edit.layer:
        state.keep(view, edit)
    found = _moved(task, view, (edit, erasure.after), tried)
    return Found(found, f"{erasure.headline}.", erasure.reason, erasure)


def _moved(
    task: Task, view: View, best: tuple[Edit, Score], tried: list[tuple[Edit, Score]]
) -> View:
    """The view of an edit at a strength, with all strengths that were tried along it."""
    edit, score = best
    trace = {
        round(other.strength, 6)
        for same, other in tried
        if same.layer == edit.layer and other.strength
    }
    layer = task.layer(edit.layer).layer if edit.layer else ""
    return replace(
        view,
        layer=layer,
        digest="" if layer else edit.digest[:DIGEST],
        strength=round(score.strength, 4),
        trace=tuple(sorted(trace)),
    )


# ---- the controls beside an edit


def controls(state: AppState, view: View, watch: Watch) -> list[tuple[str, str, Score]]:
    """What each control does beside the edit, as (name, where, score); the unedited model first.

    On the search split, with nothing of the tray.
    """
    task, edit = state.task(view, watch), state.edit(view, view.edit, watch)
    if not edit.strength:
        raise SlugError("A strength of 0 changes nothing: move the slider before comparing.")
    watch.say("Preparing the controls")
    hear = partial(state.hear, view)
    return state.workers.run(jobs.controls, task, hear, edit, state.measured(view))


def show_controls(state: AppState, view: View, watch: Watch) -> dict[str, Any]:
    """The controls as a table with bars and intervals."""
    rows = [
        {
            "name": name,
            "where": place,
            "own": name == view.method,
            "forget": [score.forget_acc, *score.forget_interval, score.n_forget],
            "retain": [score.retain_acc, *score.retain_interval, score.n_retain],
        }
        for name, place, score in controls(state, view, watch)
    ]
    return {"rows": rows, "concept": label(view.concept), "asked": time.time()}
