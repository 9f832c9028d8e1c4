"""How long a visitor waits, measured in a real browser: python -m tests.moments (needs a browser).

Starts the page on the models in assets/ and prints as JSON the seconds from its start to the worked
example, from a reload to it, from choosing a preset concept to all that it shows, from moving the
step slider to what SEE then shows, from "run" to a method's row in Compare, and from "Try to bring
it back" to what an attack gave, with the longest time without news meanwhile; exit code 1 when one
is above its bar. `python -m tests.moments rows attacks` measures these parts alone.
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

ROWS = {
    "pocket-sd": ("uce", "rece", "speed", "mace", "diffquickfix", "sld", "safree", "casteer"),
    "pocket-clip": ("leace", "ccup", "inlp"),
}
ROW_BAR = 3.0  # seconds until the row of a closed form or of a rule at inference is there
BACK = {"soft prompt": 20.0, "synonyms": 3.0}  # seconds from a click to the result
NEWS_BAR = 1.0  # seconds until the picture so far, the loss or the step is another
BROUGHT = """(attack) => new Promise((done) => {
  const box = document.querySelector('.attacked'), pick = box.querySelector('select');
  const over = () => [...box.querySelectorAll('.tried')].some((one) =>
    one.querySelector('h3').firstChild.textContent === attack && one.querySelector('.side.edited .rate'));
  pick.value = attack;
  pick.dispatchEvent(new Event('change'));
  const began = performance.now(), news = [began];
  let last = '', first = null;
  box.querySelector('.go button').click();
  const look = () => {
    const live = box.querySelector('.live');
    const text = live ? live.querySelector('img')?.src + live.textContent : '';
    if (text !== last) { last = text; news.push(performance.now()); }
    if (live?.querySelector('img')) first ??= (performance.now() - began) / 1000;
    if (!over() && performance.now() - began < 90000) return requestAnimationFrame(look);
    const gaps = [...news.slice(1), performance.now()].map((end, i) => (end - news[i]) / 1000);
    done([(performance.now() - began) / 1000, Math.max(...gaps), first]);
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


def idle(tab: Page) -> None:
    """Waits until the cores have nothing to do, for a minute at most; only Linux tells."""
    stat, end = Path("/proc/stat"), time.monotonic() + 60
    while stat.exists() and time.monotonic() < end:
        first = [int(number) for number in stat.read_text().split(maxsplit=9)[1:9]]
        tab.wait_for_timeout(1000)
        last = [int(number) for number in stat.read_text().split(maxsplit=9)[1:9]]
        spent = [after - before for before, after in zip(first, last, strict=True)]
        if spent[3] + spent[4] > 0.9 * sum(spent):  # idle, and waiting for disks
            return


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
        idle(tab)
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


def run(tab: Page, method: str) -> float:
    """Seconds from "run" beside a method in Compare to the first figures in its row."""
    tab.locator("#status .dot.busy").wait_for(state="detached", timeout=PATIENCE)
    idle(tab)
    began = time.monotonic()
    tab.locator(f"#compare button[title^='Run {method},']").click()
    tab.locator(f"#compare tr.here button[title^='Run {method} again']").wait_for(timeout=PATIENCE)
    return time.monotonic() - began


def brought_back(tab: Page, attack: str) -> tuple[float, float, float | None]:
    """Seconds from "Try to bring it back" to the edited model's result, the longest time without
    news meanwhile, and the seconds to the first picture, if there was one."""
    tab.get_by_role("button", name="Try to bring it back").first.click()
    tab.locator(".attacked select").wait_for(timeout=PATIENCE)
    found = tab.evaluate(BROUGHT, attack)
    tab.locator("#status .dot.busy").wait_for(state="detached", timeout=PATIENCE)
    tab.keyboard.press("Escape")
    return found


def first(tab: Page, address: str) -> dict:
    """A reload."""
    return {"reload_to_first_content": shown(tab, address)}


def moving(tab: Page, address: str) -> dict:
    """The slider, and another preset concept."""
    found = {}
    for model, bar in BARS.items():
        shown(tab, f"{address}?model={model}&concept=wizard")
        idle(tab)
        found[f"{model}: slider to what it shows"] = _judged(moved(tab, SEEN[model]), bar)
        found[f"{model}: preset chosen to all shown"] = _judged(chosen(tab), PRESET_BAR)
    return found


def rows(tab: Page, address: str) -> dict:
    """Methods that train nothing, run in Compare."""
    found = {}
    for model, methods in ROWS.items():
        tab.goto(f"{address}?model={model}&concept=wizard&view=compare", timeout=PATIENCE)
        tab.locator("#compare tbody th").first.wait_for(timeout=PATIENCE)
        times = {method: run(tab, method) for method in methods}
        found[f"{model}: run to the first figures of a row"] = {
            **_judged(list(times.values()), ROW_BAR), "each": times
        }  # fmt: skip
    return found


def attacks(tab: Page, address: str) -> dict:
    """Attacks on the edit that is open in Erase."""
    found = {}
    for attack, bar in BACK.items():
        shown(tab, f"{address}?model=pocket-sd&concept=wizard")
        seconds, longest, picture = brought_back(tab, attack)
        found[attack] = {**_judged([seconds], bar), "first picture": picture}
        found[f"{attack}: longest without news"] = _judged([longest], NEWS_BAR)
    return found


PARTS = {"first": first, "moving": moving, "rows": rows, "attacks": attacks}


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
            started = time.monotonic() - began
            found: dict = {"start_to_first_content": started + shown(tab, address)}
            for part in sys.argv[1:] or PARTS:
                found |= PARTS[part](tab, address)
        browser.close()
    print(json.dumps(found, indent=1))
    return int(not all(wait["met"] for wait in found.values() if isinstance(wait, dict)))


if __name__ == "__main__":
    sys.exit(main())
