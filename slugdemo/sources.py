"""Pictures with their captions and labels, read from folders, archives and parquet files.

The conventions are those of the field: webdataset and img2dataset (files of one key), the hub's
imagefolder (metadata.csv, metadata.jsonl) and its parquet files (image, text), captions.txt, a
text beside each picture, a sub-folder for each class. Knows files; whether a caption names
something that is known, and what is forgotten or kept, is for others to say.
"""

import csv
import io
import json
import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from slugdemo import files, images
from slugdemo.concept import DOMAINS, Example
from slugdemo.errors import SlugError

CAPTIONS = ("caption", "captions", "text", "txt", "prompt", "description", "alt_text", "title")
CLASSES = ("concept", "label", "class", "class_name", "category", "labels")
FILES = ("file_name", "filename", "file", "image", "image_name", "image_path", "path", "name")
BESIDE = (".txt", ".caption")  # texts beside a picture
TABLES = ("metadata", "captions")  # files of these names say something of all pictures
TABULAR = (".jsonl", ".csv", ".tsv", ".json", ".txt", ".parquet")
SAID = (  # files that hold no pictures and are no loss
    *(".txt", ".caption", ".json", ".jsonl", ".csv", ".tsv", ".md", ".yaml", ".yml", ".html"),
    *(".cls", ".log", ".ini", ".db"),
)
GENERIC = re.compile(  # folders that say nothing of their pictures
    r"\d+|(?:train|test|val|validation|data|dataset|images?|imgs?|pictures?|photos?|files)s?"
)
LINE = re.compile(r"(?P<file>.+?\.\w{3,4}(?:#\d+)?)\s*[\t,;|:]\s*(?P<text>.*)")  # 1.jpg: a cat
HIDDEN = (".", "__MACOSX")
HEIF_HINT = "needs pillow-heif"


@dataclass(frozen=True)
class Source:
    """The pictures of a folder or file, and in sentences what was not read of it.

    A caption is "" where none was found. `shard` says that it comes from a collection of captioned
    pictures (a tar or parquet file), whose captions say which of them show something.
    """

    title: str
    examples: tuple[Example, ...]
    notes: tuple[str, ...] = ()
    shard: bool = False


@dataclass(frozen=True)
class Facts:
    """What is said of one picture besides its pixels."""

    caption: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Facts":
        """The caption and the labels among the entries of a record, by the field's usual names."""
        lower = {str(key).lower(): value for key, value in record.items()}
        caption = next((t for name in CAPTIONS if (t := _text(lower.get(name)))), "")
        shown = next((t for name in CLASSES if (t := _word(lower.get(name)))), "")
        style = _word(lower.get("style"))
        labels = {"concept": shown, "style": style}
        return cls(caption, {label: labels[label] for label in DOMAINS if labels[label]})

    def over(self, other: "Facts") -> "Facts":
        """These facts, and what they leave open from `other`."""
        return Facts(self.caption or other.caption, {**other.labels, **self.labels})


NOTHING = Facts()


def read(path: Path) -> Source:
    """The pictures at `path`: a folder, a tar (perhaps compressed), a zip, a parquet file, a picture.

    Hidden files and folders are skipped. Raises SlugError when there is nothing there, nothing
    that is a picture, or when a file is damaged, a git-lfs pointer or of no kind that is read.
    """
    path = files.expanded(path)
    if os.path.isdir(path):
        found = _folder(path)
    elif not os.path.exists(path):
        raise SlugError(f"There is no folder or file {path}.")
    elif path.suffix.lower() == ".parquet":
        found = _parquet(path)
    elif images.is_tar(path) or images.is_zip(path):
        found = _archive(path)
    elif path.suffix.lower() in images.suffixes():
        found = Source(path.name, (Example(path, _beside(path)),))
    else:
        raise SlugError(
            f"{path.name} is no folder, tar, zip or parquet file of pictures: give one of those."
        )
    if not found.examples:
        raise SlugError(" ".join([f"There are no pictures in {path.name or path}.", *found.notes]))
    return found


@dataclass(frozen=True)
class _Tree:
    """The files of a folder or an archive: their names, "/" between folders, and their bytes."""

    title: str
    names: tuple[str, ...]
    read: Callable[[str], bytes]
    place: Callable[[str], Path | str]
    sides: Mapping[str, Mapping[str, Facts]]  # by folder: what a side table says of each key

    def text(self, name: str) -> str:
        return files.text(self.read(name))


def _folder(root: Path) -> Source:
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    names = [name for name in names if _visible(name)]
    parquets = [root / name for name in names if name.lower().endswith(".parquet")]
    full = [path for path in parquets if _title(path.name) not in TABLES and _pictured(path)]
    sides = {path.relative_to(root).with_suffix("").as_posix(): _side(path) for path in parquets}
    tree = _Tree(
        root.name or str(root),
        tuple(names),
        read=lambda name: (root / name).read_bytes(),
        place=lambda name: root / name,
        sides={stem: side for stem, side in sides.items() if side},
    )
    _no_pointers(root, names)
    examples, notes = _paired(tree)
    parts = [_archive(root / name, side=sides.get(_stem(name))) for name in names if _packed(name)]
    parts += [_parquet(path) for path in full]
    known = {path.relative_to(root).as_posix() for path in full}
    known |= {f"{stem}.parquet" for stem, side in sides.items() if side}
    skipped = [name for name in names if not _used(name) and name not in known]
    all_files = len(examples) + len(parts) + len(skipped)
    shard = not examples and bool(parts) and all(part.shard for part in parts)
    for part in parts:
        examples += part.examples
        notes += part.notes
    return Source(tree.title, examples, _skipped(skipped, all_files, tree.title) + notes, shard)


def _archive(path: Path, side: Mapping[str, Facts] | None = None) -> Source:
    if side is None:
        beside = path.with_name(f"{_stem(path.name)}.parquet")
        side = _side(beside) if beside.is_file() else {}
    names = tuple(name for name in images.members(path) if _visible(name))
    tree = _Tree(
        path.name,
        names,
        read=lambda name: images.contents(path, name),
        place=lambda name: f"{path}#{name}",
        sides={"": side},
    )
    examples, notes = _paired(tree)
    skipped = [name for name in names if not _used(name) or _packed(name)]
    notes = _skipped(skipped, len(examples) + len(skipped), path.name) + notes
    return Source(path.name, examples, notes, shard=images.is_tar(path))


def _paired(tree: _Tree) -> tuple[tuple[Example, ...], tuple[str, ...]]:
    """Each picture of a tree with what is said of it beside it, in tables, and by its folder.

    A file belongs to a picture when it has its whole name but for the ending ("a.b.txt" for
    "a.b.jpg"), or, as in webdataset, the name up to the first dot ("a.txt" for "a.input.jpg").
    """
    pictures = [name for name in tree.names if name.lower().endswith(images.suffixes())]
    around = {name.lower(): name for name in tree.names}
    tables, notes = _tables(tree, pictures)
    made = []
    for name in pictures:
        facts = _beside_in(tree, name, around).over(tables.get(name, NOTHING))
        facts = facts.over(_of_side(tree, name))
        if not facts.caption and "concept" not in facts.labels and (folder := _class(name)):
            facts = facts.over(Facts("", {"concept": folder}))
        made.append(Example(tree.place(name), facts.caption, facts.labels))
    return tuple(made), notes


def _beside_in(tree: _Tree, name: str, around: Mapping[str, str]) -> Facts:
    found = NOTHING
    for stem in dict.fromkeys((posixpath.splitext(name)[0], _key(name))):
        for suffix in BESIDE:
            if beside := around.get(f"{stem}{suffix}".lower()):
                found = found.over(Facts(_text(tree.text(beside))))
        if beside := around.get(f"{stem}.json".lower()):
            found = found.over(Facts.of(_record(tree.text(beside), posixpath.basename(stem))))
        if beside := around.get(f"{stem}.cls".lower()):
            found = found.over(Facts.of({"class": tree.text(beside).strip()}))
    return found


def _beside(path: Path) -> str:
    texts = (path.with_suffix(suffix) for suffix in BESIDE)
    return next((_text(files.text(one.read_bytes())) for one in texts if one.is_file()), "")


def _of_side(tree: _Tree, name: str) -> Facts:
    folder, _, file = name.rpartition("/")
    for place in (folder, ""):
        if found := tree.sides.get(place, {}).get(_key(file)):
            return found
    return NOTHING


def _class(name: str) -> str:
    """The class that a picture's folder names: the nearest one that is more than "train" or "01"."""
    folders = [one.replace("_", " ").strip() for one in name.split("/")[:-1]]
    return next((one for one in reversed(folders) if not GENERIC.fullmatch(one.lower())), "")


# Tables that say something of many pictures: metadata.jsonl, metadata.csv, captions.txt


def _tables(tree: _Tree, pictures: list[str]) -> tuple[dict[str, Facts], tuple[str, ...]]:
    found: dict[str, Facts] = {}
    notes: list[str] = []
    known, stems = {*pictures}, {posixpath.splitext(name)[0] for name in pictures}
    for name in tree.names:
        stem, suffix = posixpath.splitext(name)
        table = _title(name) in TABLES and suffix.lower() in TABULAR
        if not table or stem in stems:
            continue
        folder = posixpath.dirname(name)
        rows = {
            posixpath.normpath(posixpath.join(folder, file)): facts
            for file, facts in reversed(list(_rows(tree, name)))  # the first of several counts
        }
        found |= {file: facts for file, facts in rows.items() if file in known}
        if missing := len(rows.keys() - known):
            notes.append(
                f"{missing} of {len(rows)} pictures that {posixpath.basename(name)} names "
                f"are not in {tree.title}."
            )
    return found, tuple(notes)


def _rows(tree: _Tree, name: str) -> Iterator[tuple[str, Facts]]:
    """The file and the facts of each row of a table."""
    for record in _records(tree, name):
        lower = {str(key).strip().lower(): value for key, value in record.items()}
        column = next((one for one in FILES if isinstance(lower.get(one), str)), None)
        if column:
            file = re.sub(r"#\d+$", "", lower.pop(column)).replace("\\", "/").strip()
            yield file, Facts.of(lower)


def _records(tree: _Tree, name: str) -> Iterable[Mapping[str, Any]]:
    suffix = posixpath.splitext(name)[1].lower()
    if suffix == ".parquet":
        return pq.read_table(io.BytesIO(tree.read(name))).to_pylist()
    text = tree.text(name).lstrip("\ufeff")
    if suffix == ".jsonl":
        title = posixpath.basename(name)
        return [_record(line, title) for line in text.splitlines() if line.strip()]
    if suffix == ".json":
        facts = _record(text, posixpath.basename(name))
        return [
            {"file_name": file, **(said if isinstance(said, dict) else {"text": said})}
            for file, said in facts.items()
            if isinstance(said, dict | str)
        ]
    return _lines(text, posixpath.basename(name))


def _lines(text: str, name: str) -> list[Mapping[str, Any]]:
    """The records of a table with a file and a text in each line, with or without a heading."""
    lines = [line for line in text.splitlines() if line.strip()]
    mark = next((one for one in "\t;|" if lines and one in lines[0]), ",")
    heading = [cell.strip(' "').lower() for cell in lines[0].split(mark)] if lines else []
    if not {*heading} & {*FILES}:
        found = [(line, LINE.fullmatch(line.strip())) for line in lines]
        return [one.groupdict() if one else {"file": line} for line, one in found]
    try:
        rows = list(csv.reader(io.StringIO(text), delimiter=mark))
    except csv.Error as error:
        raise SlugError(f"{name} cannot be read as a table: {error}.") from error
    last = len(heading) - 1  # a text with unquoted commas goes on to the end
    full = [[*row[:last], mark.join(row[last:])] for row in rows[1:] if len(row) > last]
    return [dict(zip(heading, row, strict=True)) for row in full]


# Parquet


def _parquet(path: Path) -> Source:
    """The pictures of a parquet file: the hub's image and text, img2dataset's, or our own splits."""
    known = images.head(path)
    others = [name for name in known.schema.names if name != known.picture]
    if not known.picture:
        raise SlugError(
            f"{path.name} holds no pictures, only {', '.join(others)}: give the tar or the folder "
            "with the pictures."
        )
    wanted = [name for name in others if name.lower() in (*CAPTIONS, *CLASSES, "style")]
    records = images.columns(path, wanted).to_pylist() if wanted else []
    classes = _class_names(known.schema)
    made = []
    for row, (there, file) in enumerate(images.stored(path)):
        beside = path.parent / file if file else None
        place = f"{path}#{row}" if there else beside if beside and beside.is_file() else None
        if place is not None:
            facts = Facts.of(_spelt(records[row], classes) if records else {})
            made.append(Example(place, facts.caption, facts.labels))
    absent = known.starts[-1] - len(made)
    notes = (f"{absent} of {known.starts[-1]} rows of {path.name} hold no picture.",)
    return Source(path.name, tuple(made), notes if absent else (), shard=True)


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """The names behind the numbers of a column of classes, as the hub's data sets note them."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: one["names"]
            for name, one in features.items()
            if isinstance(one, dict) and isinstance(one.get("names"), list)
        }
    except (KeyError, TypeError, ValueError):
        return {}


def _spelt(record: Mapping[str, Any], classes: Mapping[str, list[str]]) -> dict[str, Any]:
    """A record with the names of its classes in place of their numbers."""
    named = dict(record)
    for column, names in classes.items():
        number = record.get(column)
        if isinstance(number, int) and 0 <= number < len(names):
            named[column] = names[number]
    return named


def _pictured(path: Path) -> bool:
    return bool(images.head(path).picture)


def _side(path: Path) -> dict[str, Facts]:
    """What img2dataset's side table says of each key; nothing when it is no such table."""
    known = images.head(path)
    said = [name for name in known.schema.names if name.lower() in CAPTIONS]
    if known.picture or "key" not in known.schema.names or not said:
        return {}
    rows = images.columns(path, ["key", *said]).to_pylist()
    return {str(row["key"]): Facts.of(row) for row in rows}


# Names of files


def _visible(name: str) -> bool:
    return not any(part.startswith(HIDDEN) for part in name.split("/"))


def _key(name: str) -> str:
    """The key of webdataset: the name up to the first dot after the last folder."""
    folder, _, file = name.rpartition("/")
    key = file.partition(".")[0]
    return f"{folder}/{key}" if folder else key


def _stem(name: str) -> str:
    """The name of an archive without its endings."""
    return re.sub(r"\.(?:tar(?:\.\w+)?|t[gbx]z2?|zip)$", "", name, flags=re.IGNORECASE)


def _title(name: str) -> str:
    return posixpath.splitext(posixpath.basename(name))[0].lower()


def _packed(name: str) -> bool:
    return images.is_tar(Path(name)) or images.is_zip(Path(name))


def _used(name: str) -> bool:
    """Whether a file is a picture, an archive, or says something of pictures."""
    lower = name.lower()
    table = lower.endswith(".parquet") and _title(name) in TABLES
    return table or _packed(name) or lower.endswith((*images.suffixes(), *SAID))


def _skipped(names: Iterable[str], total: int, title: str) -> tuple[str, ...]:
    """The sentence about files that were not read, with a count of each ending."""
    endings = Counter(posixpath.splitext(name)[1].lower() or "without ending" for name in names)
    if not endings:
        return ()
    each = [
        f"{count} {ending}{f' ({HEIF_HINT})' if ending in images.HEIF else ''}"
        for ending, count in endings.most_common()
    ]
    read = total - endings.total()
    return (f"{read} of {total} files in {title} were read; left out: {', '.join(each)}.",)


def _no_pointers(root: Path, names: Iterable[str]) -> None:
    pointers = [name for name in names if files.pointed(root / name)]
    if pointers:
        raise SlugError(
            f"{len(pointers)} files in {root.name or root} are git-lfs pointers, such as "
            f"{pointers[0]}: run `git lfs pull` there."
        )


# Values


def _text(value: object) -> str:
    """A caption on one line, the first of several; "" for what is none."""
    if isinstance(value, list):
        value = value[0] if value else ""
    return " ".join(value.split()) if isinstance(value, str) else ""


def _word(value: object) -> str:
    """A class's name; "" for a number, which names nothing."""
    text = _text(value)
    return "" if text.lstrip("-").isdecimal() else text


def _record(text: str, name: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise SlugError(f"The json of {name} cannot be read: {error}.") from error
    return found if isinstance(found, dict) else {}
