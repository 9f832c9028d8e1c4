"""What follows from what: a visitor changes one thing, and all below it is shown anew.

Each function takes the state, a view and a watch, and reports to named blocks of the page; nothing
here knows gradio, so all of it runs without a server.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from slugdemo.errors import SlugError
from slugdemo.methods import named
from slugdemo.ui import atlas, compare, edits, forget, gone, jobs, locate, see, step, table
from slugdemo.ui.state import AppState, by_layer, single_layer
from slugdemo.ui.step import Found
from slugdemo.ui.tasks import Watch, status, unwatched
from slugdemo.ui.view import View

READY = "Ready."


def begin(state: AppState, view: View, watch: Watch) -> None:
    """A page was opened without an example to show; a pinned view that is no more is let go."""
    try:
        view.pinned()
    except SlugError:
        view = replace(view, pin="")
    concept(state, view, watch)


def warm(state: AppState) -> None:
    """Opens what a first touch of the first page will need; where nothing of it was made beforehand,
    makes that page. Then what pictures of a visitor's own will need, and a worker's first job.
    Errors wait for the visitor who meets them."""
    if atlas.preset(state, first := state.first()):
        atlas.warm(state, first)
    else:
        with suppress(SlugError):
            concept(state, first, unwatched())
    with suppress(SlugError):
        state.keep_ready(first.model)
    prepare(state, first)


def prepare(state: AppState, view: View) -> None:
    """A worker opens the view's model and looks at a little of it, if none has and one is free."""
    if view.model in state.prepared or not state.workers.free:
        return
    state.prepared.add(view.model)
    with suppress(SlugError):
        task = state.task(view, unwatched())
        if state.workers.take(task):
            state.workers.run(jobs.ready, task, jobs.unheard)


def concept(state: AppState, view: View, watch: Watch) -> None:
    """A model or a concept was chosen: everything is new."""
    watch.say("Looking for its pictures")  # some are drawn first
    view = state.settled(view)
    if ready := atlas.preset(state, view):
        _show(state, watch, ready)
        return
    watch.put("view", view)
    watch.put("choice", forget.chosen(state, view))
    watch.put("forget", forget.show(state, view))
    watch.put("words", see.asking(state, view))
    watch.put("tray", edits.tray(view))
    watch.say(f"Opening {view.model}")
    state.opened(view.model)
    found = locate.locate(state.task(view, watch))
    watch.put("pin", edits.pinned(state, view, watch))
    if not single_layer(view.method):
        _method(state, view, watch, found)
        return
    if view.layer not in found.editable:
        view = view.of_layer(found.best(), view.method)
    _edit(state, view, watch, found)


def _show(state: AppState, watch: Watch, ready: dict[str, Any]) -> None:
    """Shows what comes with the app, the pinned view beside it, and the last sentence at last."""
    view, said = ready["view"], ready.pop("status")
    for block, value in ready.items():
        watch.put(block, value)
    if view.pin:
        watch.put("pin", edits.pinned(state, view, watch))
    watch.put("status", said)


def again(state: AppState, view: View, watch: Watch) -> None:
    """What came with the app is computed anew, and both are shown."""
    view = state.settled(view)
    found = atlas.again(state, view, watch)
    watch.put("again", found)
    other = sum(shipped != now for _, shipped, now in found["rows"])
    lines = (
        f"{other} of {len(found['rows'])} lines differ from" if other else "Every line agrees with"
    )
    said = f"{lines} what was shipped; computed again in {found['seconds']:.0f} s."
    done(state, watch, view, said)


def _method(state: AppState, view: View, watch: Watch, found: locate.Map) -> None:
    """A link shows what a method gave: it is here, or made again."""
    if not view.digest:
        run(state, view, watch)
        return
    state.edit(view, view.edit, watch)
    _edit(state, view, watch, found)


def layer(state: AppState, view: View, watch: Watch) -> None:
    """A layer was chosen."""
    view = state.settled(view)
    found = locate.locate(state.task(view, watch))
    found.score(view.layer)
    _edit(state, view.of_layer(view.layer, by_layer(view)), watch, found)


def _edit(state: AppState, view: View, watch: Watch, found: locate.Map) -> None:
    """All that depends on the edit: what it does now first, then how it came there."""
    watch.put("choice", forget.chosen(state, view))
    _mapped(watch, found, view)
    if view.strength is None:
        view = replace(view, strength=step.start(state, view, watch))
    watch.put("view", view)
    watch.put("curve", step.show(state, view, watch))
    watch.put("see", see.show(state, view, watch))
    watch.put("collateral", see.collateral(state, view, watch))
    _finish(state, view, watch, READY)


def _mapped(watch: Watch, found: locate.Map, view: View) -> None:
    watch.put("layers", {"choices": locate.choices(found), "value": view.layer})
    watch.put("map", locate.show(found, view))


def _finish(state: AppState, view: View, watch: Watch, said: str, more: str = "") -> None:
    """The ladder, and what is still missing of the curve; then the last sentence."""
    watch.put("ladder", see.show_ladder(state, view, watch))
    if not step.complete(state, view, watch):
        step.sweep(
            state,
            view,
            watch,
            shown=lambda: watch.put("curve", step.show(state, view, watch)),
        )
    done(state, watch, view, said, more)


def changed(
    state: AppState, view: View, watch: Watch, said: str = READY, problem: SlugError | None = None
) -> None:
    """A visitor changed something that leaves the edit's direction alone: step, picture, prompt,
    seed, tray or pin.

    All that such changes touch is shown, since one may have stopped what another was to show.
    Raises the `problem` of a change that could not be made, when what stands is shown.
    """
    if problem and not view.chosen:
        raise problem
    view = with_edit(state.settled(view))
    watch.put("view", view)
    watch.put("see", see.show(state, view, watch))  # first: it is what the eye waits for
    watch.put("curve", step.show(state, view, watch))
    watch.put("collateral", see.collateral(state, view, watch))
    watch.put("tray", edits.tray(view))
    watch.put("pin", edits.pinned(state, view, watch))
    if problem:
        raise problem
    _finish(state, view, watch, said)


def own_picture(
    state: AppState, view: View, watch: Watch, *, visitor: str, name: str, given: str
) -> None:
    """The visitor gave a picture: it is looked at from now on, here only."""
    del name
    own = see.keep_picture(state, visitor, Path(given))
    changed(state, replace(view, own=own, picture=0), watch)


def turned(state: AppState, view: View, watch: Watch, *, alignment: str, granularity: str) -> None:
    """Alignment is to be read another way, or a layer is to be something else: other fronts."""
    if granularity != view.granularity:
        other = replace(view, alignment=alignment, granularity=granularity)
        concept(state, other.of_layer("", by_layer(view)), watch)
        return
    view = state.settled(replace(view, alignment=alignment))
    watch.put("view", view)
    _mapped(watch, locate.locate(state.task(view, watch)), view)
    done(state, watch, view, f"The fronts now use the {view.alignment} alignment.")


def method(state: AppState, view: View, watch: Watch) -> None:
    """A method was chosen: it is run at once."""
    reason = named(view.method).unable_on(state.model(view.model), view.anchor)
    if reason:
        raise SlugError(reason)
    run(state, replace(view, layer="", digest="", strength=None, trace=()), watch)


def run(state: AppState, view: View, watch: Watch) -> None:
    """The view's method finds what it finds: layer and step, or whatever it changes."""
    view = state.settled(view)
    watch.put("choice", forget.chosen(state, view))
    _found(state, watch, step.erase(state, view, watch))


def find(state: AppState, view: View, watch: Watch) -> None:
    """The step search on the chosen layer."""
    view = state.settled(view)
    if not view.layer:
        raise SlugError("Choose a layer first: click a point in the plot.")

    def shown(now: View) -> None:
        watch.put("view", now)
        watch.put("curve", step.show(state, now, watch))

    _found(state, watch, step.find_step(state, view, watch, shown=shown))


def _found(state: AppState, watch: Watch, found: Found) -> None:
    """Shows what was found, also when it was stopped: then only this much is still made."""
    watch.check_wanted()
    calm, view = Watch(watch.put), found.view
    calm.put("view", view)
    calm.put("choice", forget.chosen(state, view))
    _mapped(calm, locate.locate(state.task(view, calm)), view)
    calm.put("see", see.show(state, view, calm))
    calm.put("curve", step.show(state, view, calm))
    calm.put("collateral", see.collateral(state, view, calm))
    watch.check_wanted()
    if watch.stop.is_set():
        calm.put("ladder", see.show_ladder(state, view, calm))
        done(state, calm, view, found.headline, found.reason)
        return
    _finish(state, view, watch, found.headline, found.reason)


def compared(state: AppState, view: View, watch: Watch) -> None:
    """The edit beside its controls."""
    view = with_edit(state.settled(view))
    watch.put("comparison", step.show_controls(state, view, watch))
    done(state, watch, view, READY)


def comparing(state: AppState, view: View, watch: Watch) -> None:
    """The view Compare was opened: what is known of every method on this concept."""
    view = state.settled(view)
    watch.put("view", view)
    watch.put("compare", table.show(state, view))
    watch.put("choice", forget.chosen(state, view))
    done(state, watch, view, READY)


def mapping(state: AppState, view: View, watch: Watch) -> None:
    """The view Atlas was opened: what is known of every preset in this model."""
    view = state.settled(view)
    watch.put("atlas", atlas.show(state, view))
    done(state, watch, view, READY)


def atlas_open(state: AppState, view: View, watch: Watch, concept_name: str, layer: str) -> None:
    """A cell of the atlas is opened in Erase: that concept, at that layer."""
    concept(state, replace(view.of_concept(concept=concept_name), layer=layer), watch)


def compare_run(state: AppState, view: View, watch: Watch, names: Sequence[str]) -> None:
    """Methods are run for the table."""
    view = state.settled(view)

    def shown() -> None:
        watch.put("compare", table.show(state, view))

    said = compare.run(state, view, watch, names, shown=shown)
    done(state, watch, view, said)


def compare_many(state: AppState, view: View, watch: Watch, name: str, order: str) -> None:
    """A method is run on several concepts."""
    view = state.settled(view)

    def shown() -> None:
        watch.put("compare", table.show(state, view))

    said = compare.run_many(state, view, watch, name, order, shown=shown)
    done(state, watch, view, said)


def compare_detail(state: AppState, view: View, watch: Watch, name: str) -> None:
    """A row is looked at in full."""
    view = state.settled(view)
    found = compare.detail(state, view, watch, name)
    watch.put("compare", table.show(state, view) | {"detail": found})
    done(state, watch, view, READY)


def compare_features(state: AppState, view: View, watch: Watch) -> None:
    """The features that sae turns off are looked at."""
    view = state.settled(view)
    found = compare.features(state, view, watch)
    watch.put("compare", table.show(state, view) | {"features": found})
    done(state, watch, view, READY)


def compare_open(state: AppState, view: View, watch: Watch, name: str) -> None:
    """A method's edit is opened in Erase."""
    concept(state, compare.opened(state, state.settled(view), name), watch)


def attacking(state: AppState, view: View, watch: Watch) -> None:
    """The panel of attacks was opened beside an edit: what was tried, and what can be."""
    view = state.settled(view)
    watch.put("live", {})
    watch.put("attack", gone.attempts(state, view))
    done(state, watch, view, gone.summed(state, view) or READY)


def attacked(state: AppState, view: View, watch: Watch, names: Sequence[str]) -> None:
    """Attacks are tried on the edit that is open."""
    view = state.settled(view)
    wanted = gone.chosen(state, view, names)
    view = replace(view, attack=wanted[-1].name if wanted else "")
    watch.put("view", view)
    said = gone.run(state, view, watch, names, panel=lambda: gone.attempts(state, view))
    done(state, watch, view, said or READY)


def gone_shown(state: AppState, view: View, watch: Watch) -> None:
    """The heat map of attacks by methods was opened."""
    view = state.settled(view)
    watch.put("gone", gone.show(state, view))
    done(state, watch, view, READY)


def gone_open(state: AppState, view: View, watch: Watch, method: str, name: str) -> None:
    """A cell of the heat map was opened."""
    view = state.settled(view)
    watch.put("live", {})
    watch.put("attack", gone.detail(state, view, method, name))
    done(state, watch, view, READY)


def gone_run(state: AppState, view: View, watch: Watch, method: str, name: str) -> None:
    """A cell of the heat map is run."""
    view = state.settled(view)
    done(state, watch, view, gone.fill(state, view, watch, method, name))


def undo(state: AppState, view: View, watch: Watch) -> None:
    """The view before the last change, whatever it was."""
    if not view.past:
        raise SlugError("There is nothing to undo yet.")
    before = replace(view.past[-1], past=view.past[:-1], own=view.own)
    watch.put("view", before)
    concept(state, before, watch)


def brought(
    state: AppState, view: View, watch: Watch, *, make: Callable[..., View], **given: object
) -> None:
    """The visitor brought a concept or an edit, `make` turned it into a view: the page shows it."""
    concept(state, make(state, view, watch, **given), watch)


def done(state: AppState, watch: Watch, view: View, text: str, more: str = "") -> None:
    """The last report: a calm sentence, the link to this very view, and how to make it elsewhere."""
    watch.put("export", edits.take_away(state, view))
    watch.put("status", status(text, "calm", more=more, query=view.query()))


def with_edit(view: View) -> View:
    """The view of an edit at a strength; raises SlugError where no edit was chosen yet."""
    if not view.chosen:
        raise SlugError("Choose a layer first: click a point in the plot.")
    return replace(view, strength=0.0) if view.strength is None else view
