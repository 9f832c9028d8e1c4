"""One picture, read with care: from a file, an archive, a parquet row or a data address.

Whatever a visitor gives is either a plain RGB picture afterwards or a sentence. Knows files and
bytes only; a place inside a container is written "shards/00000.tar#000000012.jpg" (a member of a
tar or zip) or "concepts/forget.parquet#17" (a row).
"""

import base64
import binascii
import io
import struct
from functools import cache
from pathlib import Path
from threading import Lock

from cachetools import LRUCache, cached
from PIL import Image, ImageOps

from slugdemo import archives, files
from slugdemo.errors import SlugError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")  # none that runs programs
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    ".avif",
)
HEIF = (".heic", ".heif", ".hif")  # what phones write; read where pillow-heif is installed
MOST_PIXELS = 64_000_000
MOST_BYTES = 64_000_000
DECODED = 48_000_000  # bytes of decoded pictures that are kept
MOST_SHOWN = 64_000  # bytes of a picture that is sent to the page as it is
DISPLAYED = 95  # JPEG quality of any other, in half the bytes and far less time than without loss
UPLOADED = 5_000_000  # bytes of a picture in a data address


def read(place: Path | str) -> Image.Image:
    """The picture at `place`: a file, a member of an archive or a parquet row, upright, in RGB.

    Raises SlugError when it is missing, is no picture, is animated, is cut off, or is larger than
    64 million pixels or 64 MB.
    """
    found = None if isinstance(place, Path) else archives.split(place)
    if found is None:
        path = files.expanded(place)
        return decoded(_file(path), path.name)
    container, name = found
    if container.suffix.lower() != ".parquet":
        return decoded(archives.inside(container, name), f"{name} in {container.name}")
    files.no_pointer(container)
    return _row(container, name, container.stat().st_mtime_ns).copy()


@cached(
    LRUCache(DECODED, getsizeof=lambda picture: 3 * picture.width * picture.height), lock=Lock()
)
def _row(container: Path, name: str, changed: int) -> Image.Image:  # noqa: ARG001
    """A picture in a parquet file, decoded once: many concepts are shown and judged by the same."""
    return decoded(archives.inside(container, name), f"{name} in {container.name}")


def data(place: Path | str) -> bytes:
    """The bytes of the picture at `place`, as they are. Raises SlugError when it is missing."""
    found = None if isinstance(place, Path) else archives.split(place)
    return _file(files.expanded(place)) if found is None else archives.inside(*found)


def decoded(data: bytes, name: str) -> Image.Image:
    """The picture in the bytes of a file called `name`, upright, in RGB, on white where it is clear.

    Raises SlugError as `read` does.
    """
    if len(data) > MOST_BYTES:
        raise SlugError(f"{name} is {len(data) // 10**6} MB large; at most 64 MB can be read.")
    if files.is_pointer(data):
        raise SlugError(f"{name} is a git-lfs pointer, no picture: run `git lfs pull` first.")
    try:
        picture = Image.open(io.BytesIO(_textless(data)), formats=formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise SlugError(_too_many(name)) from None
    except Exception as error:  # decoders raise nearly every kind on damaged data
        raise SlugError(_no_picture(data, name)) from error
    if picture.width * picture.height > MOST_PIXELS:
        raise SlugError(_too_many(name))
    if picture.format != "MPO" and getattr(picture, "is_animated", False):
        several = "has several pages" if picture.format == "TIFF" else "is animated"
        raise SlugError(f"{name} {several}: choose a single picture instead.")
    if picture.mode in ("F", "I"):
        raise SlugError(f"{name} holds measured values, no colours: save it as an 8-bit picture.")
    try:
        return _plain(picture)
    except Exception as error:  # as above
        raise SlugError(f"{name} is damaged or cut off, so it cannot be read.") from error


def addressed(address: str, name: str = "The picture") -> Image.Image:
    """The picture in a data address, "data:image/jpeg;base64,...", or in bare base64.

    Line breaks do not matter. Raises SlugError when it is none, is larger than 5 MB, or as
    `decoded` does.
    """
    letters = "".join(address.split(",", 1)[-1].split())
    if len(letters) > 4 * -(-UPLOADED // 3):
        raise SlugError(_too_large(name))
    try:
        data = base64.b64decode(letters, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SlugError(
            f"{name} cannot be read: send it as data:image/jpeg;base64,... or in bare base64."
        ) from error
    return decoded(data, name)


def uploaded(path: Path, name: str = "The picture") -> Image.Image:
    """The picture in a file that a visitor sent. Raises SlugError as `addressed` does."""
    data = _file(path)
    if len(data) > UPLOADED:
        raise SlugError(_too_large(name))
    return decoded(data, name)


@cache
def formats() -> tuple[str, ...]:
    """The formats that can be read here: HEIF too where pillow-heif is installed."""
    try:
        import pillow_heif
    except ImportError:
        return FORMATS
    pillow_heif.register_heif_opener()
    return (*FORMATS, "HEIF")


def suffixes() -> tuple[str, ...]:
    """The endings of the pictures that can be read here, in small letters."""
    return (*SUFFIXES, *HEIF) if "HEIF" in formats() else SUFFIXES


def _plain(picture: Image.Image) -> Image.Image:
    picture.load()
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):
        picture = picture.point(lambda level: level * (1 / 257)).convert("L")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    clear = picture.convert("RGBA")
    white = Image.new("RGBA", clear.size, "white")
    return Image.alpha_composite(white, clear).convert("RGB")


def _textless(data: bytes) -> bytes:
    """A PNG without its texts and colour profile, which Pillow refuses when they are large."""
    start = b"\x89PNG\r\n\x1a\n"
    if not data.startswith(start):
        return data
    kept, at = [start], len(start)
    while at + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        end = at + 12 + length
        turned = kind == b"iTXt" and data[at + 8 :].startswith(b"XML:com.adobe.xmp")
        if turned or kind not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])


def _no_picture(data: bytes, name: str) -> str:
    if data[4:8] == b"ftyp" and any(kind in data[8:40] for kind in (b"heic", b"heix", b"mif1")):
        return f"{name} is a HEIC picture: install pillow-heif to read it, or save it as JPEG."
    return f"{name} is not a picture in one of the formats {', '.join(formats())}."


def _too_many(name: str) -> str:
    return f"{name} has more than {MOST_PIXELS // 10**6} million pixels: make it smaller first."


def _too_large(name: str) -> str:
    return f"{name} is larger than {UPLOADED // 10**6} MB: make it smaller first."


def _file(path: Path) -> bytes:
    files.no_pointer(path)
    try:
        with path.open("rb") as stream:
            return stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise SlugError(f"{path.name} cannot be read: {error.strerror}.") from error


def webp(picture: Image.Image, *, quality: int = 0) -> bytes:
    """A picture as a WebP file, without loss unless a quality is given."""
    effort = 4 if quality else 1  # without loss, 4 saves little and takes thrice as long
    packed = io.BytesIO()
    picture.save(packed, "webp", lossless=not quality, quality=quality or 80, method=effort)
    return packed.getvalue()


def source(picture: Image.Image, *, quality: int = 0) -> str:
    """A picture as an address that holds it all: data:image/webp, without loss unless asked for."""
    return address(webp(picture, quality=quality))


def shown(place: Path | str) -> str:
    """The picture at `place` as an address, to be looked at: its own bytes where they are a plain
    small WebP file, else as `display` packs it. Raises SlugError as `read` does."""
    picture, packed = read(place), data(place)
    plain = packed[:4] == b"RIFF" and packed[8:16] == b"WEBPVP8 "  # no turning, no transparency
    if plain and len(packed) <= MOST_SHOWN:
        return address(packed)
    return display(picture)


def display(picture: Image.Image) -> str:
    """A picture as an address, to be looked at: data:image/jpeg, in full colour, with hardly a loss."""
    packed = io.BytesIO()
    picture.save(packed, "jpeg", quality=DISPLAYED, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode()


def address(packed: bytes) -> str:
    """A WebP file as an address that holds it all."""
    return "data:image/webp;base64," + base64.b64encode(packed).decode()
