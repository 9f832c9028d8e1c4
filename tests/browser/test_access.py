"""Everybody can use it: axe-core finds nothing serious, keys reach everything, nothing is cut off."""

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, expect
from visit import READY, opened

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore")]
AXE = Path(__file__).with_name("axe.min.js").read_text()  # axe-core 4.14.1, MPL-2.0
CLIP = "model=pocket-clip&concept=cat"
# The focused element and all that it lies in.
AROUND = """() => { const found = [];
  for (let one = document.activeElement; one; one = one.parentElement) found.push(one.id);
  return found; }"""
SHEETS = {
    "n": "concepts",
    "m": "models",
    "x": "take away",
    "t": "layers",
    "w": "formula",
    "?": "keys",
}
# Whatever a card holds must be inside it, and every card inside the window.
CUT = """() => [...document.querySelectorAll('.card')].filter((card) => card.offsetParent)
  .filter((card) => card.scrollHeight > card.clientHeight + 2 || card.scrollWidth > card.clientWidth + 2
    || card.getBoundingClientRect().bottom > innerHeight + 1).map((card) => card.id)"""

# What is said of a picture in See must be inside the card, with room for its words.
SQUEEZED = """() => {
  const card = document.querySelector('#see-card').getBoundingClientRect();
  return [...document.querySelectorAll('#see :is(.verdict, .bubble, .line)')].filter((one) => {
    const box = one.getBoundingClientRect();
    return box.left < card.left || box.right > card.right || one.scrollWidth > one.clientWidth + 2
      || box.width < 60;
  }).map((one) => one.textContent); }"""


def findings(page: Page) -> list[str]:
    """What axe-core thinks is serious or critical."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run().then((found) => found.violations)")
    return [
        f"{one['id']}: {[node['html'][:120] for node in one['nodes']]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("query", [CLIP, "model=pocket-sd", "model=pocket-llava&concept=cat"])
def test_axe_finds_nothing_serious(visitor: Page, served: str, query: str, theme: str) -> None:
    opened(visitor, served, f"{query}&__theme={theme}")
    assert findings(visitor) == []


def test_axe_finds_nothing_serious_in_any_sheet(visitor: Page, served: str) -> None:
    opened(visitor, served, CLIP)
    visitor.locator("#keep").click()
    expect(visitor.locator("#tray .chip")).to_have_count(1)
    for key, name in SHEETS.items():
        visitor.keyboard.press(key)
        expect(visitor.locator(".slug-dialog")).to_be_visible()
        assert findings(visitor) == [], name
        visitor.keyboard.press("Escape")
        expect(visitor.locator(".slug-dialog")).to_have_count(0)
    visitor.keyboard.press("h")
    assert findings(visitor) == []


def test_the_whole_job_can_be_done_with_keys(visitor: Page, served: str) -> None:
    opened(visitor, served, CLIP)
    visitor.locator("#choice button").nth(1).focus()
    visitor.keyboard.press("Enter")
    visitor.keyboard.type("robot")
    visitor.keyboard.press("Tab")
    visitor.keyboard.press("Enter")
    expect(visitor.locator("#choice")).to_contain_text("robot")
    expect(visitor.locator("#forget")).to_contain_text("Forget “robot”")
    expect(visitor.locator("#status .said")).to_have_text(READY)
    layer = visitor.locator("#layer input").input_value()
    visitor.locator("#map .plot").focus()
    visitor.keyboard.press("ArrowRight")
    expect(visitor.locator("#layer input")).not_to_have_value(layer)
    expect(visitor.locator("#status .said")).to_have_text(READY)
    visitor.locator("#step").focus()
    visitor.keyboard.press("ArrowRight")
    visitor.wait_for_timeout(60)  # as fast as fingers are; the page has not answered yet
    visitor.keyboard.press("k")
    step = visitor.locator("#step").input_value()
    expect(visitor.locator("#tray .chip")).to_have_count(1)
    expect(visitor.locator("#curve .at")).to_have_text(f"{float(step):.3f}")
    expect(visitor.locator("#status .dot.busy")).to_have_count(0)
    kept = parse_qs(urlsplit(visitor.url).query)
    assert kept["strength"] == [f"{float(step):g}"]
    assert f"~{float(step):g}" in kept["keep"][0]


def test_everything_that_acts_can_be_reached_with_tab(visitor: Page, served: str) -> None:
    opened(visitor, served, CLIP)
    seen = set()
    for _ in range(80):
        visitor.keyboard.press("Tab")
        seen |= {*visitor.evaluate(AROUND)}
    wanted = {"choice", "find-all", "map", "step", "ladder", "see", "keep", "undo", "pinned"}
    assert wanted | {"away", "link", "find", "controls", "mine"} <= seen


@pytest.mark.parametrize("query", [CLIP, "model=pocket-sd", "model=pocket-llava&concept=cat"])
def test_nothing_is_cut_off_on_one_screen(visitor: Page, served: str, query: str) -> None:
    opened(visitor, served, query)
    assert visitor.evaluate(CUT) == []
    visitor.keyboard.press("p")
    expect(visitor.locator("#forget-card")).to_be_hidden()
    visitor.wait_for_timeout(500)  # plots are drawn anew
    assert visitor.evaluate(CUT) == []
    size = "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
    assert visitor.evaluate(size) == [1280, 720]


@pytest.mark.parametrize("query", [CLIP, "model=pocket-sd", "model=pocket-llava&concept=cat"])
def test_words_beside_a_picture_have_room_in_every_window(
    visitor: Page, served: str, query: str
) -> None:
    opened(visitor, served, query)
    for width, height in ((1280, 720), (1440, 900), (1280, 1100), (1280, 1500), (820, 1180)):
        visitor.set_viewport_size({"width": width, "height": height})
        visitor.wait_for_timeout(300)
        assert visitor.locator("#see :is(.verdict, .bubble, .line)").count()
        assert visitor.evaluate(SQUEEZED) == [], (width, height)
