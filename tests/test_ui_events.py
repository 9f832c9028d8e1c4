"""What an event says: in the end all that it has drawn, or nothing where the visitor has gone on."""

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from pages import ME, TEXT, connected, handler

from slugdemo.ui import callbacks
from slugdemo.ui.state import AppState
from slugdemo.ui.tasks import Watch
from slugdemo.ui.view import View

CAT = View("pocket-clip", "cat", layer=TEXT, strength=0.2)


def last(stream: Iterator[dict[Any, Any]], block: Any) -> dict[str, Any]:  # noqa: ANN401
    """What stands in a block after the last update, which gradio shows once more when all is over."""
    *_, update = stream
    return update[block]


def test_what_was_left_ends_at_once_with_an_update_that_changes_nothing(
    state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    going = threading.Event()

    def slow(_state: AppState, _view: View, watch: Watch) -> None:
        watch.put("see", {"kind": "old"})
        going.wait(60)  # asks nobody whether to go on

    monkeypatch.setattr(callbacks, "compared", slow)
    blocks = connected(state, CAT)
    updates = blocks["updates"]
    left = handler(blocks["controls"].click)(ME)
    assert next(left)[updates] == {"see": {"kind": "old"}}
    new = last(handler(blocks["seed"].submit)(3, ME), updates)
    assert new["status"]["tone"] == "calm"
    assert new["see"]["kind"] != "old"
    assert list(left) == [{updates: {}}]
    going.set()


def test_the_last_update_holds_all_that_was_drawn(state: AppState) -> None:
    blocks = connected(state, CAT)
    whole = last(handler(blocks["seed"].submit)(4, ME), blocks["updates"])
    assert {"see", "curve", "collateral", "ladder", "tray", "pin", "status"} <= whole.keys()


def test_changes_add_up_in_the_order_in_which_they_come(state: AppState) -> None:
    blocks = connected(state, CAT)
    first = handler(blocks["seed"].submit)(5, ME)
    next(first)  # it has begun, and is never shown to its end
    page = last(handler(blocks["keep"].click)(ME, SimpleNamespace(_data=None)), blocks["updates"])
    assert "seed=5" in page["status"]["query"]
    assert "keep=cat" in page["status"]["query"]
    assert (
        "seed=6"
        in last(handler(blocks["seed"].submit)(6, ME), blocks["updates"])["status"]["query"]
    )
    refused = last(handler(blocks["seed"].submit)(-1, ME), blocks["updates"])
    assert refused["status"]["tone"] == "error"
    assert refused["see"]
    back = last(handler(blocks["undo"].click)(ME), blocks["updates"])
    assert "seed=5" in back["status"]["query"]
