"""Laws of the benchmark: a cell is computed once, by whomever, and a broken file counts for nothing."""

import json
import os
import signal
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import kills
import pandas as pd
import pytest

from slugdemo import experiment
from slugdemo.benchmark import cells, runner, shipped, summary, tables
from slugdemo.benchmark.cells import Cell, Plan, compute, key
from slugdemo.errors import SlugError
from slugdemo.experiment import Erasure
from slugdemo.results import Result
from slugdemo.task import Task

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.usefixtures("assets"),
]
ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("model", "_folder_digest", "_attacked_edit"):
        getattr(cells, name).cache_clear()
    monkeypatch.setitem(
        cells.CONFIGS, "zero-shot", cells.CONFIGS["zero-shot"].changed({"max_retain_drop": 1.0})
    )


def plan(**changed: list) -> Plan:
    return Plan(**{"models": ["pocket-clip"], "concepts": ["robot", "house"], **changed})


def numbers(rows: list[Result]) -> list[tuple]:
    return [(r.method, r.concept, r.metric, r.split, r.value, r.n) for r in rows]


def test_a_second_run_computes_nothing_and_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, wanted = runner.Store(tmp_path), plan().cells()
    first = list(runner.run(wanted, store))
    assert [done.left for done in first] == [3, 2, 1, 0]
    monkeypatch.setattr(runner, "compute", lambda cell: pytest.fail(f"{cell} again"))
    second = list(runner.run(wanted, store))
    assert all(done.known for done in second)
    assert [numbers(done.rows) for done in second] == [numbers(done.rows) for done in first]
    frame = runner.table(tmp_path)
    assert len(frame) == sum(len(done.rows) for done in first)
    assert {*frame.columns} == {*asdict(Result("", "", ""))}


@pytest.mark.parametrize("broken", [b"", b'{"seconds": 1, "rows": [{"mod', b"\xff", b"[]"])
def test_a_broken_file_is_computed_anew(tmp_path: Path, broken: bytes) -> None:
    store, cell = runner.Store(tmp_path), Cell("pocket-clip", "robot", "original")
    path = tmp_path / "cells" / f"{key(cell)}.json"
    path.write_bytes(broken)
    [done] = runner.run([cell], store)
    assert not done.known
    assert json.loads(path.read_text())["rows"][0]["method"] == "original"


def test_a_key_depends_on_all_that_a_result_depends_on(
    tmp_path: Path, assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own.py"
    own.write_text("def nothing(task): return task.edit({})")
    base = Cell("pocket-clip", "robot", "slug")
    seen = {
        key(base),
        key(Cell("pocket-clip", "house", "slug")),
        key(Cell("pocket-sd", "robot", "slug")),
    }
    seen |= {
        key(Cell("pocket-clip", "robot", "ga")),
        key(Cell("pocket-clip", "robot", "slug", seed=1)),
    }
    mine = Cell("pocket-clip", "robot", f"{own}:nothing")
    seen.add(key(mine))
    own.write_text("def nothing(task): return task.edit({})  # changed")
    seen.add(key(mine))
    monkeypatch.setattr(cells, "code_version", lambda: "another")
    seen.add(key(base))
    monkeypatch.undo()
    listing = assets / "concepts" / "concepts.json"
    text = listing.read_text()
    listing.write_text(text + " ")
    cells._folder_digest.cache_clear()
    seen.add(key(base))
    listing.write_text(text)
    for name in ("pocket-clip", "judge"):  # what a pocket-sd is edited and judged with
        more = assets / "models" / name / "more.json"
        more.write_text("{}")
        cells._folder_digest.cache_clear()
        seen.add(key(Cell("pocket-sd", "robot", "slug")))
        more.unlink()
    cells._folder_digest.cache_clear()
    assert len(seen) == 11


def test_controls_candidates_and_ones_own_method_are_cells_too(
    tmp_path: Path, assets: Path
) -> None:
    own = tmp_path / "own.py"
    own.write_text(
        "from slugdemo.methods.slug import slug\n\n\ndef mine(task):\n    return slug(task)\n"
    )
    rows = compute(Cell("pocket-clip", "robot", f"{own}:mine"))
    assert {row.method for row in rows} == {"mine"}
    slug = compute(Cell("pocket-clip", "robot", "slug"))
    assert [(r.metric, r.value) for r in rows] == [(r.metric, r.value) for r in slug]
    back = compute(Cell("pocket-clip", "robot", "opposite direction"))
    assert back[0].value > slug[2].value
    candidate = compute(
        Cell("pocket-clip", "robot", str(assets / "models" / "pocket-clip"), candidate=True)
    )
    original = compute(Cell("pocket-clip", "robot", "original"))
    assert [r.value for r in candidate] == [r.value for r in original]


def test_an_attack_is_a_cell_on_the_edited_and_on_the_original_model() -> None:
    wanted = plan(concepts=["robot"], methods=["original", "ga"], attacks=["typos"]).cells()
    rows = [row for cell in wanted for row in compute(cell)]
    assert {(row.method, row.on) for row in rows} == {("original", "original"), ("ga", "edited")}
    assert {row.metric for row in rows} == {"success", "before attack"}
    assert {row.attack for row in rows} == {"typos"}


def test_all_attacks_on_a_concept_share_one_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    erased, erase = [], experiment.erase

    def counted(task: Task) -> Erasure:
        erased.append((task.config.method, task.concept.name))
        return erase(task)

    monkeypatch.setattr(cells.experiment, "erase", counted)
    wanted = plan(methods=["ga"], attacks=["typos", "homoglyphs"]).cells()
    alone = [row for cell in wanted for row in compute(cell)]
    assert erased == [("ga", "robot"), ("ga", "house")]
    assert {row.concept for row in alone} == {"robot", "house"}


def test_what_a_method_cannot_do_is_a_row_that_says_why() -> None:
    [row] = compute(Cell("pocket-clip", "dog", "slug"))
    assert "to forget" in row.note
    assert plan(models=["pocket-clip"], methods=["original"]).cells()
    with pytest.raises(SlugError, match="no method 'sulg'"):
        plan(methods=["sulg"]).cells()
    with pytest.raises(SlugError, match="no file"):
        plan(methods=["nowhere.py:f"]).cells()
    with pytest.raises(SlugError, match="cannot be written"):
        runner.Store(Path("/proc/nowhere"))
    with pytest.raises(SlugError, match="engine is one of"):
        list(runner.run([], runner.Store(Path()), engine="magic"))


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_a_run_that_is_killed_goes_on_and_does_nothing_twice(count: int, tmp_path: Path) -> None:
    """`python -m tests.kills` does it at fifty moments."""
    names = {"concepts": ["robot", "house", "cat"], "methods": ["original", "slug"]}
    found = kills.disturbed(tmp_path, moments=3, workers=count, **names)
    assert found.wrong == []
    assert found.kills == 3


def killer(cell: Cell) -> runner.Computed:
    """A worker that dies at its first cell, once."""
    mark = Path(os.environ["SLUGDEMO_CACHE"]) / "died"
    if not mark.exists():
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return cell, [Result(cell.model, cell.concept, cell.method, metric="ua", value=1.0, n=1)], 0.1


@pytest.mark.slow
def test_a_process_that_dies_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "timed", killer)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
    wanted = plan(concepts=["robot", "house", "cat"], methods=["original"]).cells()
    found = list(runner.run(wanted, runner.Store(tmp_path), workers=2))
    assert {done.cell for done in found} == {*wanted}


def test_means_ranks_and_their_intervals() -> None:
    rows = [
        Result("pocket-sd", concept, method, metric="ua", value=value, n=10, seconds=1.0)
        for concept in ("cat", "dog", "fox")
        for method, value in (("good", 1.0), ("bad", 0.2), ("equal", 1.0))
    ]
    found = summary.methods(pd.DataFrame([asdict(row) for row in rows]), {"cat": "object"})
    by_name = found.set_index("method")
    assert by_name.loc["good", ["rank", "rank_low", "rank_high"]].tolist() == [1, 1, 1]
    assert by_name.loc["equal", "rank"] == 1
    assert by_name.loc["bad", "rank"] == 3
    assert by_name.loc["bad", "mean"] == pytest.approx(0.2)
    assert {*found["concepts"]} == {"thing"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_gives_the_same_and_survives_a_worker_that_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "timed", killer)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    wanted = plan(concepts=["robot", "house", "cat"], methods=["original"]).cells()
    store = runner.Store(tmp_path)
    found = list(runner.run(wanted, store, engine="ray", workers=2))
    assert {done.cell for done in found} == {*wanted}
    assert all(done.known for done in runner.run(wanted, store, engine="ray", workers=2))


# ---- the README's tables


def measured(concept: str, method: str, ua: float, n: int, **more: Any) -> list[Result]:  # noqa: ANN401
    base = Result("pocket-sd", concept, method, seconds=2.0, **more)
    return [base.of(metric, ua, n) for metric in ("ua", "ira", "cra")]


def framed(rows: list[Result]) -> pd.DataFrame:
    return pd.DataFrame([asdict(row) for row in rows])


def test_a_table_pools_pictures_over_the_concepts_that_the_reference_never_saw() -> None:
    rows = [*measured("cat", "reference", 1.0, 10), *measured("ink", "reference", 1.0, 4)]
    rows += [*measured("cat", "uce", 0.5, 10), *measured("ink", "uce", 0.25, 4)]
    rows += [*measured("dog", "uce", 0.0, 10), *measured("cat", "ga", 1.0, 10)]  # no ink: left out
    lines = tables.methods(framed(rows), "pocket-sd", ["ink"]).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| reference", "| uce"]
    assert lines[3].split(" | ")[1] == "0.500 [0.237, 0.763]"
    assert lines[3].split(" | ")[4].startswith("0.250 [")
    assert lines[3].endswith("| 2.0 |")
    other = [Result("pocket-llava", name, "ga").of("forget_acc", 0.0, 9) for name in ("cat", "ink")]
    told = tables.methods(framed([*rows, *other]), "pocket-llava", ["ink"]).splitlines()
    assert told[2].startswith(
        "| ga | 0.000 [0.000, 0.299] |  | 0.000"
    )  # it has no reference itself


def test_an_attack_is_pooled_over_concepts_on_which_every_column_was_attacked() -> None:
    rows = [
        replace(Result("pocket-sd", concept, method), attack="typos").of("success", share, 8)
        for method, shares in {"original": (1.0, 1.0), "uce": (0.5, 0.0)}.items()
        for concept, share in zip(("cat", "dog"), shares, strict=True)
    ]
    rows.append(replace(rows[-1], concept="owl", value=1.0))  # the original was not attacked
    [_, _, line] = tables.attacks(framed(rows), "pocket-sd").splitlines()
    assert line == "| typos | 1.00 | 0.25 | 2 | 16 |"


def test_fresh_rows_take_the_place_of_shipped_ones_and_a_text_shows_them() -> None:
    old = framed([*measured("cat", "reference", 0.5, 4), *measured("cat", "uce", 0.5, 4)])
    frame = tables.merged(old, framed(measured("cat", "uce", 1.0, 8)))
    assert len(frame) == len(old)
    assert frame[frame["method"] == "uce"]["n"].tolist() == [8, 8, 8]
    text = "a\n<!-- table: methods pocket-sd -->\nold\n<!-- end -->\nz"
    found = tables.filled(text, frame, [])
    assert found.startswith("a\n<!-- table: methods pocket-sd -->\n|")
    assert "| uce | 1.000 [0.676, 1.000]" in found
    assert tables.filled(found, frame, []) == found
    with pytest.raises(SlugError, match="no table of 'methods nothing'"):
        tables.filled(text.replace("pocket-sd", "nothing"), frame, [])


def test_an_estimate_is_the_median_over_shipped_rows_of_the_method_in_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    took = zip(("cat", "dog", "owl", "ant"), (2.0, 4.0, 9.0, 0.0), strict=True)  # 0: not on record
    rows = [Result("a", name, "ga", seconds=each).of("ua", 1.0, 4) for name, each in took]
    rows.append(replace(rows[0], attack="typos", concept="elk", seconds=99.0))
    framed(rows).to_parquet(tmp_path / shipped.FILE)
    monkeypatch.setattr(shipped.catalog, "assets", lambda: tmp_path)
    assert shipped.seconds("a", "ga", 1.0) == 4.0
    assert shipped.seconds("b", "ga", 1.0) == shipped.seconds("a", "uce", 1.0) == 1.0
