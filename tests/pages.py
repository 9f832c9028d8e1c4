"""How a test touches the page without a server, and what it may bring along."""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import house
import pytest

from slugdemo.ui import events
from slugdemo.ui.page import Page
from slugdemo.ui.state import AppState, freed
from slugdemo.ui.tasks import Tasks
from slugdemo.ui.view import View
from slugdemo.ui.visitors import Visitors

MODELS = ("pocket-clip", "pocket-sd", "pocket-llava")
TEXT = "transformer.resblocks.1.attn.out_proj.weight"
VISION = "visual.transformer.resblocks.0.mlp.c_fc.weight"


def shown(state: AppState, work: Callable[..., None], view: View, **more: object) -> dict[str, Any]:
    """What stands in each block at the end of a callback."""
    page: dict[str, Any] = {}
    for bundle in Tasks().stream("me", lambda watch: work(state, view, watch, **more)):
        page |= bundle
    return page


ME = SimpleNamespace(session_hash="me")


def connected(state: AppState, view: View) -> Page:
    """The blocks of a page whose events are connected, and which the visitor ME looks at."""
    blocks, here = Page(defaultdict(MagicMock)), Visitors()
    here.begin("me", None, lambda _nothing: view)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events.api, "publish", lambda _: None)
        patch.setattr(events, "Visitors", lambda: here)
        events.connect(MagicMock(), blocks, state, Tasks(partial(freed, state)))
    return blocks


def handler(event: MagicMock) -> Callable[..., Any]:
    """What a block's event calls."""
    return event.call_args.args[0]


def layer_of(model: str) -> str:
    """A layer that the model reads."""
    return VISION if model == "pocket-llava" else TEXT


def files(folder: Path, count: int) -> list[str]:
    """Pictures of something new, as a visitor has them."""
    paths = [folder / f"mine-{number}.png" for number in range(count)]
    for picture, path in zip(house.pictures(count, seed=50), paths, strict=True):
        picture.resize((200, 150)).save(path)
    return [str(path) for path in paths]
