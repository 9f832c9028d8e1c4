"""What a callback reports, as updates of gradio's controls and of what the page draws itself."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import gradio as gr

from slugdemo.ui.view import View

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
)


class Blocks(Protocol):
    """The blocks of one page by their names."""

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401
        """One block."""

    def changing(self, *, controls: bool = True) -> list[Any]:
        """What an event may change."""


def _view(at: Blocks, view: View) -> dict[Any, Any]:
    return {at["view"]: view, at["seed"]: view.seed}


def _layers(at: Blocks, value: dict[str, Any]) -> dict[Any, Any]:
    return {at["layers"]: gr.Dropdown(value["choices"], value=value["value"] or None)}


def _words(at: Blocks, value: dict[str, Any]) -> dict[Any, Any]:
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
CONTROLS: dict[str, Update] = {"view": _view, "layers": _layers, "words": _words, "file": _file}


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
