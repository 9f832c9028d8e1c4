"""What a visitor does in a real browser; nothing here waits for time, only for what is shown."""

from pathlib import Path

import house
import pytest
from playwright.sync_api import Browser, Page, expect
from visit import PATIENCE, READY, opened

from slugdemo.benchmark import published

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore"),  # gradio's server warns of its own libraries
]
# Where on the screen a point of a front is that is not chosen now.
OTHER = """() => {
  const box = document.querySelector('#map .plot');
  const now = document.querySelector('#map .body').value.selected;
  for (const trace of box.data.filter((one) => one.mode?.includes('text'))) {
    const at = trace.customdata.findIndex((one) => one[0] !== now);
    const axis = (one) => `${one}axis${trace[`${one}axis`].slice(1)}`.replace('axis1', 'axis');
    const [x, y] = ['x', 'y'].map((one) => box._fullLayout[axis(one)]);
    if (at < 0) continue;
    const frame = box.getBoundingClientRect();
    return [frame.left + x._offset + x.d2p(trace.x[at]), frame.top + y._offset + y.d2p(trace.y[at])];
  }
}"""
# Where on the screen the curve's point of what is forgotten at a strength is.
POINT = """(strength) => {
  const box = document.querySelector('#curve .plot');
  const line = box.data.find((trace) => trace.name === 'forget');
  const at = line.customdata.findIndex((point) => point[1] === strength);
  const frame = box.getBoundingClientRect();
  const {xaxis, yaxis} = box._fullLayout;
  return [frame.left + xaxis._offset + xaxis.d2p(line.x[at]), frame.top + yaxis._offset + yaxis.d2p(line.y[at])];
}"""
MARKS = """() => document.querySelector('#compare .tradeoff .plot').data
  .filter((trace) => trace.name === 'published')
  .flatMap((trace) => trace.x.map((x, i) => [x, trace.y[i], trace.marker.symbol, trace.customdata[i]]))"""
SIZES = ((1280, 720), (390, 844), (768, 1024), (1920, 1080))


def test_the_first_page_shows_all_five_blocks_without_a_click(visitor: Page, served: str) -> None:
    opened(visitor, served)
    expect(visitor.locator("#see .wipe img")).to_have_count(2)
    expect(visitor.locator("#ladder .cell img")).to_have_count(18)
    expect(visitor.locator("#forget .thumbs img")).to_have_count(12)
    assert visitor.locator("#map .scatterlayer .points path").count() > 10
    size = visitor.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
    )
    assert size == [1280, 720]


def test_a_click_on_a_point_chooses_its_layer_and_all_below_follows(
    visitor: Page, served: str
) -> None:
    opened(visitor, served, "model=pocket-clip&concept=cat")
    before = visitor.locator("#layer input").input_value()
    formula = visitor.locator("#curve .rest").inner_text()
    slot = visitor.locator("#map .slot.front:not(.chosen)").first
    slot.click()
    expect(visitor.locator("#layer input")).not_to_have_value(before)
    expect(visitor.locator("#curve .rest")).not_to_have_text(formula)
    expect(visitor.locator("#status .said")).to_have_text(READY)
    chosen = visitor.locator("#layer input").input_value()
    visitor.mouse.click(*visitor.evaluate(OTHER))
    expect(visitor.locator("#layer input")).not_to_have_value(chosen)


def test_the_ladder_sets_the_step_and_the_link_brings_it_back(
    visitor: Page, served: str, browser: Browser
) -> None:
    opened(visitor, served, "model=pocket-clip&concept=cat")
    visitor.locator("#ladder .rung", has_text="40 %").click()
    expect(visitor.locator("#curve .at")).to_have_text("0.400")
    expect(visitor.locator("#ladder .rung.chosen")).to_have_text("40 %")
    visitor.wait_for_function("location.search.includes('strength=0.4')")
    other = browser.new_context(viewport={"width": 1280, "height": 720}).new_page()
    opened(other, visitor.url)
    expect(other.locator("#curve .at")).to_have_text("0.400")
    assert (
        other.locator("#layer input").input_value() == visitor.locator("#layer input").input_value()
    )
    other.context.close()


def test_two_visitors_do_not_see_each_others_edits(
    visitor: Page, served: str, browser: Browser
) -> None:
    opened(visitor, served, "model=pocket-clip&concept=cat")
    other = opened(browser.new_page(), served, "model=pocket-clip&concept=cat")
    visitor.locator("#keep").click()
    expect(visitor.locator("#tray .chip")).to_have_count(1)
    other.locator("#ladder .rung", has_text="20 %").click()
    expect(other.locator("#curve .at")).to_have_text("0.200")
    expect(other.locator("#tray .chip")).to_have_count(0)
    other.close()
    visitor.locator("#tray .switch").click()
    expect(visitor.locator("#tray .chip.on")).to_have_count(0)
    visitor.locator("#tray .drop").click()
    expect(visitor.locator("#tray .chip")).to_have_count(0)


def test_a_click_on_a_point_of_the_curve_goes_to_its_step(visitor: Page, served: str) -> None:
    opened(visitor, served, "model=pocket-clip&concept=cat")
    visitor.mouse.click(*visitor.evaluate(POINT, 0.4))
    expect(visitor.locator("#curve .at")).to_have_text("0.400")


def test_published_figures_are_hollow_marks_that_are_asked_for(visitor: Page, served: str) -> None:
    opened(visitor, served, "model=pocket-sd&concept=robot&view=compare")
    shown = visitor.get_by_role("button", name="not comparable")
    expect(shown).to_have_attribute("aria-pressed", "false")
    visitor.locator("#compare .tradeoff .main-svg").first.wait_for()
    assert visitor.evaluate(MARKS) == []
    shown.click()
    expect(shown).to_have_attribute("aria-pressed", "true")
    assert "published=1" in visitor.url
    visitor.locator("#compare .tradeoff .scatterlayer .points path").nth(10).wait_for()
    marks = visitor.evaluate(MARKS)
    for (kept, gone, symbol, hover), row in zip(marks, published.ROWS, strict=True):
        assert kept == pytest.approx((row.object.ira + row.object.cra) / 2)
        assert (gone, symbol) == (row.object.ua, "diamond-open")
        assert hover.startswith(row.method)
        assert hover.endswith(row.note)


def test_there_are_no_published_marks_beside_other_kinds_of_model(
    visitor: Page, served: str
) -> None:
    opened(visitor, served, "model=pocket-clip&concept=cat&view=compare&published=1")
    visitor.locator("#compare .tradeoff .main-svg").first.wait_for()
    expect(visitor.get_by_role("button", name="not comparable")).to_have_count(0)
    assert visitor.evaluate(MARKS) == []


def test_the_row_of_the_sparse_autoencoder_shows_what_it_turns_off(
    visitor: Page, served: str
) -> None:
    opened(visitor, served, "model=pocket-sd&concept=robot&view=compare")
    visitor.locator("#compare tbody").get_by_role("button", name="sae", exact=True).click()
    panel = visitor.locator(".slug-dialog .meant")
    expect(panel.locator("h3")).to_have_text("What it turns off for “robot”")
    expect(panel.locator("li b").first).to_contain_text("feature ")
    expect(panel.locator("li small").first).to_contain_text("active on ")
    first = panel.locator("li").first.locator("img")
    assert first.count() > 1
    assert all(first.evaluate_all("all => all.map(one => one.complete && one.naturalWidth > 0)"))


def test_the_edit_can_be_downloaded(visitor: Page, served: str) -> None:
    opened(visitor, served, "model=pocket-clip&concept=cat")
    visitor.locator("#away").click()
    with visitor.expect_download() as waiting:
        visitor.get_by_role("button", name="safetensors").click()
    assert waiting.value.suggested_filename == "forget-cat-pocket-clip.safetensors"


def test_keys_walk_the_front_and_open_the_projector(visitor: Page, served: str) -> None:
    opened(visitor, served, "model=pocket-clip&concept=cat")
    visitor.keyboard.press("?")
    expect(visitor.locator(".slug-dialog")).to_be_visible()
    visitor.keyboard.press("Escape")
    expect(visitor.locator(".slug-dialog")).to_have_count(0)
    before = visitor.locator("#layer input").input_value()
    visitor.locator("#map .plot").focus()
    visitor.keyboard.press("ArrowRight")
    expect(visitor.locator("#layer input")).not_to_have_value(before)
    expect(visitor.locator("#status .said")).to_have_text(READY)
    visitor.keyboard.press("p")
    expect(visitor.locator("#forget-card")).to_be_hidden()
    expect(visitor.locator("#ladder-card")).to_be_in_viewport(ratio=1)
    expect(visitor.locator("#see-card")).to_be_in_viewport(ratio=1)


def test_plots_are_painted_anew_for_another_theme_but_not_for_work(
    visitor: Page, served: str
) -> None:
    opened(visitor, served)
    painted = """async (name) => {
      let count = 0;
      const own = Plotly.react;
      Plotly.react = (...given) => { count += 1; return own(...given); };
      document.body.classList.toggle(name);
      await new Promise((done) => setTimeout(done));
      document.body.classList.toggle(name);
      await new Promise((done) => setTimeout(done));
      Plotly.react = own;
      return count;
    }"""
    assert visitor.evaluate(painted, "busy") == 0
    assert visitor.evaluate(painted, "dark") == 4  # both plots, there and back


def test_the_table_chooses_layers_too(visitor: Page, served: str) -> None:
    opened(visitor, served, "model=pocket-clip&concept=cat")
    visitor.keyboard.press("t")
    row = visitor.locator(".slug-dialog button.link", has_text="layer 2 MLP output").first
    row.click()
    expect(visitor.locator("#layer input")).to_have_value("Text layer 2 MLP output")


def test_a_bad_link_is_answered_in_a_sentence(visitor: Page, served: str) -> None:
    visitor.goto(f"{served}?model=nonsense")
    expect(visitor.locator("#status .said")).to_contain_text(
        "There is no model called", timeout=PATIENCE
    )
    expect(visitor.locator("#ladder .cell")).not_to_have_count(0)


@pytest.mark.parametrize("size", SIZES)
def test_no_width_scrolls_sideways(visitor: Page, served: str, size: tuple[int, int]) -> None:
    visitor.set_viewport_size({"width": size[0], "height": size[1]})
    opened(visitor, served, "model=pocket-clip&concept=cat")
    assert visitor.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_controls_open_beside_the_edit(visitor: Page, served: str) -> None:
    opened(visitor, served, "model=pocket-clip&concept=cat")
    visitor.keyboard.press("c")
    expect(visitor.locator(".slug-dialog tr.ours")).to_be_visible()
    expect(visitor.locator(".slug-dialog tbody tr")).to_have_count(6)


def test_the_story_points_at_the_real_blocks_and_can_be_left(visitor: Page, served: str) -> None:
    opened(visitor, served, "model=pocket-clip&concept=cat")
    visitor.keyboard.press("g")
    expect(visitor.locator("#forget-card.told")).to_be_visible()
    visitor.locator(".story button", has_text="Next").click()
    expect(visitor.locator("#locate-card.told")).to_be_visible()
    visitor.keyboard.press("Escape")
    expect(visitor.locator(".story")).to_have_count(0)


def test_a_picture_of_ones_own_can_be_looked_at(visitor: Page, served: str, tmp_path: Path) -> None:
    house.pictures(1, seed=3)[0].save(tmp_path / "mine.png")
    opened(visitor, served, "model=pocket-clip&concept=cat")
    visitor.locator("#own").locator("xpath=..").locator("input[type=file]").set_input_files(
        tmp_path / "mine.png"
    )
    expect(visitor.locator("#see .look").first).to_have_attribute("title", "your own picture")
    expect(visitor.locator("#see .bars .line")).to_have_count(6)


def test_questions_to_a_vlm_read_as_a_conversation(visitor: Page, served: str) -> None:
    opened(visitor, served, "model=pocket-llava&concept=cat")
    asked = visitor.locator("#see .bubble.you")
    expect(visitor.locator("#see .bubble.before")).to_have_count(1)
    expect(asked).to_have_count(0)  # a single question stands in the field
    visitor.locator("#words").locator("input, textarea").fill("Is it a dog?")
    visitor.keyboard.press("Enter")
    expect(asked).to_have_count(2)
    expect(asked.last).to_have_text("Is it a dog?")
    for who in ("before", "after"):
        expect(visitor.locator(f"#see .bubble.{who}")).to_have_count(2)
    visitor.locator("#see .clear button").click()
    expect(visitor.locator("#see .bubble.before")).to_have_count(1)
    expect(asked).to_have_count(0)
