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

from slugdemo.__main__ import app
from slugdemo.benchmark import quality, speed
from slugdemo.benchmark.figures import Figure
from slugdemo.cli.options import By, Rule, Unit
from slugdemo.evaluation import Row
from slugdemo.layers import ALIGNMENTS, UNITS
from slugdemo.report import dumps, table
from slugdemo.search import RULES

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CLIP = ("--model", "pocket-clip")
ROBOT = (*CLIP, "--concept", "robot", "--loss", "0.3")


@pytest.fixture(scope="module", autouse=True)
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny assets folder, with a cache of its own."""
    folder = house.build(tmp_path_factory.mktemp("assets"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLUGDEMO_ASSETS", str(folder))
        patch.setenv("SLUGDEMO_CACHE", str(folder / "cache"))
        yield folder


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
    groups = told("locate", *ROBOT[:4], "--unit", "group", "--by", "signed")["layers"]
    assert len(groups) < len(layers)


def test_sweep_gives_a_point_for_each_step_and_starts_at_the_unedited_model() -> None:
    points = told("sweep", *ROBOT[:4], "--layer", "visual.proj", "--steps", "0, .1,.4")
    assert [one["step"] for one in points] == [0, 0.1, 0.4]
    assert points[0]["forget"] == 1.0 > points[-1]["forget"]
    for one in points:
        low, high = one["forget_interval"]
        assert low - 1e-9 <= one["forget"] <= high + 1e-9


def test_erase_says_all_that_a_reader_needs(erased: tuple[Path, dict]) -> None:
    path, facts = erased
    wanted = (
        "layer step lambda rule forget_before forget_after retain_before retain_after n_forget "
        "n_retain intervals evaluations seconds peak_memory_bytes edit_bytes"
    )
    assert facts.keys() >= {*wanted.split()}
    assert facts["forget_before"] == 1.0
    assert facts["forget_after"] == 0.0
    assert facts["step"] > 0 < facts["lambda"]
    assert facts["edit_bytes"] == path.stat().st_size
    assert facts["peak_memory_bytes"] > 10**7
    assert {"gradients", "search", "total"} <= facts["seconds"].keys()
    assert facts["evaluations"] == 1 + sum(len(one["trace"]) for one in facts["attempts"])
    held = {one["measure"]: one for one in facts["held_out"]}
    assert held["forget"]["after"] < held["forget"]["before"]


def test_what_a_glance_left_unmeasured_is_null() -> None:
    facts = told("erase", *ROBOT, "--layer", "visual.proj", "--no-test")
    first = facts["attempts"][0]["trace"][0]
    assert first["retain"] is None
    assert first["n_retain"] == 0
    assert facts["held_out"] == []


def test_progress_and_results_do_not_mix() -> None:
    result = run("erase", *ROBOT, "--layer", "visual.proj", "--step", "0.1")
    assert "a batch of gradients" in result.stderr or "wrote" not in result.stdout
    assert "visual.proj, step 0.100" in result.stdout
    assert "On pictures that no search has seen" in result.stdout


def test_two_concepts_get_an_edit_each_and_are_judged_together(tmp_path: Path) -> None:
    out = tmp_path / "both.safetensors"
    facts = told("erase", *ROBOT, "--concept", "house", "--out", str(out))
    assert [one["concept"] for one in facts["edits"]] == ["robot", "house"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "both-house.safetensors",
        "both-robot.safetensors",
    ]
    together = {(one["concept"], one["measure"]): one for one in facts["together"]}
    assert all(together[name, "forget"]["after"] < 0.3 for name in ("robot", "house"))


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
        "erase", "--model", "pocket-clip", "--concept", "cat", "--no-test", "--step", "0.5",
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
            "sweep", *CLIP, "--concept", "cat", "--layer", "visual.proj", "--steps", "a"
        ),
        "nan": (
            "erase", *CLIP, "--concept", "cat", "--layer", "visual.proj", "--step", "nan"
        ),
        "There is no device": ("locate", *CLIP, "--concept", "cat", "--device", "abacus"),
        "name the layer": ("erase", *CLIP, "--concept", "cat", "--step", "1"),
        "There is nothing to forget": ("erase", "--model", "pocket-llava", "--concept", "cat"),
        "comes without pictures to forget": ("locate", *CLIP, "--concept", "dog"),
        "broken.tar": (*mug, str(tmp_path / "broken.tar")),
        "There are no pictures": (*mug, str(tmp_path / "empty")),
        "There is no folder": (*mug, str(tmp_path / "none")),
        "has 1 pictures": (*mug, str(tmp_path / "one")),
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
    monkeypatch.setattr(speed, "DENOISING", 3)
    torch.manual_seed(0)
    plan = speed.Plan(pairs=32, repeat=1)
    found = {one.name: one for one in speed.figures(plan)}
    assert len(found) == 7
    assert not [one for one in found.values() if "skipped" in one.details]
    assert all(one.value > 0 for one in found.values() if "memory" not in one.name)
    assert found["naive search / slug()"].details["same answers"]


def test_bench_quality_says_what_it_measured_and_what_it_did_not() -> None:
    words = ("--controls", "1", "--top", "1", "--loss", "0.3")
    facts = told("bench", "quality", "--host", "zero-shot", *words)
    assert facts["settings"]["zero-shot"]["loss"] == 0.3
    assert facts["held out"] == "test"
    done = {one["concept"]: one for one in facts["results"]}
    assert {*done} == {*house.CONCEPTS, "neon", "sepia"}
    assert "to forget" in done["dog"]["problem"]
    assert {"-g", "random direction", "random layer"} == done["cat"]["controls"].keys()
    figures = {one["name"]: one for one in facts["figures"]}
    forget = figures["zero-shot, all: forget after"]
    values = [
        row["after"] for one in done.values() for row in one["rows"] if row["measure"] == "forget"
    ]
    assert forget["n"] == len(values)
    assert forget["value"] == pytest.approx(sum(values) / len(values))
    assert figures["zero-shot, all: forget after, control -g"]["value"] > forget["value"]


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
    other = told(*words, "--limit-seconds", "0", "--loss", "0.3")  # another setting, nothing known
    assert [one["concept"] for one in other["results"]] == [""]
    file.write_text(lines.strip()[:30])  # killed while it wrote the first one
    assert [one["concept"] for one in told(*words, "--limit-seconds", "0")["results"]] == [""]
    file.write_text("something else")
    assert "something else" in refused(*words)
    words = (*words[:-1], str(tmp_path / "nowhere" / "results.jsonl"))
    assert "cannot be opened" in refused(*words)


def test_means_are_fractions_of_the_unedited_model_where_the_bar_says_so() -> None:
    rows = (Row("ua", 0.1, 1.0, 10), Row("ira", 0.8, 0.6, 10), Row("cra", 0.5, 0.5, 10))
    found = quality.judged([quality.Result("diffusion", "cat", "object", rows)])
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
    "words", [("--unit", "x"), ("--by", "x"), ("--batch", "0"), ("--draw", "-1"), ("--nothing",)]
)
def test_an_option_that_cannot_be_is_a_usage_error(words: tuple[str, ...]) -> None:
    result = run("locate", *ROBOT[:4], *words)
    assert result.exit_code == 2
    assert "Usage" in result.stderr


def test_the_options_offer_what_the_engine_has() -> None:
    for option, known in ((Unit, UNITS), (By, ALIGNMENTS), (Rule, RULES)):
        assert get_args(get_args(option)[0]) == tuple(known)
