"""Example pictures from every source, and what happens to bad ones."""

import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from slugdemo import data as examples
from slugdemo import images as pictures
from slugdemo.concept import Example
from slugdemo.errors import SlugError
from slugdemo.gradients import batches
from slugdemo.models.clip import Clip


def picture(seed: int = 0, size: tuple[int, int] = (20, 16)) -> Image.Image:
    noise = torch.randint(256, (*size[::-1], 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(noise.byte().numpy())


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    packed = io.BytesIO()
    image.save(packed, kind, **options)
    return packed.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes whose header promises 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        length, check = struct.pack(">I", len(data)), struct.pack(">I", zlib.crc32(kind + data))
        return length + kind + data + check

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def large() -> bytes:
    """A PNG that decodes to 81 million pixels, below Pillow's own alarm."""
    return encoded(Image.new("1", (9000, 9000)))


def make_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def a_shard(path: Path) -> Path:
    """As img2dataset writes it: jpg, json and txt for each key."""
    files = {}
    for number, caption in enumerate(("a cat", "a dog on a mat", "Cat_food, yellow")):
        key = f"{number:09d}"
        facts = {"caption": caption, "key": key, "status": "success", "style": "sketch"}
        files[f"{key}.png"] = encoded(picture(number))
        files[f"{key}.json"] = json.dumps(facts).encode()
        files[f"{key}.txt"] = caption.encode()
    return make_tar(path, files)


def a_split(path: Path, rows: list[tuple[str, str]]) -> None:
    table = {
        "webp": [encoded(picture(n), "WEBP", lossless=True) for n in range(len(rows))],
        "prompt": [f"a {concept} in {style}" for concept, style in rows],
        "concept": [concept for concept, _ in rows],
        "style": [style for _, style in rows],
        "seed": list(range(len(rows))),
    }
    pq.write_table(pa.table(table), path)


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """The app's own layout: three splits and the list of concepts."""
    things, styles = ("cat", "wizard", "school bus"), ("plain", "sketch")
    for split in ("forget", "retain", "test"):
        a_split(tmp_path / f"{split}.parquet", [(t, s) for t in things for s in styles])
    entries = [
        {"name": "cat", "kind": "object", "group": "animal", "synonyms": ["kitten"]},
        {"name": "wizard", "kind": "character", "group": "person", "synonyms": []},
        {"name": "school bus", "kind": "object", "group": "vehicle", "synonyms": []},
        {"name": "sketch", "kind": "style", "group": "style", "synonyms": ["pencil drawing"]},
        {"name": "fox", "kind": "object", "group": "animal", "synonyms": []},
    ]
    (tmp_path / "concepts.json").write_text(json.dumps(entries))
    return tmp_path


def same(ours: Image.Image, theirs: Image.Image) -> bool:
    return ours.mode == "RGB" and ours.tobytes() == theirs.convert("RGB").tobytes()


# One picture


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_a_picture_in_any_lossless_format_is_read_as_it_is(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    assert same(pictures.decoded(encoded(picture(), kind, **options), "one"), picture())


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "RGBA", "LA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    read = pictures.decoded(encoded(picture().convert(mode), kind), "one")
    assert (read.mode, read.size) == ("RGB", (20, 16))


def test_what_is_clear_becomes_white() -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert pictures.decoded(encoded(clear), "one").getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_keep_their_brightness() -> None:
    grey = Image.new("I;16", (8, 8), 257 * 100)
    assert abs(pictures.decoded(encoded(grey), "one").getpixel((0, 0))[0] - 100) <= 1


def test_a_picture_from_a_phone_stands_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert pictures.decoded(encoded(picture(), "JPEG", exif=exif), "one").size == (16, 20)


def test_a_phones_jpeg_with_a_second_picture_inside_is_one_picture() -> None:
    data = encoded(picture(), "MPO", save_all=True, append_images=[picture(1)])
    assert pictures.decoded(data, "one").size == (20, 16)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animated_picture_is_refused_with_a_sentence(kind: str) -> None:
    rest = [picture(1), picture(2)]
    data = encoded(picture(0), kind, save_all=True, append_images=rest)
    with pytest.raises(SlugError, match="one is animated"):
        pictures.decoded(data, "one")


def test_a_gif_that_stands_still_is_read() -> None:
    assert pictures.decoded(encoded(picture(), "GIF"), "one").size == (20, 16)


@pytest.mark.parametrize("data", [bomb(), large()], ids=["bomb", "large"])
def test_a_decompression_bomb_is_refused_with_a_sentence(data: bytes) -> None:
    with pytest.raises(SlugError, match="one has more than 64 million pixels"):
        pictures.decoded(data, "one")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_picture_that_is_cut_off_is_refused_with_a_sentence(kind: str, share: float) -> None:
    data = encoded(picture(size=(64, 64)), kind)
    with pytest.raises(SlugError, match=r"^one is"):
        pictures.decoded(data[: int(len(data) * share)], "one")


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_what_is_no_picture_is_refused_with_a_sentence(data: bytes) -> None:
    with pytest.raises(SlugError, match="one is not a picture in one of the formats JPEG, PNG"):
        pictures.decoded(data, "one")


def test_a_file_beyond_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    with path.open("wb") as stream:
        stream.truncate(10**12)  # sparse: a terabyte that nobody should read
    with pytest.raises(SlugError, match=r"huge\.png is 64 MB large"):
        pictures.read(path)


@pytest.mark.parametrize("place", [Path("no/where.png"), "no/where.png", "no/where.tar#a.png"])
def test_a_missing_picture_is_refused_with_a_sentence(place: Path | str) -> None:
    with pytest.raises(SlugError, match="where"):
        pictures.read(place)


# Sources


def test_a_folder_gives_its_pictures_with_captions(tmp_path: Path) -> None:
    for place in ("school_bus/1.png", "cat/2.PNG", "cat/3.png", "0.png", "cat/.hidden.png"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(encoded(picture()))
    (tmp_path / "cat/3.txt").write_text("a cat\n on a mat\n")
    found = examples.folder(tmp_path, caption="x")
    assert [e.caption for e in found] == ["x", "x", "a cat on a mat", "x"]
    (tmp_path / "0.png").unlink()
    found = examples.folder(tmp_path)
    assert [e.caption for e in found] == ["cat", "a cat on a mat", "school bus"]
    assert [e.labels for e in found] == [{"concept": "cat"}] * 2 + [{"concept": "school bus"}]


def test_a_folder_that_gives_nothing_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SlugError, match="There is no folder"):
        examples.folder(tmp_path / "none")
    with pytest.raises(SlugError, match="There are no pictures in"):
        examples.folder(tmp_path)
    (tmp_path / "1.png").write_bytes(encoded(picture()))
    with pytest.raises(SlugError, match=r"1\.png has no caption"):
        examples.folder(tmp_path)


def test_a_tar_gives_its_pairs_and_their_pictures(tmp_path: Path) -> None:
    found = examples.tar(a_shard(tmp_path / "00000.tar"))
    assert [e.caption for e in found] == ["a cat", "a dog on a mat", "Cat_food, yellow"]
    assert [e.labels for e in found] == [{"style": "sketch"}] * 3
    for number, example in enumerate(found):
        assert same(pictures.read(example.image), picture(number))


def test_a_tar_with_captions_in_json_alone_is_read(tmp_path: Path) -> None:
    facts = json.dumps({"caption": "a cat", "concept": "cat"}).encode()
    files = {"d.1/a.png": encoded(picture()), "d.1/a.json": facts}
    (found,) = examples.tar(make_tar(tmp_path / "one.tar", files))
    assert (found.caption, found.labels) == ("a cat", {"concept": "cat"})
    assert same(pictures.read(found.image), picture())


def test_a_bad_tar_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = a_shard(tmp_path / "bad.tar")
    whole = path.read_bytes()
    with_header_torn = whole[:2048] + b"x" * 512 + whole[2560:]
    cuts = [whole[:length] for length in range(700, 6000, 300)]
    for data in (b"", b"no tar at all" * 100, with_header_torn, *cuts):
        path.write_bytes(data)
        with pytest.raises(SlugError, match=r"bad\.tar"):
            examples.tar(path)
    with pytest.raises(SlugError, match="cannot be read as a plain tar"):
        examples.tar(tmp_path / "none.tar")


def test_a_tar_with_bad_pairs_is_refused_with_a_sentence(tmp_path: Path) -> None:
    png = encoded(picture())
    for files, sentence in (
        ({"a.txt": b"a cat"}, "There are no pictures"),
        ({"a.png": png}, r"a\.png has no caption"),
        ({"a.png": png, "a.json": b"{"}, "The json of a cannot be read"),
        ({"a.png": png, "a.PNG": png, "a.txt": b"x"}, "duplicate"),
    ):
        with pytest.raises(SlugError, match=sentence):
            examples.tar(make_tar(tmp_path / "pairs.tar", files))


def test_a_tar_that_promises_a_huge_member_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tar"
    entry = tarfile.TarInfo("a.png")
    entry.size = 10**11
    path.write_bytes(entry.tobuf() + bytes(1024))
    with pytest.raises(SlugError, match=r"bomb\.tar"):
        examples.tar(path)


def test_uploads_share_one_caption_and_are_read_at_once(tmp_path: Path) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        path.write_bytes(encoded(picture()))
    assert [e.caption for e in examples.uploads(paths, caption=" my cat ")] == ["my cat"] * 2
    paths[1].write_bytes(encoded(picture())[:60])
    with pytest.raises(SlugError, match=r"b\.png is damaged or cut off"):
        examples.uploads(paths, caption="my cat")
    with pytest.raises(SlugError, match="Say in a few words"):
        examples.uploads(paths, caption=" ")
    with pytest.raises(SlugError, match="There are no pictures in the upload"):
        examples.uploads([], caption="my cat")


def test_pictures_from_memory_are_kept_once_and_come_back_as_they_were(tmp_path: Path) -> None:
    images, captions = [picture(0), picture(1), picture(0)], ["a cat", "a cat", "one more cat"]
    made = examples.stored(images, captions, directory=tmp_path / "made", concept="cat")
    assert [e.caption for e in made] == captions
    assert len(list((tmp_path / "made").iterdir())) == 2
    for example, image in zip(made, images, strict=True):
        assert same(pictures.read(example.image), image)
    with pytest.raises(ValueError, match="3 pictures need as many captions, got 1"):
        examples.stored(images, ["a cat"], directory=tmp_path, concept="cat")


def test_a_split_gives_its_rows(shipped: Path) -> None:
    found = examples.parquet(shipped / "test.parquet")
    assert found[3].caption == "a wizard in sketch"
    assert found[3].labels == {"concept": "wizard", "style": "sketch"}
    assert same(pictures.read(found[3].image), picture(3))


def test_a_bad_split_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SlugError, match=r"none\.parquet cannot be read"):
        examples.parquet(tmp_path / "none.parquet")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(SlugError, match=r"torn\.parquet cannot be read"):
        examples.parquet(tmp_path / "torn.parquet")
    pq.write_table(pa.table({"webp": [b""], "prompt": ["x"]}), tmp_path / "thin.parquet")
    with pytest.raises(SlugError, match=r"thin\.parquet has no column concept, style"):
        examples.parquet(tmp_path / "thin.parquet")


# Concepts


def test_a_shipped_object_is_forgotten_in_every_style_and_kept_out_of_the_rest(
    shipped: Path,
) -> None:
    cat = examples.shipped(shipped, "Kitten")
    assert (cat.name, cat.kind) == ("cat", "object")
    assert [e.labels for e in cat.forget] == [
        {"concept": "cat", "style": "plain"},
        {"concept": "cat", "style": "sketch"},
    ]
    assert {e.labels["concept"] for e in cat.retain} == {"wizard", "school bus"}


def test_a_shipped_style_is_forgotten_on_every_thing_and_kept_out_of_the_rest(
    shipped: Path,
) -> None:
    sketch = examples.shipped(shipped, "pencil_drawing")
    assert {e.labels["style"] for e in sketch.forget} == {"sketch"}
    assert {e.labels["style"] for e in sketch.retain} == {"plain"}
    assert len(sketch.forget) == len(sketch.retain) == 3


def test_an_unknown_concept_is_refused_with_the_nearest_names(shipped: Path) -> None:
    with pytest.raises(SlugError, match=r"no concept 'wizzard' here\. Did you mean wizard"):
        examples.shipped(shipped, "wizzard")
    with pytest.raises(SlugError, match="Did you mean cat, wizard, school bus"):
        examples.shipped(shipped, "%%%")


def test_a_concept_without_enough_pictures_is_refused_with_a_sentence(shipped: Path) -> None:
    with pytest.raises(SlugError, match="'fox' has 0 pictures to forget"):
        examples.shipped(shipped, "fox")
    pair = [Example("a", "a"), Example("b", "b")]
    with pytest.raises(SlugError, match="1 pictures to forget: at least 2"):
        examples.concept("x", pair[:1], pair)
    with pytest.raises(SlugError, match="1 pictures to keep: at least 2"):
        examples.concept("x", pair, [Example("c", "c")])
    with pytest.raises(SlugError, match="Give the thing to forget a name"):
        examples.concept(" ", pair, pair)


def test_no_picture_is_forgotten_and_kept_at_once() -> None:
    one, two, three = (Example(name, "x") for name in "abc")
    with pytest.raises(SlugError, match="1 pictures are to be forgotten and kept at once: b"):
        examples.concept("x", [one, two], [two, three])


def test_a_caption_mentions_a_word_whole_and_in_any_case() -> None:
    captions = ["A Cat.", "cats", "concatenate", "cat_food", "school-bus", "a dog", "(cat)"]
    made = [Example(caption, caption) for caption in captions]
    found, rest = examples.divided(made, ["cat", "School bus"])
    assert [e.caption for e in found] == ["A Cat.", "cat_food", "school-bus", "(cat)"]
    assert [e.caption for e in rest] == ["cats", "concatenate", "a dog"]
    with pytest.raises(SlugError, match="a name"):
        examples.divided(made, [" "])


# Tensors


def test_pixels_are_the_models_own_inputs(clip: Clip, shipped: Path) -> None:
    found = examples.parquet(shipped / "test.parquet")
    batch = examples.pixels(found, clip.transform)
    assert batch.shape == (6, 3, 32, 32)
    assert torch.equal(batch[2], clip.transform(picture(2)))
    with pytest.raises(SlugError, match="no example pictures"):
        examples.pixels([], clip.transform)


@pytest.mark.parametrize("seed", [None, 3])
def test_pairs_are_the_batches_of_the_whole_set_in_every_pass(
    clip: Clip, shipped: Path, seed: int | None
) -> None:
    found = examples.parquet(shipped / "test.parquet")
    pairs = examples.Pairs(found, clip, size=4, seed=seed)
    tokens = clip.tokenize([e.caption for e in found])
    whole = batches(examples.pixels(found, clip.transform), tokens, size=4, seed=seed)
    assert len(pairs) == len(whole) == 2
    for _ in range(2):
        for ours, theirs in zip(pairs, whole, strict=True):
            assert torch.equal(ours[0], theirs[0])
            assert torch.equal(ours[1], theirs[1])


def test_a_batch_has_at_least_one_pair(clip: Clip) -> None:
    with pytest.raises(ValueError, match="not 0"):
        examples.Pairs([], clip, size=0)
