"""Laws of many concepts in one model: one solve, sums, turns, and who counts as kept."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from slugdemo.__main__ import app
from slugdemo.benchmark import shipped
from slugdemo.clip_projections import shown
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.many import IN_TURN, ONE_SOLVE, SUM, Series, many
from slugdemo.methods import METHODS
from slugdemo.models.loading import opened
from slugdemo.task import Task

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.usefixtures("assets"),
]
TWO = ["robot", "house"]


def series(model: str = "pocket-clip", names: list[str] = TWO) -> Series:
    return Series.of(opened(model), names, 0)


def test_nobody_is_told_to_keep_what_shall_go_too() -> None:
    robot, house = series().tasks
    assert {"robot", "house"} & {*robot.preserved, *house.preserved} == set()
    kept = {e.labels["concept"] for split in robot.retain_split for e in split}
    assert not kept & {*TWO}
    assert kept


@pytest.mark.parametrize(("model", "name"), [("pocket-clip", "leace"), ("pocket-sd", "uce")])
def test_one_solve_for_one_concept_is_the_method_itself(model: str, name: str) -> None:
    method = METHODS[name]
    task = series(model).tasks[0].by(name)
    assert method.together is not None
    alone, joint = method.run(task), method.together([task])
    assert alone.digest == joint.digest
    both = method.together([some.by(name) for some in series(model).tasks])
    assert both.digest != alone.digest


def test_after_one_solve_no_linear_probe_tells_either_concept() -> None:
    tasks = [task.by("leace") for task in series().tasks]
    edit = METHODS["leace"].together(tasks)  # type: ignore[misc]
    clip = opened("pocket-clip").edited([edit]).clip

    own = [shown(task, task.concept.forget) @ _folded(task, edit) for task in tasks]
    rest = shown(tasks[0], tasks[0].retain_split[0]) @ _folded(tasks[0], edit)
    x = torch.cat([*own, rest]).double()
    for at in range(2):
        z = torch.zeros(len(x)).double()
        z[sum(map(len, own[:at])) : sum(map(len, own[: at + 1]))] = 1
        assert ((x - x.mean(0)).T @ (z - z.mean()) / len(x)).abs().max() < 1e-4
    assert clip.digest != tasks[0].clip.digest


def _folded(task: Task, edit: Edit) -> torch.Tensor:
    """The map of features that the edit's change of visual.proj amounts to: (D, D)."""
    weight = task.clip.named()["visual.proj"]
    return torch.linalg.pinv(weight) @ (weight + edit.delta["vision/proj"])


def test_rows_count_the_erased_so_far_and_the_never_erased() -> None:
    rows = list(many(opened("pocket-clip"), TWO, ["leace", "ccup"], counts=[1, 2]))
    assert [(part[0].method, part[0].count, part[0].how) for part in rows] == [
        ("original", 0, ""),
        ("leace", 1, ONE_SOLVE),
        ("leace", 2, ONE_SOLVE),
        ("ccup", 1, SUM),
        ("ccup", 2, SUM),
    ]
    own = series()
    told = own.told([])
    for part, names in ((rows[1], TWO[:1]), (rows[2], TWO)):
        forget, retain = part
        assert forget.n == int(np.isin(told.shown, names).sum())
        assert retain.n == int((~np.isin(told.shown, TWO)).sum())
        assert forget.low <= forget.value <= forget.high
    plain = rows[0][1]
    assert plain.value == pytest.approx(told.right[~np.isin(told.shown, TWO)].mean())


def test_in_turn_each_edit_is_made_in_what_the_earlier_ones_left() -> None:
    method = METHODS["ccup"]
    steps = list(series().in_turn(method))
    assert [step[0] for step in steps] == [1, 2]
    first, second = steps[1][1]
    assert first.digest == steps[0][1][0].digest
    here = opened("pocket-clip")
    left = here.edited([first])
    assert second.about["weights"] == left.clip.digest != here.clip.digest
    task = series().tasks[1].by("ccup")
    assert method.run(task).digest != second.digest
    parts = list(many(here, TWO, ["ccup"], order=IN_TURN))
    assert [part[0].concept for part in parts] == ["", *TWO]


def test_pictures_of_a_series_hold_each_concept_twice_and_the_rest_holds_none() -> None:
    specs = series("pocket-sd").specs()
    names = [spec.concept for spec in specs]
    assert names[:4] == ["robot", "robot", "house", "house"]
    assert not {*names[4:]} & {*TWO}
    assert len({(s.prompt, s.seed) for s in specs}) == len(specs)


@pytest.mark.parametrize(
    ("names", "order", "said"),
    [
        (["robot"], "together", "two or more"),
        (["robot", "neon"], "together", "all of them things"),
        (TWO, "sideways", "The order is one of"),
    ],
)
def test_what_cannot_be_is_said(names: list[str], order: str, said: str) -> None:
    with pytest.raises(SlugError, match=said):
        list(many(opened("pocket-clip"), names, ["ccup"], order=order))


def test_nothing_left_to_judge_is_said() -> None:
    every = [*dict.fromkeys(series().told([]).shown.tolist())]
    rows = many(opened("pocket-clip"), every, ["ccup"])
    with pytest.raises(SlugError, match=r"name fewer|Nothing would be left"):
        list(rows)


def test_the_command_writes_the_rows_that_the_app_reads(tmp_path: Path, assets: Path) -> None:
    words = ["benchmark", "many", "--model", "pocket-clip", "--concepts", ",".join(TWO)]
    place = assets / "many.parquet"
    words += ["--methods", "ccup", "--counts", "1,2", "--out", str(place), "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [row["count"] for row in found] == [0, 0, 1, 1, 2, 2]
    assert len(pd.read_parquet(place)) == 6
    rows = shipped.joint("pocket-clip")
    assert [(row.metric, row.value) for row in rows] == [(r["metric"], r["value"]) for r in found]
    assert shipped.joint("pocket-sd") == []
    place.unlink()
    assert tmp_path.is_dir()
