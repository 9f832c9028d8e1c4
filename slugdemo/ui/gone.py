"""GONE: is the concept gone? Attacks on one edit, and every attack against every method.

Each stands between its ceiling, the original model, and its floor, the model that never saw the
concept. Cells come from rows that were shipped and from what was run here; an empty one can be run.
Knows the engine's attacks; the page adds that they can be watched, stopped and remembered.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL.Image import Image

from slugdemo import attacks, experiment, verdict
from slugdemo.attacks import ATTACKS, ON, Attack
from slugdemo.attacks.attack import GROUPS, Attacked
from slugdemo.benchmark import shipped
from slugdemo.errors import SlugError
from slugdemo.images import source
from slugdemo.methods import METHODS, named
from slugdemo.models.base import Cancelled
from slugdemo.results import Result
from slugdemo.ui import compare, jobs
from slugdemo.ui.state import AppState
from slugdemo.ui.tasks import STOPPED, Watch
from slugdemo.ui.view import View, label, place

FIRST = {
    "diffusion": ("synonyms", "soft prompt"),
    "zero-shot": ("synonyms", "soft prompt"),
    "vlm": ("other questions", "pgd"),
}
SHOWN, QUALITY = 16, 85  # pictures of one attack on the page, and how well they are kept
PACE = 0.25  # seconds between two losses on the page
OTHERS = {"original": "the ceiling: a model that knows it", "reference": "the floor: never saw it"}
JUDGED = 10.0  # seconds for judging a method on the report split, when it must be run first


@dataclass(frozen=True)
class Tried:
    """What one attack gave on one model: its rows and what is shown of it, or why there is none."""

    rows: tuple[Result, ...]
    shown: dict[str, Any]
    reason: str = ""


@dataclass
class Live:
    """What an attack that runs has shown so far, told no oftener than the page can draw it."""

    watch: Watch
    attack: str
    on: str
    src: str = ""
    losses: list[float] = field(default_factory=list)
    told: float = 0.0

    def hear(self, told: Image | float) -> None:
        """What the attack tells on its way."""
        if isinstance(told, float):
            self.loss(told)
        else:
            self.picture(told)

    def picture(self, picture: Image) -> None:
        """The best picture so far."""
        self.src = source(picture, quality=QUALITY)
        self.tell()

    def loss(self, value: float) -> None:
        """One loss more."""
        self.losses.append(value)
        if time.monotonic() - self.told >= PACE:
            self.tell()

    def tell(self, *, stopped: bool = False) -> None:
        """Reports all of it."""
        self.told = time.monotonic()
        facts = {"attack": self.attack, "on": self.on, "stopped": stopped}
        self.watch.put("live", {**facts, "src": self.src, "losses": list(self.losses)})


def attempts(state: AppState, view: View) -> dict[str, Any]:
    """What can be tried on the view's edit, and all that has been tried, with a sentence."""
    kind = state.kind(view.model)
    order = sorted(ATTACKS, key=lambda name: name != view.attack)  # the last one first
    tried = {name: found for name in order if (found := known(state, view, name))}
    acting, on = view.applied(), there(state, view)
    return {
        "model": view.model,
        "concept": label(view.concept),
        "edit": " + ".join(f"{place(kept)} · {kept.strength:.3g}" for kept in acting),
        "attacks": [offer(state, view, attack, kind, on) for attack in ATTACKS.values()],
        "first": [view.attack] if view.attack else list(FIRST[kind]),
        "tried": [entry(name, found) for name, found in tried.items()],
        "sentence": summed(state, view),
    }


def known(state: AppState, view: View, name: str) -> dict[str, Tried]:
    """What an attack gave on the edited, the original and the reference model, as far as it was
    tried on the view's edit."""
    found = {on: state.shown.peek(key(view, name, on)) for on in ON}
    return {on: tried for on, tried in found.items() if tried} if found["edited"] else {}


def key(view: View, name: str, on: str) -> tuple[Any, ...]:
    """What the result of an attack depends on: on other models not on the edit, where it does
    not ask which tensors that moved."""
    acting = view.applied() if on == "edited" or ATTACKS[name].of_edit else ()
    return "attack", view.model, view.concept, name, on, acting


def there(state: AppState, view: View) -> list[str]:
    """Which models can be attacked: a reference only where one never saw the concept."""
    try:
        experiment.reference_name(state.kind(view.model), label(view.concept), view.model)
    except SlugError:
        return [on for on in ON if on != "reference"]
    return list(ON)


def offer(
    state: AppState, view: View, attack: Attack, kind: str, on: Sequence[str]
) -> dict[str, Any]:
    """An attack to choose: what it is, how long it takes on the models `on` where it has not been
    tried, and why it cannot be chosen."""
    missing = sum(state.shown.peek(key(view, attack.name, where)) is None for where in on)
    return {
        "name": attack.name,
        "group": attack.group,
        "access": attack.access,
        "budget": attack.deviations,
        "cite": attack.cite,
        "estimate": attack.seconds * missing,
        "reason": attack.unable(kind),
    }


def entry(name: str, found: dict[str, Tried]) -> dict[str, Any]:
    """One attack with what it gave on each model."""
    attack = ATTACKS[name]
    return {
        "name": name,
        "access": attack.access,
        "budget": attack.deviations,
        "cite": attack.cite,
        "sides": {on: {**tried.shown, "reason": tried.reason} for on, tried in found.items()},
    }


def chosen(state: AppState, view: View, names: Sequence[str]) -> list[Attack]:
    """The attacks of these names; raises SlugError for one that is none or cannot be tried here."""
    found = [attacks.named(name) for name in names]
    for attack in found:
        if reason := attack.unable(state.kind(view.model)):
            raise SlugError(reason)
    return found


def run(
    state: AppState,
    view: View,
    watch: Watch,
    names: Sequence[str],
    *,
    panel: Callable[[], dict[str, Any]],
    on: Sequence[str] = ON,
) -> str:
    """Tries attacks on the view's edit, then on the other models; what to say in the end.

    What was tried before is not tried again; what is done when a visitor stops stays. `panel` is
    shown after each. Raises SlugError for a name that is none, an attack that cannot be tried on
    the model, or a view without an edit.
    """
    wanted = chosen(state, view, names)
    if "edited" in on and not view.applied():
        raise SlugError("There is no edit to attack yet: choose a layer, or run a method, first.")
    for where, attack in itertools.product(on, wanted):
        _try(state, view, watch, attack, where)
        watch.put("live", {})
        watch.put("attack", panel())
    first = [state.shown.peek(key(view, attack.name, on[0])) for attack in wanted]
    reasons = dict.fromkeys(tried.reason for tried in first if tried and tried.reason)
    return " ".join([told for told in (summed(state, view), *reasons) if told])


def summed(state: AppState, view: View) -> str:
    """The sentence that sums up all that was tried on the view's edit; "" before anything was."""
    tried = [known(state, view, name) for name in ATTACKS]
    return verdict.summary([row for found in tried for row in rows_of(found)])


def rows_of(found: dict[str, Tried]) -> list[Result]:
    """The rows of an attack on the models on which it was tried."""
    return [row for tried in found.values() for row in tried.rows]


def successes(state: AppState, view: View) -> list[float]:
    """How often each attack that was tried on the view's edit brought the concept back."""
    tried = [known(state, view, name).get("edited") for name in ATTACKS]
    rows = [row for found in tried if found for row in found.rows]
    return [row.value for row in rows if row.metric == "success" and row.n]


def _try(state: AppState, view: View, watch: Watch, attack: Attack, on: str) -> None:
    """One attack on one model, kept with its pictures, or why it cannot be tried."""
    mine = key(view, attack.name, on)
    before = state.shown.peek(mine)
    edited = state.shown.peek(key(view, attack.name, "edited"))
    if (before and not before.reason) or (on != "edited" and edited and edited.reason):
        return
    live = Live(watch, attack.name, on)
    where = {"edited": "", "original": " on the original", "reference": " on the reference"}[on]
    watch.say(f"{attack.name}{where}")
    live.tell()
    task = state.task(view, watch)

    def progress(text: str, done: int, total: int) -> None:
        watch.progress(f"{attack.name}{where}: {text}", done, total)

    edits = state.applied(view, watch)
    task = task.watched(progress, watch.stop.is_set)
    try:
        rows, found = state.workers.run(jobs.attack, task, live.hear, attack.name, edits, on)
    except Cancelled as stopped:
        live.tell(stopped=True)
        raise Cancelled(STOPPED) from stopped
    except SlugError as problem:
        rows = [experiment.missing(task, attack.name, str(problem))] if on == "reference" else []
        state.shown.put(mine, Tried(tuple(rows), {}, str(problem)))
    else:
        state.shown.put(mine, Tried(tuple(rows), side(rows, found)))


def side(rows: Sequence[Result], found: Attacked | None = None) -> dict[str, Any]:
    """What is shown of one attack on one model: the rate before it always apart from its own."""
    by_metric = {row.metric: row for row in rows}
    success, before = by_metric["success"], by_metric.get("before attack")
    facts: dict[str, Any] = {
        "rate": success.value,
        "low": success.low,
        "high": success.high,
        "n": success.n,
        "before": before.value if before else None,
        "n_before": before.n if before else 0,
        "seconds": success.seconds,
        "note": success.note,
        "losses": [],
        "curve": [],
        "pictures": [],
        "more": 0,
    }
    if found is None:
        return facts
    order = sorted(range(len(found.pictures)), key=lambda at: not found.hits[at])[:SHOWN]
    return facts | {
        "note": found.note,
        "found": found.found,
        "losses": list(found.losses),
        "curve": [[text, rate] for text, rate in found.curve.items()],
        "pictures": [
            {
                "src": source(found.pictures[at], quality=QUALITY),
                "hit": found.hits[at],
                "said": list(found.tries[at]) if found.tries else [],
            }
            for at in order
        ],
        "more": len(found.pictures) - len(order),
    }


# ---- every attack against every method


def show(state: AppState, view: View) -> dict[str, Any]:
    """The heat map: a row for each attack, the two other models, and every method that can serve."""
    kind = state.kind(view.model)
    model = state.model(view.model)
    reasons = {method.name: method.unable_on(model) for method in METHODS.values()}
    able = [name for name, reason in reasons.items() if not reason]
    views = {name: _opened(state, view, name) for name in able}
    kept = [row for row in shipped.rows(view.model, view.concept) if row.attack]
    stale = _stale(state, view, kept)
    on = there(state, view)
    ordered = sorted(ATTACKS.values(), key=lambda each: GROUPS.index(each.group))
    return {
        "model": view.model,
        "concept": label(view.concept),
        "columns": [*OTHERS, *able],
        "about": OTHERS,
        "away": [[name, reason] for name, reason in reasons.items() if reason],
        "rows": [
            {
                **offer(state, view, each, kind, on),
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
        found[name] = _side(state.shown.peek(key(bare, attack.name, name)), []) or found[name]
    for name, mine in views.items():
        tried = known(state, mine, attack.name) if mine else {}
        if here := _side(tried.get("edited"), []):
            ends = {on: _side(tried[on], []).get("rate") for on in OTHERS if on in tried}
            found[name] = here | ends
    return {name: cell for name, cell in found.items() if cell}


def _side(tried: Tried | None, rows: Sequence[Result]) -> dict[str, Any]:
    """One cell from what was tried here or else from shipped rows; {} for neither."""
    keys = ("rate", "low", "high", "n", "before", "n_before", "seconds")
    if tried and tried.reason:
        return {"source": "here", "reason": tried.reason}
    if tried:
        return {"source": "here", **{key: tried.shown[key] for key in keys}}
    if any(row.metric == "success" and row.n for row in rows):
        return {"source": "shipped", **{key: side(rows)[key] for key in keys}}
    reason = next((row.note for row in rows if row.note), "")
    return {"source": "shipped", "reason": reason} if reason else {}


def detail(state: AppState, view: View, method: str, name: str) -> dict[str, Any]:
    """One cell: what the attack gave on this method's edit, on the original and on the reference.

    Raises SlugError for a name that is none.
    """
    attack = attacks.named(name)
    kind = state.kind(view.model)
    mine = _view(state, view, method)
    found = known(state, mine, attack.name) if mine else {}
    if method in OTHERS:
        tried = state.shown.peek(key(view.unedited(), attack.name, method))
        found = {method: tried} if tried else {}
    rows = [row for row in shipped.rows(view.model, view.concept) if row.attack == attack.name]
    given: dict[str, Tried] = dict(found)
    for on in ON:
        own = [r for r in rows if r.on == on and r.n and (on != "edited" or r.method == method)]
        if on not in given and own:
            given[on] = Tried(tuple(own), side(own))
    return {
        "title": f"{attack.name} against {method}",
        "concept": label(view.concept),
        "model": view.model,
        "attacks": [],
        "first": [],
        "tried": [entry(attack.name, given)] if given else [],
        "sentence": verdict.summary(rows_of(given)),
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
    rough = METHODS[method].seconds
    need = 0.0 if mine else shipped.seconds(view.model, method, rough) + JUDGED
    kind, on = state.kind(view.model), there(state, view)
    return need + offer(state, mine or view, attack, kind, on)["estimate"]


def fill(state: AppState, view: View, watch: Watch, method: str, name: str) -> str:
    """Fills one cell, running the method first where it has not been; what to say.

    Raises SlugError for a name that is none, or one that cannot serve or attack the model.
    """
    (attack,) = chosen(state, view, [name])

    def panel() -> dict[str, Any]:
        return detail(state, view, method, attack.name)

    if method in OTHERS:
        bare = view.unedited()
        said = run(state, bare, watch, [attack.name], panel=panel, on=[method])
    else:
        method = named(method).name
        mine = _opened(state, view, method)
        if mine is None:
            reason = compare.run(state, view, watch, [method], shown=lambda: None)
            mine = _opened(state, view, method)
        if mine is None:
            raise SlugError(reason)
        run(state, mine, watch, [attack.name], panel=panel)
        said = verdict.summary(rows_of(known(state, mine, attack.name)))
    watch.put("gone", show(state, view))
    return said or f"{attack.name} was tried on the {method} model."
