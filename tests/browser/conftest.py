"""A served page over a tiny world, and Debian's chromium; skipped where either is missing."""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import house
import pytest

from slugdemo.ui import page
from slugdemo.ui.state import AppState

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

# Without the plugin there is nothing to drive a browser with.
there = importlib.util.find_spec("pytest_playwright")
collect_ignore_glob = [] if there else ["test_*.py"]


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict) -> dict:
    own = os.getenv("CHROMIUM") or shutil.which("chromium") or pytest.skip("no browser")
    flags = ["--no-sandbox", "--disable-dev-shm-usage"]
    return {**browser_type_launch_args, "executable_path": own, "args": flags}


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page over the tiny assets."""
    folder: Path = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "gradio"))
        patch.setenv("SLUGDEMO_ASSETS", str(house.build(folder / "assets")))
        patch.setenv("SLUGDEMO_CACHE", str(folder / "cache"))
        demo = page.build(AppState())
        yield page.launch(demo, prevent_thread_lock=True, quiet=True)[1]
        demo.close()


@pytest.fixture(scope="session")
def window(browser: "Browser") -> Iterator["BrowserContext"]:
    """Where all visitors' pages open, so that scripts are fetched and compiled once."""
    calm = {"reduced_motion": "reduce", "accept_downloads": True}  # nothing is painted for show
    context = browser.new_context(viewport={"width": 1280, "height": 720}, **calm)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    yield context
    context.close()


@pytest.fixture
def visitor(window: "BrowserContext") -> Iterator["Page"]:
    """A page at 1280 x 720 that must neither complain nor ask any other machine for anything."""
    from visit import PATIENCE, foreign

    page, wrong = window.new_page(), []
    page.on("console", lambda note: wrong.append(note.text) if note.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if foreign(request.url) else None)
    page.set_default_timeout(PATIENCE)
    yield page
    for one in window.pages:
        one.close()
    window.clear_cookies()
    assert wrong == []
