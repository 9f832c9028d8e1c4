"""How long a visitor waits, measured in a real browser: python -m tests.moments (needs a browser).

Starts the page on the models in assets/ and prints as JSON the seconds from its start to the worked
example, from a reload to it, from choosing a preset concept to all that it shows, and from moving
the step slider to what SEE then shows; exit code 1 when a median is above its bar.
"""

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from slugdemo import catalog
from tests import load

PATIENCE = 120_000  # milliseconds
MOVES = 12
BARS = {"pocket-clip": 0.12, "pocket-sd": 0.35, "pocket-llava": 0.5}  # seconds until SEE changes
SEEN = {
    "pocket-clip": "#see .bars", "pocket-sd": "#see .wipe img.after", "pocket-llava": "#see .talk"
}  # fmt: skip
PRESETS, PRESET_BAR = ("robot", "cat", "elephant"), 1.0  # seconds until all five blocks show it
MOVED = """([step, seen]) => new Promise((done) => {
  const shown = () => document.querySelector(seen)?.outerHTML;
  const busy = () => document.querySelector('#status .dot.busy');
  const hand = document.querySelector('#step'), before = shown(), began = performance.now();
  let worked = false;
  hand.value = step;
  hand.dispatchEvent(new Event('change', {bubbles: true}));
  const look = () => {   // the same answer again changes nothing: then the work is over when the page says so
    worked ||= Boolean(busy());
    const waited = performance.now() - began;
    return (shown() && shown() !== before) || (worked && !busy()) || waited > 60000
      ? done((performance.now() - began) / 1000) : requestAnimationFrame(look);
  };
  look();
})"""


def shown(tab: Page, address: str) -> float:
    """Seconds until the address shows all five blocks."""
    began = time.monotonic()
    tab.goto(address, timeout=PATIENCE)
    for block in ("#forget .thumbs", "#map .points path", "#curve .plot path", "#ladder .rungs"):
        tab.locator(block).first.wait_for(state="attached", timeout=PATIENCE)
    return time.monotonic() - began


def moved(tab: Page, seen: str) -> list[float]:
    """Seconds until SEE has changed, for steps of the slider that nobody has asked for yet."""
    times = []
    for number in range(MOVES):
        tab.locator("#status .dot.busy").wait_for(state="detached", timeout=PATIENCE)
        tab.wait_for_timeout(300)
        times.append(tab.evaluate(MOVED, [0.105 + 0.025 * number, seen]))
    return times


def chosen(tab: Page) -> list[float]:
    """Seconds from choosing a preset concept to all that the page shows of it."""
    times = []
    for name in PRESETS:
        tab.locator("button.pick[title='Choose another concept']").first.click()
        row = tab.locator(f"ul.concepts li[data-name='{name}'] button")
        row.wait_for(timeout=PATIENCE)
        began = time.monotonic()
        row.click()
        tab.locator("button.pick[title='Choose another concept'] b", has_text=name).wait_for(
            timeout=PATIENCE
        )
        tab.locator("#status .said", has_text=f": {name} ").wait_for(timeout=PATIENCE)
        times.append(time.monotonic() - began)
    return times


def waits(tab: Page, address: str, started: float) -> dict:
    """All that is measured, in seconds."""
    found: dict = {"start_to_first_content": started + shown(tab, address)}
    found["reload_to_first_content"] = shown(tab, address)
    for model, bar in BARS.items():
        shown(tab, f"{address}?model={model}&concept=wizard")
        found[f"{model}: slider to what it shows"] = _judged(moved(tab, SEEN[model]), bar)
        found[f"{model}: preset chosen to all shown"] = _judged(chosen(tab), PRESET_BAR)
    return found


def _judged(times: list[float], bar: float) -> dict:
    middle = statistics.median(times)
    return {
        "median": middle, "slowest": max(times), "times": len(times), "bar": bar,
        "met": middle <= bar,
    }  # fmt: skip


def main() -> int:
    """Measures and prints; the exit code."""
    own = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as play, tempfile.TemporaryDirectory() as folder:
        browser = play.chromium.launch(executable_path=own, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 720})
        began = time.monotonic()
        with load.page(catalog.assets(), Path(folder)) as (address, _):
            found = waits(tab, address, time.monotonic() - began)
        browser.close()
    print(json.dumps(found, indent=1))
    return int(not all(wait["met"] for wait in found.values() if isinstance(wait, dict)))


if __name__ == "__main__":
    sys.exit(main())
