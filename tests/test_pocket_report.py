"""The report's figures, and what must hold of the models and pictures that are committed."""

import json
from pathlib import Path

import open_clip
import pandas as pd
import pytest
from PIL import Image

from slugdemo.evaluation.judge import Judge, Net
from slugdemo.models.diffusion import Diffusion
from slugdemo.pocket import examples, report, sheets
from slugdemo.pocket.__main__ import _json, _table
from slugdemo.pocket.world import SIDE

ASSETS = Path(__file__).parents[1] / "assets"
SPLITS = ("forget", "retain", "test")

# In diffusers' own code.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_a_share_knows_its_n_interval_and_bar() -> None:
    figure = report.share("right", [True] * 97 + [False] * 3, 0.97)
    low, high = figure.interval
    assert (figure.value, figure.n, figure.met) == (0.97, 100, True)
    assert 0.91 < low < 0.97 < high < 0.99
    assert report.share("wrong", [True, False], 0.97).met is False
    assert report.Figure("seconds", 2.0, bar=3.0, less=True).met is True


def test_the_report_prints_every_figure_for_people_and_for_machines() -> None:
    figures = [
        report.share("right", [True, False], 0.9),
        report.Figure("all", 12.0, bar=100, less=True, unit="MB"),
    ]
    assert "MISSED" in _table(figures)
    assert "met" in _table(figures)
    assert [row["met"] for row in json.loads(_json(figures))] == [False, True]


def test_a_sheet_marks_failures_in_red() -> None:
    sheet = sheets.grid(
        [Image.new("RGB", (SIDE, SIDE))] * 2, ["good", "bad"], columns=2, wrong=[False, True]
    )
    cell = sheet.width // 2
    left, right = (
        sheet.crop((x, SIDE + 2, x + cell, sheet.height)).convert("RGB") for x in (0, cell)
    )
    reds = [
        sum(r > 150 > g + 40 for r, g, _ in half.get_flattened_data()) for half in (left, right)
    ]
    assert reds[0] == 0 < reds[1]


def test_orders_of_the_three_splits_share_no_seed() -> None:
    class Names:
        concepts, styles = ["a", "b", "c"], ["plain", "neon", "sepia", "blueprint", "pop art"]

    asked = {split: examples.orders(split, Names, ["a", "b"]) for split in SPLITS}
    seeds = {split: {o.seed for o in orders} for split, orders in asked.items()}
    assert all(len(seeds[s]) == len(asked[s]) > 0 for s in SPLITS)
    assert not (seeds["forget"] & seeds["retain"])
    assert not (seeds["forget"] & seeds["test"])
    assert not (seeds["retain"] & seeds["test"])


@pytest.mark.pocket
def test_assets_fit_in_the_repository() -> None:
    assert all(figure.met for figure in report.sizes(ASSETS))


@pytest.mark.pocket
def test_the_committed_hosts_carry_the_committed_clip() -> None:
    models = ASSETS / "models"
    clip = report.ZeroShot.load(models / "pocket-clip", Judge.load(models / "judge"))
    assert type(clip.model) is open_clip.CLIP
    for figure in report.towers(models, clip, Diffusion.from_folder(models / "pocket-sd")):
        assert figure.met, figure


@pytest.mark.pocket
def test_committed_pictures_carry_their_verdict_and_no_seed_twice() -> None:
    tables = {split: pd.read_parquet(ASSETS / "concepts" / f"{split}.parquet") for split in SPLITS}
    counts = json.loads((ASSETS / "concepts" / "counts.json").read_text())
    seeds = pd.concat(list(tables.values())).seed
    assert seeds.is_unique
    for split, table in tables.items():
        assert len(table) == counts[split]["kept"] <= counts[split]["made"]
        assert (table.judge_concept == table.concept).all()
        assert (table.judge_style == table["style"]).all()


@pytest.mark.pocket
def test_the_judge_says_again_what_was_recorded() -> None:
    judge = Judge.load(ASSETS / "models" / "judge")
    some = pd.read_parquet(ASSETS / "concepts" / "test.parquet").iloc[:64]
    verdict = judge([report.picture(webp) for webp in some.webp])
    same = [
        judge.concepts[i] == c
        for i, c in zip(verdict.concept.argmax(1).tolist(), some.concept, strict=True)
    ]
    assert all(same)


def test_what_was_never_seen_is_reported_by_name() -> None:
    asked = pd.Series(["wizard", "wizard", "wizard", "dog"])
    answered = pd.Series(["elf", "elf", "wizard", "dog"])
    (figure,) = report._unseen("reference-sd", asked, answered)
    assert figure.name == "reference-sd, never saw 'wizard': most often 'elf'"
    assert figure.value == pytest.approx(1 / 3)
    assert figure.met is None
    assert report.behind("reference-sd, concepts", 0.97, 0.99).met is False
    assert report.behind("reference-sd, concepts", 0.985, 0.99).met is True


def test_the_judge_is_asked_about_every_concept_in_every_style() -> None:
    judge = Judge(Net(2, 2).eval(), ["wizard", "robot"], ["plain", "sepia"])
    table = report.judged(Diffusion.from_folder(ASSETS / "models" / "pocket-sd"), judge, seeds=[0])
    assert len(table) == 4
    assert len(table.groupby(["concept", "style"])) == 4
    assert set(table.sees) <= set(judge.concepts)
    concept, style = report.agreement("pocket-sd", table, (0.5, 0.5))
    assert concept.value == (table.sees == table.concept).mean()
    assert style.value == (table.looks == table["style"]).mean()
