"""What happens when something is touched: each gradio event streams what one callback reports.

A report is turned into updates of gradio's controls and of what the page draws itself. What the
page's own widgets send is untrusted; it is checked here, and errors become sentences.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol
from urllib.parse import parse_qs

import gradio as gr

from slugdemo.errors import SlugError
from slugdemo.ui import api, atlas, callbacks, edits, forget
from slugdemo.ui.state import AppState
from slugdemo.ui.tasks import Tasks, Watch, status
from slugdemo.ui.view import MARK, View, check
from slugdemo.ui.visitors import Visitors

Work = Callable[[AppState, View, Watch], None]
Change = Callable[[View, Any], tuple[View, str]]  # what a visitor sent -> the view, and a sentence
# the tasks have queues of their own; the API has another id, since a shared one keeps the lowest limit
QUEUE = {"concurrency_id": "page", "concurrency_limit": 32}
WARM = {"concurrency_id": "warm", "concurrency_limit": 1}
QUIET = {"show_progress": "hidden", "api_visibility": "private"}
LINK = "() => { slug.acts.link(); }"
FETCH = "() => slug.acts.fetch()"


# Every update carries all that this event has drawn: a browser that is busy skips some of them.
# Controls come along once more at the end only, since a visitor may be using them.
DRAWN = (
    "choice",
    "forget",
    "map",
    "curve",
    "ladder",
    "see",
    "collateral",
    "tray",
    "pin",
    "export",
    "compare",
    "again",
    "atlas",
)


class Blocks(Protocol):
    """The blocks of one page by their names."""

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401
        """One block."""

    def changing(self, *, controls: bool = True) -> list[Any]:
        """What an event may change."""


def _view(at: Blocks, view: View) -> dict[Any, Any]:
    return {at["seed"]: view.seed}


def _layers(at: Blocks, value: dict[str, Any]) -> dict[Any, Any]:
    return {at["layers"]: gr.Dropdown(value["choices"], value=value["value"] or None)}


def _prompt(at: Blocks, value: dict[str, Any]) -> dict[Any, Any]:
    words = gr.Textbox(
        value["text"],
        label=value["label"] or "Prompt",
        visible=True if value["label"] else "hidden",
    )
    drawn = value["seed"] is not None
    seed = gr.Number(value["seed"] or 0, visible=True if drawn else "hidden")
    given = gr.UploadButton(visible="hidden" if drawn else True)
    return {at["words"]: words, at["seed"]: seed, at["own"]: given}


def _file(at: Blocks, path: str) -> dict[Any, Any]:
    return {at["file"]: path}


Update = Callable[[Blocks, Any], dict[Any, Any]]
CONTROLS: dict[str, Update] = {"view": _view, "layers": _layers, "words": _prompt, "file": _file}


def updates(at: Blocks, bundle: dict[str, Any], outputs: Sequence[Any] = ()) -> dict[Any, Any]:
    """What a bundle of reports changes among the `outputs`, by default anywhere on the page."""
    changed: dict[Any, Any] = {}
    drawn: dict[str, Any] = {}
    for block, value in bundle.items():
        if block in CONTROLS:
            changed |= CONTROLS[block](at, value)
        else:
            drawn[block] = value
    changed |= {at["updates"]: drawn} if drawn else {}
    return {block: new for block, new in changed.items() if not outputs or block in outputs}


@dataclass(frozen=True)
class Events:
    """One page's blocks, the state behind them, and the tasks that can be stopped."""

    page: Blocks
    state: AppState
    tasks: Tasks
    visitors: Visitors

    def stream(
        self,
        request: gr.Request,
        work: Callable[[View, Watch], None],
        *,
        change: Callable[[View], View] = lambda view: view,
        pool: str = "live",
        outputs: Sequence[Any] = (),
    ) -> Iterator[dict[Any, Any]]:
        """The updates of the `outputs` (by default of all) that `work` reports.

        It begins at what the visitor looks at after the `change`, which is made at once, and each
        view that it reports is looked at from then on.
        """
        visitor, mine = str(request.session_hash), object()
        view = self.visitors.begin(visitor, mine, change)
        seen: dict[str, Any] = {}

        def watched(watch: Watch) -> None:
            def put(block: str, value: object) -> None:
                if isinstance(value, View):
                    value = value.after(view)
                    self.visitors.put(visitor, mine, value)
                watch.put(block, value)

            work(view, replace(watch, put=put))

        for bundle in self.tasks.stream(visitor, watched, pool=pool):
            if not bundle:  # what follows knows better; gradio shows the last update once more
                yield {self.page["updates"]: {}}
                return
            seen |= bundle
            drawn = {name: value for name, value in seen.items() if name in DRAWN}
            if new := updates(self.page, {**drawn, **bundle}, outputs):
                yield new
        if seen.get("status", {}).get("tone") not in (None, "busy"):
            yield updates(self.page, seen, outputs)

    def chosen(
        self,
        event: Any,  # noqa: ANN401
        work: Work,
        *,
        source: Any,  # noqa: ANN401
        change: Callable[[View, Any], View],
    ) -> None:
        """An event of one control: `change` puts its value into the view."""

        def handler(new: Any, request: gr.Request) -> Iterator[dict[Any, Any]]:  # noqa: ANN401
            def run(view: View, watch: Watch) -> None:
                work(self.state, change(view, new), watch)

            yield from self.stream(request, run)

        self._listen(event, handler, [source], self.page.changing())

    def brought(self, event: Any, work: Callable[..., None], source: Any) -> None:  # noqa: ANN401
        """A visitor brought what stands in `source`, and perhaps typed a name for it."""

        def handler(given: Any, name: str, request: gr.Request) -> Iterator[dict[Any, Any]]:  # noqa: ANN401
            more = {"visitor": str(request.session_hash), "given": given, "name": name or ""}

            def run(view: View, watch: Watch) -> None:
                work(self.state, view, watch, **more)

            yield from self.stream(request, run)

        self._listen(event, handler, [source, self.page["mine"]], self.page.changing())

    def pressed(
        self,
        event: Any,  # noqa: ANN401
        work: Work,
        *,
        pool: str = "work",
        steady: bool = False,
    ) -> None:
        """An event that only says that it happened; `steady` when it leaves all controls alone."""
        outputs = self.page.changing(controls=not steady)

        def handler(request: gr.Request) -> Iterator[dict[Any, Any]]:
            run = partial(work, self.state)
            yield from self.stream(request, run, pool=pool, outputs=outputs)

        self._listen(event, handler, [], outputs)

    def picked(
        self,
        event: Any,  # noqa: ANN401
        work: Callable[[View, dict[str, Any], Watch], None],
        *,
        pool: str = "live",
        steady: bool = True,
    ) -> Any:  # noqa: ANN401
        """An event of one of the page's own widgets; `steady` when it leaves all controls alone."""
        outputs = self.page.changing(controls=not steady)

        def handler(request: gr.Request, event: gr.EventData) -> Iterator[dict[Any, Any]]:
            def run(view: View, watch: Watch) -> None:
                with _sensible():
                    work(view, dict(event._data or {}), watch)

            yield from self.stream(request, run, pool=pool, outputs=outputs)

        return self._listen(event, handler, [], outputs)

    def changed(self, event: Any, change: Change, source: Any = None) -> None:  # noqa: ANN401
        """A change that is made at once, in the order in which visitors ask; what it shows follows.

        `change` gets what the page's own widget sends, or what stands in the control `source`.
        """
        outputs = self.page.changing(controls=False)

        def changing(request: gr.Request, sent: Any) -> Iterator[dict[Any, Any]]:  # noqa: ANN401
            said, problem = [callbacks.READY], []

            def made(view: View) -> View:
                try:
                    with _sensible():
                        after, text = change(view, sent)
                    said.append(text)
                    return after.checked().after(view)
                except SlugError as error:
                    problem.append(error)
                    return view

            def run(view: View, watch: Watch) -> None:
                callbacks.changed(self.state, view, watch, said[-1], *problem)

            yield from self.stream(request, run, change=made, outputs=outputs)

        def told(request: gr.Request, event: gr.EventData) -> Iterator[dict[Any, Any]]:
            yield from changing(request, dict(event._data or {}))

        def given(value: Any, request: gr.Request) -> Iterator[dict[Any, Any]]:  # noqa: ANN401
            yield from changing(request, value)

        self._listen(event, given if source else told, [source] if source else [], outputs)

    def _listen(
        self,
        event: Any,  # noqa: ANN401
        handler: Callable[..., Any],
        inputs: list[Any],
        outputs: list[Any],
    ) -> Any:  # noqa: ANN401
        return event(handler, inputs, outputs, trigger_mode="multiple", **QUIET, **QUEUE)

    def opened(self, request: gr.Request) -> Iterator[dict[Any, Any]]:
        """A page was opened: its link says what it shows; without one, the first preset."""
        query = parse_qs(str(request.query_params))

        def work(_before: View, watch: Watch) -> None:
            wanted, said = View(), ""
            try:
                wanted = View.parse(query)
                self._claim(request, wanted)
                wanted = self.state.settled(wanted) if wanted != View() else wanted
            except SlugError as error:
                wanted, said = View(), f"{error} Here is the beginning instead."
            callbacks.begin(self.state, wanted, watch)
            if said:
                watch.put("status", status(said, "error"))

        if shown := atlas.opened(self.state, query):
            self.visitors.begin(str(request.session_hash), self, lambda _before: shown["view"])
            yield updates(self.page, shown)  # needs no place and no waiting
            return
        yield from self.stream(request, work)

    def _claim(self, request: gr.Request, view: View) -> None:
        for name in (view.concept, *(kept.concept for kept in view.tray)):
            if MARK in name:
                self.state.uploads.claim(str(request.session_hash), name.split(MARK)[-1])

    def warm(self, request: gr.Request) -> None:
        """What was shown at once is made ready for a first touch, one page after another."""
        view = self.visitors.view(str(request.session_hash))
        atlas.warm(self.state, view)
        callbacks.prepare(self.state, view)

    def stop(self, request: gr.Request) -> Any:  # noqa: ANN401
        """The visitor wants to stop; what runs says itself that it does, or it would be said too late."""
        if self.tasks.stop(str(request.session_hash)):
            return gr.skip()
        return {"status": status("Nothing is running.", "calm")}

    def fetch(self, request: gr.Request, event: gr.EventData) -> Iterator[dict[Any, Any]]:
        """A file to carry home: the edit, or a model with all edits that are on."""
        name = str(dict(event._data or {}).get("model", ""))[:200]
        room = self.state.uploads.room(str(request.session_hash))

        def work(view: View, watch: Watch) -> None:
            if name:
                path = edits.model_file(self.state, view, watch, room=room, name=name)
            else:
                path = edits.edit_file(self.state, view, watch, room=room)
            watch.put("file", str(path))
            watch.put("status", status(f"{path.name} is ready.", "calm"))

        yield from self.stream(request, work, pool="work")

    def left(self, request: gr.Request) -> None:
        """The visitor closed the page: work stops, and what was brought is forgotten."""
        self.tasks.stop(str(request.session_hash))
        self.state.uploads.leave(str(request.session_hash))


def connect(demo: gr.Blocks, page: Blocks, state: AppState, tasks: Tasks) -> None:
    """Connects the blocks of a page to the state; called inside gr.Blocks."""
    events = Events(page, state, tasks, Visitors())
    _controls(events)
    _brought(events)
    _widgets(events)
    page["stop"].click(events.stop, None, page["updates"], queue=False, **QUIET)
    page["link"].click(None, None, None, js=LINK, **QUIET)
    out = [page["file"], page["updates"]]
    fetched = page["export"].fetch(events.fetch, None, out, **QUEUE, **QUIET)
    fetched.then(None, None, None, js=FETCH, **QUIET)
    loaded = demo.load(events.opened, None, page.changing(), **QUEUE, **QUIET)
    loaded.then(events.warm, None, None, **WARM, **QUIET)
    demo.unload(events.left)
    api.publish(state)


def _controls(events: Events) -> None:
    at, chosen = events.page, events.chosen
    chosen(at["layers"].input, callbacks.layer, source=at["layers"], change=_layer)
    events.changed(at["words"].submit, _words, at["words"])
    events.changed(at["seed"].submit, _seed, at["seed"])
    events.pressed(at["find"].click, callbacks.find)
    events.pressed(at["all"].click, callbacks.run)
    events.pressed(at["controls"].click, callbacks.compared, steady=True)
    events.changed(at["keep"].click, lambda view, _sent: edits.keep(callbacks.with_edit(view)))
    events.pressed(at["undo"].click, callbacks.undo, pool="live")
    events.changed(at["pinned"].click, lambda view, _sent: edits.pin(callbacks.with_edit(view)))


def _brought(events: Events) -> None:
    """What visitors bring: a picture to look at, a concept of their own, an edit file."""
    at, brought = events.page, events.brought
    brought(at["own"].upload, callbacks.own_picture, at["own"])
    brought(at["give"].upload, partial(callbacks.brought, make=forget.uploaded), at["give"])
    brought(at["mine"].submit, partial(callbacks.brought, make=forget.uploaded), at["give"])
    brought(at["draw"].click, partial(callbacks.brought, make=forget.drawn), at["give"])
    brought(at["open"].upload, partial(callbacks.brought, make=edits.opened), at["open"])


def _widgets(events: Events) -> None:
    at, state = events.page, events.state

    def model(view: View, sent: dict[str, Any], watch: Watch) -> None:
        callbacks.concept(state, view.of_concept(model=_name(sent["model"])), watch)

    def concept(view: View, sent: dict[str, Any], watch: Watch) -> None:
        callbacks.concept(state, view.of_concept(concept=_name(sent["concept"])), watch)

    def again(view: View, sent: dict[str, Any], watch: Watch) -> None:
        del sent
        callbacks.again(state, view, watch)

    def method(view: View, sent: dict[str, Any], watch: Watch) -> None:
        anchor = _name(sent.get("anchor", view.anchor))
        callbacks.method(state, replace(view, method=_name(sent["method"]), anchor=anchor), watch)

    def layer(view: View, sent: dict[str, Any], watch: Watch) -> None:
        callbacks.layer(state, _layer(view, sent["layer"]), watch)

    def turn(view: View, sent: dict[str, Any], watch: Watch) -> None:
        alignment = _name(sent.get("alignment", view.alignment))
        granularity = _name(sent.get("granularity", view.granularity))
        callbacks.turned(state, view, watch, alignment=alignment, granularity=granularity)

    def comparing(view: View, sent: dict[str, Any], watch: Watch) -> None:
        anchor = _name(sent.get("anchor", view.anchor))
        callbacks.comparing(state, replace(view, anchor=anchor), watch)

    def mapping(view: View, sent: dict[str, Any], watch: Watch) -> None:
        del sent
        callbacks.mapping(state, view, watch)

    def atlas_open(view: View, sent: dict[str, Any], watch: Watch) -> None:
        callbacks.atlas_open(state, view, watch, _name(sent["concept"]), _name(sent["layer"]))

    def compare_run(view: View, sent: dict[str, Any], watch: Watch) -> None:
        callbacks.compare_run(state, view, watch, [_name(name) for name in sent["methods"][:99]])

    def compare_open(view: View, sent: dict[str, Any], watch: Watch) -> None:
        callbacks.compare_open(state, view, watch, _name(sent["method"]))

    def attacked(view: View, sent: dict[str, Any], watch: Watch) -> None:
        callbacks.attacked(state, view, watch, [_name(name) for name in sent["attacks"][:9]])

    def gone_open(view: View, sent: dict[str, Any], watch: Watch) -> None:
        callbacks.gone_open(state, view, watch, _name(sent["method"]), _name(sent["attack"]))

    def gone_run(view: View, sent: dict[str, Any], watch: Watch) -> None:
        callbacks.gone_run(state, view, watch, _name(sent["method"]), _name(sent["attack"]))

    def compare_many(view: View, sent: dict[str, Any], watch: Watch) -> None:
        name, order = _name(sent["method"]), _name(sent["order"])
        callbacks.compare_many(state, view, watch, name, order)

    def compare_detail(view: View, sent: dict[str, Any], watch: Watch) -> None:
        callbacks.compare_detail(state, view, watch, _name(sent["method"]))

    events.picked(at["atlas"].show, mapping)
    opened = events.picked(at["atlas"].open, atlas_open, steady=False)
    opened.then(events.warm, None, None, **WARM, **QUIET)
    events.pressed(at["attack"].show, callbacks.attacking, pool="live", steady=True)
    events.picked(at["attack"].run, attacked, pool="work")
    events.pressed(at["gone"].show, callbacks.gone_shown, pool="live", steady=True)
    events.picked(at["gone"].open, gone_open)
    events.picked(at["gone"].run, gone_run, pool="work")
    events.picked(at["compare"].show, comparing)
    events.picked(at["compare"].many, compare_many, pool="work")
    events.picked(at["compare"].detail, compare_detail)
    events.pressed(at["compare"].features, callbacks.compare_features, pool="work", steady=True)
    events.picked(at["compare"].run, compare_run, pool="work")
    events.picked(at["compare"].open, compare_open, pool="work", steady=False)
    for event, work in ((at["choice"].model, model), (at["choice"].concept, concept)):
        chosen = events.picked(event, work, steady=False)
        chosen.then(events.warm, None, None, **WARM, **QUIET)
    events.picked(at["ladder"].again, again, pool="work")
    events.picked(at["choice"].method, method, pool="work", steady=False)
    events.picked(at["map"].layer, layer, steady=False)
    events.picked(at["map"].turn, turn, steady=False)
    events.changed(at["curve"].step, _step)
    events.changed(at["ladder"].step, _step)
    events.changed(at["see"].picture, _picture)
    events.changed(at["tray"].switch, lambda view, sent: edits.switched(view, int(sent["number"])))
    events.changed(at["tray"].drop, lambda view, sent: edits.dropped(view, int(sent["number"])))
    events.changed(
        at["tray"].rename,
        lambda view, sent: edits.renamed(view, int(sent["number"]), str(sent["name"])),
    )


def _name(sent: object) -> str:
    return str(sent)[:200]


def _layer(view: View, new: object) -> View:
    return replace(view, layer=_name(new)).checked()


def _step(view: View, sent: dict[str, Any]) -> tuple[View, str]:
    return replace(view, strength=check(sent["step"])), callbacks.READY


def _picture(view: View, sent: dict[str, Any]) -> tuple[View, str]:
    return replace(view, picture=int(sent["picture"])), callbacks.READY


def _words(view: View, new: str | None) -> tuple[View, str]:
    return replace(view, words=" ".join((new or "").split())[:400]), callbacks.READY


def _seed(view: View, new: float | None) -> tuple[View, str]:
    return replace(view, seed=int(new or 0)), callbacks.READY


@contextmanager
def _sensible() -> Iterator[None]:
    """Turns what the page cannot have sent into a sentence."""
    try:
        yield
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise SlugError("The page sent something that makes no sense here.") from error
