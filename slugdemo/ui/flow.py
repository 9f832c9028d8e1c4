"""What follows from what: a visitor changes one thing, and all below it is shown anew.

Each function takes the world, a view and a watch, and puts news for named blocks of the page;
nothing here knows gradio, so all of it runs without a server.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from slugdemo.errors import SlugError
from slugdemo.layers import ALIGNMENTS
from slugdemo.ui import compare, forget, ladder, locate, see, shelf, step, words
from slugdemo.ui.jobs import Watch
from slugdemo.ui.locate import Map
from slugdemo.ui.session import KEPT, Kept, View, World

READY = "Ready."


def concept(world: World, view: View, watch: Watch) -> None:
    """A model or a concept was chosen: everything is new."""
    view = world.settled(view)
    watch.put("view", view)
    watch.put("forget", forget.show(world, view))
    watch.put("words", _prompt(world, view))
    watch.put("tray", tray(view))
    watch.say(f"Opening {view.model}")
    found = locate.locate(world, view, watch)
    if view.layer not in locate_names(found):
        view = replace(view, layer=found.best(), step=None, trace=())
    _layer(world, view, watch, found)


def locate_names(found: Map) -> set[str]:
    """The layers that can be chosen in this model."""
    return {one.layer for one in found.scores if found.reads(one)}


def layer(world: World, view: View, watch: Watch) -> None:
    """A layer was chosen."""
    view = world.settled(view)
    found = locate.locate(world, view, watch)
    found.score(view.layer)
    _layer(world, replace(view, step=None, trace=()), watch, found)


def _layer(world: World, view: View, watch: Watch, found: Map) -> None:
    watch.put("layers", {"choices": locate.choices(found), "value": view.layer})
    watch.put("map", locate.show(found, view))
    if view.step is None:
        view = replace(view, step=step.guess(world, view, watch))
    watch.put("view", view)
    _below(world, view, watch)


def _below(world: World, view: View, watch: Watch) -> None:
    """All that depends on the step: what it does now first, then how it came there."""
    watch.put("curve", step.show(world, view, watch))
    watch.put("see", see.show(world, view, watch))
    watch.put("collateral", see.collateral(world, view, watch))
    _finish(world, view, watch, READY)


def _finish(world: World, view: View, watch: Watch, said: str) -> None:
    """The ladder, and what is still missing of the curve; then the last sentence."""
    watch.put("ladder", ladder.show(world, view, watch))

    def shown(_: list[Any]) -> None:
        watch.put("curve", step.show(world, view, watch))

    if not step.complete(world, view):
        step.sweep(world, view, watch, shown=shown)
    done(watch, view, said)


def stepped(world: World, view: View, watch: Watch) -> None:
    """The step was moved."""
    view = _with_layer(world.settled(view))
    watch.put("view", view)
    watch.put("see", see.show(world, view, watch))
    watch.put("curve", step.show(world, view, watch))
    watch.put("collateral", see.collateral(world, view, watch))
    _finish(world, view, watch, READY)


def looked(world: World, view: View, watch: Watch) -> None:
    """Another picture, prompt, question or seed was chosen."""
    view = _with_layer(world.settled(view))
    watch.put("view", view)
    watch.put("see", see.show(world, view, watch))
    _finish(world, view, watch, READY)


def own_picture(world: World, view: View, watch: Watch, *, path: str) -> None:
    """The visitor gave a picture: it is looked at from now on, here only, and kept in no file."""
    looked(world, replace(view, own=see.keep_picture(world, Path(path))), watch)


def turned(world: World, view: View, watch: Watch) -> None:
    """Alignment is to be read the other way, signed or absolute: the fronts are others."""
    view = world.settled(replace(view, by=_other(view.by)))
    found = locate.locate(world, view, watch)
    watch.put("view", view)
    watch.put("layers", {"choices": locate.choices(found), "value": view.layer})
    watch.put("map", locate.show(found, view))
    done(watch, view, f"The fronts now go by the {view.by} alignment.")


def _other(by: str) -> str:
    return ALIGNMENTS[by == ALIGNMENTS[0]]


def find(world: World, view: View, watch: Watch) -> None:
    """The step search on the chosen layer."""
    view = _with_layer(world.settled(view))

    def shown(now: View) -> None:
        watch.put("view", now)
        watch.put("curve", step.show(world, now, watch))

    view, reason = step.find(world, view, watch, shown=shown)
    _found(world, view, watch, reason)


def find_everywhere(world: World, view: View, watch: Watch) -> None:
    """The step search on every layer of the fronts."""
    view = world.settled(view)
    view, reason = step.find_everywhere(world, view, watch)
    _found(world, view, watch, reason)


def _found(world: World, view: View, watch: Watch, reason: str) -> None:
    """Shows what a search found, also when it was stopped: then only this much is still made."""
    watch.check_wanted()
    calm = Watch(watch.put)
    found = locate.locate(world, view, calm)
    calm.put("view", view)
    calm.put("layers", {"choices": locate.choices(found), "value": view.layer})
    calm.put("map", locate.show(found, view))
    calm.put("see", see.show(world, view, calm))
    calm.put("curve", step.show(world, view, calm))
    calm.put("collateral", see.collateral(world, view, calm))
    watch.check_wanted()
    calm.put("ladder", ladder.show(world, view, calm))
    if not watch.stop.is_set():
        step.sweep(
            world, view, watch, shown=lambda _: calm.put("curve", step.show(world, view, calm))
        )
    done(calm, view, reason)


def compared(world: World, view: View, watch: Watch) -> None:
    """The edit beside its controls."""
    view = _with_layer(world.settled(view))
    if not view.step:
        raise SlugError("A step of 0 changes nothing: move the step before comparing.")
    watch.put("compare", compare.show(world, view, watch))
    done(watch, view, READY)


def keep(world: World, view: View, watch: Watch) -> None:
    """The edit that is looked at goes into the tray."""
    view = _with_layer(world.settled(view))
    if not view.step:
        raise SlugError("A step of 0 changes nothing: move the step before keeping the edit.")
    new = Kept(view.concept, view.layer, view.step)
    rest = [one for one in view.tray if (one.concept, one.layer) != (new.concept, new.layer)]
    if len(rest) >= KEPT:
        raise SlugError(f"The tray holds {KEPT} edits; take one out first.")
    _trayed(world, replace(view, tray=(*rest, new)), watch, f"Kept: {named(new)}.")


def switch(world: World, view: View, watch: Watch, *, number: int) -> None:
    """One edit in the tray is switched on or off."""
    tray = list(view.tray)
    if not 0 <= number < len(tray):
        raise SlugError("There is no such edit in the tray.")
    tray[number] = replace(tray[number], on=not tray[number].on)
    said = "on" if tray[number].on else "off"
    _trayed(world, replace(view, tray=tuple(tray)), watch, f"{named(tray[number])}: {said}.")


def drop(world: World, view: View, watch: Watch, *, number: int) -> None:
    """One edit is taken out of the tray."""
    if not 0 <= number < len(view.tray):
        raise SlugError("There is no such edit in the tray.")
    rest = view.tray[:number] + view.tray[number + 1 :]
    gone = named(view.tray[number])
    _trayed(world, replace(view, tray=rest), watch, f"Taken out: {gone}.")


def _trayed(world: World, view: View, watch: Watch, said: str) -> None:
    view = world.settled(view)
    watch.put("view", view)
    watch.put("tray", tray(view))
    watch.put("see", see.show(world, view, watch))
    watch.put("collateral", see.collateral(world, view, watch))
    _finish(world, view, watch, said)


def tray(view: View) -> dict[str, Any]:
    """The tray as the page shows it, with a word when two edits share a tensor."""
    rows = [{"name": named(one), "on": one.on} for one in view.tray]
    places = [one.layer for one in view.tray if one.on]
    shared = sorted({words.short(one) for one in places if places.count(one) > 1})
    note = f"Two edits share {', '.join(shared)}: they add up." if shared else ""
    return {"rows": rows, "note": note}


def named(kept: Kept) -> str:
    """An edit of the tray in a few words."""
    tower = "vision" if kept.layer.startswith("visual.") else "text"
    return f"{kept.concept} · {tower} {words.short(kept.layer)} · {kept.step:.3g}"


def done(watch: Watch, view: View, text: str) -> None:
    """The last news: a calm sentence, and the link to this very view."""
    watch.put("status", {"text": text, "share": None, "tone": "calm", "query": view.query()})


def _with_layer(view: View) -> View:
    if not view.layer:
        raise SlugError("Choose a layer first: click a point in the plot.")
    if view.step is None or not math.isfinite(view.step):
        return replace(view, step=0.0)
    return view


def _prompt(world: World, view: View) -> dict[str, Any]:
    """The text field beside the pictures: how it is called, and what stands in it."""
    kind = world.shelf.offer(view.model).kind
    label = {"zero-shot": "", "diffusion": "Prompt", "vlm": "Question"}[kind]
    first = see.first_words(world, view)
    return {"label": label, "text": view.words or first, "seed": kind == "diffusion"}


def warm(world: World) -> None:
    """Makes the first page before anybody asks for it; errors wait for the visitor who does."""
    try:
        concept(world, world.first(), Watch(lambda *_: None))
    except SlugError:
        return


def readable(world: World) -> str:
    """What is on the shelf, in a sentence."""
    count = len(world.shelf.offered)
    models = ", ".join(one.name for one in world.shelf.offers) or "no model"
    pictures = sum(len(world.shelf.tables[split]) for split in shelf.SPLITS)
    return f"{models}; {count} concepts; {pictures} pictures."
