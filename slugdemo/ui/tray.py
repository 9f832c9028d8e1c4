"""TRAY: the edits that a visitor keeps, and the view that is pinned as A beside what is shown."""

from dataclasses import replace
from typing import Any

from slugdemo.errors import SlugError
from slugdemo.ui import ladder, see, step, words
from slugdemo.ui.jobs import Watch
from slugdemo.ui.session import World
from slugdemo.ui.view import KEPT, Kept, View, label

LONGEST = 40  # letters of a name


def show(view: View) -> dict[str, Any]:
    """The tray as the page shows it, with a word when two edits share a tensor."""
    rows = [{"name": one.name or named(one), "on": one.on, "full": named(one)} for one in view.tray]
    places = [one.layer for one in view.tray if one.on]
    shared = sorted({words.short(one) for one in places if places.count(one) > 1})
    note = f"Two edits share {', '.join(shared)}: they add up." if shared else ""
    return {"rows": rows, "note": note}


def named(kept: Kept) -> str:
    """An edit of the tray in a few words."""
    tower = "vision" if kept.layer.startswith("visual.") else "text"
    return f"{label(kept.concept)} · {tower} {words.short(kept.layer)} · {kept.step:.3g}"


def keep(view: View, watch: Watch) -> tuple[View, Watch, str]:
    """The view with its edit in the tray, and a sentence that says so."""
    if not view.step:
        raise SlugError("A step of 0 changes nothing: move the step before keeping the edit.")
    new = Kept(view.concept, view.layer, view.step)
    same = [one for one in view.tray if (one.concept, one.layer) == (new.concept, new.layer)]
    rest = [one for one in view.tray if one not in same]
    if len(rest) >= KEPT:
        raise SlugError(f"The tray holds {KEPT} edits; take one out first.")
    new = replace(new, name=same[0].name if same else "")
    return replace(view, tray=(*rest, new)), watch, f"Kept: {named(new)}."


def switched(view: View, number: int) -> tuple[View, str]:
    """The view with one edit of the tray switched on or off, and a sentence."""
    one = _at(view, number)
    said = f"{named(one)}: {'off' if one.on else 'on'}."
    return _with(view, number, replace(one, on=not one.on)), said


def dropped(view: View, number: int) -> tuple[View, str]:
    """The view without one edit of the tray, and a sentence."""
    gone = _at(view, number)
    return _with(view, number), f"Taken out: {named(gone)}. Undo brings it back."


def renamed(view: View, number: int, name: str) -> tuple[View, str]:
    """The view with another name for one edit of the tray, and a sentence."""
    one = _at(view, number)
    name = " ".join(name.replace("~", " ").split())[:LONGEST]
    return _with(view, number, replace(one, name=name)), f"It is called “{name or named(one)}” now."


def _at(view: View, number: int) -> Kept:
    if not 0 <= number < len(view.tray):
        raise SlugError("There is no such edit in the tray.")
    return view.tray[number]


def _with(view: View, number: int, *new: Kept) -> View:
    return replace(view, tray=(*view.tray[:number], *new, *view.tray[number + 1 :]))


def pinned(world: World, view: View, watch: Watch) -> dict[str, Any]:
    """What the pinned view A shows in each block, to stand beside B; {} when nothing is pinned."""
    pin = view.pinned()
    if pin is None:
        return {}
    pin = world.settled(pin)
    if pin.step is None or not pin.layer:
        raise SlugError("The pinned view has no layer or no step: pin another one.")
    watch.say("Holding A")
    return {
        "name": named(Kept(pin.concept, pin.layer, pin.step)),
        "concept": label(pin.concept),
        "layer": pin.layer,
        "step": pin.step,
        "kind": world.kind(pin.model),
        "same": (pin.model, pin.concept) == (view.model, view.concept),
        "curve": step.show(world, pin, watch)["figure"]["data"],
        "see": see.show(world, pin, watch),
        "collateral": see.collateral(world, pin, watch),
        "ladder": ladder.show(world, pin, watch)["rows"],
    }
