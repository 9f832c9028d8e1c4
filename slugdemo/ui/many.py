"""MANY: many concepts erased in one model, together or one after another, as curves of each method.

Curves that come with the app show at once; a small run is made live. Knows the engine's `many`.
"""

from collections.abc import Callable, Iterable
from typing import Any

from slugdemo import many
from slugdemo.benchmark import shipped
from slugdemo.concept import Concept
from slugdemo.errors import SlugError
from slugdemo.many import ORDERS, Joint
from slugdemo.methods import METHODS, named
from slugdemo.results import plain
from slugdemo.ui.state import AppState
from slugdemo.ui.tasks import Watch
from slugdemo.ui.view import MARK, View

COUNTS = (1, 2, 3)  # concepts of a live run


def show(state: AppState, view: View) -> dict[str, Any]:
    """The curves: {"orders", "methods" that can be run live, "count", "lines", "reason"}."""
    kind = state.kind(view.model)
    able = [method.name for method in METHODS.values() if not method.unable(kind)]
    live = [row for order in ORDERS for name in able for row in _live(state, view, order, name)]
    mine = {(row.method, row.order) for row in live}
    kept = [row for row in shipped.joint(view.model) if (row.method, row.order) not in mine]
    reason = (
        "" if kind != "vlm" else "A model that answers questions is erased one concept at a time."
    )
    return {
        "orders": ORDERS,
        "methods": [] if reason else able,
        "count": COUNTS[-1],
        "reason": reason,
        "lines": [*_lines(kept, "shipped"), *_lines(live, "here")],
    }


def run(
    state: AppState, view: View, watch: Watch, name: str, order: str, *, shown: Callable[[], None]
) -> str:
    """A live run on a few concepts, the view's first; what to say in the end.

    Raises SlugError for a method or an order that is none, and for a concept of one's own.
    """
    method, found = named(name), list[Joint]()
    watch.say(f"{method.name} on {COUNTS[-1]} concepts, {order}")
    for rows in many.many(
        state.opened(view.model),
        _concepts(state, view),
        [method.name],
        order=order,
        counts=COUNTS,
        progress=watch.progress,
        cancelled=watch.stop.is_set,
    ):
        found += rows
        state.shown.put(_key(view, order, method.name), tuple(found))
        shown()
    last = {row.metric: row for row in found[-2:]}
    left, kept = last["forget_acc"], last["retain_acc"]
    return (
        f"{method.name}, {left.count} concepts {order}: {left.value:.0%} of {left.n} pictures of "
        f"them are left, {kept.value:.0%} of {kept.n} others are kept."
    ).replace("%", " %")


def _concepts(state: AppState, view: View) -> list[str]:
    """The view's concept and the next ones of its kind."""
    if MARK in view.concept:
        raise SlugError("Many concepts are erased among the shipped ones: choose one of them.")
    concept: Concept = state.concept(view.concept)
    style = concept.domain == "style"
    alike = [some for kind, some in state.forgettable.items() if (kind == "style") == style]
    names = [name for some in alike for name in some]
    at = names.index(concept.name)
    return (names[at:] + names[:at])[: COUNTS[-1]]


def _key(view: View, order: str, method: str) -> tuple[str, ...]:
    return "many", view.model, view.concept, order, method


def _live(state: AppState, view: View, order: str, method: str) -> tuple[Joint, ...]:
    return state.shown.peek(_key(view, order, method)) or ()


def _lines(rows: Iterable[Joint], source: str) -> list[dict[str, Any]]:
    """One line for each method, order and metric, with its points in order of their counts."""
    lines: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: row.count):
        key = (row.method, row.order, row.metric)
        names = {"method": row.method, "order": row.order, "metric": row.metric}
        line = lines.setdefault(key, {**names, "source": source, "how": row.how, "points": []})
        line["points"].append(plain([row.count, row.value, row.n, row.low, row.high, row.concept]))
        line["how"] = row.how or line["how"]
    return [*lines.values()]
