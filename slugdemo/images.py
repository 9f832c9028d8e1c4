"""One picture, read with care: from a file, from inside a tar or from a row of a parquet file.

Whatever a visitor gives is either a plain RGB picture afterwards or a sentence. Knows files and
bytes only; a place inside a container is written "shards/00000.tar#000000012.jpg" (a member) or
"concepts/forget.parquet#17" (a row).
"""

import io
import tarfile
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from slugdemo.errors import SlugError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")  # no format that runs programs or scripts
MOST_PIXELS = 64_000_000
MOST_BYTES = 64_000_000
COLUMN = "webp"  # of a parquet file


def read(place: Path | str) -> Image.Image:
    """The picture at `place`: a file, a tar member or a parquet row, upright and in RGB.

    Raises SlugError when it is missing, is no picture, is animated, is cut off, or is larger than
    64 million pixels or 64 MB.
    """
    if isinstance(place, Path):
        return decoded(_file(place), place.name)
    container, _, inside = place.rpartition("#")
    if not container:
        return decoded(_file(Path(place)), Path(place).name)
    path = Path(container)
    data = _row(path, int(inside)) if path.suffix == ".parquet" else _member(path, inside)
    return decoded(data, f"{inside} in {path.name}")


def decoded(data: bytes, name: str) -> Image.Image:
    """The picture in the bytes of a file called `name`, upright, in RGB, on white where it is clear.

    Raises SlugError as `read` does.
    """
    if len(data) > MOST_BYTES:
        raise SlugError(f"{name} is {len(data) // 10**6} MB large; at most 64 MB can be read.")
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise SlugError(_too_many(name)) from None
    except Exception as error:  # decoders raise nearly every kind on damaged data
        kinds = ", ".join(FORMATS)
        raise SlugError(f"{name} is not a picture in one of the formats {kinds}.") from error
    if picture.width * picture.height > MOST_PIXELS:
        raise SlugError(_too_many(name))
    if picture.format != "MPO" and getattr(picture, "is_animated", False):
        raise SlugError(f"{name} is animated: choose a single picture instead.")
    try:
        return _plain(picture)
    except Exception as error:  # as above
        raise SlugError(f"{name} is damaged or cut off, so it cannot be read.") from error


def members(tar: Path) -> dict[str, tuple[int, int]]:
    """Where each regular file in a tar begins and how many bytes it has, by its name.

    Raises SlugError when the tar is missing, damaged, compressed or cut off, or when a file in it
    is larger than 64 MB.
    """
    try:
        facts = tar.stat()
        return _members(tar, facts.st_mtime_ns, facts.st_size)
    except (OSError, tarfile.TarError) as error:
        raise SlugError(f"{tar.name} cannot be read as a plain tar file: {error}.") from error


def table(parquet: Path) -> pa.Table:
    """A parquet file as a table, kept in memory while it is in use. Raises SlugError."""
    try:
        return _table(parquet, parquet.stat().st_mtime_ns)
    except (OSError, pa.ArrowException) as error:
        raise SlugError(f"{parquet.name} cannot be read as a parquet file: {error}.") from error


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


def _too_many(name: str) -> str:
    return f"{name} has more than {MOST_PIXELS // 10**6} million pixels: make it smaller first."


def _file(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise SlugError(f"{path.name} cannot be read: {error.strerror}.") from error


def _member(tar: Path, name: str) -> bytes:
    known = members(tar)
    if name not in known:
        raise SlugError(f"There is no {name} in {tar.name}.")
    start, size = known[name]
    with tar.open("rb") as stream:
        stream.seek(start)
        return stream.read(size)


@lru_cache(maxsize=16)
def _members(tar: Path, changed: int, size: int) -> dict[str, tuple[int, int]]:  # noqa: ARG001
    with tar.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        found = {one.name: (one.offset_data, one.size) for one in archive if one.isreg()}
        stream.seek(archive.offset)
        ended = stream.read(512) == bytes(512)  # tarfile itself takes a torn header for the end
    for name, (start, length) in found.items():
        if length > MOST_BYTES:
            raise SlugError(f"{name} in {tar.name} is larger than 64 MB.")
        if start + length > size:
            raise SlugError(f"{tar.name} is cut off in the middle of {name}.")
    if not ended:
        raise SlugError(f"{tar.name} is cut off or damaged after {len(found)} files.")
    return found


def _row(parquet: Path, row: int) -> bytes:
    rows = table(parquet)
    if COLUMN not in rows.column_names or not 0 <= row < rows.num_rows:
        raise SlugError(f"{parquet.name} has no picture in row {row}.")
    return rows.column(COLUMN)[row].as_py()


@lru_cache(maxsize=8)
def _table(parquet: Path, changed: int) -> pa.Table:  # noqa: ARG001
    return pq.read_table(parquet)
