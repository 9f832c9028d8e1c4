"""Laws of the benchmark: a cell is computed once, by whomever, and a broken file counts for nothing."""

import json
import os
import signal
from dataclasses import asdict
from pathlib import Path

import kills
import pandas as pd
import pytest

from slugdemo.benchmark import cells, runner, summary
from slugdemo.benchmark.cells import Cell, Plan, compute, key
from slugdemo.errors import SlugError
from slugdemo.results import Result

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.usefixtures("assets"),
]
ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("model", "_folder_digest"):
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
    assert len(seen) == 9


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
