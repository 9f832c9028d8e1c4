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
from slugdemo.search import Score
from slugdemo.ui import callbacks, edits, forget, see, step
from slugdemo.ui.state import AppState
from slugdemo.ui.tasks import Watch, unwatched
from slugdemo.ui.view import View

FORMAT = 2  # of the file; another one is made anew
STORED = ("words", "map", "layers", "curve", "see", "collateral", "ladder", "export", "status")
FILES = ("*.safetensors", "*.json")


def place() -> Path:
    """The file of the example."""
    return catalog.assets() / "example.json"


def key(state: AppState, model: str) -> str:
    """The hash of all that an example in a model depends on: weights, pictures, this file's form."""
    return state.shown.get(("example key", model), lambda: _key(catalog.assets(), model))


def _key(folder: Path, model: str) -> str:
    total = hashlib.sha256(str(FORMAT).encode())
    used = [folder / "models" / name for name in {model, "pocket-clip", "judge"}]
    files = {file for place in used for pattern in FILES for file in place.rglob(pattern)}
    for file in sorted(files | {*(folder / "concepts").glob("*")}):
        total.update(file.relative_to(folder).as_posix().encode())
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def load(state: AppState) -> Mapping[str, Any]:
    """The stored example; {} when there is none or it was made from other weights or pictures."""
    return state.shown.get("example", lambda: _load(state))


def _load(state: AppState) -> Mapping[str, Any]:
    try:
        stored = json.loads(place().read_text())
        begin = View.parse(parse_qs(stored["query"]))
        if stored["key"] != key(state, begin.model):
            return {}
    except (OSError, ValueError, KeyError, SlugError):
        return {}
    return stored


def _remember(state: AppState, view: View, stored: Mapping[str, Any], watch: Watch) -> None:
    """Keeps the measured scores, so that live work goes on from them."""
    edit = step.unstepped(state, view, watch)
    for row in stored["scores"]:
        state.scores.put(step.key(view, edit.digest, row["strength"]), Score(**row))


def first(state: AppState) -> View:
    """Where a visitor begins: the example's view, or the state's own first choice."""
    stored = load(state)
    if not stored:
        return state.first()
    begin = View.parse(parse_qs(stored["query"]))
    return replace(begin, trace=tuple(stored["trace"]))


def shown(state: AppState, query: Mapping[str, list[str]] | None = None) -> dict[str, Any]:
    """What stands in every block of the first page; {} when there is no example.

    Also {} for a link (`query`) that shows anything else.
    """
    stored = load(state)
    asked = {key: value for key, value in (query or {}).items() if key != "__theme"}
    if not stored or (asked and asked != parse_qs(stored["query"])):
        return {}
    view = first(state)
    cheap = {"choice": forget.chosen(state, view), "forget": forget.show(state, view)}
    blocks = {name: stored["blocks"][name] for name in STORED}
    return {"view": view, **cheap, **blocks, "tray": edits.show(view), "pin": {}}


def record(
    state: AppState, *, model: str = "", concept: str = "", said: Callable[[str], object] = len
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
    begin = state.first()
    begin = replace(begin, model=model or begin.model, concept=concept or begin.concept)
    callbacks.concept(state, begin, watch)
    try:
        callbacks.run(state, blocks["view"], watch)
    except SlugError as error:  # then the first guess stays
        said(str(error))
    view = blocks["view"]
    edit = step.unstepped(state, view, unwatched())
    scores = {score.strength: score for some in step.known(state, view, edit) for score in some}
    full = [asdict(score) for score in scores.values() if score.n_retain]
    return {
        "key": key(state, view.model),
        "query": view.query(),
        "trace": list(view.trace),
        "scores": full,
        "blocks": {name: blocks[name] for name in STORED},
    }


def warm(state: AppState) -> None:
    """Opens what a first touch will need, so that nobody waits for it; without an example, makes
    the first page. Errors wait for the visitor who meets them."""
    watch = unwatched()
    try:
        stored = load(state)
        if not stored:
            callbacks.concept(state, state.first(), watch)
            return
        view = state.settled(first(state))
        _remember(state, view, stored, watch)
        see.show(state, view, watch)
        see.collateral(state, view, watch)
    except SlugError:
        return


def main(
    concept: Annotated[str, typer.Option(help="what the first page forgets")] = "",
    model: Annotated[str, typer.Option(help="in which model")] = "",
) -> None:
    """Makes the worked example of the first page anew; after new weights or pictures."""
    state = AppState()
    try:
        made = record(state, model=model, concept=concept, said=partial(typer.echo, err=True))
    except SlugError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    path = place()
    path.write_text(json.dumps(made, allow_nan=False, separators=(",", ":")))
    typer.echo(f"{path}: {path.stat().st_size / 1000:.0f} kB. {made['blocks']['status']['text']}")


if __name__ == "__main__":
    typer.run(main)
