"""TABLE: what is known of every method on one concept, as the rows and columns of the view Compare.

Knows what was run here and what came with the app; runs nothing.
"""

import math
import re
import time
from itertools import takewhile
from typing import Any, NamedTuple

from slugdemo.benchmark import published, shipped
from slugdemo.evaluation.prompt_set import Measurement
from slugdemo.experiment import CONTROLS, ORIGINAL, REFERENCES
from slugdemo.methods import METHODS
from slugdemo.methods.method import GROUPS, Method
from slugdemo.results import HARMONIC, overall, plain
from slugdemo.task import Task
from slugdemo.ui import compare, gone
from slugdemo.ui.compare import CONTROLLED, UNSEEN, Run
from slugdemo.ui.state import AppState
from slugdemo.ui.view import View, label


class Column(NamedTuple):
    """One figure of each row; `less` where less is better, `form` how it is written."""

    key: str
    title: str
    note: str
    less: bool = False
    form: str = "share"


class Columns(NamedTuple):
    """Columns that are shown together."""

    title: str
    columns: tuple[Column, ...]


LEFT = "still recognised by the model's own CLIP, zero-shot on held-out pictures"
COST = Columns(
    "Cost",
    (
        Column("peak_bytes", "memory", "peak of memory beyond the model, while the edit is made", True, "bytes"),
        Column("bytes", "stored", "bytes of the edit's tensors, 16 bits a number", True, "bytes"),
        Column("layers", "layers", "layers that it changes", True, "count"),
        Column("parameters", "numbers", "parameters that it changes", True, "count"),
    ),
)  # fmt: skip
IN_CLIP = (
    Column("clip_left", "left in CLIP", f"pictures of the concept {LEFT}", True),
    Column("clip_kept", "kept in CLIP", f"other pictures {LEFT}"),
)
NEIGHBOURS = Columns(
    "Neighbours",
    (
        Column("near by look", "by look", "neighbours whose pictures are most alike, still recognised"),
        Column("near by name", "by name", "neighbours whose names are most alike, still recognised"),
        Column("near by meaning", "by meaning", "neighbours by meaning (CLIP's text tower), still recognised"),
        Column("rest", "rest", "everything near in none of these ways, still recognised"),
    ),
)  # fmt: skip
FID = (
    "Frechet distance of all other pictures to real ones, in the judge's features: not Inception's"
)
MEMBERS = (
    "how well the cosine of picture and name tells pictures to forget from others; 0.5: not at all"
)
NEVER = "the model that never saw the concept"
REFERRED = (
    Column("as never saw it", "as if never seen", f"items that {NEVER} answers alike: exact unlearning is 100 %"),
    Column("distance to never saw it", "distance", f"of its features from those of {NEVER}", True, "number"),
    Column(HARMONIC, "harmonic", f"{HARMONIC}, where attacks were run", form="number"),
)  # fmt: skip
COLUMNS: dict[str, tuple[Columns, ...]] = {
    "diffusion": (
        Columns(
            "Accuracy",
            (
                Column("ua", "UA", "unlearning accuracy: pictures asked for the concept that do not show it"),
                Column("ira", "IRA", "other concepts of the same kind that are still drawn right"),
                Column("cra", "CRA", "concepts of the other kind (styles for things) still drawn right"),
            ),
        ),
        Columns(
            "Erased in CLIP?",
            (Column("ua", "erased in images", "UA: pictures asked for the concept that do not show it"), *IN_CLIP),
        ),
        NEIGHBOURS,
        Columns(
            "Reference",
            (
                *REFERRED,
                Column("judge-FID", "judge-FID", FID, True, "number"),
                Column("judge-KID", "judge-KID", "kernel distance of the same features", True, "number"),
            ),
        ),
        COST,
    ),
    "zero-shot": (
        Columns(
            "Accuracy",
            (
                Column("forget_acc", "left", "pictures of the concept that are still recognised", True),
                Column("forget_acc@5", "left @5", "pictures with the concept among the five best", True),
                Column("retain_acc", "kept", "pictures of everything else that are still recognised"),
                Column("style", "styles", "styles still recognised"),
                Column("background", "background", "backgrounds recognised as before"),
            ),
        ),
        NEIGHBOURS,
        Columns(
            "Reference",
            (
                *REFERRED,
                Column("membership AUC", "membership", MEMBERS, True, "number"),
            ),
        ),
        COST,
    ),
    "vlm": (
        Columns(
            "Accuracy",
            (
                Column("forget_acc", "left", "pictures of the concept whose answer still names it", True),
                Column("retain_acc", "kept", "answers about everything else that are still right"),
                Column("style", "styles", "styles still recognised"),
                Column("concept", "names", "names still recognised"),
                Column("background", "background", "answers about the background that stay as they were"),
            ),
        ),
        Columns(
            "Erased in CLIP?",
            (Column("forget_acc", "left in answers", "answers that still name it", True), *IN_CLIP),
        ),
        NEIGHBOURS,
        Columns("Reference", REFERRED),
        COST,
    ),
}  # fmt: skip
# Rough seconds of judging a row on a model of pocket size, and of what is no method.
JUDGING = {"diffusion": 8.0, "zero-shot": 0.5, "vlm": 6.0}
OTHERS = {
    "opposite direction": 1.0,
    "random direction": 1.0,
    "random layer": 25.0,
    "all front layers": 1.0,
    UNSEEN: 1.0,
}
ABOUT = {
    "opposite direction": f"The edit by {CONTROLLED} reversed: a step along -g of the same length.",
    "random direction": f"A step as long as that of {CONTROLLED} in the same layer, in a random direction.",
    "random layer": f"{CONTROLLED} on a layer chosen at random, with its own best step.",
    "all front layers": f"All layers of the front moved at once, as far as {CONTROLLED} moves one.",
    UNSEEN: "A model of the same kind, trained on the same pictures without this concept.",
}
FIRST = {"diffusion": "UA, IRA and CRA"}  # elsewhere "left" and "kept"
GAUGES = (
    "On things, {} hardly differ between methods. What sets methods apart: styles, time, "
    "neighbours, many concepts at once, attacks, and the distance to the model that never saw the "
    "concept. SLUG is one row among them, and may lose."
)


def show(state: AppState, view: View) -> dict[str, Any]:
    """The table: rows for the original, references, every method and the controls."""
    kind = state.kind(view.model)
    order = {group: number for number, group in enumerate(GROUPS)}
    methods = sorted(METHODS.values(), key=lambda method: order.get(method.group, len(order)))
    judging, weights = JUDGING[kind], _weights(state, view, view.model)
    unseen = _weights(state, view, REFERENCES.get(kind, ""))
    rows = [_original(state, view), _row(state, view, UNSEEN, "references", judging, unseen)]
    rows += [
        _row(state, view, method.name, method.group, judging, weights) | _facts(method)
        for method in methods
    ]
    beside = f"controls of {CONTROLLED}"
    rows += [_row(state, view, name, beside, judging, weights) for name in CONTROLS]
    columns = [
        {"title": group.title, "columns": [column._asdict() for column in group.columns]}
        for group in COLUMNS[kind]
    ]
    return {
        "model": view.model,
        "concept": label(view.concept),
        "kind": kind,
        "anchor": view.anchor,
        "gauges": GAUGES.format(FIRST.get(kind, "“left” and “kept”")),
        "groups": columns,
        "rows": rows,
        "published": _published(state, view) if kind == "diffusion" else [],
        "not_ported": [{"name": n, "reason": why} for n, why in published.NOT_PORTED.items()],
        "many": compare.curves(state, view),
        "roles": [*compare.asked(state, view)] if kind == "diffusion" else [],
    }


def _row(
    state: AppState, view: View, name: str, group: str, judging: float, weights: str
) -> dict[str, Any]:
    rough = METHODS[name].seconds if name in METHODS else OTHERS[name]
    seconds = shipped.seconds(view.model, name, rough)
    row: dict[str, Any] = {
        "name": name,
        "group": group,
        "cite": "",
        "bibtex": "",
        "about": ABOUT.get(name, ""),
        "estimate": seconds,
        "total": seconds + judging,
        "reason": compare.unable(state, view, name),
        "opens": False,
        "explains": name == compare.EXPLAINED,
        "values": {},
        "old": {},
        "seconds": None,
        "source": "",
        "made": "",
        "note": "",
        "pictures": [],
    }
    found = compare.known(state, view, name)
    if isinstance(found, str):
        return row | {"note": found, "source": "here"}
    return row | (_ran(state, found) if found else _shipped(view, name, weights))


def _facts(method: Method) -> dict[str, Any]:
    about = [f"changes {method.changes}"]
    about += [f"deviations: {method.deviations}"] if method.deviations else []
    return {"cite": method.cite, "bibtex": bibtex(method), "about": "; ".join(about)}


def _ran(state: AppState, found: Run) -> dict[str, Any]:
    """A row that was run here, with the attacks on its edit that were tried here."""
    rates = {m.metric: [m.after, *bounds(m), m.n] for m in found.measured}
    tried = gone.successes(state, found.view) if found.view else []
    together = overall({m.metric: m.after for m in found.measured}, tried)
    rates |= {HARMONIC: [together, None, None, len(tried)]} if together is not None else {}
    cost = {"peak_bytes": found.peak_bytes, **found.size}
    return {
        "values": rates | ({key: [number] for key, number in cost.items()} if found.size else {}),
        "old": dict(found.old),
        "seconds": found.seconds if found.size else None,
        "source": "here",
        "made": f"run here {_time(found.at)}",
        "note": "" if found.whole else "on the first pictures; more are judged",
        "opens": found.view is not None,
        "pictures": list(found.pictures),
    }


def bounds(measured: Measurement) -> list[float | None]:
    """The ends of a rate's interval; nothing of what is no rate."""
    return [None if math.isnan(end) else end for end in measured.interval]


def _shipped(view: View, name: str, weights: str) -> dict[str, Any]:
    """A row that came with the app, and whether it was made with the `weights` that are here."""
    rows = compare.shipped_rows(view, name)
    measured = [row for row in rows if row.metric]
    note = next((row.note for row in rows if row.note), "")
    if not measured:
        return {"note": note, "source": "shipped" if note else ""}
    first = measured[0]
    stale = bool(weights) and not all(shipped.current(row, weights) for row in measured)
    date = f" on {day}" if (day := shipped.made()) else ""
    return {
        "values": {row.metric: plain([row.value, row.low, row.high, row.n]) for row in measured}
        | ({"peak_bytes": [first.peak_bytes]} if first.peak_bytes else {}),
        "seconds": plain(first.seconds),
        "source": "shipped",
        "made": f"made beforehand{date} with weights {first.digest[:8]}, seed {first.seed}",
        "note": "made with other weights: run it again" if stale else note,
    }


def _weights(state: AppState, view: View, name: str) -> str:
    """The digest of the weights of the model that are here; "" while it is not in memory."""
    model = state.models.peek(name)
    return Task(model, state.concept(view.concept)).digest if model else ""


def _original(state: AppState, view: View) -> dict[str, Any]:
    """The unedited model: what every run has measured before its edit."""
    runs = [compare.known(state, view, name) for name in METHODS]
    whole = [found for found in runs if isinstance(found, Run) and found.whole]
    row: dict[str, Any] = {"name": ORIGINAL, "group": "references", "source": "shipped"}
    rest = {"reason": "", "note": "", "made": "", "pictures": [], "old": {}, "opens": False}
    if whole:
        values: dict[str, list[Any]] = {
            m.metric: [m.before, None, None, m.n] for m in whole[0].measured
        }
        return row | rest | {"values": values, "source": "here"}
    rows = [row for row in compare.shipped_rows(view, ORIGINAL) if row.metric]
    return row | rest | {"values": {r.metric: plain([r.value, r.low, r.high, r.n]) for r in rows}}


def _published(state: AppState, view: View) -> list[dict[str, Any]]:
    """The published rows, each with its mark in the trade-off plot: rates in per cent, and a hover."""
    domain = state.concept(view.concept).domain
    return [
        {"name": row.method, "style": row.style, "object": row.object, "fid": row.fid,
         "seconds": row.seconds, "memory": row.memory_gb, "storage": row.storage_gb,
         "note": f"{row.source}; {row.note}",
         "rates": row.rates(domain)._asdict(), "hover": _hover(row, domain)}
        for row in published.ROWS
    ]  # fmt: skip


def _hover(row: published.Published, domain: str) -> list[str]:
    """What the mark of a published row says, in lines."""
    rates = row.rates(domain)._asdict().items()
    figures = ", ".join(f"{name.upper()} {rate:.2f} %" for name, rate in rates)
    of = "styles" if domain == "style" else "objects"
    return [f"{row.method}, from {row.source}", f"{of}: {figures}", row.note]


def _time(at: float) -> str:
    return time.strftime("at %H:%M UTC", time.gmtime(at))


def bibtex(method: Method) -> str:
    """What a paper would cite of a method, from its line in the registry; "" without a year."""
    year = re.search(r"\b(19|20)\d\d\b", method.cite)
    if not year:
        return ""
    parts = method.cite.removeprefix("ours, ").removeprefix("after ").split(", ")
    authors = list(takewhile(lambda part: not re.search(r"\d", part), parts))
    named = " and ".join(authors).replace(" et al.", " and others")
    known = bool(named) and named.casefold() != method.name.casefold()
    fields = {"author": named} if known else {}
    fields |= {"title": method.name, "year": year[0]}
    if arxiv := re.search(r"arXiv (\d{4}\.\d{5})", method.cite):
        fields |= {"eprint": arxiv[1], "archivePrefix": "arXiv"}
    fields["note"] = method.cite
    key = re.sub(r"[^a-z0-9]+", "-", method.name)
    inner = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    return f"@misc{{{key},\n{inner}\n}}"
