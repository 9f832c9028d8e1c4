"""COMPARE: one concept by every method of the field, on the same model, pictures, seeds and judge.

Rows that come with the app show at once; each can be run again, and its edit opened. Knows the
engine and shipped results; the page adds that a run can be watched, stopped and remembered.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from slugdemo import experiment
from slugdemo.benchmark import published, shipped
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.evaluation.prompt_set import Measurement
from slugdemo.methods import METHODS, named
from slugdemo.methods.method import GROUPS, Method
from slugdemo.models.base import Cancelled
from slugdemo.results import Result
from slugdemo.ui import see
from slugdemo.ui.state import AppState
from slugdemo.ui.tasks import Watch
from slugdemo.ui.view import DIGEST, View, label

ORIGINAL = "original"
COLUMNS = {
    "diffusion": (
        (
            "ua",
            "UA",
            "unlearning accuracy: pictures asked for the concept that do not show it",
            False,
        ),
        ("ira", "IRA", "other concepts of the same kind that are still drawn right", False),
        ("cra", "CRA", "concepts of the other kind (styles for things) still drawn right", False),
    ),
    "zero-shot": (
        ("forget_acc", "left", "pictures of the concept that are still recognised", True),
        ("retain_acc", "kept", "pictures of everything else that are still recognised", False),
    ),
    "vlm": (
        ("forget_acc", "left", "pictures of the concept whose answer still names it", True),
        ("retain_acc", "kept", "answers about everything else that are still right", False),
        ("style", "style", "styles still told right", False),
        ("concept", "names", "names still told right", False),
        ("background", "background", "answers about the background that stay as they were", False),
    ),
}
PROMPTED = ("target", "neighbour", "stranger")


@dataclass(frozen=True)
class Run:
    """What one method gave on the report split, and where its edit is found."""

    measured: tuple[Measurement, ...]
    seconds: float
    feasible: bool
    headline: str
    params: int  # numbers that it changes
    layer: str
    digest: str
    strength: float
    pictures: tuple[dict[str, Any], ...] = ()


def show(state: AppState, view: View) -> dict[str, Any]:
    """The table: a row for the original and for every method, with what is known of each."""
    kind = state.kind(view.model)
    known = {name: _known(state, view, name) for name in METHODS}
    rows = [_original(state, view, kind)]
    order = {group: number for number, group in enumerate(GROUPS)}
    for method in sorted(METHODS.values(), key=lambda m: order.get(m.group, len(order))):
        reason = method.unable(kind)
        rows.append(_row(state, view, method, known[method.name]) | {"reason": reason})
    columns = [
        {"key": key, "title": title, "note": note, "less": less}
        for key, title, note, less in COLUMNS[kind]
    ]
    return {
        "model": view.model,
        "concept": label(view.concept),
        "kind": kind,
        "columns": columns,
        "rows": rows,
        "published": _published() if kind == "diffusion" else [],
        "not_ported": [{"name": n, "reason": why} for n, why in published.NOT_PORTED.items()],
        "roles": PROMPTED if kind == "diffusion" else (),
    }


def run(state: AppState, view: View, watch: Watch, names: Sequence[str]) -> str:
    """Runs methods one after another, and shows the table after each; what to say in the end.

    A method that cannot do it says why in its row. Raises SlugError for a name that is none or
    cannot serve the model.
    """
    view = state.settled(view)
    kind = state.kind(view.model)
    methods = [named(name) for name in names]
    for method in methods:
        if reason := method.unable(kind):
            raise SlugError(reason)
    said = ""
    for number, method in enumerate(methods):
        watch.say(f"Running {method.name}", number, len(methods))
        try:
            found = _run(state, replace(view, method=method.name), watch, method)
            said = f"{found.headline}."
        except Cancelled:
            raise
        except SlugError as problem:
            said = str(problem)
            state.shown.put(_key(view, method.name), said)
        else:
            state.shown.put(_key(view, method.name), found)
        watch.put("compare", show(state, view))
    return said if len(methods) == 1 else f"{len(methods)} methods were run."


def opened(state: AppState, view: View, name: str) -> View:
    """The view of the edit that a method gave, for the slider, the ladder and all else.

    Raises SlugError when it has not been run here.
    """
    found = state.shown.peek(_key(view, name))
    if not isinstance(found, Run):
        raise SlugError(f"{name} has not been run here yet: run it, then open its edit.")
    return replace(
        view,
        method=name,
        layer=found.layer,
        digest="" if found.layer else found.digest,
        strength=round(found.strength, 4),
        trace=(),
    )


def _run(state: AppState, view: View, watch: Watch, method: Method) -> Run:
    task = state.task(view, watch)
    erasure = experiment.erase(task)
    edit = erasure.edit
    watch.say(f"Judging {method.name} on the report split")
    measured = experiment.report(task, [edit])
    if not edit.layer:
        state.keep(view, edit)
    layer = task.layer(edit.layer).layer if edit.layer else ""
    found = Run(
        measured,
        erasure.seconds,
        erasure.feasible,
        erasure.headline,
        sum(tensor.numel() for tensor in edit.delta.values()),
        layer,
        edit.digest[:DIGEST],
        edit.strength,
    )
    if task.kind != "diffusion":
        return found
    return replace(found, pictures=_pictures(state, view, watch, edit, found))


def _pictures(
    state: AppState, view: View, watch: Watch, edit: Edit, found: Run
) -> tuple[dict[str, Any], ...]:
    """The target, a neighbour and a stranger from one seed, as the edited model draws them."""
    del edit
    alone = replace(
        view,
        tray=(),
        layer=found.layer,
        digest="" if found.layer else found.digest,
        strength=round(found.strength, 4),
    )
    prompts = [part.prompt for part in see.cast(state, view)]
    return tuple(see.drawn(state, [alone], prompts, watch, "Drawing")[0])


def _key(view: View, method: str) -> tuple[str, ...]:
    return "compare", view.model, view.concept, view.alignment, view.granularity, method


def _known(state: AppState, view: View, method: str) -> "Run | str | list[Result]":
    """What a method gave here, why it could not, or what was shipped of it (perhaps nothing)."""
    here = state.shown.peek(_key(view, method))
    if isinstance(here, Run | str):
        return here
    kept = [row for row in shipped.rows(view.model, view.concept) if row.method == method]
    return [row for row in kept if row.attack == "" and row.split == "report"]


def _row(
    state: AppState, view: View, method: Method, found: "Run | str | list[Result]"
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": method.name,
        "group": method.group,
        "cite": method.cite,
        "deviations": method.deviations,
        "parts": " and ".join(method.parts),
        "estimate": method.seconds,
        "values": {},
        "seconds": None,
        "source": "",
        "note": "",
        "pictures": [],
    }
    if isinstance(found, str):
        return row | {"note": found, "source": "here"}
    if isinstance(found, Run):
        values = {m.metric: [m.after, *m.interval, m.n] for m in found.measured}
        layer = {"params": found.params, "pictures": list(found.pictures)}
        return row | layer | {
            "values": values,
            "seconds": found.seconds,
            "source": "here",
            "headline": found.headline,
        }  # fmt: skip
    if not found:
        return row
    values = {r.metric: [r.value, r.low, r.high, r.n] for r in found if r.metric}
    stale = bool(values) and not _current(state, view, found)
    note = next((r.note for r in found if r.note), "")
    seconds = next((r.seconds for r in found if r.metric), None)
    said = "made with other weights" if stale else note
    return row | {"values": values, "seconds": seconds, "source": "shipped", "note": said}


def _current(state: AppState, view: View, rows: Sequence[Result]) -> bool:
    """Whether shipped rows were made with the weights that are here, as far as is known yet."""
    model = state.models.peek(view.model)
    if model is None:
        return True
    task = experiment.task(model, label(view.concept))
    return all(shipped.current(row, task.digest) for row in rows)


def _original(state: AppState, view: View, kind: str) -> dict[str, Any]:
    """The unedited model: what every run has measured before its edit."""
    values: dict[str, Any] = {}
    for name in METHODS:
        here = state.shown.peek(_key(view, name))
        if isinstance(here, Run):
            values = {m.metric: [m.before, None, None, m.n] for m in here.measured}
            break
    else:
        for row in shipped.rows(view.model, view.concept):
            if row.method == ORIGINAL and row.metric:
                values[row.metric] = [row.value, row.low, row.high, row.n]
    del kind
    return {"name": ORIGINAL, "group": "reference", "values": values, "reason": "", "pictures": []}


def _published() -> list[dict[str, Any]]:
    return [
        {"name": row.method, "style": row.style, "object": row.object, "seconds": row.seconds,
         "note": f"{row.source}; {published.NOTE}"}
        for row in published.ROWS
    ]  # fmt: skip
