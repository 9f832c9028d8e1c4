"""Makes the README's pictures from the real page: python -m tests.screenshots (needs a browser).

Writes small WebP files into assets/pictures.
"""

import io
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from slugdemo.ui import atlas, page
from slugdemo.ui.state import AppState

OUT = Path(__file__).parents[1] / "assets" / "pictures"
PATIENCE = 600_000  # milliseconds


def ready(tab: Page) -> None:
    """Waits until nothing is being made any more."""
    tab.locator("#ladder .rungs").wait_for(timeout=PATIENCE)
    tab.locator("#status .dot.busy").wait_for(state="detached", timeout=PATIENCE)
    tab.wait_for_timeout(1500)  # plots settle


def plain(tab: Page) -> None:
    """The page as it is."""


def stage(tab: Page) -> None:
    """The projector."""
    tab.keyboard.press("p")
    tab.wait_for_timeout(1000)


def compared(tab: Page) -> None:
    """The comparison with controls."""
    tab.locator("#controls").click()
    tab.locator(".slug-dialog .compare").wait_for(timeout=PATIENCE)
    tab.wait_for_timeout(500)


# name -> (query, what is done, what of the page is taken)
SHOTS: dict[str, tuple[str, Callable[[Page], None], str]] = {
    "page": ("", plain, "body"),
    "forget": ("", plain, "#forget-card"),
    "locate": ("", plain, "#locate-card"),
    "step": ("", plain, "#step-card"),
    "see": ("", plain, "#see-card"),
    "compare": ("", compared, ".slug-dialog"),
    "stage": ("", stage, "body"),
    "bars": ("model=pocket-clip", plain, "body"),
    "answers": ("model=pocket-llava", plain, "body"),
}


def main() -> None:
    """Opens the page over the shipped models and takes every picture."""
    state = AppState()
    if not atlas.opened(state, {}):
        raise SystemExit(
            "The atlas is stale: python -m slugdemo benchmark atlas --out assets/atlas"
        )
    os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp()
    demo = page.build(state)
    address = page.launch(demo, prevent_thread_lock=True, quiet=True)[1]
    OUT.mkdir(exist_ok=True)
    there = {model.name for model in state.offers}
    with sync_playwright() as play:
        own = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = play.chromium.launch(executable_path=own, args=["--no-sandbox"])
        for name, (query, act, part) in SHOTS.items():
            if query.startswith("model=") and query.removeprefix("model=") not in there:
                continue
            tab = browser.new_page(viewport={"width": 1280, "height": 720}, device_scale_factor=1.5)
            tab.goto(f"{address}?{query}", timeout=PATIENCE)
            ready(tab)
            act(tab)
            shown = Image.open(io.BytesIO(tab.locator(part).screenshot()))
            shown.convert("RGB").save(OUT / f"{name}.webp", quality=82, method=6)
            print(name, (OUT / f"{name}.webp").stat().st_size // 1000, "kB")
            tab.close()
        browser.close()
    demo.close()


if __name__ == "__main__":
    main()
