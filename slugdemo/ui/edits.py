"""EDITS: those that a visitor keeps in the tray, those from files, and the view that is pinned as A."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from slugdemo import weights
from slugdemo.edit import Edit, clip_name, load
from slugdemo.errors import SlugError
from slugdemo.layer_names import label as layer_label
from slugdemo.search import where
from slugdemo.ui import see, step
from slugdemo.ui.state import AppState, digests
from slugdemo.ui.tasks import Watch
from slugdemo.ui.view import DIGEST, FARTHEST, KEPT, MARK, Kept, View, label, place

LONGEST = 40  # letters of a name


def show(view: View) -> dict[str, Any]:
    """The tray as the page shows it, with a word when two edits share a layer."""
    rows = [
        {"name": kept.name or named(kept), "on": kept.on, "full": named(kept)} for kept in view.tray
    ]
    places = [kept.layer for kept in view.tray if kept.on and kept.layer]
    shared = sorted({layer_label(layer) for layer in places if places.count(layer) > 1})
    note = f"Two edits share {', '.join(shared)}: they add up." if shared else ""
    return {"rows": rows, "note": note}


def named(kept: Kept) -> str:
    """An edit of the tray in a few words."""
    what = layer_label(kept.layer) if kept.layer else kept.method
    return f"{label(kept.concept)} · {what} · {kept.strength:.3g}"


def keep(view: View) -> tuple[View, str]:
    """The view with its edit in the tray, and a sentence that says so."""
    if not view.strength:
        raise SlugError("A strength of 0 changes nothing: move the slider before keeping the edit.")
    new = view.edit
    same = [kept for kept in view.tray if kept.place == new.place]
    rest = [kept for kept in view.tray if kept not in same]
    if len(rest) >= KEPT:
        raise SlugError(f"The tray holds {KEPT} edits; take one out first.")
    new = replace(new, name=same[0].name if same else "")
    return replace(view, tray=(*rest, new)), f"Kept: {named(new)}."


def switched(view: View, number: int) -> tuple[View, str]:
    """The view with one edit of the tray switched on or off, and a sentence."""
    kept = _at(view, number)
    said = f"{named(kept)}: {'off' if kept.on else 'on'}."
    return _with(view, number, replace(kept, on=not kept.on)), said


def dropped(view: View, number: int) -> tuple[View, str]:
    """The view without one edit of the tray, and a sentence."""
    gone = _at(view, number)
    return _with(view, number), f"Taken out: {named(gone)}. Undo brings it back."


def renamed(view: View, number: int, name: str) -> tuple[View, str]:
    """The view with another name for one edit of the tray, and a sentence."""
    kept = _at(view, number)
    name = " ".join(name.replace("~", " ").split())[:LONGEST]
    said = f"It is called “{name or named(kept)}” now."
    return _with(view, number, replace(kept, name=name)), said


def _at(view: View, number: int) -> Kept:
    if not 0 <= number < len(view.tray):
        raise SlugError("There is no such edit in the tray.")
    return view.tray[number]


def _with(view: View, number: int, *new: Kept) -> View:
    return replace(view, tray=(*view.tray[:number], *new, *view.tray[number + 1 :]))


def pinned(state: AppState, view: View, watch: Watch) -> dict[str, Any]:
    """What the pinned view A shows in each block, to stand beside B; {} when nothing is pinned."""
    pin = view.pinned()
    if pin is None:
        return {}
    pin = state.settled(pin)
    if pin.strength is None or not pin.chosen:
        raise SlugError("The pinned view has no edit or no strength: pin another one.")
    watch.say("Preparing A")
    return {
        "name": named(pin.edit),
        "concept": label(pin.concept),
        "layer": pin.layer,
        "place": place(pin.edit),
        "step": pin.strength,
        "kind": state.kind(pin.model),
        "same": (pin.model, pin.concept) == (view.model, view.concept),
        "curve": step.show(state, pin, watch)["figure"]["data"],
        "see": see.show(state, pin, watch),
        "collateral": see.collateral(state, pin, watch),
        "ladder": step.ladder(state, pin, watch)["rows"],
    }


# ---- an edit from a file


def opened(
    state: AppState, view: View, watch: Watch, *, visitor: str, name: str, given: str
) -> View:
    """The view with the edit of a file: shown again where it can be made here, else in the tray.

    Raises SlugError for a file that is no edit or that was made for other weights.
    """
    del name
    path = Path(given)
    clip, unet = digests(state.opened(view.model))
    try:
        found = load(path, weights=clip, unet=unet)
    except SlugError:
        raise
    except Exception as error:  # many kinds, by damaged files
        raise SlugError(f"{path.name[:60]} cannot be read as an edit.") from error
    watch.say("Comparing the file with what is made here")
    strength = round(found.strength, 4)
    if (again := _again(state, view, found, watch)) is not None:
        return replace(again, strength=strength, trace=())
    if not 0 <= strength <= FARTHEST:
        raise SlugError(
            f"{where(found, strength)}: the page shows strengths up to {FARTHEST:g} only."
        )
    secret = state.uploads.bring(visitor, found)
    kept = Kept(f"{found.concept[:60]}{MARK}{secret}", "", strength, method=found.method)
    return replace(view, tray=(*view.tray, kept)).checked()


def _again(state: AppState, view: View, found: Edit, watch: Watch) -> View | None:
    """The view of the very same edit where the page has it or makes it itself; else None."""
    shipped = {name for names in state.forgettable.values() for name in names}
    if found.concept not in shipped or not 0 < found.strength <= FARTHEST:
        return None
    view = view.of_concept(concept=found.concept)
    if not found.layer:
        mine = replace(view, method=found.method, digest=found.digest[:DIGEST])
        mine = replace(mine, anchor=found.about.get("replace_by", "")[:200])
        return mine if state.edits.peek((view.model, *mine.edit.place)) else None
    mine = view.of_layer(clip_name(found.layer), found.method)
    try:
        own = state.edit(mine, mine.edit, watch)
    except SlugError:
        return None
    if own.delta.keys() != found.delta.keys():
        return None
    return mine if weights.cosine(own.delta, found.delta) > 0.9999 else None
