"""Example pictures from every source, and what happens to bad ones."""

import base64
import json
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from containers import a_split, encoded, picture
from PIL import Image, ImageChops, ImageStat
from PIL.PngImagePlugin import PngInfo

from slugdemo import archives, data, images
from slugdemo.concept import Example, Names
from slugdemo.errors import SlugError
from slugdemo.gradients import batches
from slugdemo.models.clip import Clip
from slugdemo.sources import Source


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
    assert same(images.decoded(encoded(picture(), kind, **options), "one"), picture())


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "RGBA", "LA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    read = images.decoded(encoded(picture().convert(mode), kind), "one")
    assert (read.mode, read.size) == ("RGB", (20, 16))


def test_what_is_clear_becomes_white() -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert images.decoded(encoded(clear), "one").getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_keep_their_brightness() -> None:
    grey = Image.new("I;16", (8, 8), 257 * 100)
    assert abs(images.decoded(encoded(grey), "one").getpixel((0, 0))[0] - 100) <= 1


def test_a_picture_from_a_phone_stands_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert images.decoded(encoded(picture(), "JPEG", exif=exif), "one").size == (16, 20)


def test_a_phones_jpeg_with_a_second_picture_inside_is_one_picture() -> None:
    data = encoded(picture(), "MPO", save_all=True, append_images=[picture(1)])
    assert images.decoded(data, "one").size == (20, 16)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animated_picture_is_refused_with_a_sentence(kind: str) -> None:
    rest = [picture(1), picture(2)]
    data = encoded(picture(0), kind, save_all=True, append_images=rest)
    with pytest.raises(SlugError, match="one is animated"):
        images.decoded(data, "one")


def test_a_gif_that_stands_still_is_read() -> None:
    assert images.decoded(encoded(picture(), "GIF"), "one").size == (20, 16)


@pytest.mark.parametrize("data", [bomb(), large()], ids=["bomb", "large"])
def test_a_decompression_bomb_is_refused_with_a_sentence(data: bytes) -> None:
    with pytest.raises(SlugError, match="one has more than 64 million pixels"):
        images.decoded(data, "one")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_picture_that_is_cut_off_is_refused_with_a_sentence(kind: str, share: float) -> None:
    data = encoded(picture(size=(64, 64)), kind)
    with pytest.raises(SlugError, match=r"^one is"):
        images.decoded(data[: int(len(data) * share)], "one")


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_what_is_no_picture_is_refused_with_a_sentence(data: bytes) -> None:
    with pytest.raises(SlugError, match="one is not a picture in one of the formats JPEG, PNG"):
        images.decoded(data, "one")


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "tif", "TIFF"])
def test_other_endings_of_known_formats_are_read(tmp_path: Path, suffix: str) -> None:
    kind = "TIFF" if suffix.lower().startswith("t") else "JPEG"
    path = tmp_path / f"one.{suffix}"
    path.write_bytes(encoded(picture(), kind))
    assert images.read(path).size == (20, 16)
    assert path.suffix.lower() in images.suffixes()


def test_a_tiff_with_pages_or_measured_values_is_refused_with_a_sentence() -> None:
    pages = encoded(picture(), "TIFF", save_all=True, append_images=[picture(1)])
    with pytest.raises(SlugError, match="one has several pages"):
        images.decoded(pages, "one")
    with pytest.raises(SlugError, match="one holds measured values"):
        images.decoded(encoded(Image.new("F", (8, 8), 300.0), "TIFF"), "one")


def test_a_png_with_large_texts_is_read_as_one_without() -> None:
    notes = PngInfo()
    notes.add_text("workflow", "x" * 3_000_000, zip=True)
    notes.add_text("parameters", "y" * 2_000_000)
    notes.add_itxt("more", "z" * 2_000_000, zip=True)
    data = encoded(picture(), pnginfo=notes, icc_profile=bytes(3_000_000))
    assert same(images.decoded(data, "one"), picture())


def test_a_phones_heic_names_what_it_needs() -> None:
    if "HEIF" in images.formats():
        pytest.skip("pillow-heif is installed")
    with pytest.raises(SlugError, match="one is a HEIC picture: install pillow-heif"):
        images.decoded(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "one")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"


def test_a_git_lfs_pointer_is_named(tmp_path: Path) -> None:
    for name in ("a.png", "a.tar", "a.zip", "a.parquet", "concepts.json"):
        (tmp_path / name).write_bytes(POINTER)
    for read in (
        lambda: images.read(tmp_path / "a.png"),
        lambda: archives.members(tmp_path / "a.tar"),
        lambda: archives.members(tmp_path / "a.zip"),
        lambda: archives.head(tmp_path / "a.parquet"),
        lambda: data.listing(tmp_path),
    ):
        with pytest.raises(SlugError, match=r"git-lfs pointer.*git lfs pull"):
            read()


@pytest.mark.parametrize("every", [0, 76, 64])
def test_a_data_address_is_read_with_and_without_line_breaks(every: int) -> None:
    letters = base64.b64encode(encoded(picture())).decode()
    lines = (
        [letters[at : at + every] for at in range(0, len(letters), every)] if every else [letters]
    )
    for address in ("\r\n".join(lines), "data:image/png;base64," + "\n".join(lines) + "\n"):
        assert same(images.addressed(address), picture())


def test_five_megabytes_fit_into_a_data_address_and_no_more() -> None:
    photo = encoded(picture()) + bytes(3_500_000)  # what stands after the end of a PNG is not read
    assert same(images.addressed(base64.encodebytes(photo).decode()), picture())
    most = photo + bytes(5_000_000 - len(photo))
    assert same(images.addressed(base64.b64encode(most).decode()), picture())
    with pytest.raises(SlugError, match="larger than 5 MB"):
        images.addressed(base64.b64encode(most + bytes(9)).decode())
    with pytest.raises(SlugError, match="cannot be read: send it as data:image"):
        images.addressed("https://example.org/cat.png")


@pytest.mark.parametrize("kind", ["plain", "turned", "clear", "large", "png"])
def test_a_picture_is_shown_as_it_is_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "shot.webp"
    shot = picture(5, (300, 300)) if kind == "large" else picture(5, (3, 2)).resize((60, 40))
    if kind == "turned":
        turned = Image.Exif()
        turned[0x0112] = 6  # a quarter turn
        shot.save(path, "webp", quality=90, exif=turned)
    elif kind == "clear":
        shot.putalpha(100)
        shot.save(path, "webp", quality=90)
    elif kind == "png":
        shot.save(path, "png")
    else:
        shot.save(path, "webp", quality=100 if kind == "large" else 90)
    address, read = images.shown(path), images.read(path)
    shown = images.addressed(address)
    assert shown.size == read.size == ((40, 60) if kind == "turned" else shot.size)
    apart = ImageStat.Stat(ImageChops.difference(shown, read)).mean
    assert max(apart) < (25 if kind == "large" else 4)
    own = base64.b64decode(address.partition(",")[2]) == path.read_bytes()
    assert own == (kind == "plain")


def test_a_file_beyond_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    with path.open("wb") as stream:
        stream.truncate(10**12)  # sparse: a terabyte that nobody should read
    with pytest.raises(SlugError, match=r"huge\.png is 64 MB large"):
        images.read(path)


@pytest.mark.parametrize("place", [Path("no/where.png"), "no/where.png", "no/where.tar#a.png"])
def test_a_missing_picture_is_refused_with_a_sentence(place: Path | str) -> None:
    with pytest.raises(SlugError, match="where"):
        images.read(place)


# Sources


def test_uploads_share_one_caption_and_are_read_at_once(tmp_path: Path) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        path.write_bytes(encoded(picture()))
    assert [e.caption for e in data.uploads(paths, caption=" my cat ")] == ["my cat"] * 2
    paths[1].write_bytes(encoded(picture())[:60])
    with pytest.raises(SlugError, match=r"b\.png is damaged or cut off"):
        data.uploads(paths, caption="my cat")
    with pytest.raises(SlugError, match="Say in a few words"):
        data.uploads(paths, caption=" ")
    with pytest.raises(SlugError, match="There are no pictures in the upload"):
        data.uploads([], caption="my cat")


def test_pictures_from_memory_are_kept_once_and_come_back_as_they_were(tmp_path: Path) -> None:
    shown, captions = [picture(0), picture(1), picture(0)], ["a cat", "a cat", "one more cat"]
    made = data.stored(shown, captions, directory=tmp_path / "made", concept="cat")
    assert [e.caption for e in made] == captions
    assert len(list((tmp_path / "made").iterdir())) == 2
    for example, image in zip(made, shown, strict=True):
        assert same(images.read(example.image), image)
    with pytest.raises(ValueError, match="3 pictures need as many captions, got 1"):
        data.stored(shown, ["a cat"], directory=tmp_path, concept="cat")


def test_a_split_gives_its_rows(shipped: Path) -> None:
    found = data.parquet(shipped / "test.parquet")
    assert found[3].caption == "a wizard in sketch"
    assert found[3].labels == {"concept": "wizard", "style": "sketch"}
    assert same(images.read(found[3].image), picture(3))


def test_a_split_that_was_made_anew_is_read_anew(shipped: Path, tmp_path: Path) -> None:
    rows = pq.read_table(shipped / "test.parquet")
    path = tmp_path / "split.parquet"
    for changed, count in enumerate((3, 2), 1):
        pq.write_table(rows.slice(0, count), path)
        os.utime(path, ns=(changed, changed))
        assert len(data.parquet(path)) == count
        assert data.parquet(path) is data.parquet(path)


def test_a_bad_split_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SlugError, match=r"no folder or file .*none\.parquet"):
        data.parquet(tmp_path / "none.parquet")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(SlugError, match=r"torn\.parquet cannot be read"):
        data.parquet(tmp_path / "torn.parquet")
    pq.write_table(pa.table({"key": ["1"], "caption": ["x"]}), tmp_path / "side.parquet")
    with pytest.raises(SlugError, match=r"side\.parquet holds no pictures, only key, caption"):
        data.parquet(tmp_path / "side.parquet")


# Concepts


def test_a_shipped_object_is_forgotten_in_every_style_and_kept_out_of_the_rest(
    shipped: Path,
) -> None:
    cat = data.shipped(shipped, "Kitten")
    assert (cat.name, cat.kind) == ("cat", "object")
    assert [e.labels for e in cat.forget] == [
        {"concept": "cat", "style": "plain"},
        {"concept": "cat", "style": "sketch"},
    ]
    assert {e.labels["concept"] for e in cat.retain} == {"wizard", "school bus"}


def test_a_shipped_style_is_forgotten_on_every_thing_and_kept_out_of_the_rest(
    shipped: Path,
) -> None:
    sketch = data.shipped(shipped, "pencil_drawing")
    assert {e.labels["style"] for e in sketch.forget} == {"sketch"}
    assert {e.labels["style"] for e in sketch.retain} == {"plain"}
    assert len(sketch.forget) == len(sketch.retain) == 3


def test_an_unknown_concept_is_refused_with_the_nearest_names(shipped: Path) -> None:
    with pytest.raises(SlugError, match=r"no concept 'wizzard' here\. Did you mean wizard"):
        data.shipped(shipped, "wizzard")
    with pytest.raises(SlugError, match=r"no concept '%%%' here\. Bring pictures of it"):
        data.shipped(shipped, "%%%")


def test_a_concept_without_enough_pictures_is_refused_with_a_sentence(shipped: Path) -> None:
    with pytest.raises(SlugError, match="'fox' comes without pictures to forget"):
        data.shipped(shipped, "fox")
    pair = [Example("a", "a"), Example("b", "b")]
    with pytest.raises(SlugError, match="1 picture to forget: at least 2"):
        data.concept("x", pair[:1], pair)
    with pytest.raises(SlugError, match="1 picture to keep: at least 2"):
        data.concept("x", pair, [Example("c", "c")])
    with pytest.raises(SlugError, match="Give the thing to forget a name"):
        data.concept(" ", pair, pair)


def test_no_picture_is_forgotten_and_kept_at_once() -> None:
    one, two, three = (Example(name, "x") for name in "abc")
    with pytest.raises(SlugError, match="1 pictures are both to be forgotten and to be kept: b"):
        data.concept("x", [one, two], [two, three])


LISTING = (
    {"name": "cat", "kind": "object", "synonyms": ["kitty"], "descriptions": ["a pet that purrs"]},
    {"name": "dog", "kind": "object"},
    {"name": "hot dog", "kind": "object"},
    {"name": "neon", "kind": "style", "synonyms": ["glowing"]},
)
NAMES = Names.of(LISTING)


def shown_as(*captions: str, title: str = "mine", shard: bool = False) -> Source:
    examples = [Example(f"{title}/{at}.png", text) for at, text in enumerate(captions)]
    return Source(title, tuple(examples), shard=shard)


def captions(examples: Sequence[Example]) -> list[str]:
    return [one.caption for one in examples]


def test_a_shard_gives_what_mentions_the_concept_whole_and_in_any_case() -> None:
    given = ["A Cat.", "cats", "concatenate", "cat_food", "Kitty!", "a hot-dog", "dogs", "(cat)"]
    shard = shown_as(*given, shard=True)
    made = data.brought("CAT ", names=NAMES, forget=shard)
    assert captions(made.forget) == ["A Cat.", "cats", "cat_food", "Kitty!", "(cat)"]
    assert captions(made.retain) == ["concatenate", "a hot-dog", "dogs"]


def test_captions_of_a_shard_become_classes_that_are_names() -> None:
    given = ["a cat on a mat", "my kitty", "a picture of a dog", "a photo of a gizmo", "Hot dogs!"]
    made = data.brought("cat", names=NAMES, forget=shown_as(*given, title="a.tar", shard=True))
    assert (made.name, made.kind) == ("cat", "object")
    assert captions(made.forget) == given[:2]
    assert [one.labels for one in made.forget] == [{"concept": "cat"}] * 2
    assert [one.labels["concept"] for one in made.retain] == ["dog", "gizmo", "hot dog"]
    assert made.notes == ()


def test_a_long_caption_that_names_nothing_known_stays_a_caption() -> None:
    long = "the sun goes down over the hills of a far country"
    made = data.brought("cat", names=NAMES, forget=shown_as("cat", "cat", long, "dog", shard=True))
    assert [one.labels for one in made.retain] == [{}, {"concept": "dog"}]


def test_a_picture_that_mentions_no_style_is_plain_beside_a_style() -> None:
    given = ["a glowing cat", "a neon picture of a dog", "a dog", "a cat"]
    made = data.brought("Neon", names=NAMES, forget=shown_as(*given, shard=True))
    assert (made.name, made.kind) == ("neon", "style")
    assert [one.labels for one in made.forget] == [{"style": "neon"}] * 2
    assert [one.labels for one in made.retain] == [{"style": "plain"}] * 2


@pytest.mark.parametrize("name", ["Cat", " cat ", "kitty", "a cat", "CATS", "a pet that purrs"])
def test_ones_own_pictures_of_a_known_thing_never_keep_the_shipped_ones(name: str) -> None:
    shipped = [
        Example("s#0", "a picture of a cat", {"concept": "cat"}),
        Example("s#1", "a picture of a dog", {"concept": "dog"}),
        Example("s#2", "a picture of a hot dog", {"concept": "hot dog"}),
    ]
    made = data.brought(name, names=NAMES, forget=shown_as("", "", ""), others=shipped)
    assert made.name == "cat"
    assert captions(made.forget) == ["a picture of a cat"] * 3
    assert [one.labels["concept"] for one in made.retain] == ["dog", "hot dog"]


def test_a_folder_keeps_its_pictures_unless_they_name_something_else() -> None:
    given = ["on my desk", "in the kitchen", "", "a dog", "two dogs"]
    made = data.brought("my mug ", names=NAMES, forget=shown_as(*given))
    assert made.name == "my mug"
    assert captions(made.forget) == [*given[:2], "a picture of my mug"]
    assert captions(made.retain) == given[3:]
    few = data.brought("my mug", names=NAMES, forget=shown_as(*given[:4]), others=made.retain)
    assert captions(few.retain) == given[3:]
    assert few.notes == ("Left out: 1 picture in mine showing something else than my mug.",)


def test_what_shows_the_concept_is_not_kept_and_that_is_said() -> None:
    retain = shown_as("a dog", "a dog and a cat", "my kitty", "a hot dog", "", title="others")
    given = {"names": NAMES, "forget": shown_as("", ""), "retain": retain}
    made = data.brought("cat", **given)
    assert captions(made.retain) == ["a dog", "a hot dog"]
    assert made.notes == (
        "Left out: 1 picture in others without a caption.",
        "Left out: 2 pictures in others showing cat.",
    )
    only = replace(retain, examples=retain.examples[:3])
    with pytest.raises(SlugError, match=r"1 picture to keep.*2 pictures in others showing cat"):
        data.brought("cat", **{**given, "retain": only})


def test_a_shard_that_never_mentions_the_concept_is_refused_with_a_sentence() -> None:
    source = shown_as("a dog", "a bird", title="a.tar", shard=True)
    with pytest.raises(SlugError, match=r"None of the 2 captions in a\.tar mentions 'cat'"):
        data.brought("cat", names=NAMES, forget=source)
    with pytest.raises(SlugError, match=r"0\.png has no caption"):
        data.brought("cat", names=NAMES, forget=shown_as("", ""), retain=shown_as("", ""))
    with pytest.raises(SlugError, match="a name"):
        data.brought(" ", names=NAMES, forget=source)


def test_almost_nothing_recognised_is_a_sentence() -> None:
    assert data.doubt(0.5, 12) == ""
    assert "only 1 of the 12 things to keep are recognised" in data.doubt(1 / 12, 12)


# Tensors


def test_pixels_are_the_models_own_inputs(clip: Clip, shipped: Path) -> None:
    found = data.parquet(shipped / "test.parquet")
    batch = data.pixels(found, clip.transform)
    assert batch.shape == (6, 3, 32, 32)
    assert torch.equal(batch[2], clip.transform(picture(2)))
    with pytest.raises(SlugError, match="no example pictures"):
        data.pixels([], clip.transform)


@pytest.mark.parametrize("seed", [None, 3])
def test_pairs_are_the_batches_of_the_whole_set_in_every_pass(
    clip: Clip, shipped: Path, seed: int | None
) -> None:
    found = data.parquet(shipped / "test.parquet")
    pairs = data.Pairs(found, clip, size=4, seed=seed)
    tokens = clip.tokenize([e.caption for e in found])
    whole = batches(data.pixels(found, clip.transform), tokens, size=4, seed=seed)
    assert len(pairs) == len(whole) == 2
    for _ in range(2):
        for ours, theirs in zip(pairs, whole, strict=True):
            assert torch.equal(ours[0], theirs[0])
            assert torch.equal(ours[1], theirs[1])


def test_a_batch_has_at_least_one_pair(clip: Clip) -> None:
    with pytest.raises(ValueError, match="not 0"):
        data.Pairs([], clip, size=0)
