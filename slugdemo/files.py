"""Files that users give and get: texts in any encoding, names for files, places that can be written.

Knows bytes, paths and their names; knows no pictures, concepts or models.
"""

import codecs
import os
import re
import unicodedata
from pathlib import Path

from slugdemo.errors import SlugError

POINTER = b"version https://git-lfs.github.com/spec/"  # how a git-lfs pointer begins
POINTER_BYTES = 1024  # no pointer is larger
LONGEST = 40  # letters of a name that is made for a file
BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def expanded(path: Path | str) -> Path:
    """The path with `~` replaced by the home folder. Raises SlugError for an unknown user's."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise SlugError(f"{path} cannot be found: there is no such home folder.") from error


def text(data: bytes) -> str:
    """The text in `data`: by its byte order mark, else UTF-8, UTF-16 without a mark, or cp1252."""
    for mark, encoding in BOMS:
        if data.startswith(mark):
            return data.decode(encoding, errors="replace")
    for zeros, encoding in ((data[1::2], "utf-16-le"), (data[::2], "utf-16-be")):
        if zeros.count(0) > len(zeros) / 2:  # Latin letters have a zero byte each
            return data.decode(encoding, errors="replace")
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def is_pointer(data: bytes) -> bool:
    """Whether these are the contents of a git-lfs pointer rather than of the file itself."""
    return len(data) <= POINTER_BYTES and data.startswith(POINTER)


def pointed(path: Path) -> bool:
    """Whether a file is a git-lfs pointer that stands for contents which were not fetched."""
    try:
        if path.stat().st_size > POINTER_BYTES:
            return False
        return is_pointer(path.read_bytes())
    except OSError:
        return False


def no_pointer(path: Path) -> None:
    """Raises SlugError when a file is a git-lfs pointer, with the command that fetches it."""
    if pointed(path):
        raise SlugError(
            f"{path.name} is a git-lfs pointer; the file itself was not fetched: run `git lfs "
            f"pull` in {path.parent}."
        )


def safe_name(name: str) -> str:
    """A name that every file system takes: "AC-DC" for "AC/DC"; letters of any language stay."""
    plain = unicodedata.normalize("NFC", name).strip()
    return re.sub(r"[^\w.]+", "-", plain)[:LONGEST].strip("-._") or "concept"


def writable(path: Path | str) -> Path:
    """The path of a file that can be written there, its folder made if need be.

    Raises SlugError when it cannot; an existing file is left as it is.
    """
    path = expanded(path)
    if os.path.isdir(path):  # false, not an error, for a name that is too long
        raise SlugError(f"{path} is a folder: give the name of a file, such as {path / 'edit'}.")
    there = os.path.lexists(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
        if not there:
            path.unlink()
    except OSError as error:
        blocked = next((above for above in path.parents if above.is_file()), None)
        why = f"{blocked} is a file" if blocked else error.strerror
        raise SlugError(f"{path} cannot be written: {why}.") from error
    return path


def writable_folder(path: Path | str) -> Path:
    """The path of a folder in which files can be written, made if need be. Raises SlugError."""
    path = expanded(path)
    if os.path.isfile(path):
        raise SlugError(f"{path} is a file: give the name of a folder.")
    writable(path / ".slugdemo")
    return path


def new_folder(path: Path | str) -> Path:
    """The path of a folder that does not exist yet and can be made. Raises SlugError."""
    path = expanded(path)
    if os.path.lexists(path):
        raise SlugError(f"{path} exists already: choose a new folder.")
    return writable(path)
