"""What happens when something is touched: each event streams the news of one flow into the page.

What the page's own widgets send is untrusted; it is checked here, and errors become sentences.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import gradio as gr

from slugdemo.errors import SlugError
from slugdemo.ui import api, example, flow, own, take, tray
from slugdemo.ui.jobs import Desk, Watch
from slugdemo.ui.news import DRAWN, updates
from slugdemo.ui.relief import relieved
from slugdemo.ui.session import World
from slugdemo.ui.step import check
from slugdemo.ui.view import MARK, View

Work = Callable[[World, View, Watch], None]
Blocks = Any  # page.Page: blocks by name
LANE = {"concurrency_id": "work", "concurrency_limit": 32}  # the desk has its own lanes
QUIET = {"show_progress": "hidden", "api_visibility": "private"}
LINK = "() => { slug.acts.link(); }"
FETCH = "() => slug.acts.fetch()"


@dataclass(frozen=True)
class Wires:
    """One page's blocks, the world behind them, and the desk where work can be stopped."""

    page: Blocks
    world: World
    desk: Desk

    def stream(
        self,
        request: gr.Request,
        view: View,
        work: Callable[[Watch], None],
        *,
        lane: str = "live",
        outputs: Sequence[Any] = (),
    ) -> Iterator[dict]:
        """The updates of the `outputs` (by default of all) that the news of `work`, begun at `view`, mean."""
        seen: dict[str, Any] = {}
        held: list[Watch] = []

        def watched(watch: Watch) -> None:
            held.append(watch)
            work(watch)

        for bundle in self.desk.stream(str(request.session_hash), watched, lane=lane):
            if "view" in bundle:
                bundle = {**bundle, "view": bundle["view"].after(view)}
            seen |= bundle
            drawn = {name: value for name, value in seen.items() if name in DRAWN}
            yield updates(self.page, {**drawn, **bundle}, outputs)
        gone_on = not held or held[0].stop.void  # then what follows knows better
        if not gone_on and seen.get("status", {}).get("tone") not in (None, "busy"):
            yield updates(self.page, seen, outputs)

    def chosen(self, event: Any, work: Work, *, source: Any, change: Callable) -> None:  # noqa: ANN401
        """An event of one control: `change` puts its value into the view."""

        def handler(view: View, new: Any, request: gr.Request) -> Iterator[dict]:  # noqa: ANN401
            yield from self.stream(
                request, view, lambda watch: work(self.world, change(view, new), watch)
            )

        self._listen(event, handler, [self.page["view"], source], self.page.changing())

    def brought(self, event: Any, work: Callable, source: Any) -> None:  # noqa: ANN401
        """A visitor brought what stands in `source`, and perhaps typed a name for it."""

        def handler(view: View, given: Any, name: str, request: gr.Request) -> Iterator[dict]:  # noqa: ANN401
            more = {"visitor": str(request.session_hash), "given": given, "name": name or ""}
            yield from self.stream(
                request, view, lambda watch: work(self.world, view, watch, **more)
            )

        inputs = [self.page["view"], source, self.page["mine"]]
        self._listen(event, handler, inputs, self.page.changing())

    def pressed(
        self,
        event: Any,  # noqa: ANN401
        work: Work,
        *,
        lane: str = "work",
        steady: bool = False,
    ) -> None:
        """An event that only says that it happened; `steady` when it leaves all controls alone."""
        outputs = self.page.changing(controls=not steady)

        def handler(view: View, request: gr.Request) -> Iterator[dict]:
            def run(watch: Watch) -> None:
                work(self.world, view, watch)

            yield from self.stream(request, view, run, lane=lane, outputs=outputs)

        self._listen(event, handler, [self.page["view"]], outputs)

    def picked(
        self,
        event: Any,  # noqa: ANN401
        work: Callable[[View, dict, Watch], None],
        *,
        steady: bool = True,
    ) -> None:
        """An event of one of the page's own widgets; `steady` when it leaves all controls alone."""
        outputs = self.page.changing(controls=not steady)

        def handler(view: View, request: gr.Request, event: gr.EventData) -> Iterator[dict]:
            def run(watch: Watch) -> None:
                try:
                    work(view, dict(event._data or {}), watch)
                except (KeyError, TypeError, ValueError) as error:
                    raise SlugError("The page sent something that makes no sense here.") from error

            yield from self.stream(request, view, run, outputs=outputs)

        self._listen(event, handler, [self.page["view"]], outputs)

    def _listen(self, event: Any, handler: Callable, inputs: list, outputs: list) -> None:  # noqa: ANN401
        event(handler, inputs, outputs, trigger_mode="multiple", **QUIET, **LANE)

    def opened(self, view: View, request: gr.Request) -> Iterator[dict]:
        """A page was opened: its link says what it shows; without one, the worked example."""
        del view
        query = parse_qs(str(request.query_params))

        def work(watch: Watch) -> None:
            wanted, said = View(), ""
            try:
                wanted = View.parse(query)
                self._claim(request, wanted)
                wanted = self.world.settled(wanted) if wanted != View() else wanted
            except SlugError as error:
                wanted, said = View(), f"{error} Here is the beginning instead."
            flow.begin(self.world, wanted, watch)
            if said:
                watch.put("status", {"text": said, "share": None, "tone": "error"})

        if shown := example.shown(self.world, query):
            yield updates(self.page, shown)  # needs no place and no waiting
            return
        yield from self.stream(request, View(), work)

    def _claim(self, request: gr.Request, view: View) -> None:
        for name in (view.concept, *(kept.concept for kept in view.tray)):
            if MARK in name:
                self.world.guests.claim(str(request.session_hash), name.split(MARK)[-1])

    def stop(self, request: gr.Request) -> dict:
        """The visitor wants to stop."""
        running = self.desk.stop(str(request.session_hash))
        text = "Stopping…" if running else "Nothing is running."
        tone = "busy" if running else "calm"
        return {"status": {"text": text, "share": None, "tone": tone}}

    def fetch(self, view: View, request: gr.Request, event: gr.EventData) -> Iterator[dict]:
        """A file to carry home: the edit, or a model with all edits that are on."""
        name = str(dict(event._data or {}).get("model", ""))[:200]
        room = self.world.guests.room(str(request.session_hash))

        def work(watch: Watch) -> None:
            if name:
                path = take.model_file(self.world, view, watch, room=room, name=name)
            else:
                path = take.edit_file(self.world, view, watch, room=room)
            watch.put("file", str(path))
            watch.put("status", {"text": f"{path.name} is ready.", "share": None, "tone": "calm"})

        yield from self.stream(request, view, work, lane="work")

    def left(self, request: gr.Request) -> None:
        """The visitor closed the page: work stops, and what was brought is forgotten."""
        self.desk.stop(str(request.session_hash))
        self.world.guests.leave(str(request.session_hash))


def connect(demo: gr.Blocks, page: Blocks, world: World) -> None:
    """Wires a page to a world; called inside gr.Blocks."""
    wires = Wires(page, world, Desk(partial(relieved, world)))
    _controls(wires)
    _brought(wires)
    _widgets(wires)
    page["stop"].click(wires.stop, None, page["news"], queue=False, **QUIET)
    page["link"].click(None, None, None, js=LINK, **QUIET)
    out = [page["file"], page["news"]]
    fetched = page["take"].fetch(wires.fetch, page["view"], out, **LANE, **QUIET)
    fetched.then(None, None, None, js=FETCH, **QUIET)
    demo.load(wires.opened, page["view"], page.changing(), **LANE, **QUIET)
    demo.unload(wires.left)
    api.publish(world)


def _controls(wires: Wires) -> None:
    at, chosen = wires.page, wires.chosen
    chosen(at["layers"].input, flow.layer, source=at["layers"], change=_with("layer", str))
    chosen(at["words"].submit, flow.looked, source=at["words"], change=_with("words", _line))
    chosen(at["seed"].submit, flow.looked, source=at["seed"], change=_with("seed", _whole))
    wires.pressed(at["find"].click, flow.find)
    wires.pressed(at["all"].click, flow.find_everywhere)
    wires.pressed(at["controls"].click, flow.compared, steady=True)
    wires.pressed(at["keep"].click, flow.keep, lane="live", steady=True)
    wires.pressed(at["undo"].click, flow.undo, lane="live")
    wires.pressed(at["pinned"].click, flow.pin, lane="live", steady=True)


def _brought(wires: Wires) -> None:
    """What visitors bring: a picture to look at, a concept of their own, an edit file."""
    at, brought = wires.page, wires.brought
    brought(at["own"].upload, flow.own_picture, at["own"])
    brought(at["give"].upload, partial(flow.brought, make=own.given), at["give"])
    brought(at["mine"].submit, partial(flow.brought, make=own.given), at["give"])
    brought(at["draw"].click, partial(flow.brought, make=own.drawn), at["give"])
    brought(at["open"].upload, partial(flow.brought, make=own.edit_file), at["open"])


def _widgets(wires: Wires) -> None:
    at, world = wires.page, wires.world

    def model(view: View, sent: dict, watch: Watch) -> None:
        flow.concept(world, _other(view, model=str(sent["model"])[:200]), watch)

    def concept(view: View, sent: dict, watch: Watch) -> None:
        flow.concept(world, _other(view, concept=str(sent["concept"])[:200]), watch)

    def layer(view: View, sent: dict, watch: Watch) -> None:
        flow.layer(world, replace(view, layer=str(sent["layer"])[:200]), watch)

    def step(view: View, sent: dict, watch: Watch) -> None:
        flow.stepped(world, replace(view, step=check(sent["step"])), watch)

    def picture(view: View, sent: dict, watch: Watch) -> None:
        flow.looked(world, replace(view, picture=int(sent["picture"])).checked(), watch)

    def turn(view: View, sent: dict, watch: Watch) -> None:
        by, unit = str(sent.get("by", view.by)), str(sent.get("unit", view.unit))
        flow.turned(world, view, watch, by=by, unit=unit)

    def switch(view: View, sent: dict, watch: Watch) -> None:
        changed, said = tray.switched(view, int(sent["number"]))
        flow.trayed(world, changed, watch, said)

    def drop(view: View, sent: dict, watch: Watch) -> None:
        changed, said = tray.dropped(view, int(sent["number"]))
        flow.trayed(world, changed, watch, said)

    def rename(view: View, sent: dict, watch: Watch) -> None:
        changed, said = tray.renamed(view, int(sent["number"]), str(sent["name"]))
        flow.trayed(world, changed, watch, said)

    wires.picked(at["choice"].model, model, steady=False)
    wires.picked(at["choice"].concept, concept, steady=False)
    wires.picked(at["map"].layer, layer, steady=False)
    wires.picked(at["map"].turn, turn, steady=False)
    wires.picked(at["curve"].step, step)
    wires.picked(at["ladder"].step, step)
    wires.picked(at["see"].picture, picture)
    wires.picked(at["tray"].switch, switch)
    wires.picked(at["tray"].drop, drop)
    wires.picked(at["tray"].rename, rename)


def _with(key: str, clean: Callable[[Any], Any]) -> Callable[[View, Any], View]:
    return lambda view, new: replace(view, **{key: clean(new)}).checked()


def _other(view: View, **new: str) -> View:
    """The view of another model or concept: the layer, the step and the words are open again."""
    blank = {"layer": "", "step": None, "words": "", "picture": 0, "trace": ()}
    return replace(view, **blank, **new)


def _line(text: str | None) -> str:
    return " ".join((text or "").split())[:400]


def _whole(number: float | None) -> int:
    return int(number or 0)
