"""ERASE: what the two search buttons and the choice of a method do, and the controls beside an edit.

All of it is the engine's: the page adds that it can be watched, stopped and remembered.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from slugdemo import experiment
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.experiment import Erasure
from slugdemo.models.base import Cancelled
from slugdemo.search import Score, told, where
from slugdemo.task import Task
from slugdemo.ui import step
from slugdemo.ui.state import AppState, by_layer
from slugdemo.ui.tasks import Watch
from slugdemo.ui.view import DIGEST, View, label


@dataclass(frozen=True)
class Found:
    """The view of an edit that was found, the result in one line, and why it was chosen."""

    view: View
    headline: str
    reason: str
    erasure: Erasure | None = None


def run(state: AppState, view: View, watch: Watch) -> Found:
    """What the view's method finds for its concept: layer and step, or whatever it changes."""
    return _found(state, view, watch, "", lambda _view: None)


def find_step(state: AppState, view: View, watch: Watch, *, shown: Callable[[View], None]) -> Found:
    """The step that the search finds on the chosen layer; `shown` sees the view grow."""
    return _found(state, replace(view, method=by_layer(view)), watch, view.layer, shown)


def _found(
    state: AppState, view: View, watch: Watch, layer: str, shown: Callable[[View], None]
) -> Found:
    tried: list[tuple[Edit, Score]] = []

    def seen(edit: Edit, score: Score) -> None:
        tried.append((edit, score))
        if layer and score.strength:
            shown(_moved(task, view, tried[-1], tried))

    task = step.measured(state, view, watch, seen)
    try:
        erasure = experiment.erase(task, layer=layer)
    except Cancelled:
        full = [pair for pair in tried if pair[1].n_retain and pair[1].strength]
        if not full:
            raise
        best = min(full, key=lambda pair: (pair[1].forget_acc, -pair[1].retain_acc))
        line = f"Stopped; the best so far: {told(*best)}"
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


def controls(state: AppState, view: View, watch: Watch) -> list[tuple[str, str, Score]]:
    """What each control does beside the edit, as (name, where, score); the unedited model first.

    On the search split, with nothing of the tray.
    """
    task = step.measured(state, view, watch, step.unseen)
    edit = state.edit(view, view.edit, watch)
    if not edit.strength:
        raise SlugError("A strength of 0 changes nothing: move the slider before comparing.")
    watch.say("Preparing the controls")
    tried = {"before": edit.at(0.0), edit.method: edit} | dict(experiment.controls(task, edit))
    rows = []
    for number, (name, other) in enumerate(tried.items()):
        watch.say(f"Comparing: {name}", number, len(tried))
        score = task.evaluators.full(other)(other.strength)
        rows.append((name, "" if name == "before" else where(other, other.strength), score))
    return rows


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
