"""What is said of pictures: captions and classes in records and in tables of many pictures.

Knows the field's usual names of columns and kinds of tables; knows no pictures and no folders.
"""

import csv
import io
import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from slugdemo import files
from slugdemo.concept import DOMAINS
from slugdemo.errors import SlugError

CAPTIONS = ("caption", "captions", "text", "txt", "prompt", "description", "alt_text", "title")
CLASSES = ("concept", "label", "class", "class_name", "category", "labels")
FILES = ("file_name", "filename", "file", "image", "image_name", "image_path", "path", "name")
TABLES = ("metadata", "captions")  # files of these names say something of all pictures
TABULAR = (".jsonl", ".csv", ".tsv", ".json", ".txt", ".parquet")
LINE = re.compile(r"(?P<file>.+?\.\w{3,4}(?:#\d+)?)\s*[\t,;|:]\s*(?P<text>.*)")  # 1.jpg: a cat


@dataclass(frozen=True)
class Facts:
    """What is said of one picture besides its pixels: a caption, "" for none, and labels.

    `number` is its class where that is a number, which a list of names elsewhere explains.
    """

    caption: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    number: int | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Facts":
        """The caption and the labels among the entries of a record, by the field's usual names."""
        lower = {str(key).lower(): value for key, value in record.items()}
        caption = next((t for name in CAPTIONS if (t := line(lower.get(name)))), "")
        shown = next((t for name in CLASSES if (t := _word(lower.get(name)))), "")
        labels = {"concept": shown, "style": _word(lower.get("style"))}
        known = {label: labels[label] for label in DOMAINS if labels[label]}
        number = next((n for name in CLASSES if (n := _number(lower.get(name))) is not None), None)
        return cls(caption, known, number)

    def over(self, other: "Facts") -> "Facts":
        """These facts, and what they leave open from `other`."""
        number = other.number if self.number is None else self.number
        return Facts(self.caption or other.caption, {**other.labels, **self.labels}, number)

    def named(self, classes: Sequence[str]) -> "Facts":
        """These facts with the name of the class where it is a number that `classes` explains."""
        if self.number is None or "concept" in self.labels or self.number >= len(classes):
            return self
        return Facts(self.caption, {**self.labels, "concept": classes[self.number].strip()})


NOTHING = Facts()


def is_table(name: str) -> bool:
    """Whether a file goes by the name of a table that says something of many pictures."""
    stem, suffix = posixpath.splitext(posixpath.basename(name).lower())
    return stem in TABLES and suffix in TABULAR


def table(name: str, data: bytes) -> Iterator[tuple[str, Facts]]:
    """The file and the facts of each row of a table, such as metadata.csv or captions.txt.

    Raises SlugError when it cannot be read.
    """
    for row in _records(posixpath.basename(name), data):
        lower = {str(key).strip().lower(): value for key, value in row.items()}
        column = next((part for part in FILES if isinstance(lower.get(part), str)), None)
        if column:
            file = re.sub(r"#\d+$", "", lower.pop(column).strip())
            yield file.replace("\\", "/"), Facts.of(lower)


def record(text: str, name: str) -> Mapping[str, Any]:
    """The JSON object in a text; empty for any other JSON. Raises SlugError when it is none."""
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise SlugError(f"The json of {name} cannot be read: {error}.") from error
    return found if isinstance(found, dict) else {}


def line(value: object) -> str:
    """A caption on one line, the first of several; "" for what is none."""
    if isinstance(value, list):
        value = value[0] if value else ""
    return " ".join(value.split()) if isinstance(value, str) else ""


def _word(value: object) -> str:
    """A class's name; "" for a number, which names nothing."""
    text = line(value)
    return "" if text.lstrip("-").isdecimal() else text


def _number(value: object) -> int | None:
    """A class's number, from 0; None for what is none."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else line(value)
    return int(text) if text.isdecimal() else None


def _records(name: str, data: bytes) -> Iterable[Mapping[str, Any]]:
    suffix = posixpath.splitext(name)[1].lower()
    if suffix == ".parquet":
        try:
            return pq.read_table(io.BytesIO(data)).to_pylist()
        except pa.ArrowException as error:
            raise SlugError(f"{name} cannot be read as a parquet file: {error}.") from error
    text = files.text(data).replace("\r\n", "\n").replace("\r", "\n")
    if suffix == ".jsonl":
        return [record(part, name) for part in text.split("\n") if part.strip()]
    if suffix == ".json":
        return [
            {"file_name": file, **(said if isinstance(said, dict) else {"text": said})}
            for file, said in record(text, name).items()
            if isinstance(said, dict | str)
        ]
    return _rows(text, name)


def _rows(text: str, name: str) -> list[Mapping[str, Any]]:
    """The records of a table with a file and a text in each line, with or without a heading."""
    lines = [part for part in text.split("\n") if part.strip()]
    mark = next((part for part in "\t;|" if lines and part in lines[0]), ",")
    heading = [cell.strip(' "').lower() for cell in lines[0].split(mark)] if lines else []
    if not {*heading} & {*FILES}:
        found = [(part, LINE.fullmatch(part.strip())) for part in lines]
        return [match.groupdict() if match else {"file": part} for part, match in found]
    try:
        rows = list(csv.reader(io.StringIO(text), delimiter=mark))
    except csv.Error as error:
        raise SlugError(f"{name} cannot be read as a table: {error}.") from error
    last = len(heading) - 1  # a text with unquoted commas goes on to the end
    full = [[*row[:last], mark.join(row[last:])] for row in rows[1:] if len(row) > last]
    return [dict(zip(heading, row, strict=True)) for row in full]
