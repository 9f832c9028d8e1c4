"""How a test touches the page without a server, and what it may bring along."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import house

from slugdemo.ui.state import AppState
from slugdemo.ui.tasks import Tasks
from slugdemo.ui.view import View

MODELS = ("pocket-clip", "pocket-sd", "pocket-llava")
TEXT = "transformer.resblocks.1.attn.out_proj.weight"
VISION = "visual.transformer.resblocks.0.mlp.c_fc.weight"


def shown(state: AppState, work: Callable[..., None], view: View, **more: object) -> dict[str, Any]:
    """What stands in each block at the end of a callback."""
    page: dict[str, Any] = {}
    for bundle in Tasks().stream("me", lambda watch: work(state, view, watch, **more)):
        page |= bundle
    return page


def layer_of(model: str) -> str:
    """A layer that the model reads."""
    return VISION if model == "pocket-llava" else TEXT


def files(folder: Path, count: int) -> list[str]:
    """Pictures of something new, as a visitor has them."""
    paths = [folder / f"mine-{number}.png" for number in range(count)]
    for picture, path in zip(house.pictures(count, seed=50), paths, strict=True):
        picture.resize((200, 150)).save(path)
    return [str(path) for path in paths]
