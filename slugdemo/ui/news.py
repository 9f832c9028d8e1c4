"""What news mean for the page: updates of what it draws itself, and of gradio's own controls."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from slugdemo.ui.view import View

Blocks = Any  # page.Page: blocks by name
# Every update carries all that this event has drawn: a browser that is busy skips some of them.
# Controls come along once more at the end only, since a visitor may be using them.
DRAWN = ("choice", "forget", "map", "curve", "ladder", "see", "collateral", "tray", "pin", "take")


def _view(at: Blocks, view: View) -> dict:
    return {at["view"]: view, at["seed"]: view.seed}


def _layers(at: Blocks, value: dict) -> dict:
    return {at["layers"]: gr.Dropdown(value["choices"], value=value["value"])}


def _words(at: Blocks, value: dict) -> dict:
    words = gr.Textbox(
        value["text"],
        label=value["label"] or "Prompt",
        visible=True if value["label"] else "hidden",
    )
    drawn = value["seed"] is not None
    seed = gr.Number(value["seed"] or 0, visible=True if drawn else "hidden")
    given = gr.UploadButton(visible="hidden" if drawn else True)
    return {at["words"]: words, at["seed"]: seed, at["own"]: given}


def _file(at: Blocks, path: str) -> dict:
    return {at["file"]: path}


CONTROLS = {"view": _view, "layers": _layers, "words": _words, "file": _file}


def updates(at: Blocks, bundle: dict[str, Any], outputs: Sequence[Any] = ()) -> dict:
    """What a bundle of news changes among the `outputs`, by default anywhere on the page."""
    changed, news = {}, {}
    for block, value in bundle.items():
        if block in CONTROLS:
            changed |= CONTROLS[block](at, value)
        else:
            news[block] = value
    changed |= {at["news"]: news} if news else {}
    return {one: new for one, new in changed.items() if not outputs or one in outputs}
