"""A served page over a tiny world, and Debian's chromium; skipped where either is missing."""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import shelves

from slugdemo.ui import page
from slugdemo.ui.session import World

# Without the plugin there is nothing to drive a browser with.
collect_ignore = [] if importlib.util.find_spec("pytest_playwright") else ["test_browser.py"]


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict) -> dict:
    own = os.getenv("CHROMIUM") or shutil.which("chromium") or pytest.skip("no browser")
    flags = ["--no-sandbox", "--disable-dev-shm-usage"]
    return {**browser_type_launch_args, "executable_path": own, "args": flags}


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page over a tiny world."""
    folder: Path = tmp_path_factory.mktemp("served")
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "gradio")
    world = World.at(shelves.assets(folder / "assets"), folder / "cache")
    demo = page.build(world)
    address = page.launch(demo, prevent_thread_lock=True, quiet=True)[1]
    yield address
    demo.close()
