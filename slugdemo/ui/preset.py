"""A preset concept at once: what every block shows of it, from the entries that come with the app.

No model is opened for it, and it is shown only where the weights, pictures and settings are those
that the entry was made with. Computes nothing but the comparison that a visitor asks for.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from slugdemo import images, ladder
from slugdemo.benchmark import atlas
from slugdemo.benchmark.atlas import Entry
from slugdemo.benchmark.cells import code_version
from slugdemo.config import CONFIGS
from slugdemo.errors import SlugError
from slugdemo.layer_names import depth
from slugdemo.search import Score
from slugdemo.task import Task
from slugdemo.ui import edits, export, forget, locate, see, step
from slugdemo.ui.state import AppState
from slugdemo.ui.tasks import Watch, status, unwatched
from slugdemo.ui.view import View

MADE = (
    "Computed beforehand with exactly these weights, pictures and settings. “Again” computes it "
    "anew and shows both."
)
OLDER = " The code has changed since."
NOTHING = "Nothing was computed beforehand for what you see: all of it is computed live."


def opened(state: AppState, query: Mapping[str, list[str]]) -> dict[str, Any]:
    """What stands in every block of a page that is opened with a link; {} when it must be made."""
    try:
        view, first = View.parse(dict(query)), state.first()
        model, concept = view.model or first.model, view.concept or first.concept
        return {} if view.pin else shown(state, replace(view, model=model, concept=concept))
    except SlugError:
        return {}


def shown(state: AppState, view: View) -> dict[str, Any]:
    """What stands in every block when a preset concept is chosen; {} when it must be made.

    That is so for other concepts, layers, strengths, seeds, pictures, questions, alignments and
    granularities, for more edits in the tray, and for other weights.
    """
    entry = state.entry(view.model, view.concept)
    if entry is None or not _fits(view, entry):
        return {}
    tried = entry.tried.get(entry.layer, ())
    trace = tuple(sorted({round(score.strength, 6) for score in tried if score.strength}))
    view = replace(view, layer=entry.layer, strength=entry.strength, trace=trace)
    found = _map(entry)
    after = see.counted(entry.collateral, [entry.concept], "")
    return {
        "view": view,
        "choice": forget.chosen(state, view),
        "forget": forget.show(state, view),
        "words": see.asking(state, view),
        "tray": edits.show(view),
        "pin": {},
        "map": locate.show(found, view),
        "layers": {"choices": locate.choices(found), "value": view.layer},
        "curve": _curve(entry, view),
        "see": _see(state, entry, view),
        "collateral": after,
        "ladder": _ladder(state, entry, view),
        "export": export.show(state, view, weights=entry.weights),
        "status": status(entry.headline, "calm", more=_more(entry), query=view.query()),
    }


def _fits(view: View, entry: Entry) -> bool:
    """Whether a view is that of the entry, or leaves open what the entry says."""
    plain = View(view.model, view.concept)
    mine = replace(view, past=(), trace=(), pin="")
    layer = replace(plain, layer=entry.layer)
    return mine in (plain, layer, replace(layer, strength=entry.strength))


def _more(entry: Entry) -> str:
    older = OLDER if entry.code != code_version() else ""
    return f"{entry.reason} {MADE}{older}"


def _map(entry: Entry) -> locate.Map:
    scores = sorted(entry.layers, key=lambda score: (score.tower, depth(score.layer)))
    alignment = CONFIGS[entry.kind].alignment
    return locate.Map(
        tuple(scores), entry.front, frozenset(entry.editable), alignment, entry.shapes
    )


def _curve(entry: Entry, view: View) -> dict[str, Any]:
    full = {round(score.strength, 6): score for score in entry.curve}
    trace: dict[float, Score] = {}
    for score in entry.tried.get(entry.layer, ()):  # a full score counts before one of a part
        at = round(score.strength, 6)
        if at and (score.n_retain or at not in trace):
            trace[at] = score
    layer = next(score for score in entry.layers if score.layer == entry.layer)
    about = step.About.of_layer(view, layer, size=entry.size, ratio=entry.ratio)
    return step.curve(view, [*full.values()], [trace[at] for at in sorted(trace)], about)


def _see(state: AppState, entry: Entry, view: View) -> dict[str, Any]:
    given: dict[str, Any] = {"kind": entry.kind, **entry.see}
    if entry.kind != "diffusion":
        return {**given, **see.looked(state, view)[1]}
    sides = {side: _cell(state, entry.see[side]) for side in ("before", "after")}
    return {**given, **sides}


def _ladder(state: AppState, entry: Entry, view: View) -> dict[str, Any]:
    cells = [[_cell(state, cell) for cell in row] for row in entry.ladder]
    roles = see.cast(state, view)
    step.remember_ladder(state, view, ladder.RUNGS["layer"], cells)
    return step.rungs(entry.kind, view, ladder.RUNGS["layer"], roles, cells)


def _cell(state: AppState, cell: Mapping[str, Any]) -> dict[str, Any]:
    """A cell with its picture in place of the picture's name."""
    if "picture" not in cell:
        return dict(cell)
    rest = {key: value for key, value in cell.items() if key != "picture"}
    return {"src": images.address(state.shipped.pictures[cell["picture"]]), **rest}


def warm(state: AppState, view: View) -> None:
    """Opens what a first touch of this view will need, so that nobody waits for it.

    Errors wait for the visitor who meets them.
    """
    watch = unwatched()
    try:
        view = state.settled(view)
        found = shown(state, view)
        if not found:
            return
        see.show(state, found["view"], watch)
        see.collateral(state, found["view"], watch)
    except SlugError:
        return


def again(state: AppState, view: View, watch: Watch) -> dict[str, Any]:
    """What was shipped beside what is found now, line by line, from new gradients and searches.

    Raises SlugError where nothing was shipped.
    """
    entry = state.entry(view.model, view.concept)
    if entry is None:
        raise SlugError(NOTHING)
    here, concept = state.opened(view.model), state.concept(view.concept)
    task = Task(
        here,
        concept,
        CONFIGS[here.kind],
        state.eval_set(view.concept),
        progress=watch.progress,
        cancelled=watch.stop.is_set,
    )
    now, _ = atlas.make(task, entry.key)
    return {
        "concept": entry.concept,
        "model": entry.model,
        "rows": atlas.compared(entry, now),
        "seconds": now.seconds,
        "same_code": entry.code == now.code,
        "asked": time.time(),
    }
