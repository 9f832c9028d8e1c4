"""Laws of the command line: strict JSON on stdout, progress on stderr, mistakes as one sentence."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import house
import open_clip
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from slugdemo import experiment
from slugdemo.__main__ import app
from slugdemo.benchmark import quality, speed
from slugdemo.benchmark.figures import Figure
from slugdemo.cli.options import RENAMED, Alignment, Granularity, Rule, table
from slugdemo.config import CONFIGS
from slugdemo.evaluation.prompt_set import Measurement
from slugdemo.layers import ALIGNMENTS, GRANULARITIES
from slugdemo.methods import METHODS
from slugdemo.results import dumps
from slugdemo.search import RULES

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.usefixtures("assets"),
]

CLIP = ("--model", "pocket-clip")
ROBOT = (*CLIP, "--concept", "robot", "--max-retain-drop", "0.3")


@pytest.fixture(scope="module")
def erased(assets: Path) -> tuple[Path, dict]:
    """An edit of "robot" in pocket-clip, and what `erase --json` said of it."""
    path = assets / "robot.safetensors"
    return path, told("erase", *ROBOT, "--out", str(path))


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"{at}.png" for at in range(3)]
    for path, picture in zip(paths, house.pictures(3, seed=5), strict=True):
        picture.save(path)
    return [str(path) for path in paths]


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def told(*words: str) -> dict:
    """What a command says as JSON, without a number that JSON does not have."""
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


def refused(*words: str) -> str:
    """The sentence with which a command refuses."""
    result = run(*words)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    sentence = result.stderr.strip().splitlines()[-1]
    assert sentence.endswith((".", "?"))
    return sentence


def test_models_and_concepts_list_what_the_assets_folder_holds() -> None:
    kinds = {one["name"]: one["kind"] for one in told("models")}
    assert kinds["pocket-clip"] == "zero-shot"
    assert kinds["sd-2.1"] == "diffusion"
    names = [one["name"] for one in told("concepts")]
    assert names == [*house.CONCEPTS, "neon", "sepia"]
    for command in ("models", "concepts"):
        assert len(run(command).stdout.splitlines()) == len(told(command)) + 1


def test_locate_names_every_layer_and_marks_the_front() -> None:
    facts = told("locate", *ROBOT[:4])
    layers = facts["layers"]
    assert {one["tower"] for one in layers} == {"text", "vision"}
    assert any(one["front"] for one in layers)
    assert not all(one["front"] for one in layers)
    assert all(-1 <= one["alignment"] <= 1 and one["importance"] >= 0 for one in layers)
    groups = told("locate", *ROBOT[:4], "--granularity", "group", "--alignment", "signed")["layers"]
    assert len(groups) < len(layers)


def test_sweep_gives_a_point_for_each_step_and_starts_at_the_unedited_model() -> None:
    points = told("sweep", *ROBOT[:4], "--layer", "visual.proj", "--strengths", "0, .1,.4")
    assert [one["strength"] for one in points] == [0, 0.1, 0.4]
    assert points[0]["forget_acc"] == 1.0 > points[-1]["forget_acc"]
    for one in points:
        low, high = one["forget_interval"]
        assert low - 1e-9 <= one["forget_acc"] <= high + 1e-9


def test_erase_says_all_that_a_reader_needs(erased: tuple[Path, dict]) -> None:
    path, facts = erased
    wanted = (
        "method layer step strength unit lambda rule feasible reason "
        "forget_before forget_after retain_before retain_after "
        "n_forget n_retain intervals evaluations seconds peak_memory_bytes edit_bytes"
    )
    assert facts.keys() >= {*wanted.split()}
    assert facts["forget_before"] == 1.0
    assert facts["forget_after"] == 0.0
    assert facts["step"] > 0 < facts["lambda"]
    assert facts["edit_bytes"] == path.stat().st_size
    assert facts["peak_memory_bytes"] > 10**7
    assert {"gradients", "search", "total"} <= facts["seconds"].keys()
    assert facts["evaluations"] == 1 + sum(len(one["trace"]) for one in facts["attempts"])
    held = {one["metric"]: one for one in facts["held_out"]}
    assert {"metric", "before", "after", "n", "interval"} == held["forget_acc"].keys()
    assert held["forget_acc"]["after"] < held["forget_acc"]["before"]


def test_what_a_forget_only_score_leaves_unmeasured_is_null() -> None:
    facts = told("erase", *ROBOT, "--layer", "visual.proj", "--no-test")
    first = facts["attempts"][0]["trace"][0]
    assert first["retain_acc"] is None
    assert first["n_retain"] == 0
    assert facts["held_out"] == []


def test_attacks_are_listed_and_an_edit_is_attacked_beside_the_original(
    erased: tuple[Path, dict],
) -> None:
    every = told("attacks")
    assert len(every) > 20
    assert {"name", "group", "hosts", "parts", "needs", "cite", "deviations"} <= every[0].keys()
    which = ("--model", "pocket-clip", "--edit", str(erased[0]))
    rows = told("attack", *which, "--attack", "undo")
    by_model = {row["on"]: row for row in rows if row["metric"] == "success"}
    assert [*by_model] == ["edited", "original", "reference"]
    assert by_model["original"]["value"] == 1.0
    assert by_model["reference"]["value"] is None
    assert "There is no reference for 'robot'" in by_model["reference"]["note"]
    before = [row for row in rows if row["metric"] == "before attack"]
    assert [row["on"] for row in before] == ["edited", "original"]
    assert before[0]["value"] < before[1]["value"]
    assert "no attack 'sing'" in refused("attack", *which, "--attack", "sing")
    assert "it attacks the prompt of Stable Diffusion" in refused(
        "attack", *which, "--attack", "hard prompt"
    )


def test_progress_and_results_do_not_mix() -> None:
    result = run("erase", *ROBOT, "--layer", "visual.proj", "--strength", "0.1")
    assert "Gradient" not in result.stdout
    assert "Vision projection, 10.0 % of the layer's norm: robot" in result.stdout
    assert "On the report split" in result.stdout


def test_two_concepts_get_an_edit_each_and_are_judged_together(tmp_path: Path) -> None:
    out = tmp_path / "both.safetensors"
    facts = told("erase", *ROBOT, "--concept", "house", "--out", str(out))
    assert [one["concept"] for one in facts["edits"]] == ["robot", "house"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "both-house.safetensors",
        "both-robot.safetensors",
    ]
    together = {(one["concept"], one["metric"]): one for one in facts["together"]}
    assert all(together[name, "forget_acc"]["after"] < 0.3 for name in ("robot", "house"))


def test_an_edited_folder_classifies_as_the_edit_says(
    erased: tuple[Path, dict], tmp_path: Path, pictures: list[str]
) -> None:
    shown = [word for path in pictures for word in ("--picture", path)]
    facts = told("classify", *CLIP, *shown, "--edit", str(erased[0]))
    assert {one["class"] for one in facts} <= {*house.CONCEPTS}
    out = tmp_path / "edited"
    told("apply", *CLIP, "--edit", str(erased[0]), "--out", str(out))
    assert open_clip.create_model(f"local-dir:{out}") is not None
    again = told("classify", "--model", str(out), *shown)
    after = {(one["picture"], one["class"]): one["after"] for one in facts}
    plain = {(one["picture"], one["class"]): one["before"] for one in again}
    for key in after.keys() & plain.keys():
        assert after[key] == pytest.approx(plain[key], abs=1e-3)


def test_generate_draws_the_same_before_and_another_after(tmp_path: Path, assets: Path) -> None:
    facts = told(
        "erase", "--model", "pocket-clip", "--concept", "cat", "--no-test", "--strength", "0.5",
        "--layer", "transformer.resblocks.0.mlp.c_fc.weight", "--out", str(assets / "cat.st"),
    )  # fmt: skip
    assert facts["step"] == 0.5
    words = ("--prompt", "a cat", "--seed", "3", "--count", "2", "--steps", "2")
    one = told("generate", "--model", "pocket-sd", *words, "--out", str(tmp_path / "a"))
    two = told(
        "generate", "--model", "pocket-sd", *words, "--edit", str(assets / "cat.st"),
        "--out", str(tmp_path / "b"),
    )  # fmt: skip
    assert [one["seed"] for one in one] == [3, 4]
    plain, before, after = (_bytes(some) for some in (one, two[:2], two[2:]))
    assert plain == before
    assert before[0] != before[1]
    assert all(old != new for old, new in zip(before, after, strict=True))


def _bytes(facts: Sequence[dict]) -> list[bytes]:
    return [Image.open(one["file"]).tobytes() for one in facts]


def test_ask_answers_for_each_picture(pictures: list[str]) -> None:
    facts = told(
        "ask", "--model", "pocket-llava", "--picture", pictures[0], "--picture", pictures[1]
    )
    assert [one["picture"] for one in facts] == pictures[:2]
    assert all(isinstance(one["before"], str) for one in facts)


def test_every_mistake_is_one_sentence(
    erased: tuple[Path, dict], tmp_path: Path, pictures: list[str]
) -> None:
    edit = ("--edit", str(erased[0]))
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    (tmp_path / "broken.tar").write_bytes(b"nothing")
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    Image.open(pictures[0]).save(tmp_path / "one" / "one.png")
    pic = ("--picture", pictures[0])
    mug = ("locate", *CLIP, "--concept", "mug", "--forget")
    cases = {
        "There is no model": ("locate", "--model", "x", "--concept", "cat"),
        "There is no concept": ("locate", *CLIP, "--concept", "zzz"),
        "is not on this machine": ("locate", "--model", "sd-2.1", "--concept", "cat"),
        "has no layer": ("sweep", *CLIP, "--concept", "cat", "--layer", "x"),
        "not a list of numbers": (
            "sweep", *CLIP, "--concept", "cat", "--layer", "visual.proj", "--strengths", "a"
        ),
        "nan": (
            "erase", *CLIP, "--concept", "cat", "--layer", "visual.proj", "--strength", "nan"
        ),
        "There is no device": ("locate", *CLIP, "--concept", "cat", "--device", "abacus"),
        "name the layer": ("erase", *CLIP, "--concept", "cat", "--strength", "1"),
        "There is no method": ("erase", *CLIP, "--concept", "cat", "--method", "x"),
        "There is nothing to forget": ("erase", "--model", "pocket-llava", "--concept", "cat"),
        "comes without pictures to forget": ("locate", *CLIP, "--concept", "dog"),
        "broken.tar": (*mug, str(tmp_path / "broken.tar")),
        "There are no pictures": (*mug, str(tmp_path / "empty")),
        "There is no folder": (*mug, str(tmp_path / "none")),
        "has 1 picture": (*mug, str(tmp_path / "one")),
        "cannot be read as a safetensors": (
            "classify", *CLIP, *pic, "--edit", str(tmp_path / "broken.safetensors")
        ),
        "exists already": ("apply", *CLIP, *edit, "--out", str(tmp_path)),
        "sorts no pictures": ("classify", "--model", "pocket-sd", *pic),
        "draws no pictures": ("generate", *CLIP, "--prompt", "x", "--out", str(tmp_path)),
        "shorten it": (
            "generate", "--model", "pocket-sd", "--prompt", "x" * 99, "--out", str(tmp_path)
        ),
        "too long": ("classify", *CLIP, *pic, "--class", "x" * 99),
        "cannot be read": ("classify", *CLIP, "--picture", str(tmp_path / "no.png")),
        "There is no host": ("bench", "quality", "--host", "x"),
    }  # fmt: skip
    for part, words in cases.items():
        assert part in refused(*words)


def test_an_edit_for_other_weights_is_refused(
    erased: tuple[Path, dict], tmp_path: Path, pictures: list[str], assets: Path
) -> None:
    other = tmp_path / "other"
    told("apply", *CLIP, "--edit", str(erased[0]), "--out", str(other))
    words = ("classify", "--model", str(other), "--picture", pictures[0])
    assert "has other weights" in refused(*words, "--edit", str(erased[0]))
    assert assets.is_dir()


def test_a_picture_that_is_nan_is_null_in_json() -> None:
    assert json.loads(dumps({"a": float("nan"), "b": (float("inf"), 1.5), 3: Path("x")})) == {
        "a": None,
        "b": [None, 1.5],
        "3": "x",
    }


def test_a_table_is_aligned_and_shows_what_is_missing() -> None:
    facts = [{"name": "a", "n": 1, "x": 0.5}, {"name": "long", "n": None, "x": float("nan")}]
    lines = table(facts, ["name", "n", "x"]).splitlines()
    assert lines == ["name  n      x", "a     1  0.500", "long  -      -"]


def test_bench_speed_measures_every_part_on_any_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "JUDGED_DENOISING", 3)
    monkeypatch.setattr(speed, "_cells_a_minute", lambda *given: 10.0 * given[2])
    torch.manual_seed(0)
    plan = speed.Plan(pairs=32, repeat=1)
    found = {one.name: one for one in speed.figures(plan)}
    assert len(found) == 12
    assert not [one for one in found.values() if "skipped" in one.details]
    assert all(one.value > 0 for one in found.values() if "memory" not in one.name)
    assert found["naive search / tune()"].details["same answers"]


def test_bench_quality_says_what_it_measured_and_what_it_did_not() -> None:
    words = ("--controls", "1", "--top", "1", "--max-retain-drop", "0.3")
    facts = told("bench", "quality", "--host", "zero-shot", *words)
    assert facts["configs"]["zero-shot"]["tuning"]["max_retain_drop"] == 0.3
    assert facts["held out"] == "test"
    done = {one["concept"]: one for one in facts["results"]}
    assert {*done} == {*house.CONCEPTS, "neon", "sepia"}
    assert "to forget" in done["dog"]["problem"]
    assert {*experiment.CONTROLS} == done["cat"]["controls"].keys()
    figures = {one["name"]: one for one in facts["figures"]}
    forget = figures["zero-shot, all: forget_acc after"]
    values = [
        row["after"]
        for one in done.values()
        for row in one["rows"]
        if row["metric"] == "forget_acc"
    ]
    assert forget["n"] == len(values)
    assert forget["value"] == pytest.approx(sum(values) / len(values))
    assert (
        figures["zero-shot, all: forget_acc after, control opposite direction"]["value"]
        > forget["value"]
    )


def test_bench_quality_stops_when_its_time_is_over() -> None:
    facts = told("bench", "quality", "--limit-seconds", "0")
    assert [one["problem"] for one in facts["results"]] == ["The time was over before the end."]


def test_bench_quality_goes_on_from_what_was_kept(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    words = ("bench", "quality", "--host", "zero-shot", "--concepts", "1", "--kept", str(file))
    first = told(*words)
    assert {one["kind"] for one in first["results"]} == {"character", "object", "style"}
    lines = file.read_text()
    assert told(*words, "--limit-seconds", "0") == first  # nothing is measured again
    assert file.read_text() == lines
    file.write_text(lines.rstrip()[:-40])  # killed while it wrote the last one
    again = told(*words, "--limit-seconds", "0")
    assert again["results"][:-1] == first["results"][:-1]
    assert again["results"][-1]["problem"] == "The time was over before the end."
    other = told(*words, "--limit-seconds", "0", "--margin", "0.3")  # another config, nothing known
    assert [one["concept"] for one in other["results"]] == [""]
    file.write_text(lines.strip()[:30])  # killed while it wrote the first one
    assert [one["concept"] for one in told(*words, "--limit-seconds", "0")["results"]] == [""]
    file.write_text("something else")
    assert "something else" in refused(*words)
    words = (*words[:-1], str(tmp_path / "nowhere" / "results.jsonl"))
    assert "cannot be opened" in refused(*words)


def test_means_are_fractions_of_the_unedited_model_where_the_bar_says_so() -> None:
    rows = (
        Measurement("ua", 0.1, 1.0, 10),
        Measurement("ira", 0.8, 0.6, 10),
        Measurement("cra", 0.5, 0.5, 10),
    )
    found = quality.judged([quality.Cell("diffusion", "cat", "object", rows)])
    values = {one.name: (one.value, one.met) for one in found}
    assert values["diffusion, things: ua after"] == (1.0, True)
    assert values["diffusion, things: ira kept"] == (pytest.approx(0.75), False)
    assert values["diffusion, things: cra kept"] == (1.0, True)


@pytest.mark.parametrize(
    ("value", "less", "met"), [(1, True, True), (3, True, False), (3, False, True)]
)
def test_a_figure_knows_on_which_side_of_its_bar_it_is(value: float, less: bool, met: bool) -> None:
    assert Figure("x", value, 2, less).met is met
    assert Figure("x", value).met is None


@pytest.mark.parametrize(
    "words",
    [
        ("--granularity", "x"),
        ("--alignment", "x"),
        ("--batch", "0"),
        ("--draw", "-1"),
        ("--nothing",),
    ],
)
def test_an_option_that_cannot_be_is_a_usage_error(words: tuple[str, ...]) -> None:
    result = run("locate", *ROBOT[:4], *words)
    assert result.exit_code == 2
    assert "Usage" in result.stderr


def test_the_options_offer_what_the_engine_has() -> None:
    for option, known in ((Granularity, GRANULARITIES), (Alignment, ALIGNMENTS), (Rule, RULES)):
        assert get_args(get_args(option)[0]) == tuple(known)


def test_methods_are_listed_with_what_others_rely_on() -> None:
    facts = told("methods")
    assert [each["name"] for each in facts] == [*METHODS]
    fields = {"name", "group", "hosts", "parts", "needs", "cite", "deviations"}
    assert all(each.keys() == fields for each in facts)


def test_options_that_were_renamed_still_work_and_say_so() -> None:
    words = ("--layer", "visual.proj", "--no-test")
    old = run("erase", *ROBOT[:4], *words, "--step", "0.2", "--loss=0.3", "--json")
    new = told("erase", *ROBOT, *words, "--strength", "0.2")
    assert json.loads(old.stdout)["forget_after"] == new["forget_after"]
    for name in ("--step", "--loss"):
        assert f"{name} is now {RENAMED[name]}." in old.stderr
    assert "--by is now --alignment." in run("locate", *ROBOT[:4], "--by", "signed").stderr
    assert "is now" not in run("generate", "--help").stderr
    assert "--steps is now --strengths." in run("sweep", *ROBOT[:4], "--steps", "a").stderr


def test_the_command_line_gives_what_the_library_gives(erased: tuple[Path, dict]) -> None:
    config = CONFIGS["zero-shot"].changed({"max_retain_drop": 0.3})
    task = experiment.task("pocket-clip", "robot", config=config)
    found, facts = experiment.erase(task), erased[1]
    assert (facts["layer"], facts["strength"]) == (found.edit.layer, found.edit.strength)
    assert facts["forget_after"] == found.after.forget_acc
    assert facts["intervals"]["retain"] == list(found.after.retain_interval)
    measured = experiment.report(task, [found.edit])
    assert [(row["metric"], row["after"], row["n"]) for row in facts["held_out"]] == [
        (row.metric, row.after, row.n) for row in measured
    ]


def test_compare_prints_rows(capsys: pytest.CaptureFixture[str]) -> None:
    rows = told("compare", *ROBOT[:4], "--methods", "slug")
    wanted = "model concept method attack on metric split value n low high seconds seed digest"
    assert all(row.keys() >= {*wanted.split()} for row in rows)
    assert {row["method"] for row in rows} == {"original", "reference", "slug"}
    assert capsys.readouterr().out == ""
