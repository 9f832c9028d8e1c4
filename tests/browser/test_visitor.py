"""What a visitor brings, keeps, guesses and carries away, in a real browser."""

import json
import struct
from pathlib import Path

import house
import pytest
from gradio_client import Client
from playwright.sync_api import Page, expect
from visit import READY, opened

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore")]
CLIP = "model=pocket-clip&concept=cat"


def give(page: Page, block: str, *paths: Path) -> None:
    """Puts files into an upload button."""
    field = page.locator(f"#{block}").locator("xpath=..").locator("input[type=file]")
    field.set_input_files([str(path) for path in paths])


def pictures(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"mine-{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        house.pictures(1, seed=70 + number)[0].save(path)
    return paths


def test_a_concept_of_ones_own_is_forgotten_like_any_other(
    visitor: Page, served: str, tmp_path: Path
) -> None:
    opened(visitor, served, CLIP)
    visitor.locator("#mine input, #mine textarea").first.fill("my mug")
    give(visitor, "give", *pictures(tmp_path, 4))
    expect(visitor.locator("#choice")).to_contain_text("my mug")
    expect(visitor.locator("#forget .group.forget img")).to_have_count(4)
    expect(visitor.locator("#status .said")).to_have_text(READY)
    expect(visitor.locator("#collateral")).to_contain_text("my mug")


def test_bad_pictures_are_answered_in_a_sentence(
    visitor: Page, served: str, tmp_path: Path
) -> None:
    opened(visitor, served, CLIP)
    give(visitor, "give", *pictures(tmp_path, 4))
    expect(visitor.locator("#status .said")).to_contain_text("Type a name")
    visitor.locator("#mine input, #mine textarea").first.fill("my mug")
    give(visitor, "give", *pictures(tmp_path, 2))
    expect(visitor.locator("#status .said")).to_contain_text("Choose 3 to 50 pictures")
    (tmp_path / "bad.png").write_bytes(b"nothing")
    give(visitor, "give", *pictures(tmp_path, 3), tmp_path / "bad.png")
    expect(visitor.locator("#status .said")).to_contain_text("bad.png is not a picture")


def test_pinned_a_stands_beside_b_until_it_is_let_go(visitor: Page, served: str) -> None:
    opened(visitor, served, CLIP)
    visitor.locator("#pinned").click()
    expect(visitor.locator("#tray .chip.pinned")).to_be_visible()
    visitor.locator("#ladder .rung", has_text="80 %").click()
    expect(visitor.locator("#curve .at")).to_have_text("0.800")
    expect(visitor.locator("#ladder .corner.held")).to_have_text("A")
    expect(visitor.locator("#see .track u")).not_to_have_count(0)
    expect(visitor.locator("#collateral")).to_contain_text("A ")
    assert "pin=" in visitor.url
    visitor.keyboard.press("a")
    expect(visitor.locator("#tray .chip.pinned")).to_have_count(0)
    visitor.locator("#undo").click()  # the unpinning
    expect(visitor.locator("#tray .chip.pinned")).to_be_visible()
    visitor.keyboard.press("z")  # the step
    expect(visitor.locator("#curve .at")).not_to_have_text("0.800")


def test_an_edit_in_the_tray_can_be_renamed(visitor: Page, served: str) -> None:
    opened(visitor, served, CLIP)
    visitor.locator("#keep").click()
    visitor.locator("#tray .name").click()
    visitor.locator("#new-name").fill("no more cats")
    visitor.keyboard.press("Enter")
    expect(visitor.locator("#tray .switch")).to_have_text("no more cats")
    visitor.wait_for_function("location.search.includes('no+more+cats')")
    visitor.locator("#link").click()
    expect(visitor.locator("#status .said")).to_contain_text("copied")
    assert "no+more+cats" in visitor.evaluate("navigator.clipboard.readText()")


def test_a_guess_is_answered_by_the_plot(visitor: Page, served: str) -> None:
    opened(visitor, served, CLIP)
    visitor.keyboard.press("h")
    expect(visitor.locator("#ladder")).to_be_hidden()
    visitor.locator(".cover .cells button", has_text="layer 1 MLP input").first.click()
    expect(visitor.locator(".verdict-of")).to_contain_text(
        "You said text layer 1 MLP input: number"
    )
    expect(visitor.locator("#ladder")).to_be_visible()


def test_an_edit_that_was_taken_away_can_be_brought_back(
    visitor: Page, served: str, tmp_path: Path
) -> None:
    opened(visitor, served, CLIP)
    visitor.locator("#ladder .rung", has_text="40 %").click()
    expect(visitor.locator("#curve .at")).to_have_text("0.400")
    expect(visitor.locator("#status .said")).to_have_text(READY)
    visitor.locator("#away").click()
    with visitor.expect_download() as waiting:
        visitor.get_by_role("button", name="safetensors").click()
    path = tmp_path / "edit.safetensors"
    waiting.value.save_as(path)
    visitor.locator("#ladder .rung", has_text="80 %").click()
    expect(visitor.locator("#curve .at")).to_have_text("0.800")
    give(visitor, "open", path)
    expect(visitor.locator("#curve .at")).to_have_text("0.400")


def test_the_edited_model_comes_as_a_zip(visitor: Page, served: str) -> None:
    opened(visitor, served, CLIP)
    visitor.keyboard.press("x")
    with visitor.expect_download() as waiting:
        visitor.get_by_role("button", name="open_clip").click()
    assert waiting.value.suggested_filename == "forget-cat-pocket-clip.zip"


def test_figures_carry_their_parameters(visitor: Page, served: str, tmp_path: Path) -> None:
    opened(visitor, served, CLIP)
    visitor.keyboard.press("x")
    for form in ("PNG", "SVG"):
        with visitor.expect_download() as waiting:
            visitor.locator(".slug-dialog button", has_text=form).first.click()
        waiting.value.save_as(tmp_path / form)
    facts = parameters((tmp_path / "PNG").read_bytes())
    assert (facts["model"], facts["concept"]) == ("pocket-clip", "cat")
    assert '"concept":"cat"' in (tmp_path / "SVG").read_text().replace("&quot;", '"')
    with visitor.expect_download() as waiting:
        visitor.locator(".slug-dialog button", has_text="layers").first.click()
    waiting.value.save_as(tmp_path / "csv")
    assert (tmp_path / "csv").read_text().startswith('"layer","tower","importance"')


def parameters(png: bytes) -> dict:
    """What the iTXt chunk of a PNG says."""
    at = 8
    while at < len(png):
        (size,), kind = struct.unpack(">I", png[at : at + 4]), png[at + 4 : at + 8]
        if kind == b"iTXt":
            return json.loads(png[at + 8 : at + 8 + size].split(b"\0", 5)[-1])
        at += 12 + size
    raise AssertionError("this PNG says nothing")


@pytest.mark.parametrize("query", [CLIP, "model=pocket-sd"])
def test_the_report_works_from_disk(visitor: Page, served: str, tmp_path: Path, query: str) -> None:
    opened(visitor, served, query)
    visitor.keyboard.press("x")
    with visitor.expect_download() as waiting:
        visitor.get_by_role("button", name="HTML").click()
    path = tmp_path / "report.html"
    waiting.value.save_as(path)
    assert "<script" not in path.read_text()
    alone = visitor.context.browser.new_context(offline=True).new_page()
    alone.goto(path.as_uri())
    expect(alone.locator("h1")).to_contain_text("Forgetting")
    shown = "[...document.images].every((one) => one.complete && one.naturalWidth > 0)"
    assert alone.evaluate(shown)
    assert alone.locator("img").count() >= 3
    expect(alone.locator("pre").nth(1)).to_contain_text("python -m slugdemo erase")
    alone.context.close()


def test_a_search_shows_progress_and_stops_with_what_it_found(visitor: Page, served: str) -> None:
    opened(visitor, served, "model=pocket-sd&concept=cat")
    visitor.locator("#find").click()
    expect(visitor.locator("#stop")).to_be_visible()
    visitor.locator("#stop").click()
    expect(visitor.locator("#status .dot.busy")).to_have_count(0)
    expect(visitor.locator("#status .said")).not_to_be_empty()
    visitor.locator("#ladder .rung", has_text="10 %").click()
    expect(visitor.locator("#curve .at")).to_have_text("0.100")


def test_the_endpoints_answer_a_client(served: str) -> None:
    client = Client(served, verbose=False, analytics_enabled=False)
    assert "pocket-clip" in {one["name"] for one in client.predict(api_name="/models")}
    assert "cat" in {one["name"] for one in client.predict(api_name="/concepts")}
    rows = client.predict("pocket-clip", "cat", api_name="/rank_layers")
    assert any(row["front"] for row in rows)
    layer = next(row["layer"] for row in rows if row["front"])
    points = client.predict("pocket-clip", "cat", layer, [0.0, 0.2], api_name="/sweep")
    assert [point["strength"] for point in points] == [0.0, 0.2]
    picture = client.predict("pocket-sd", "a cat", 1, "", "", 0.0, api_name="/generate")
    assert picture["picture"].startswith("data:image/webp")
    with pytest.raises(Exception, match="no model called"):
        client.predict("nobody", "cat", api_name="/rank_layers")
    names = {*client.view_api(return_format="dict")["named_endpoints"]}
    assert {"/search_step", "/classify", "/ask", "/erase"} <= names
    assert not [name for name in names if name.startswith("/handler")]
