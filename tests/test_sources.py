"""Pictures with captions from folders, archives and tables, as the field's tools write them."""

import csv
import gzip
import io
import json
import random
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from containers import a_shard, encoded, make_folder, make_tar, make_zip, picture
from webdataset.tariterators import group_by_keys, tar_file_iterator

from slugdemo import images
from slugdemo.concept import Example
from slugdemo.errors import SlugError
from slugdemo.sources import Source, read

PNG = [encoded(picture(seed)) for seed in range(4)]
Maker = Callable[[Path, Mapping[str, bytes]], Path]


def make_gz(path: Path, given: Mapping[str, bytes]) -> Path:
    plain = make_tar(path.with_name("plain.tar"), given)
    path.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    return path


MAKERS: dict[str, tuple[str, Maker]] = {
    "folder": ("pets", make_folder),
    "tar": ("pets.tar", make_tar),
    "tar.gz": ("pets.tar.gz", make_gz),
    "tgz that says tar": ("pets2.tar", make_gz),
    "zip": ("pets.zip", make_zip),
}


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Mapping[str, bytes]], Source]:
    """Reads what a container of each kind holds when it is filled with files."""
    name, maker = MAKERS[request.param]
    return lambda given: read(maker(tmp_path / name, given))


def said(source: Source) -> dict[str, str]:
    """The caption of each picture by its name."""
    return {named(one): one.caption for one in source.examples}


def named(example: Example) -> str:
    return str(example.image).replace("#", "/").rpartition("/")[2]


def pixels(example: Example) -> bytes:
    return images.read(example.image).tobytes()


# What stands beside a picture, in every container


def test_captions_stand_beside_pictures_in_any_order(make: Callable) -> None:
    files = {f"{at}.png": PNG[at] for at in range(4)}
    files |= {f"{at}.txt": f"a cat\n number {at}\n".encode() for at in range(4)}
    shuffled = random.Random(1).sample(sorted(files), len(files))
    found = make({name: files[name] for name in shuffled})
    assert said(found) == {f"{at}.png": f"a cat number {at}" for at in range(4)}
    assert found.notes == ()
    for one in found.examples:
        assert pixels(one) == picture(int(named(one)[0])).tobytes()


def test_names_with_dots_find_their_own_text_and_shared_keys_the_one_of_the_key(
    make: Callable,
) -> None:
    found = make(
        {
            "v1.0/my.mug.1.png": PNG[0],
            "v1.0/my.mug.1.txt": b"first",
            "v1.0/my.mug.2.png": PNG[1],
            "v1.0/my.mug.2.caption": b"second",
            "x.input.png": PNG[2],
            "x.edited.png": PNG[3],
            "x.json": json.dumps({"prompt": "make it blue", "style": "neon"}).encode(),
        }
    )
    assert said(found) == {
        "my.mug.1.png": "first",
        "my.mug.2.png": "second",
        "x.input.png": "make it blue",
        "x.edited.png": "make it blue",
    }
    labels = {named(one): one.labels for one in found.examples}
    assert labels["x.input.png"] == {"style": "neon"}


def test_classes_come_from_folders_and_from_cls_files(make: Callable) -> None:
    found = make(
        {
            "train/school_bus/1.png": PNG[0],
            "train/cat/images/2.png": PNG[1],
            "train/00017/3.png": PNG[2],
            "train/cat/4.png": PNG[3],
            "train/cat/4.txt": b"a dog",
            "5.png": PNG[0],
            "5.cls": b"wizard",
            "6.png": PNG[0],
            "6.cls": b"281",
        }
    )
    labels = {named(one): one.labels.get("concept") for one in found.examples}
    assert labels == {
        "1.png": "school bus",
        "2.png": "cat",
        "3.png": None,
        "4.png": None,
        "5.png": "wizard",
        "6.png": None,
    }
    assert said(found)["4.png"] == "a dog"
    assert "that are numbers without names: of 1 picture." in " ".join(found.notes)


@pytest.mark.parametrize("where", ["inside", "beside", "above"])
@pytest.mark.parametrize("maker", [make_tar, make_folder])
def test_numbers_of_classes_are_names_where_a_list_of_names_lies(
    tmp_path: Path, maker: Maker, where: str
) -> None:
    """As CLIP's benchmark lays its tars: test/0.tar with numbers, classnames.txt above."""
    names = b"cat\nschool bus\n wizard \n"
    pictures = {f"{at}.png": PNG[at] for at in range(4)}
    pictures |= {f"{at}.cls": str(at).encode() for at in range(4)}
    (tmp_path / "test").mkdir()
    if where == "inside":
        pictures["classnames.txt"] = names
    else:
        place = tmp_path / "test" if where == "beside" else tmp_path
        (place / "classnames.txt").write_bytes(names)
    found = read(maker(tmp_path / "test" / "0.tar", pictures))
    labels = [one.labels.get("concept") for one in found.examples]
    assert labels == ["cat", "school bus", "wizard", None]
    assert found.notes == (
        "Classes in 0.tar that are numbers without names: of 1 picture. Put the names into "
        "classnames.txt beside it, one a line.",
    )


def table(rows: list[tuple[str, str]], mark: str, heading: tuple[str, ...] = ()) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=mark)
    writer.writerows([*([heading] if heading else []), *rows])
    return out.getvalue().encode()


ROWS = [("0.png", "a cat, asleep"), ("sub/1.png", "a dog")]
LINES = [{"file_name": file, "text": text} for file, text in ROWS]


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("metadata.jsonl", "\n".join(map(json.dumps, LINES)).encode()),
        ("metadata.csv", table(ROWS, ",", ("file_name", "caption"))),
        ("metadata.csv", table(ROWS, ";", ("file_name", "caption"))),
        ("captions.tsv", table(ROWS, "\t", ("filename", "text"))),
        ("captions.txt", b"image,caption\n0.png,a cat, asleep\nsub/1.png,a dog\n"),
        ("captions.txt", b"0.png\ta cat, asleep\nsub/1.png\ta dog\n"),
        ("captions.txt", b"0.png#0\ta cat, asleep\n0.png#1\tanother\nsub/1.png#0\ta dog\n"),
        ("captions.txt", b"0.png: a cat, asleep\r\nsub/1.png: a dog\r\n"),
        ("captions.json", json.dumps(dict(ROWS)).encode()),
    ],
)
def test_tables_say_what_pictures_show(make: Callable, name: str, contents: bytes) -> None:
    found = make({"sub/1.png": PNG[1], name: contents, "0.png": PNG[0]})
    assert said(found)["1.png"] == "a dog"
    assert said(found)["0.png"] == "a cat, asleep"
    assert found.notes == ()


def test_a_table_that_names_what_is_not_there_says_so(make: Callable) -> None:
    rows = [*ROWS, ("2.png", "a wizard")]
    found = make({"0.png": PNG[0], "metadata.csv": table(rows, ",", ("file_name", "text"))})
    assert said(found) == {"0.png": "a cat, asleep"}
    (note,) = found.notes
    assert note == f"Not in {found.title}: 2 of 3 pictures that metadata.csv names."


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]
)
def test_texts_are_read_in_any_encoding(make: Callable, encoding: str) -> None:
    words = "a café by Renée"
    metadata = json.dumps({"file_name": "1.png", "text": words}, ensure_ascii=False)
    found = make(
        {
            "0.png": PNG[0],
            "0.txt": words.encode(encoding),
            "1.png": PNG[1],
            "metadata.jsonl": metadata.encode(encoding),
            "2.png": PNG[2],
            "2.json": json.dumps({"caption": words}, ensure_ascii=False).encode(encoding),
        }
    )
    assert {*said(found).values()} == {words}


def test_hidden_files_and_folders_are_skipped(make: Callable) -> None:
    found = make(
        {
            "0.png": PNG[0],
            ".ipynb_checkpoints/0-checkpoint.png": PNG[1],
            "cat/.thumbs/1.png": PNG[1],
            "__MACOSX/._0.png": b"resource fork",
            "._0.png": b"resource fork",
        }
    )
    assert [*said(found)] == ["0.png"]
    assert found.notes == ()


def test_what_is_not_read_is_counted(make: Callable) -> None:
    found = make(
        {
            **{f"{at}.png": PNG[0] for at in range(3)},
            **{f"{at}.jfif": PNG[0] for at in range(3)},
            "a.heic": b"x",
            "b.mov": b"x",
            "README.md": b"x",
            "0.txt": b"x",
        }
    )
    (note,) = found.notes
    assert note.startswith("6 of 8 files in pets")
    assert ".heic (needs pillow-heif)" in note
    assert "1 .mov" in note


def test_nothing_to_read_is_a_sentence_that_says_why(make: Callable) -> None:
    with pytest.raises(SlugError, match=r"There are no pictures in pets.*0 of 2 files.*2 \.heic"):
        make({"a.heic": b"x", "b.HEIC": b"x"})


def test_a_bad_json_is_named(make: Callable) -> None:
    with pytest.raises(SlugError, match="The json of a cannot be read"):
        make({"a.png": PNG[0], "a.json": b"{"})


# Tars


def test_a_shard_of_img2dataset_gives_its_pairs_and_their_pictures(tmp_path: Path) -> None:
    found = read(a_shard(tmp_path / "00000.tar"))
    assert [e.caption for e in found.examples] == ["a cat", "a dog on a mat", "Cat_food, yellow"]
    assert [e.labels for e in found.examples] == [{"style": "sketch"}] * 3
    assert found.shard
    for number, one in enumerate(found.examples):
        assert pixels(one) == picture(number).tobytes()


def test_pictures_and_texts_are_paired_as_webdatasets_own_reader_pairs_them(tmp_path: Path) -> None:
    files = {}
    for at, key in enumerate(("a", "sub/b", "sub.dir/c", "d")):
        files |= {f"{key}.input.png": PNG[at], f"{key}.txt": f"text of {key}".encode()}
    with make_tar(tmp_path / "a.tar", files).open("rb") as stream:
        members = [{**one, "__url__": "a.tar"} for one in tar_file_iterator(stream)]
    samples = list(group_by_keys(members))
    wanted = [(one["input.png"], one["txt"].decode()) for one in samples]
    found = read(tmp_path / "a.tar").examples
    assert [one.caption for one in found] == [text for _, text in wanted]
    for ours, (theirs, _) in zip(found, wanted, strict=True):
        assert pixels(ours) == images.decoded(theirs, "theirs").tobytes()


def test_the_table_beside_a_shard_gives_the_captions_that_it_lacks(tmp_path: Path) -> None:
    make_tar(tmp_path / "00000.tar", {"000.png": PNG[0], "001.png": PNG[1], "001.txt": b"own"})
    rows = {"key": ["000", "001"], "caption": ["a cat", "a dog"], "url": ["u", "u"]}
    pq.write_table(pa.table(rows), tmp_path / "00000.parquet")
    wanted = {"000.png": "a cat", "001.png": "own"}
    assert said(read(tmp_path / "00000.tar")) == said(read(tmp_path)) == wanted
    assert read(tmp_path).notes == ()
    with pytest.raises(SlugError, match="holds no pictures, only key, caption, url"):
        read(tmp_path / "00000.parquet")


def test_the_table_beside_a_folder_of_img2dataset_is_no_picture(tmp_path: Path) -> None:
    make_folder(tmp_path, {"00000/000.png": PNG[0], "00000/001.png": PNG[1], "00000/001.txt": b"x"})
    rows = {"key": ["000", "001"], "caption": ["a cat", "a dog"]}
    pq.write_table(pa.table(rows), tmp_path / "00000.parquet")
    make_folder(tmp_path, {"00000_stats.json": b"{}"})
    found = read(tmp_path)
    assert said(found) == {"000.png": "a cat", "001.png": "x"}
    assert [one.labels for one in found.examples] == [{}, {}]
    assert found.notes == ()


def test_a_folder_of_several_tars_is_read_as_one(tmp_path: Path) -> None:
    for at in range(3):
        make_tar(tmp_path / f"0000{at}.tar", {"0.png": PNG[at], "0.txt": f"cat {at}".encode()})
    make_gz(tmp_path / "sub.tar.gz", {"0.png": PNG[3], "0.txt": b"cat 3"})
    found = read(tmp_path)
    assert [one.caption for one in found.examples] == [f"cat {at}" for at in range(4)]
    assert [pixels(one) for one in found.examples] == [picture(at).tobytes() for at in range(4)]
    assert found.shard


def test_a_bad_archive_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = a_shard(tmp_path / "bad.tar")
    whole = path.read_bytes()
    with_header_torn = whole[:2048] + b"x" * 512 + whole[2560:]
    cuts = [whole[:length] for length in range(700, 6000, 300)]
    packed = gzip.compress(whole)
    for data in (b"", b"no tar at all" * 100, with_header_torn, *cuts, packed[:-400], packed[:90]):
        path.write_bytes(data)
        with pytest.raises(SlugError, match=r"bad\.tar"):
            read(path)
    path = make_zip(tmp_path / "bad.zip", {"0.png": PNG[0]})
    for data in (b"", path.read_bytes()[:-30], b"PK" * 100):
        path.write_bytes(data)
        with pytest.raises(SlugError, match=r"bad\.zip cannot be read as a zip"):
            read(path)
    with pytest.raises(SlugError, match="no folder or file"):
        read(tmp_path / "none.tar")


def test_a_zip_whose_bytes_changed_is_refused_when_they_are_read(tmp_path: Path) -> None:
    noise = encoded(picture(5))
    path = make_zip(tmp_path / "a.zip", {"0.png": noise})
    data = bytearray(path.read_bytes())
    data[120] ^= 0xFF
    path.write_bytes(bytes(data))
    (one,) = read(path).examples
    with pytest.raises(SlugError, match=r"0\.png in a\.zip is damaged"):
        images.read(one.image)


def test_an_archive_that_promises_a_huge_member_is_refused_before_it_is_read(
    tmp_path: Path,
) -> None:
    path = tmp_path / "bomb.tar"
    entry = tarfile.TarInfo("a.png")
    entry.size = 10**11
    path.write_bytes(entry.tobuf() + bytes(1024))
    with pytest.raises(SlugError, match=r"bomb\.tar"):
        read(path)
    path = make_zip(tmp_path / "bomb.zip", {"a.png": bytes(65_000_000)})
    with pytest.raises(SlugError, match=r"a\.png in bomb\.zip is larger than 64 MB"):
        read(path)


def test_a_name_with_a_number_sign_is_found(tmp_path: Path) -> None:
    (one,) = read(make_tar(tmp_path / "a.tar", {"img#1.png": PNG[1]})).examples
    assert pixels(one) == picture(1).tobytes()
    (two,) = read(make_folder(tmp_path / "b", {"img#2.png": PNG[2]})).examples
    assert pixels(two) == picture(2).tobytes()


# Parquet


def hub(
    path: Path, rows: dict[str, list], features: dict | None = None, *, groups: int = 2
) -> Path:
    made = pa.table(rows)
    if features:
        info = json.dumps({"info": {"features": features}})
        made = made.replace_schema_metadata({"huggingface": info})
    pq.write_table(made, path, row_group_size=groups)
    return path


def cells(count: int = 4) -> list[dict]:
    return [{"bytes": PNG[at], "path": f"{at}.png"} for at in range(count)]


def test_the_hubs_parquet_gives_images_and_texts(tmp_path: Path) -> None:
    texts = ["a cat", "a dog", "two cats", "a bus"]
    found = read(hub(tmp_path / "train.parquet", {"text": texts, "image": cells(), "n": [1] * 4}))
    assert [one.caption for one in found.examples] == texts
    assert [pixels(one) for one in found.examples] == [picture(at).tobytes() for at in range(4)]
    assert found.shard


def test_the_hubs_classes_are_names_and_not_numbers(tmp_path: Path) -> None:
    features = {
        "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
        "img": {"_type": "Image"},
    }
    rows = {"img": cells(), "label": [1, 0, 0, 1]}
    found = read(hub(tmp_path / "a.parquet", rows, features))
    assert [one.labels["concept"] for one in found.examples] == ["dog", "cat", "cat", "dog"]
    bare = read(hub(tmp_path / "b.parquet", rows))
    assert [one.labels for one in bare.examples] == [{}] * 4
    assert "numbers without names: of 4 pictures." in bare.notes[0]
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    again = read(tmp_path / "b.parquet")
    assert [one.labels["concept"] for one in again.examples] == ["dog", "cat", "cat", "dog"]


def test_img2datasets_own_parquet_holds_bytes_in_jpg(tmp_path: Path) -> None:
    rows = {"key": ["0", "1"], "caption": ["a cat", None], "jpg": PNG[:2]}
    found = read(hub(tmp_path / "00000.parquet", rows))
    assert [one.caption for one in found.examples] == ["a cat", ""]


def test_rows_without_bytes_are_read_from_their_path_or_counted(tmp_path: Path) -> None:
    make_folder(tmp_path, {"1.png": PNG[1]})
    rows = cells()
    for at in (1, 2):
        rows[at]["bytes"] = None
    found = read(hub(tmp_path / "a.parquet", {"image": rows, "text": ["x"] * 4}))
    assert [pixels(one) for one in found.examples] == [picture(at).tobytes() for at in (0, 1, 3)]
    assert found.notes == ("Without a picture: 1 of 4 rows of a.parquet.",)


def test_metadata_parquet_of_an_imagefolder_says_what_pictures_show(tmp_path: Path) -> None:
    make_folder(tmp_path, {"0.png": PNG[0]})
    pq.write_table(
        pa.table({"file_name": ["0.png"], "text": ["a cat"]}), tmp_path / "metadata.parquet"
    )
    found = read(tmp_path)
    assert said(found) == {"0.png": "a cat"}
    assert found.notes == ()


# Places


def test_a_path_begins_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    make_folder(tmp_path / "mugs", {"0.png": PNG[0]})
    (one,) = read(Path("~/mugs")).examples
    assert pixels(one) == picture().tobytes()
    assert images.read("~/mugs/0.png").tobytes() == picture().tobytes()
    assert read(Path("~/mugs/0.png")).examples[0].caption == ""


def test_what_is_no_source_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.rar").write_bytes(b"Rar!")
    with pytest.raises(SlugError, match=r"a\.rar is no folder, tar, zip or parquet file"):
        read(tmp_path / "a.rar")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
    make_folder(tmp_path / "repo", {"0.png": PNG[0], "1.png": pointer, "2.png": pointer})
    with pytest.raises(
        SlugError, match=r"repo holds git-lfs pointers in place of 2 .*git lfs pull"
    ):
        read(tmp_path / "repo")
