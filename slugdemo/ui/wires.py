"""What happens when something is touched: each event streams the news of one flow into the page.

What the page's own widgets send is untrusted; it is checked here, and errors become sentences.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs

import gradio as gr

from slugdemo.errors import SlugError
from slugdemo.ui import api, flow, take
from slugdemo.ui.jobs import Desk, Watch
from slugdemo.ui.session import View, World
from slugdemo.ui.step import check

# Every update carries all that this event has drawn: a browser that is busy skips some of them.
# Controls come along once more at the end only, since a visitor may be using them.
DRAWN = ("forget", "map", "curve", "ladder", "see", "collateral", "tray")
Work = Callable[[World, View, Watch], None]
Blocks = Any  # page.Page: blocks by name
HEAVY = {"concurrency_id": "work", "concurrency_limit": 2}
LIVE = {"concurrency_id": "live", "concurrency_limit": 2}
LINK = "() => { slug.acts.link(); }"
FETCH = "() => setTimeout(() => document.querySelector('#file')?.click(), 200)"


def _view(at: Blocks, view: View) -> dict:
    chosen = {at["model"]: view.model, at["concept"]: view.concept, at["seed"]: view.seed}
    return {at["view"]: view, **chosen}


def _layers(at: Blocks, value: dict) -> dict:
    return {at["layers"]: gr.Dropdown(value["choices"], value=value["value"])}


def _words(at: Blocks, value: dict) -> dict:
    words = gr.Textbox(
        value["text"],
        label=value["label"] or "Prompt",
        visible=True if value["label"] else "hidden",
    )
    seed = gr.Number(visible=True if value["seed"] else "hidden")
    own = gr.UploadButton(visible="hidden" if value["seed"] else True)
    return {at["words"]: words, at["seed"]: seed, at["own"]: own}


CONTROLS = {"view": _view, "layers": _layers, "words": _words}


@dataclass(frozen=True)
class Wires:
    """One page's blocks, the world behind them, and the desk where work can be stopped."""

    page: Blocks
    world: World
    desk: Desk

    def stream(self, request: gr.Request, work: Callable[[Watch], None]) -> Iterator[dict]:
        """The updates that the news of `work` mean for the page."""
        seen: dict[str, Any] = {}
        for bundle in self.desk.stream(str(request.session_hash), work):
            seen |= bundle
            drawn = {name: value for name, value in seen.items() if name in DRAWN}
            yield self.updates({**drawn, **bundle})
        if seen.get("status", {}).get("tone") not in (None, "busy"):
            yield self.updates(seen)

    def updates(self, bundle: dict[str, Any]) -> dict:
        """What a bundle of news changes on the page."""
        at, changed = self.page, {}
        for block, value in bundle.items():
            if block in CONTROLS:
                changed |= CONTROLS[block](at, value)
            else:
                changed[at[block]] = value
        return changed

    def chosen(self, event: Any, work: Work, *, source: Any, change: Callable) -> None:  # noqa: ANN401
        """An event of one control: `change` puts its value into the view."""

        def handler(view: View, new: Any, request: gr.Request) -> Iterator[dict]:  # noqa: ANN401
            yield from self.stream(
                request, lambda watch: work(self.world, change(view, new), watch)
            )

        self._listen(event, handler, [self.page["view"], source], LIVE)

    def given(self, event: Any, source: Any) -> None:  # noqa: ANN401
        """A picture was given."""

        def handler(view: View, path: str, request: gr.Request) -> Iterator[dict]:
            view = replace(view, picture=0)
            yield from self.stream(
                request, lambda watch: flow.own_picture(self.world, view, watch, path=path)
            )

        self._listen(event, handler, [self.page["view"], source], LIVE)

    def pressed(self, event: Any, work: Work) -> None:  # noqa: ANN401
        """An event that only says that it happened."""

        def handler(view: View, request: gr.Request) -> Iterator[dict]:
            yield from self.stream(request, lambda watch: work(self.world, view, watch))

        self._listen(event, handler, [self.page["view"]], HEAVY)

    def picked(self, event: Any, work: Callable[[View, dict, Watch], None]) -> None:  # noqa: ANN401
        """An event of one of the page's own widgets."""

        def handler(view: View, request: gr.Request, event: gr.EventData) -> Iterator[dict]:
            def run(watch: Watch) -> None:
                try:
                    work(view, dict(event._data or {}), watch)
                except (KeyError, TypeError, ValueError) as error:
                    raise SlugError("The page sent something that makes no sense here.") from error

            yield from self.stream(request, run)

        self._listen(event, handler, [self.page["view"]], LIVE)

    def _listen(self, event: Any, handler: Callable, inputs: list, lane: dict) -> None:  # noqa: ANN401
        event(
            handler,
            inputs,
            [*self.page.blocks.values()],
            show_progress="hidden",
            trigger_mode="multiple",
            api_visibility="private",
            **lane,
        )

    def opened(self, view: View, request: gr.Request) -> Iterator[dict]:
        """A page was opened: its link says what it shows."""

        def work(watch: Watch) -> None:
            wanted, said = View(), ""
            try:
                wanted = View.parse(parse_qs(str(request.query_params)))
                wanted = self.world.settled(wanted)
            except SlugError as error:
                wanted, said = View(), f"{error} Here is the beginning instead."
            flow.concept(self.world, wanted, watch)
            if said:
                watch.put("status", {"text": said, "share": None, "tone": "error"})

        del view
        yield from self.stream(request, work)

    def stop(self, request: gr.Request) -> dict:
        """The visitor wants to stop."""
        running = self.desk.stop(str(request.session_hash))
        text = "Stopping…" if running else "Nothing is running."
        return {"text": text, "share": None, "tone": "busy" if running else "calm"}

    def save(self, view: View) -> tuple[Any, Any]:
        """The edit that is looked at, as a file to fetch."""
        try:
            path = take.edit_file(self.world, view, Watch(lambda *_: None))
        except SlugError as error:
            return gr.skip(), {"text": str(error), "share": None, "tone": "error"}
        said = {"text": f"{path.name} is ready.", "share": None, "tone": "calm"}
        return str(path), said

    def left(self, request: gr.Request) -> None:
        """The visitor closed the page."""
        self.desk.stop(str(request.session_hash))


def connect(demo: gr.Blocks, page: Blocks, world: World) -> None:
    """Wires a page to a world; called inside gr.Blocks."""
    wires = Wires(page, world, Desk())
    _controls(wires)
    _widgets(wires)
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    page["stop"].click(wires.stop, None, page["status"], queue=False, **quiet)
    page["link"].click(None, None, None, js=LINK, **quiet)
    saved = page["save"].click(
        wires.save, page["view"], [page["file"], page["status"]], **LIVE, **quiet
    )
    saved.then(None, None, None, js=FETCH, **quiet)
    demo.load(wires.opened, page["view"], [*page.blocks.values()], **HEAVY, **quiet)
    demo.unload(wires.left)
    api.publish(world)


def _controls(wires: Wires) -> None:
    at, chosen = wires.page, wires.chosen
    chosen(at["model"].input, flow.concept, source=at["model"], change=_other_model)
    chosen(at["concept"].input, flow.concept, source=at["concept"], change=_other_concept)
    chosen(at["layers"].input, flow.layer, source=at["layers"], change=_with("layer", str))
    chosen(at["words"].submit, flow.looked, source=at["words"], change=_with("words", _line))
    chosen(at["seed"].submit, flow.looked, source=at["seed"], change=_with("seed", _whole))
    wires.given(at["own"].upload, at["own"])
    wires.pressed(at["find"].click, flow.find)
    wires.pressed(at["all"].click, flow.find_everywhere)
    wires.pressed(at["controls"].click, flow.compared)
    wires.pressed(at["keep"].click, flow.keep)


def _widgets(wires: Wires) -> None:
    at, world = wires.page, wires.world

    def layer(view: View, sent: dict, watch: Watch) -> None:
        flow.layer(world, replace(view, layer=str(sent["layer"])[:200]), watch)

    def step(view: View, sent: dict, watch: Watch) -> None:
        flow.stepped(world, replace(view, step=check(sent["step"])), watch)

    def picture(view: View, sent: dict, watch: Watch) -> None:
        flow.looked(world, replace(view, picture=int(sent["picture"])).checked(), watch)

    def turn(view: View, sent: dict, watch: Watch) -> None:
        del sent
        flow.turned(world, view, watch)

    def switch(view: View, sent: dict, watch: Watch) -> None:
        flow.switch(world, view, watch, number=int(sent["number"]))

    def drop(view: View, sent: dict, watch: Watch) -> None:
        flow.drop(world, view, watch, number=int(sent["number"]))

    wires.picked(at["map"].layer, layer)
    wires.picked(at["map"].turn, turn)
    wires.picked(at["curve"].step, step)
    wires.picked(at["ladder"].step, step)
    wires.picked(at["see"].picture, picture)
    wires.picked(at["tray"].switch, switch)
    wires.picked(at["tray"].drop, drop)


def _with(key: str, clean: Callable[[Any], Any]) -> Callable[[View, Any], View]:
    return lambda view, new: replace(view, **{key: clean(new)}).checked()


def _other_model(view: View, model: str) -> View:
    kept = tuple(one for one in view.tray)
    return View(model=str(model), concept=view.concept, seed=view.seed, tray=kept, own=view.own)


def _other_concept(view: View, concept: str) -> View:
    return replace(_other_model(view, view.model), concept=str(concept))


def _line(text: str | None) -> str:
    return " ".join((text or "").split())[:400]


def _whole(number: float | None) -> int:
    return int(number or 0)
