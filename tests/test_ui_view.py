"""What a visitor looks at, as a value: links old and new, undo, the tray, the curve."""

import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from pages import TEXT

from slugdemo.errors import SlugError
from slugdemo.ladder import change, shorter
from slugdemo.search import Score
from slugdemo.ui import edits, plots
from slugdemo.ui.view import Kept, View, check, share


def test_links_are_versioned_and_checked() -> None:
    kept = (
        Kept("x", "y", 0.5, on=False, name="mine"),
        Kept("z", "", 1.0, method="other", digest="0123456789abcdef"),
    )
    view = View(
        "m",
        "c",
        strength=1.25,
        seed=7,
        words="a cat & a dog?",
        picture=2,
        tray=kept,
        alignment="signed",
        granularity="group",
        method="other",
        digest="fedcba9876543210",
    )
    assert View.parse(parse_qs(view.query())) == view
    for query in ("v=2", "strength=far", "strength=7", "strength=nan", "seed=-1", "keep=a~b"):
        with pytest.raises(SlugError):
            View.parse(parse_qs(query))


def test_links_of_the_first_version_still_work() -> None:
    old = f"v=1&model=m&concept=c&layer={TEXT}&step=0.1&by=signed&unit=group&keep=cat~{TEXT}~0.3~on"
    view = View.parse(parse_qs(old))
    assert (view.layer, view.strength) == (TEXT, 0.1)
    assert (view.alignment, view.granularity) == ("signed", "group")
    assert view.tray == (Kept("cat", TEXT, 0.3),)


def test_undo_goes_back_one_change_at_a_time() -> None:
    first = View("m", "c", "l", 0.1)
    second = replace(first, strength=0.2).after(first)
    third = replace(second, strength=0.3).after(second)
    assert [view.strength for view in third.past] == [0.1, 0.2]
    assert replace(third, trace=(0.1,)).after(third).past == third.past
    assert "past" not in third.query()


def test_a_renamed_edit_keeps_its_name_in_the_link() -> None:
    view = View("m", "c", tray=(Kept("cat", TEXT, 0.5),))
    named, said = edits.renamed(view, 0, "  the  ~cat~ edit ")
    assert named.tray[0].name == "the cat edit"
    assert "the cat edit" in said
    assert View.parse(parse_qs(named.query())) == named
    assert edits.tray(named)["rows"][0]["name"] == "the cat edit"


def test_the_tray_says_when_two_edits_share_a_layer() -> None:
    kept = (Kept("cat", TEXT, 0.1), Kept("dog", TEXT, 0.1))
    assert "add up" in edits.tray(View("pocket-clip", "tree", tray=kept))["note"]
    assert not edits.tray(View("pocket-clip", "tree", tray=kept[:1]))["note"]
    with pytest.raises(SlugError):
        edits.dropped(View("pocket-clip", "tree", tray=kept), 7)


def test_an_edit_that_is_kept_and_looked_at_counts_once() -> None:
    same = View("m", "c", TEXT, 0.5, tray=(Kept("c", TEXT, 0.3),))
    assert [kept.strength for kept in same.applied()] == [0.5]
    other = replace(same, layer="", method="other", digest="0")
    assert [kept.strength for kept in other.applied()] == [0.3, 0.5]


def test_a_strength_is_a_number_in_range() -> None:
    assert check(0.123456) == 0.1235
    for wrong in (-0.1, 4.5, float("nan"), "0.1", None):
        with pytest.raises(SlugError):
            check(wrong)


def test_shares_and_changes_are_written_for_people() -> None:
    assert share(0.001) == "<1 %"
    assert change(0.5, 0.25) == "\u221225"
    assert change(0.5, 0.501) == "0"


def test_the_curve_is_in_per_cent_and_its_points_carry_their_strengths() -> None:
    scores = [Score(0.0, 1.0, 0.9, 20, 40), Score(0.29, 0.25, 0.8, 20, 40)]
    figure = plots.curve(scores, scores[1:], strength=0.29, ratio=float("nan"), farthest=1.0)
    lines = {trace["name"]: trace for trace in figure["data"] if "name" in trace}
    for side, rates in (("forget", [100, 25]), ("retain", [90, 80])):
        assert lines[side]["x"] == pytest.approx([0, 29])
        assert lines[side]["y"] == pytest.approx(rates)
        assert [strength for _, strength in lines[side]["customdata"]] == [0.0, 0.29]
        assert lines[side]["hovertemplate"].startswith("%{y:.0f} % of %{customdata[0]}")
    for axis in ("xaxis", "yaxis"):
        assert figure["layout"][axis]["ticksuffix"] == " %"
        assert "tickformat" not in figure["layout"][axis]
    assert figure["layout"]["shapes"][0]["x0"] == pytest.approx(29)
    assert [note["y"] for note in figure["layout"]["annotations"]] == pytest.approx([25, 80])


def test_no_script_lets_a_plot_write_per_cent_without_a_space() -> None:
    scripts = (Path(__file__).parents[1] / "assets").glob("*.js")
    formats = {path.name: re.findall(r"\.\d~?%", path.read_text()) for path in scripts}
    assert "compare.js" in formats
    assert not any(formats.values())


def test_narrow_answers_lose_the_opening_that_all_share() -> None:
    told = [[{"text": "This is a picture of a cow."}, {"text": "This is a picture of an owl."}]]
    short = shorter(told)
    assert [cell["text"] for cell in short[0]] == ["cow", "owl"]
    assert short[0][0]["full"] == "This is a picture of a cow."
    for same in ("This is a cow.", "Yes."):
        assert shorter([[{"text": same}, {"text": same}]])[0][0]["text"] == same
