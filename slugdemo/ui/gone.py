"""GONE: is the concept gone? Every attack against every method, between its ceiling and its floor.

Cells come from rows that were shipped and from what was run here; an empty one can be run. Knows
the table of methods and the attacks of the page.
"""

from collections.abc import Sequence
from typing import Any

from slugdemo import attacks, experiment
from slugdemo.attacks import ATTACKS, ON, Attack
from slugdemo.attacks.attack import GROUPS
from slugdemo.benchmark import shipped
from slugdemo.errors import SlugError
from slugdemo.methods import METHODS, named
from slugdemo.results import Result
from slugdemo.ui import attack as tries
from slugdemo.ui import compare
from slugdemo.ui.state import AppState
from slugdemo.ui.tasks import Watch
from slugdemo.ui.view import View, label

OTHERS = {"original": "the ceiling: a model that knows it", "reference": "the floor: never saw it"}
JUDGING = 10.0  # seconds for judging a method on the report split, when it must be run first


def show(state: AppState, view: View) -> dict[str, Any]:
    """The heat map: a row for each attack, the two other models, and every method that can serve."""
    kind = state.kind(view.model)
    able = [method.name for method in METHODS.values() if not method.unable(kind)]
    views = {name: _opened(state, view, name) for name in able}
    kept = [row for row in shipped.rows(view.model, view.concept) if row.attack]
    stale = _stale(state, view, kept)
    on = tries.there(state, view)
    ordered = sorted(ATTACKS.values(), key=lambda each: GROUPS.index(each.group))
    return {
        "model": view.model,
        "concept": label(view.concept),
        "columns": [*OTHERS, *able],
        "about": OTHERS,
        "away": [[m.name, m.unable(kind)] for m in METHODS.values() if m.unable(kind)],
        "rows": [
            {
                **tries.offer(state, view, each, kind, on),
                "cells": {} if each.unable(kind) else _cells(state, view, each, views, kept),
            }
            for each in ordered
        ],
        "stale": stale,
    }


def _opened(state: AppState, view: View, method: str) -> View | None:
    """The view of what a method gave here; None before it was run."""
    try:
        return compare.opened(state, view, method)
    except SlugError:
        return None


def _stale(state: AppState, view: View, kept: Sequence[Result]) -> bool:
    """Whether shipped rows were made with other weights than those that are here."""
    model = state.models.peek(view.model)
    own = [row for row in kept if row.on != "reference" and row.digest]
    if model is None or not own:
        return False
    digest = experiment.task(model, label(view.concept)).digest
    return not all(shipped.current(row, digest) for row in own)


def _cells(
    state: AppState,
    view: View,
    attack: Attack,
    views: dict[str, View | None],
    kept: Sequence[Result],
) -> dict[str, dict[str, Any]]:
    """What is known of one attack, by method or other model: here first, then as shipped."""
    rows = [row for row in kept if row.attack == attack.name]
    found = {name: _side(None, [r for r in rows if r.method == name]) for name in (*OTHERS, *views)}
    bare = view.unedited()
    for name in OTHERS:
        found[name] = _side(state.shown.peek(tries.key(bare, attack.name, name)), []) or found[name]
    for name, mine in views.items():
        tried = tries.known(state, mine, attack.name) if mine else {}
        if here := _side(tried.get("edited"), []):
            ends = {on: _side(tried[on], []).get("rate") for on in OTHERS if on in tried}
            found[name] = here | ends
    return {name: cell for name, cell in found.items() if cell}


def _side(tried: tries.Tried | None, rows: Sequence[Result]) -> dict[str, Any]:
    """One cell from what was tried here or else from shipped rows; {} for neither."""
    keys = ("rate", "low", "high", "n", "before", "n_before", "seconds")
    if tried and tried.reason:
        return {"source": "here", "reason": tried.reason}
    if tried:
        return {"source": "here", **{key: tried.shown[key] for key in keys}}
    if any(row.metric == "success" and row.n for row in rows):
        return {"source": "shipped", **{key: tries.side(rows)[key] for key in keys}}
    reason = next((row.note for row in rows if row.note), "")
    return {"source": "shipped", "reason": reason} if reason else {}


def detail(state: AppState, view: View, method: str, name: str) -> dict[str, Any]:
    """One cell: what the attack gave on this method's edit, on the original and on the reference.

    Raises SlugError for a name that is none.
    """
    attack = attacks.named(name)
    kind = state.kind(view.model)
    mine = _view(state, view, method)
    found = tries.known(state, mine, attack.name) if mine else {}
    if method in OTHERS:
        tried = state.shown.peek(tries.key(view.unedited(), attack.name, method))
        found = {method: tried} if tried else {}
    rows = [row for row in shipped.rows(view.model, view.concept) if row.attack == attack.name]
    given: dict[str, tries.Tried] = dict(found)
    for on in ON:
        own = [r for r in rows if r.on == on and r.n and (on != "edited" or r.method == method)]
        if on not in given and own:
            given[on] = tries.Tried(tuple(own), tries.side(own))
    return {
        "title": f"{attack.name} against {method}",
        "concept": label(view.concept),
        "model": view.model,
        "attacks": [],
        "first": [],
        "tried": [tries.entry(attack.name, given)] if given else [],
        "sentence": experiment.summary(tries.rows_of(given)),
        "cell": {
            "method": method,
            "attack": attack.name,
            "reason": attack.unable(kind),
            "here": bool(found),
            "estimate": _estimate(state, view, method, attack),
            "first": "" if mine or method in OTHERS else f"{method} is run first",
        },
    }


def _view(state: AppState, view: View, method: str) -> View | None:
    if method in OTHERS:
        return None
    return _opened(state, view, named(method).name)


def _estimate(state: AppState, view: View, method: str, attack: Attack) -> float:
    """Seconds until a cell is there: the method first, where it has not been run."""
    if method in OTHERS:
        return attack.seconds
    mine = _opened(state, view, method)
    need = 0.0 if mine else METHODS[method].seconds + JUDGING
    kind, on = state.kind(view.model), tries.there(state, view)
    return need + tries.offer(state, mine or view, attack, kind, on)["estimate"]


def run(state: AppState, view: View, watch: Watch, method: str, name: str) -> str:
    """Fills one cell, running the method first where it has not been; what to say.

    Raises SlugError for a name that is none, or one that cannot serve or attack the model.
    """
    (attack,) = tries.chosen(state, view, [name])

    def panel() -> dict[str, Any]:
        return detail(state, view, method, attack.name)

    if method in OTHERS:
        bare = view.unedited()
        said = tries.run(state, bare, watch, [attack.name], panel=panel, on=[method])
    else:
        method = named(method).name
        mine = _opened(state, view, method)
        if mine is None:
            reason = compare.run(state, view, watch, [method], shown=lambda: None)
            mine = _opened(state, view, method)
        if mine is None:
            raise SlugError(reason)
        tries.run(state, mine, watch, [attack.name], panel=panel)
        said = experiment.summary(tries.rows_of(tries.known(state, mine, attack.name)))
    watch.put("gone", show(state, view))
    return said or f"{attack.name} was tried on the {method} model."
