"""Laws of the engine: one configuration gives one answer, whoever asks."""

import gc
import inspect
import json
import math
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import house
import numpy as np
import pytest

from slugdemo import catalog, experiment, inside
from slugdemo.benchmark.cells import Cell, compute
from slugdemo.config import CONFIGS, Config
from slugdemo.edit import LAYER_NORM
from slugdemo.errors import SlugError
from slugdemo.evaluation.prompt_set import EvalSize
from slugdemo.methods import METHODS
from slugdemo.methods.method import Method
from slugdemo.methods.slug import direction
from slugdemo.models.loading import opened
from slugdemo.results import Result, harmonic
from slugdemo.search import Tuning
from slugdemo.task import Task
from slugdemo.weights import cosine, norm

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.usefixtures("assets"),
]
LOOSE = Config(tuning=Tuning(max_retain_drop=0.3))
SMALL = EvalSize(own=3, others=4, report_own=4, report_others=6, denoising=1, searching=1)


@pytest.fixture(scope="module")
def robot() -> Task:
    return Task(opened("pocket-clip"), catalog.concept("robot"), LOOSE)


def test_an_erasure_holds_on_pictures_that_no_search_has_seen(robot: Task) -> None:
    found = experiment.erase(robot)
    rows = {row.metric: row for row in experiment.report(robot, [found.edit])}
    assert found.feasible
    assert found.after.forget_acc == 0
    assert rows["forget_acc"].after < 0.2 < rows["forget_acc"].before
    assert rows["retain_acc"].after > 0.6
    assert found.edit.about["weights"] == robot.clip.digest
    assert float(found.edit.about["gradient_forget_pictures"]) == len(robot.concept.forget)
    assert {"gradients", "search", "report"} <= robot.clock.seconds.keys()
    assert found.headline.startswith(("Text", "Vision"))
    assert "robot gone (0 of" in found.headline


def test_gradient_search_and_report_share_no_picture_to_keep(robot: Task) -> None:
    gradient, searched = ({str(e.image) for e in part} for part in robot.retain_split)
    tested = {str(example.image) for example in catalog.held_out()}
    assert gradient
    assert searched
    assert not gradient & searched
    assert not (gradient | searched | {str(e.image) for e in robot.concept.forget}) & tested


def test_feasible_says_whether_the_chosen_score_meets_the_goal(robot: Task) -> None:
    for margin in (0.0, 0.5, 4.0):
        for drop in (0.0, 0.1, 0.3):
            tuning = Tuning(max_retain_drop=drop, margin=margin)
            found = experiment.erase(Task(robot.opened, robot.concept, Config(tuning=tuning)))
            assert found.feasible == found.goal.met(found.after)
            assert found.edit.strength == found.after.strength


def test_a_margin_goes_beyond_the_step_that_the_search_found(robot: Task) -> None:
    plain = experiment.erase(robot, layer="visual.proj").edit.strength
    farther = Config(tuning=replace(LOOSE.tuning, max_retain_drop=1.0, margin=0.5))
    found = experiment.erase(Task(robot.opened, robot.concept, farther), layer="visual.proj")
    assert found.edit.strength == pytest.approx(1.5 * plain)
    assert "50 % beyond" in found.reason


def test_a_layer_that_is_named_is_the_only_one_tried(robot: Task) -> None:
    for name in ("visual.proj", "vision/proj"):
        found = experiment.erase(robot, layer=name)
        assert found.search
        assert [attempt.edit.layer for attempt in found.search.attempts] == ["vision/proj"]
        assert "front" not in found.reason


def test_a_strength_that_is_given_is_measured_not_searched(robot: Task) -> None:
    found = experiment.erase(robot, layer="visual.proj", strength=0.2)
    assert (found.edit.strength, found.after.strength) == (0.2, 0.2)
    assert found.search is None
    with pytest.raises(SlugError, match="name the layer"):
        experiment.erase(robot, strength=0.2)


def test_an_unknown_layer_or_method_is_a_sentence_with_those_there_are(robot: Task) -> None:
    with pytest.raises(SlugError, match=r"no layer 'nope'.*On the front are: "):
        experiment.erase(robot, layer="nope")
    with pytest.raises(SlugError, match=r"no method 'sulg'.*slug"):
        experiment.erase(robot.by("sulg"))


def test_controls_are_as_long_as_the_edit_and_point_elsewhere(robot: Task) -> None:
    edit = experiment.erase(robot, layer="visual.proj").edit
    controls = experiment.controls(robot, edit)
    assert {*controls} == {*experiment.CONTROLS}
    back, lost = controls["opposite direction"], controls["random direction"]
    assert (back.delta, back.strength) == (edit.delta, -edit.strength)
    assert lost.strength == edit.strength
    assert norm(lost.delta) == pytest.approx(norm(edit.delta), rel=1e-4)
    assert abs(cosine(lost.delta, edit.delta)) < 0.3
    assert controls["random layer"].layer != edit.layer
    assert {*controls["all front layers"].delta} >= {*edit.delta}


def test_a_style_is_forgotten_among_styles() -> None:
    task = Task(
        opened("pocket-clip"), catalog.concept("sepia"), Config(tuning=Tuning(max_retain_drop=1))
    )
    assert {*task.evaluation.host.classes} == {*house.STYLES}
    found = experiment.erase(task)
    assert (found.before.forget_acc, found.after.forget_acc) == (1.0, 0.0)


def test_a_model_reads_one_tower_only() -> None:
    for name, tower in (("pocket-sd", "text"), ("pocket-llava", "vision")):
        task = Task(opened(name), catalog.concept("cat"), Config(size=SMALL))
        assert {score.tower for score in task.scores} == {tower}
        assert not [score.layer for score in task.scores if "ln_" in score.layer]


def test_gradients_are_remembered_between_tasks(assets: Path) -> None:
    seen: list[str] = []
    for _ in range(2):
        task = Task(opened("pocket-clip"), catalog.concept("house"))
        task.progress = lambda text, done, total: seen.append(f"{text} {done} {total}")
        task.gradients  # noqa: B018
    batches = len(seen) - 1
    assert seen == [
        "Gradient of what to forget 1 1",
        *(f"Gradient of what to keep {done} {batches}" for done in range(1, batches + 1)),
    ]
    assert list((assets / "cache" / "gradients").glob("*.safetensors"))


def test_a_stricter_top_k_counts_more_as_still_there_and_the_rest_as_before() -> None:
    near, far = (
        Task(opened("pocket-clip"), catalog.concept("robot"), Config(size=EvalSize(top=k)))
        for k in (1, 2)
    )
    for strength in (0.0, 0.05, 0.2):
        layer = "transformer.resblocks.0.mlp.c_fc.weight"
        first, second = (next(experiment.sweep(task, layer, [strength])) for task in (near, far))
        assert second.forget_acc >= first.forget_acc == second.parts["top 1"]
        assert second.retain_acc == first.retain_acc


def test_a_shortlist_of_one_asks_a_slow_model_about_one_layer_first() -> None:
    size = EvalSize(own=2, others=3, denoising=1, searching=1)
    tuning = Tuning(max_retain_drop=1.0, max_forget_acc=0.99, shortlist=1)
    task = Task(opened("pocket-sd"), catalog.concept("robot"), Config(tuning=tuning, size=size))
    assert len(task.front) > 1
    with pytest.raises(SlugError, match="nothing to forget"):  # a random model draws no robot
        experiment.erase(task)


def test_results_are_rows_with_an_interval_each(robot: Task) -> None:
    found = experiment.erase(robot, layer="visual.proj", strength=0.3)
    rows = experiment.results(robot, found, experiment.report(robot, [found.edit]))
    assert [row.split for row in rows[:4]] == ["search", "search", "report", "report"]
    rates = [row for row in rows if not math.isnan(row.low)]
    assert all(row.low <= row.value <= row.high and row.n > 0 for row in rates)
    sizes = {row.metric: row.value for row in rows if math.isnan(row.low)}
    weight = found.edit.delta["vision/proj"]
    assert (sizes["layers"], sizes["parameters"]) == (1, int(weight.count_nonzero()))
    assert sizes["bytes"] == 2 * weight.numel()
    assert {row.method for row in rows} == {"slug"}
    assert rows[0].value == found.after.forget_acc


def test_a_config_changes_where_something_is_given_and_only_there() -> None:
    config = CONFIGS["diffusion"]
    assert config.changed({"max_retain_drop": None, "top": None}) == config
    other = config.changed({"max_retain_drop": 0.5, "top": 7, "method": "slug"})
    assert (other.tuning.max_retain_drop, other.size.top) == (0.5, 7)
    back = replace(other, tuning=config.tuning, size=config.size)
    assert back == config
    with pytest.raises(ValueError, match="'loss' is no number"):
        config.changed({"loss": 1.0})


def test_compare_gives_the_original_and_every_method_in_turn(robot: Task) -> None:
    parts = list(experiment.compare(robot, ["slug"]))
    assert [{row.method for row in part} for part in parts] == [
        {"original"},
        {"reference"},
        {"slug"},
    ]
    assert parts[0][0].value > parts[2][0].value
    assert "There is no reference for 'robot'" in parts[1][0].note
    assert robot.config.tuning.rule == "floor"


def test_layer_norm_is_the_unit_of_a_single_layer(robot: Task) -> None:
    assert experiment.erase(robot, layer="visual.proj").edit.unit == LAYER_NORM


def test_cosines_and_places_stay_without_an_edit_and_move_with_one(robot: Task) -> None:
    edit = experiment.made(robot.by("ccup")).edit
    still, moved = (inside.cosine_matrix(robot, edits) for edits in ([], [edit]))
    assert still.names[0] == "robot"
    assert still.before == still.after == moved.before
    assert moved.after[0][0] < moved.before[0][0]
    points = inside.embedding_map(robot, [edit])
    assert [point.name for point in points] == [
        e.labels["concept"] for e in catalog.held_out() if e.labels.get("concept")
    ]
    spread = np.array([point.before for point in points])
    assert spread.mean(0) == pytest.approx(0, abs=1e-5)
    assert np.cov(spread.T)[0, 1] == pytest.approx(0, abs=1e-5)  # principal axes
    assert any(point.before != point.after for point in points)
    for point in inside.embedding_map(robot, []):
        assert point.before == point.after


def test_beside_a_model_that_never_saw_it(
    robot: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUGDEMO_MODELS", str(tmp_path))
    same = shutil.copytree(catalog.assets() / "models" / "pocket-clip", tmp_path / "reference-clip")
    (same / "withheld.json").write_text(json.dumps(["robot"]))
    task = Task(opened("pocket-clip"), robot.concept, robot.config)
    edit = experiment.made(task.by("ccup")).edit
    agree, far = experiment.distance(task, [edit])
    assert (agree.before, far.before) == (1.0, pytest.approx(0, abs=1e-6))
    assert agree.after < 1
    assert far.after > 0
    rows = experiment.reference_rows(task)
    assert {row.method for row in rows} == {"reference"}
    assert {row.model for row in rows} == {"pocket-clip"}
    plain = experiment.reported(task, "original", [])
    assert [(row.metric, row.value) for row in rows] == [(row.metric, row.value) for row in plain]
    cell = compute(Cell("pocket-clip", "robot", "reference"))
    assert [(row.metric, row.value) for row in cell] == [(row.metric, row.value) for row in rows]


def test_the_harmonic_mean_needs_an_attack_and_is_low_when_one_part_is() -> None:
    about = Result("m", "c", "slug")
    rows = [about.of("ua", 1.0, 9), about.of("ira", 0.8, 9), about.of("cra", 0.4, 9)]
    assert harmonic(rows) is None
    hit = replace(about, attack="typos").of("success", 0.4, 5)
    floor = replace(about, attack="typos", on="reference").of("success", 1.0, 5)
    found = harmonic([*rows, hit, floor])
    assert found is not None
    assert (found.value, found.n) == (pytest.approx(3 / (1 / 1 + 2 / 0.6)), 1)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_each_method_says_which_numbers_its_own_code_reads(method: Method) -> None:
    own = inspect.getsource(method.run)
    assert ("granularity" in method.uses) == ("tune(" in own)
    assert ("evaluations" in method.uses) == ("tune(" in own and "twin.tune(" not in own)
    whole = inspect.getsource(inspect.getmodule(method.run))
    reads = ("config.batch", "task.gradients", "task.forget_gradient", "task.front")
    reads += ("forget_then_retain",)
    assert ("batch" in method.uses) == any(word in whole for word in reads)


@pytest.mark.parametrize("model", ["pocket-clip", "pocket-sd", "pocket-llava"])
def test_a_task_that_nobody_holds_is_gone_at_once(model: str) -> None:
    """Many concepts one after another take no more memory than one: nothing waits for a collection."""
    task = experiment.task(model, "robot")
    edit = direction(task, task.front[0])
    task.evaluators.full(edit)(0.1)
    if task.evaluators.quick:
        task.evaluators.quick.full(edit)(0.1)
    experiment.report(task, [edit])
    left = weakref.ref(task)
    gc.disable()
    try:
        del task
        assert left() is None
    finally:
        gc.enable()
