"""What follows from what: a visitor changes one thing, and all below it is shown anew.

Each function takes the world, a view and a watch, and puts news for named blocks of the page;
nothing here knows gradio, so all of it runs without a server.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from slugdemo.errors import SlugError
from slugdemo.ui import compare, forget, ladder, locate, see, step, take, tray
from slugdemo.ui.jobs import Watch
from slugdemo.ui.locate import Map
from slugdemo.ui.session import World
from slugdemo.ui.view import View

READY = "Ready."


def begin(world: World, view: View, watch: Watch) -> None:
    """A page was opened without an example to show; a pinned view that is no more is let go."""
    try:
        view.pinned()
    except SlugError:
        view = replace(view, pin="")
    concept(world, view, watch)


def concept(world: World, view: View, watch: Watch) -> None:
    """A model or a concept was chosen: everything is new."""
    view = world.settled(view)
    watch.put("view", view)
    watch.put("choice", forget.chosen(world, view))
    watch.put("forget", forget.show(world, view))
    watch.put("words", _prompt(world, view))
    watch.put("tray", tray.show(view))
    watch.say(f"Opening {view.model}")
    found = locate.locate(world, view, watch)
    watch.put("pin", tray.pinned(world, view, watch))
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
    done(world, watch, view, said)


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


def own_picture(
    world: World, view: View, watch: Watch, *, visitor: str, name: str, given: str
) -> None:
    """The visitor gave a picture: it is looked at from now on, here only."""
    del name
    own = see.keep_picture(world, visitor, Path(given))
    looked(world, replace(view, own=own, picture=0), watch)


def turned(world: World, view: View, watch: Watch, *, by: str, unit: str) -> None:
    """Alignment is to be read another way, or a layer is to be something else: other fronts."""
    if unit != view.unit:
        concept(world, replace(view, by=by, unit=unit, layer="", step=None, trace=()), watch)
        return
    view = world.settled(replace(view, by=by))
    found = locate.locate(world, view, watch)
    watch.put("view", view)
    watch.put("layers", {"choices": locate.choices(found), "value": view.layer})
    watch.put("map", locate.show(found, view))
    done(world, watch, view, f"The fronts now go by the {view.by} alignment.")


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
    done(world, calm, view, reason)


def compared(world: World, view: View, watch: Watch) -> None:
    """The edit beside its controls."""
    view = _with_layer(world.settled(view))
    if not view.step:
        raise SlugError("A step of 0 changes nothing: move the step before comparing.")
    watch.put("compare", compare.show(world, view, watch))
    done(world, watch, view, READY)


def trayed(world: World, view: View, watch: Watch, said: str) -> None:
    """The tray was changed: everything that it acts on is shown anew."""
    view = world.settled(view)
    watch.put("view", view)
    watch.put("tray", tray.show(view))
    watch.put("see", see.show(world, view, watch))
    watch.put("collateral", see.collateral(world, view, watch))
    _finish(world, view, watch, said)


def keep(world: World, view: View, watch: Watch) -> None:
    """The edit that is looked at goes into the tray."""
    trayed(world, *tray.keep(_with_layer(world.settled(view)), watch))


def undo(world: World, view: View, watch: Watch) -> None:
    """The view before the last change, whatever it was."""
    if not view.past:
        raise SlugError("There is nothing to undo yet.")
    before = replace(view.past[-1], past=view.past[:-1], own=view.own)
    watch.put("view", before)
    concept(world, before, watch)


def pin(world: World, view: View, watch: Watch) -> None:
    """What is looked at stays in every view as A; pressed again, it goes."""
    view = world.settled(view)
    now = replace(_with_layer(view), pin="")
    view = replace(view, pin="" if view.pin else now.query())
    watch.put("view", view)
    watch.put("pin", tray.pinned(world, view, watch))
    said = "Pinned as A: now change something, and it is B." if view.pin else "A is unpinned."
    done(world, watch, view, said)


def brought(
    world: World, view: View, watch: Watch, *, make: Callable[..., View], **given: object
) -> None:
    """The visitor brought a concept or an edit, `make` turned it into a view: the page shows it."""
    concept(world, make(world, view, watch, **given), watch)


def done(world: World, watch: Watch, view: View, text: str) -> None:
    """The last news: a calm sentence, the link to this very view, and how to make it elsewhere."""
    watch.put("take", take.show(world, view))
    watch.put("status", {"text": text, "share": None, "tone": "calm", "query": view.query()})


def _with_layer(view: View) -> View:
    if not view.layer:
        raise SlugError("Choose a layer first: click a point in the plot.")
    if view.step is None or not math.isfinite(view.step):
        return replace(view, step=0.0)
    return view


def _prompt(world: World, view: View) -> dict[str, Any]:
    """The text field beside the pictures: how it is called, and what stands in it."""
    kind = world.kind(view.model)
    title = {"zero-shot": "", "diffusion": "Prompt", "vlm": "Question"}[kind]
    first = see.first_words(world, view)
    seed = view.seed if kind == "diffusion" else None
    return {"label": title, "text": view.words or first, "seed": seed}
