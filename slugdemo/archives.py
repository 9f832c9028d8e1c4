"""Files inside of files: tars, compressed or not, zips and parquet files, read without unpacking.

Knows names and bytes; knows no pictures and no captions.
"""

import atexit
import bz2
import gzip
import io
import lzma
import re
import shutil
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from slugdemo import files
from slugdemo.errors import SlugError

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
PLACE = re.compile(
    rf"(.+?(?:{'|'.join(map(re.escape, (*TARS, '.zip', '.parquet')))}))#(.*)", re.IGNORECASE | re.S
)
COLUMNS = ("webp", "image", "img", "picture", "jpg", "jpeg", "png")  # of parquet, in this order
MOST_BYTES = 64_000_000  # of a file inside
MOST_UNPACKED = 16_000_000_000  # bytes of a compressed tar
PACKED: tuple[tuple[bytes, Any], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\x00", lzma.open),
)


def split(place: str) -> tuple[Path, str] | None:
    """The container and the name inside of "shards/00000.tar#000.jpg"; None for any other place."""
    found = PLACE.fullmatch(place)
    return (files.expanded(found[1]), found[2]) if found else None


def inside(container: Path, name: str) -> bytes:
    """The bytes of a file in a tar or zip, or of a picture in a row of a parquet file.

    Raises SlugError when there is none of this name, or when the container cannot be read.
    """
    parquet = container.suffix.lower() == ".parquet"
    return _row(container, name) if parquet else contents(container, name)


def members(archive: Path) -> list[str]:
    """The names of the regular files in a tar or zip, in its order.

    Raises SlugError when the archive is missing, damaged, cut off or locked by a password, or
    when a file in it is larger than 64 MB.
    """
    return list(_zipped(archive) if is_zip(archive) else _tarred(archive)[1])


def contents(archive: Path, name: str) -> bytes:
    """The bytes of one file in a tar or zip. Raises SlugError as `members` does."""
    if is_zip(archive):
        return _unzipped(archive, name)
    path, places = _tarred(archive)
    if name not in places:
        raise SlugError(f"There is no {name} in {archive.name}.")
    start, size = places[name]
    with path.open("rb") as stream:
        stream.seek(start)
        return stream.read(size)


def is_zip(path: Path) -> bool:
    """Whether a file goes by the name of a zip."""
    return path.suffix.lower() == ".zip"


def is_tar(path: Path) -> bool:
    """Whether a file goes by the name of a tar, perhaps a compressed one."""
    return path.name.lower().endswith(TARS)


class Head(NamedTuple):
    """What is known of a parquet file before its pictures are read.

    `picture` is the column with pictures, "" for none; `starts` are the first rows of its groups,
    with the number of all rows at the end.
    """

    schema: pa.Schema
    picture: str
    starts: tuple[int, ...]


def head(parquet: Path) -> Head:
    """The columns and row groups of a parquet file. Raises SlugError when it is none."""
    files.no_pointer(parquet)
    try:
        return _head(parquet, parquet.stat().st_mtime_ns)
    except (OSError, pa.ArrowException) as error:
        raise SlugError(f"{parquet.name} cannot be read as a parquet file: {error}.") from error


def columns(parquet: Path, names: list[str]) -> pa.Table:
    """Some columns of a parquet file. Raises SlugError when it cannot be read."""
    files.no_pointer(parquet)
    try:
        return pq.read_table(parquet, columns=names)
    except (OSError, pa.ArrowException) as error:
        raise SlugError(f"{parquet.name} cannot be read as a parquet file: {error}.") from error


def stored(parquet: Path) -> Iterator[tuple[bool, str]]:
    """For each row of a parquet file: whether it holds a picture's bytes, and the path it names."""
    picture = head(parquet).picture
    with pq.ParquetFile(parquet) as file:
        for batch in file.iter_batches(batch_size=256, columns=[picture]):
            for cell in batch.column(0):
                yield _bytes(cell) is not None, _path(cell)


# Tars: where each file begins and how many bytes it has, in the tar itself or unpacked


def _tarred(tar: Path) -> tuple[Path, Mapping[str, tuple[int, int]]]:
    files.no_pointer(tar)
    try:
        facts = tar.stat()
        plain = _plain_tar(tar, facts.st_mtime_ns, facts.st_size)
        return plain, _members(plain, tar.name, plain.stat().st_mtime_ns, plain.stat().st_size)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError) as error:
        raise SlugError(f"{tar.name} cannot be read as a tar file: {error}.") from error


@lru_cache(maxsize=16)
def _members(tar: Path, called: str, changed: int, size: int) -> dict[str, tuple[int, int]]:  # noqa: ARG001
    with tar.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        found = {
            member.name: (member.offset_data, member.size) for member in archive if member.isreg()
        }
        stream.seek(archive.offset)
        ended = stream.read(512) == bytes(512)  # tarfile itself takes a torn header for the end
    for name, (start, length) in found.items():
        if length > MOST_BYTES:
            raise SlugError(f"{name} in {called} is larger than 64 MB.")
        if start + length > size:
            raise SlugError(f"{called} is cut off in the middle of {name}.")
    if not ended:
        raise SlugError(f"{called} is cut off or damaged after {len(found)} files.")
    return found


@cache
def _plain_tar(tar: Path, changed: int, size: int) -> Path:  # noqa: ARG001
    """The tar itself, or where a compressed one lies unpacked until the program ends."""
    with tar.open("rb") as stream:
        begins = stream.read(6)
    opener = next((member for magic, member in PACKED if begins.startswith(magic)), None)
    if opener is None:
        return tar
    with opener(tar, "rb") as packed, tempfile.NamedTemporaryFile(dir=_room(), delete=False) as out:
        while some := packed.read(1 << 20):
            out.write(some)
            if out.tell() > MOST_UNPACKED:
                raise SlugError(f"{tar.name} unpacks to more than 16 GB: unpack it yourself first.")
    return Path(out.name)


@cache
def _room() -> str:
    folder = tempfile.mkdtemp(prefix="slugdemo-tars-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


# Zips: their directory is read once, a file in them by its place


def _zipped(archive: Path) -> Mapping[str, zipfile.ZipInfo]:
    files.no_pointer(archive)
    try:
        facts = archive.stat()
        return _directory(archive, facts.st_mtime_ns, facts.st_size)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise SlugError(f"{archive.name} cannot be read as a zip file: {error}.") from error


@lru_cache(maxsize=16)
def _directory(archive: Path, changed: int, size: int) -> dict[str, zipfile.ZipInfo]:  # noqa: ARG001
    with zipfile.ZipFile(archive) as opened:
        found = {member.filename: member for member in opened.infolist() if not member.is_dir()}
    for name, member in found.items():
        if member.flag_bits & 1:
            raise SlugError(f"{archive.name} is locked by a password: pack it without one.")
        if member.file_size > MOST_BYTES:
            raise SlugError(f"{name} in {archive.name} is larger than 64 MB.")
    return found


def _unzipped(archive: Path, name: str) -> bytes:
    member = _zipped(archive).get(name)
    if member is None:
        raise SlugError(f"There is no {name} in {archive.name}.")
    try:
        with archive.open("rb") as stream:
            stream.seek(member.header_offset)
            *_, longer, more = struct.unpack("<4s5H3I2H", stream.read(30))
            stream.seek(longer + more, io.SEEK_CUR)
            packed = stream.read(member.compress_size)
        data = _inflated(packed, member)
    except (OSError, zlib.error, struct.error) as error:
        raise SlugError(f"{name} in {archive.name} is damaged: {error}.") from error
    if zlib.crc32(data) != member.CRC:
        raise SlugError(f"{name} in {archive.name} is damaged.")
    return data


def _inflated(packed: bytes, member: zipfile.ZipInfo) -> bytes:
    if member.compress_type == zipfile.ZIP_STORED:
        return packed
    if member.compress_type == zipfile.ZIP_DEFLATED:
        return zlib.decompressobj(-15).decompress(packed, member.file_size + 1)
    raise SlugError(f"{member.filename} uses an unusual compression: pack it with an ordinary one.")


# Parquet: pictures are read a group of rows at a time


def _row(parquet: Path, row: str) -> bytes:
    known = head(parquet)
    if not known.picture or not row.isdecimal() or int(row) >= known.starts[-1]:
        raise SlugError(f"{parquet.name} has no picture in row {row}.")
    group = max(at for at, start in enumerate(known.starts[:-1]) if start <= int(row))
    cells = _group(parquet, parquet.stat().st_mtime_ns, group, known.picture)
    data = _bytes(cells[int(row) - known.starts[group]])
    if data is None:
        raise SlugError(f"{parquet.name} has no picture in row {row}.")
    return data


@lru_cache(maxsize=64)
def _head(parquet: Path, changed: int) -> Head:  # noqa: ARG001
    with pq.ParquetFile(parquet) as file:
        starts, facts = [0], file.metadata
        for group in range(facts.num_row_groups):
            starts.append(starts[-1] + facts.row_group(group).num_rows)
        schema = file.schema_arrow
    fit = [field.name for field in schema if _holds_bytes(field.type)]
    fit.sort(key=lambda name: COLUMNS.index(name.lower()) if name.lower() in COLUMNS else 99)
    return Head(schema, fit[0] if fit else "", tuple(starts))


@lru_cache(maxsize=8)
def _group(parquet: Path, changed: int, group: int, column: str) -> pa.ChunkedArray:  # noqa: ARG001
    with pq.ParquetFile(parquet) as file:
        return file.read_row_group(group, columns=[column]).column(0)


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):  # as the hub's own data sets have it: {bytes, path}
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _bytes(cell: pa.Scalar) -> bytes | None:
    value = cell.as_py()
    return value.get("bytes") if isinstance(value, dict) else value


def _path(cell: pa.Scalar) -> str:
    value = cell.as_py()
    return str(value.get("path") or "") if isinstance(value, dict) else ""
