"""The worked example on the first page, made beforehand: python -m slugdemo.ui.example

It is shown at once, without opening a model, and only as long as the weights and pictures are the
ones that it was made with.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs

import typer

from slugdemo import catalog
from slugdemo.errors import SlugError
from slugdemo.search import Point
from slugdemo.ui import exams, flow, forget, see, step, tray
from slugdemo.ui.jobs import Watch
from slugdemo.ui.session import World
from slugdemo.ui.view import View

FORMAT = 1  # of the file; another one is made anew
STORED = ("words", "map", "layers", "curve", "see", "collateral", "ladder", "take", "status")
FILES = ("*.safetensors", "*.json")


def place(folder: Path) -> Path:
    """The file of the example in an assets folder."""
    return folder / "example.json"


def key(world: World, model: str) -> str:
    """The hash of all that an example in a model depends on: weights, pictures, this file's form."""
    folder = world.shelf.folder
    return world.results.get(("example key", model), lambda: _key(folder, model))


def _key(folder: Path, model: str) -> str:
    total = hashlib.sha256(str(FORMAT).encode())
    used = [folder / "models" / name for name in {model, "pocket-clip", "judge"}]
    files = {file for one in used for pattern in FILES for file in one.rglob(pattern)}
    for file in sorted(files | {*(folder / "concepts").glob("*")}):
        total.update(file.relative_to(folder).as_posix().encode())
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def load(world: World) -> Mapping[str, Any]:
    """The stored example; {} when there is none or it was made from other weights or pictures."""
    return world.results.get("example", lambda: _load(world))


def _load(world: World) -> Mapping[str, Any]:
    try:
        stored = json.loads(place(world.shelf.folder).read_text())
        begin = View.parse(parse_qs(stored["query"]))
        if stored["key"] != key(world, begin.model):
            return {}
    except (OSError, ValueError, KeyError, SlugError):
        return {}
    _remember(world, begin, stored)
    return stored


def _remember(world: World, view: View, stored: Mapping[str, Any]) -> None:
    """Lays down the measured points, so that live work goes on from them."""
    for row in stored["points"]:
        world.results.put(exams.key(view, view.layer, row["step"]), Point(**row))


def first(world: World) -> View:
    """Where a visitor begins: the example's view, or the world's own first choice."""
    stored = load(world)
    if not stored:
        return world.first()
    begin = View.parse(parse_qs(stored["query"]))
    return replace(begin, trace=tuple(stored["trace"]))


def shown(world: World, query: Mapping[str, list[str]] | None = None) -> dict[str, Any]:
    """What stands in every block of the first page; {} when there is no example.

    Also {} for a link (`query`) that shows anything else.
    """
    stored = load(world)
    asked = {key: one for key, one in (query or {}).items() if key != "__theme"}
    if not stored or (asked and asked != parse_qs(stored["query"])):
        return {}
    view = first(world)
    cheap = {"choice": forget.chosen(world, view), "forget": forget.show(world, view)}
    blocks = {name: stored["blocks"][name] for name in STORED}
    return {"view": view, **cheap, **blocks, "tray": tray.show(view), "pin": {}}


def record(
    world: World, *, model: str = "", concept: str = "", said: Callable[[str], None] = len
) -> Mapping[str, Any]:
    """The example: the search on a model and a concept, and every block as it then looks.

    `said` is told each sentence of progress.
    """
    blocks: dict[str, Any] = {}

    def put(block: str, value: Any) -> None:  # noqa: ANN401
        blocks[block] = value
        if block == "status":
            said(value["text"])

    watch = Watch(put)
    begin = replace(
        world.first(), **{k: v for k, v in (("model", model), ("concept", concept)) if v}
    )
    flow.concept(world, begin, watch)
    try:
        flow.find_everywhere(world, blocks["view"], watch)
    except SlugError as error:  # then the first guess stays
        said(str(error))
    view = blocks["view"]
    points = {point.step: point for some in step.known(world, view) for point in some}
    full = [asdict(point) for point in points.values() if point.n_retain]
    return {
        "key": key(world, view.model),
        "query": view.query(),
        "trace": list(view.trace),
        "points": full,
        "blocks": {name: blocks[name] for name in STORED},
    }


def warm(world: World) -> None:
    """Opens what a first touch will need, so that nobody waits for it; without an example, makes
    the first page. Errors wait for the visitor who meets them."""
    watch = Watch(lambda *_: None)
    try:
        if not load(world):
            flow.concept(world, world.first(), watch)
            return
        view = world.settled(first(world))
        see.show(world, view, watch)
        see.collateral(world, view, watch)
    except SlugError:
        return


def main(
    concept: Annotated[str, typer.Option(help="what the first page forgets")] = "",
    model: Annotated[str, typer.Option(help="in which model")] = "",
) -> None:
    """Makes the worked example of the first page anew; after new weights or pictures."""
    world = World.at(catalog.assets(), catalog.cache())
    try:
        made = record(world, model=model, concept=concept, said=partial(typer.echo, err=True))
    except SlugError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    path = place(world.shelf.folder)
    path.write_text(json.dumps(made, allow_nan=False, separators=(",", ":")))
    typer.echo(f"{path}: {path.stat().st_size / 1000:.0f} kB. {made['blocks']['status']['text']}")


if __name__ == "__main__":
    typer.run(main)
