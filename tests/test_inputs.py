"""What users bring, by the command line: each option and file is used, or a sentence says why not."""

import io
import json
from pathlib import Path

import house
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from containers import encoded, make_folder, make_tar, make_zip
from typer.testing import CliRunner

from slugdemo import catalog, experiment, images
from slugdemo.__main__ import app
from slugdemo.errors import SlugError
from slugdemo.sources import read

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.usefixtures("assets"),
]
CLIP = ("--model", "pocket-clip")
LAYER = ("--layer", "vision/proj")
PNG = [encoded(picture) for picture in house.pictures(12, seed=9)]


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def told(*words: str) -> dict:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*words: str) -> str:
    """The sentence with which a command refuses."""
    result = run(*words)
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.stderr
    return result.stderr.strip().splitlines()[-1]


def captioned(*texts: str) -> dict[str, bytes]:
    files = {f"{at:03d}.png": PNG[at] for at in range(len(texts))}
    return files | {f"{at:03d}.txt": text.encode() for at, text in enumerate(texts)}


MIXED = ("a cat", "my cat asleep", "a picture of a dog", "a photo of a house", "a wizard", "trees")


# Every option and variable


def test_own_pictures_to_keep_are_used_beside_the_shipped_ones_to_forget(tmp_path: Path) -> None:
    make_folder(tmp_path / "keep", captioned("a dog", "a house", "a cat", "a wizard"))
    concept = catalog.concept("robot", retain=tmp_path / "keep")
    assert {e.labels["concept"] for e in concept.forget} == {"robot"}
    assert [e.labels["concept"] for e in concept.retain] == ["dog", "house", "cat", "wizard"]
    without = catalog.concept("cat", retain=tmp_path / "keep")
    assert without.notes == ("Left out: 1 picture in keep showing cat.",)
    result = run("locate", *CLIP, "--concept", "robot", "--retain", str(tmp_path / "keep"))
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--retain", "/does/not/exist"), "There is no folder or file /does/not/exist."),
        (("--caption", "a cat"), "A caption is for pictures of your own"),
        (("--draw", "4", "--forget", "/tmp"), "either draw"),
        (("--forget", "/does/not/exist.tar"), "There is no folder or file"),
    ],
)
def test_no_option_is_passed_over(words: tuple[str, ...], said: str) -> None:
    assert said.lower() in refused("locate", *CLIP, "--concept", "robot", *words).lower()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*LAYER, "--strength", ".1", "--margin", ".2"), "--margin has no effect with a given"),
        ((*LAYER, "--strength", ".1", "--evaluations", "3"), "--evaluations has no effect"),
        (
            ("--rule", "paper", "--max-retain-drop", ".1"),
            "--max-retain-drop has no effect with the",
        ),
        (("--rule", "paper", "--top", "1"), "--top has no effect with the paper's rule"),
        (("--replace-by", "dog"), "cannot replace"),
        (("--shortlist", "2"), "--shortlist has no effect with zero-shot CLIP"),
        ((*LAYER, "--alignment", "signed"), "--alignment has no effect with a given --layer"),
        (("--method", "leace", "--alignment", "signed"), "--alignment has no effect with leace"),
        (("--method", "ga", "--granularity", "group"), "--granularity has no effect with ga"),
        (("--method", "leace", "--batch", "8"), "--batch has no effect with leace"),
    ],
)
def test_options_that_exclude_each_other_are_not_passed_over(
    words: tuple[str, ...], said: str
) -> None:
    assert said in refused("erase", *CLIP, "--concept", "cat", *words)


@pytest.mark.parametrize("variable", ["SLUGDEMO_MODELS", "SLUGDEMO_ASSETS"])
def test_a_variable_that_names_no_folder_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "/does/not/exist")
    assert f"{variable} names /does/not/exist, and there is no such folder" in refused("models")


def test_a_cache_that_cannot_be_written_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("SLUGDEMO_CACHE", str(tmp_path / "file" / "kept"))
    said = refused("locate", *CLIP, "--concept", "cat")
    assert said.startswith(f"SLUGDEMO_CACHE names {tmp_path}/file/kept, which cannot be used.")
    with pytest.raises(SlugError, match="SLUGDEMO_CACHE names"):
        catalog.check()


def test_the_library_takes_a_caption_too(tmp_path: Path) -> None:
    mugs = make_folder(tmp_path / "mugs", captioned("", "", ""))
    task = experiment.task("pocket-clip", "my mug", forget=mugs, caption="a chipped mug")
    assert {example.caption for example in task.concept.forget} == {"a chipped mug"}
    with pytest.raises(SlugError, match="A caption is for pictures of your own"):
        experiment.task("pocket-clip", "cat", caption="a chipped mug")


def test_paths_begin_at_home(assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "clips").symlink_to(assets / "models" / "pocket-clip")
    monkeypatch.setenv("SLUGDEMO_MODELS", "~")
    assert catalog.find("clips").kind == catalog.find("~/clips").kind == "zero-shot"
    make_folder(tmp_path / "mugs", captioned("", "", ""))
    assert len(catalog.concept("my mug", forget=Path("~/mugs")).forget) == 3
    monkeypatch.setenv("SLUGDEMO_CACHE", "~/kept")
    assert catalog.cache() == tmp_path / "kept"


def test_what_was_not_read_is_counted_on_the_way(tmp_path: Path) -> None:
    files = {f"{at}.jfif": PNG[at] for at in range(6)} | {"a.heic": b"x", "b.heic": b"x"}
    files |= {".ipynb_checkpoints/0.png": PNG[7]}
    make_folder(tmp_path / "mugs", files)
    result = run("locate", *CLIP, "--concept", "my mug", "--forget", str(tmp_path / "mugs"))
    assert result.exit_code == 0
    assert "6 of 8 files in mugs were read; left out: 2 .heic" in result.stderr


def test_a_place_for_the_result_is_checked_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    bad = str(tmp_path / "file" / "a.st")
    for words, said in (
        (("erase", "--model", "none", "--concept", "cat", "--out", bad), "cannot be written"),
        (("erase", "--model", "none", "--concept", "cat", "--out", str(tmp_path)), "is a folder"),
        (("apply", "--model", "none", "--edit", "x", "--out", str(tmp_path)), "exists already"),
        (("generate", "--model", "none", "--prompt", "x", "--out", str(tmp_path / "file")), "file"),
    ):
        assert said in refused(*words)


# Names


@pytest.mark.parametrize("name", ["Cat", " cat ", "cats", "CAT_"])
def test_a_name_in_another_spelling_is_the_shipped_concept(name: str) -> None:
    assert catalog.concept(name) == catalog.concept("cat")
    assert catalog.known(name) == catalog.Meaning("cat", preset=True, drawable=True)


@pytest.mark.parametrize("name", ["Cat", "cats"])
def test_own_pictures_of_a_shipped_thing_do_not_keep_the_shipped_ones(
    tmp_path: Path, name: str
) -> None:
    concept = catalog.concept(name, forget=make_folder(tmp_path, captioned("", "", "")))
    assert (concept.name, concept.kind) == ("cat", "object")
    assert "cat" not in {example.labels["concept"] for example in concept.retain}


def test_an_unknown_name_is_never_another_concept() -> None:
    assert catalog.known("wizzard") == catalog.Meaning("wizzard", near=("wizard",))
    assert "Did you mean wizard?" in refused("locate", *CLIP, "--concept", "wizzard")
    with pytest.raises(SlugError, match="no concept 'quux' here"):
        catalog.concept("quux")
    assert not catalog.known("plain").drawable


def test_what_is_known_but_comes_without_pictures_is_drawn(
    assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = assets / "concepts" / "concepts.json"
    listing = json.loads(path.read_text())
    listing.append({"name": "castle", "kind": "object", "forgettable": False})
    other = tmp_path / "other"
    (other / "concepts").mkdir(parents=True)
    (other / "models").symlink_to(assets / "models")
    for split in house.SPLITS:
        (other / "concepts" / f"{split}.parquet").symlink_to(path.with_name(f"{split}.parquet"))
    (other / "concepts" / "concepts.json").write_text(json.dumps(listing))
    monkeypatch.setenv("SLUGDEMO_ASSETS", str(other))
    monkeypatch.setattr("slugdemo.cli.options.DRAWN", 3)
    monkeypatch.setattr("slugdemo.evaluation.eval_set.DENOISING", 2)
    assert catalog.known("castles") == catalog.Meaning("castle", preset=False, drawable=True)
    result = run("locate", *CLIP, "--concept", "Castle", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["concept"] == "castle"
    assert "castle comes without pictures, so 3 are drawn." in result.stderr


def test_names_of_any_kind_become_files_and_nothing_is_lost(tmp_path: Path) -> None:
    mugs = make_folder(tmp_path / "mugs", captioned("", "", ""))
    for name, kept in (("my mug ", "my mug"), ("AC/DC", "AC/DC"), ("Van_Gogh", "Van Gogh")):
        assert catalog.concept(name, forget=mugs).name == kept
    out = tmp_path / "edits" / "all.safetensors"
    words = ("--concept", "Cat", "--concept", "robots", "--concept", "cats", "--no-test")
    facts = told("erase", *CLIP, *words, *LAYER, "--strength", "0.1", "--out", str(out))
    assert [one["concept"] for one in facts["edits"]] == ["cat", "robot"]
    written = sorted(path.name for path in out.parent.iterdir())
    assert written == ["all-cat.safetensors", "all-robot.safetensors"]


# Own captions


def test_captions_of_a_shard_are_classes_by_name_and_the_guard_holds(tmp_path: Path) -> None:
    shard = make_tar(tmp_path / "shard.tar", captioned(*MIXED))
    concept = catalog.concept("cat", forget=shard)
    assert [e.caption for e in concept.forget] == ["a cat", "my cat asleep"]
    assert [e.labels["concept"] for e in concept.retain] == ["dog", "house", "wizard", "tree"]


def test_a_guard_that_recognises_nothing_says_so(assets: Path, tmp_path: Path) -> None:
    wrong = {"dog": "tree", "tree": "house", "house": "wizard", "wizard": "dog"}
    rows = read(assets / "concepts" / "retain.parquet").examples
    shown = [row for row in rows if row.labels["concept"] in wrong][:12]
    for at, row in enumerate(shown):
        images.read(row.image).save(tmp_path / f"{at}.png")
        caption = f"a picture of a {wrong[row.labels['concept']]}"
        (tmp_path / f"{at}.txt").write_text(caption)
    words = ("erase", *CLIP, "--concept", "cat", *LAYER, "--strength", "0.1", "--no-test")
    facts = told(*words, "--retain", str(tmp_path))
    assert facts["retain_before"] == 0
    assert f"Before the edit only 0 of the {facts['n_retain']} things to keep" in facts["reason"]
    assert "Before the edit only" not in told(*words)["reason"]


# Containers


@pytest.mark.parametrize("kind", ["tar", "zip", "folder", "parquet", "tars", "imagefolder"])
def test_every_container_gives_the_same_concept(tmp_path: Path, kind: str) -> None:
    files = captioned(*MIXED)
    place = tmp_path / f"own.{kind}"
    if kind == "tar":
        make_tar(place, files)
    elif kind == "zip":
        make_zip(place, files)
    elif kind == "folder":
        make_folder(place, files)
    elif kind == "tars":
        place.mkdir()
        for at in range(len(MIXED)):
            one = {n: b for n, b in files.items() if n.startswith(f"{at:03d}")}
            make_tar(place / f"{at}.tar", one)
    elif kind == "parquet":
        images = [{"bytes": PNG[at], "path": None} for at in range(len(MIXED))]
        pq.write_table(pa.table({"image": images, "text": list(MIXED)}), place)
    else:
        rows = [{"file_name": f"{at:03d}.png", "text": t} for at, t in enumerate(MIXED)]
        lines = "\n".join(map(json.dumps, rows)).encode("utf-16")
        make_folder(place, {n: b for n, b in files.items() if n.endswith("png")})
        (place / "metadata.jsonl").write_bytes(lines)
    concept = catalog.concept("Cats", forget=place)
    assert [e.caption for e in concept.forget] == ["a cat", "my cat asleep"]
    assert [e.labels["concept"] for e in concept.retain] == ["dog", "house", "wizard", "tree"]
    assert concept.notes == ()


# Edges


def test_a_class_that_is_given_twice_counts_once(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG[0])
    words = ("--class", "cat", "--class", "cat", "--class", "Cat", "--class", "dog")
    facts = told("classify", *CLIP, "--picture", str(tmp_path / "a.png"), *words)
    assert sorted(one["class"] for one in facts) == ["cat", "dog"]
    assert sum(one["before"] for one in facts) == pytest.approx(1)


def test_a_terminal_without_some_letters_gets_them_spelt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(PNG[0])
    words = ("classify", *CLIP, "--picture", str(tmp_path / "a.png"), "--class", "猫")
    said = {}
    for more in ((), ("--json",)):
        raw = io.BytesIO()
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, "cp1252", write_through=True))
        app((*words, *more), standalone_mode=False)
        said[more] = raw.getvalue().decode("cp1252")
    assert "\\u732b" in said[()]
    assert json.loads(said["--json",])[0]["class"] == "猫"
