"""ATLAS: what was computed beforehand, for one preset concept in Erase and for all of them in Atlas.

A preset shows at once, without a model, where the weights, pictures and settings are those that its
entry was made with. The view Atlas shows which layers hold which concepts, who is lost with whom,
and how sure the choice of a layer is. Computes nothing but the comparison that a visitor asks for.
"""

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from slugdemo import images, ladder
from slugdemo.benchmark import atlas, choices
from slugdemo.benchmark.atlas import Entry
from slugdemo.benchmark.cells import code_version
from slugdemo.config import CONFIGS
from slugdemo.errors import SlugError
from slugdemo.layer_names import BLOCK, depth, kind, label, parted, short
from slugdemo.search import Score
from slugdemo.task import Task
from slugdemo.ui import edits, forget, jobs, locate, see, step
from slugdemo.ui.state import CONCEPT_TITLES, AppState
from slugdemo.ui.tasks import Watch, status, unwatched
from slugdemo.ui.view import View

MADE = (
    "Computed beforehand with exactly these weights, pictures and settings. “Again” computes it "
    "anew and shows both."
)
OLDER = " The code has changed since."
NOTHING = "Nothing was computed beforehand for what you see: all of it is computed live."
LOST = 24  # names that stand above the map of who is lost
FEW = 5  # presets that say too little
PAPER = {"text": ("early", "attention"), "vision": ("late", "attention")}  # SLUG, sec. 4.4
Row = dict[str, Any]


# ---- a preset concept at once


def opened(state: AppState, query: Mapping[str, list[str]]) -> dict[str, Any]:
    """What stands in every block of a page that is opened with a link; {} when it must be made."""
    try:
        view, first = View.parse(dict(query)), state.first()
        model, concept = view.model or first.model, view.concept or first.concept
        return {} if view.pin else preset(state, replace(view, model=model, concept=concept))
    except SlugError:
        return {}


def preset(state: AppState, view: View) -> dict[str, Any]:
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
        "tray": edits.tray(view),
        "pin": {},
        "map": locate.show(found, view),
        "layers": {"choices": locate.choices(found), "value": view.layer},
        "curve": _curve(entry, view),
        "see": _see(state, entry, view),
        "collateral": after,
        "ladder": _ladder(state, entry, view),
        "export": edits.take_away(state, view, digest=entry.weights),
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
    see.remember_ladder(state, view, ladder.RUNGS["layer"], cells)
    return see.rungs(entry.kind, view, ladder.RUNGS["layer"], roles, cells)


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
        found = preset(state, view)
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
    now = state.workers.run(jobs.entry, task, jobs.unheard, entry.key)
    return {
        "concept": entry.concept,
        "model": entry.model,
        "rows": atlas.compared(entry, now),
        "seconds": now.seconds,
        "same_code": entry.code == now.code,
        "asked": time.time(),
    }


# ---- the view Atlas


def show(state: AppState, view: View) -> Row:
    """The heat map, the map of who is lost, and the choice of a layer under other conditions."""
    groups = {name: group for group, names in state.forgettable.items() for name in names}
    found = {name: state.entry(view.model, name) for name in groups}
    entries = {name: entry for name, entry in found.items() if entry is not None}
    layers = _layers([*entries.values()])
    return {
        "model": view.model,
        "concept": view.concept,
        "count": [len(entries), len(groups)],
        "layers": [_column(layer, entries) for layer in layers],
        "groups": [
            {
                "title": CONCEPT_TITLES[group],
                "rows": [_row(entries[name], layers) for name in names if name in entries],
            }
            for group, names in state.forgettable.items()
        ],
        "said": said([*entries.values()]),
        "lost": _lost(entries),
        "choices": _choices(state, view, [*entries.values()]),
    }


def _layers(entries: Sequence[Entry]) -> list[str]:
    """The layers that the model reads, tower by tower, in the order of a forward pass."""
    every = dict.fromkeys(layer for entry in entries for layer in entry.editable)
    return sorted(every, key=lambda layer: (parted(layer)[0], depth(layer)))


def _column(layer: str, entries: dict[str, Entry]) -> Row:
    block = BLOCK.fullmatch(parted(layer)[1])
    chosen = sum(entry.layer == layer for entry in entries.values())
    return {
        "layer": layer,
        "name": short(layer),
        "tower": parted(layer)[0],
        "block": block[1] if block else "",
        "chosen": chosen,
    }


def _row(entry: Entry, layers: Sequence[str]) -> Row:
    scores = {score.layer: score for score in entry.layers}
    assert entry.after is not None
    return {
        "concept": entry.concept,
        "layer": entry.layer,
        "strength": entry.strength,
        "left": entry.after.forget_acc,
        "kept": entry.after.retain_acc,
        "feasible": entry.feasible,
        "importance": [_digits(scores[layer].importance) for layer in layers],
        "alignment": [_digits(scores[layer].alignment) for layer in layers],
        "front": [number for number, layer in enumerate(layers) if layer in entry.front],
    }


def _digits(value: float) -> float:
    return float(f"{value:.3g}")


# ---- does the paper's claim hold?


def said(entries: Sequence[Entry]) -> str:
    """Whether the paper's “late attention in vision, early attention in text” holds here."""
    if len(entries) < FEW:
        return (
            "The paper finds early attention in text and late attention in vision. "
            "Too few presets are computed here to say whether that holds."
        )
    parts, holding = [], []
    for tower, (half, what) in PAPER.items():
        chosen = [entry.layer for entry in entries if parted(entry.layer)[0] == tower]
        if not chosen:
            if any(parted(layer)[0] == tower for layer in entries[0].editable):
                parts.append(f"none in the {tower} tower")
            continue
        blocks = _blocks(entries, tower)
        there = [layer for layer in chosen if _half(layer, blocks) == half]
        such = [layer for layer in chosen if kind(layer).startswith(what)]
        both = [layer for layer in there if layer in such]
        holding.append(2 * len(both) > len(chosen))
        top, times = Counter(chosen).most_common(1)[0]
        name = label(top)
        parts.append(
            f"{len(chosen)} of {len(entries)} chosen layers are in the {tower} tower: "
            f"{len(there)} in its {half} half, {len(such)} in attention, {len(both)} in both; most often "
            f"{name[:1].lower()}{name[1:]} ({times})"
        )
    verdict = "holds" if all(holding) else "does not hold" if not any(holding) else "holds in part"
    return (
        f"The paper finds early attention in text and late attention in vision. Here that "
        f"{verdict}: {'; '.join(parts)}."
    )


def _blocks(entries: Sequence[Entry], tower: str) -> int:
    layers = {score.layer for entry in entries for score in entry.layers}
    inside = [layer for layer in layers if parted(layer)[0] == tower and depth(layer)[0] == 1]
    return 1 + max((depth(layer)[1] for layer in inside), default=0)


def _half(layer: str, blocks: int) -> str:
    """ "early" or "late"; what lies before the blocks is early, what lies after them late."""
    around, block, _ = depth(layer)
    if around != 1:
        return "late" if around else "early"
    return "early" if 2 * block < blocks else "late"


# ---- who is lost with whom


def _lost(entries: dict[str, Entry]) -> Row:
    """Erased x lost, in points; the columns are the names that are lost most often."""
    rows: dict[str, dict[str, int]] = {}
    for name, entry in entries.items():
        fallen = {
            row["name"]: round(100 * (row["after"] - row["before"]))
            for row in entry.collateral["rows"]
            if row["after"] < row["before"]
        }
        rows[name] = fallen
    times = Counter(name for fallen in rows.values() for name in fallen)
    names = [name for name, _ in times.most_common(LOST)]
    return {
        "names": names,
        "times": [times[name] for name in names],
        "others": len(times) - len(names),
        "rows": [
            {
                "concept": name,
                "total": len(fallen),
                "points": [fallen.get(lost, 0) for lost in names],
                "all": [
                    f"{lost} {points}".replace("-", "\u2212") for lost, points in fallen.items()
                ],
            }
            for name, fallen in rows.items()
        ],
    }


# ---- how sure is the choice?


def _choices(state: AppState, view: View, entries: Sequence[Entry]) -> list[Row]:
    """The choices that were computed for a CLIP which this model carries, as they are shown."""
    if not entries:
        return []
    keys = {entry.model: entry.key for entry in entries}
    for model in {offered.name for offered in state.offers} - {view.model}:
        for concept in state.shipped.concepts(model)[:1]:
            other = state.entry(model, concept)
            if other is not None and other.weights == entries[0].weights:
                keys[model] = other.key
    return [
        {
            "model": choice.model,
            "concept": choice.concept,
            "what": choice.what,
            "value": choice.value,
            "layer": choice.layer,
            "name": label(choice.layer) if choice.layer else "",
            "overlap": _number(choice.overlap),
            "rank": _number(choice.rank),
            "strength": _number(choice.strength),
            "left": _number(choice.forget_acc),
            "kept": _number(choice.retain_acc),
            "note": choice.note,
        }
        for choice in choices.shipped(atlas.place(), keys)
    ]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
