"""Pictures with their captions and labels, read from folders, archives and parquet files.

The conventions are those of the field: webdataset and img2dataset (files of one key), the hub's
imagefolder (metadata.csv, metadata.jsonl) and its parquet files (image, text), captions.txt, a
text beside each picture, a sub-folder for each class. Knows files; whether a caption names
something that is known, and what is forgotten or kept, is for others to say.
"""

import json
import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from slugdemo import archives, captions, files, images
from slugdemo.captions import NOTHING, Facts, line, record
from slugdemo.concept import Example
from slugdemo.errors import SlugError

BESIDE = (".txt", ".caption")  # texts beside a picture
SAID = (  # files that hold no pictures and are no loss
    *(".txt", ".caption", ".json", ".jsonl", ".csv", ".tsv", ".md", ".yaml", ".yml", ".html"),
    *(".cls", ".log", ".ini", ".db"),
)
CLASS_NAMES = ("classnames.txt", "class_names.txt", "classes.txt", "labels.txt")  # one a line
GENERIC = re.compile(  # folders that say nothing of their pictures
    r"\d+|(?:train|test|val|validation|data|dataset|images?|imgs?|pictures?|photos?|files)s?"
)
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
    elif archives.is_tar(path) or archives.is_zip(path):
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
    around: tuple[Path, ...] = ()  # folders in which names of classes may lie

    def text(self, name: str) -> str:
        return files.text(self.read(name))


def _folder(root: Path) -> Source:
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    names = [name for name in names if _visible(name)]
    parquets = [root / name for name in names if name.lower().endswith(".parquet")]
    full = [path for path in parquets if not captions.is_table(path.name) and _pictured(path)]
    sides = {path.relative_to(root).with_suffix("").as_posix(): _side(path) for path in parquets}
    tree = _Tree(
        root.name or str(root),
        tuple(names),
        read=lambda name: (root / name).read_bytes(),
        place=lambda name: root / name,
        sides={stem: side for stem, side in sides.items() if side},
        around=(root.parent, root.parent.parent),
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
    names = tuple(name for name in archives.members(path) if _visible(name))
    tree = _Tree(
        path.name,
        names,
        read=lambda name: archives.contents(path, name),
        place=lambda name: f"{path}#{name}",
        sides={"": side},
        around=(path.parent, path.parent.parent),
    )
    examples, notes = _paired(tree)
    skipped = [name for name in names if not _used(name) or _packed(name)]
    notes = _skipped(skipped, len(examples) + len(skipped), path.name) + notes
    return Source(path.name, examples, notes, shard=archives.is_tar(path))


def _paired(tree: _Tree) -> tuple[tuple[Example, ...], tuple[str, ...]]:
    """Each picture of a tree with what is said of it beside it, in tables, and by its folder.

    A file belongs to a picture when it has its whole name but for the ending ("a.b.txt" for
    "a.b.jpg"), or, as in webdataset, the name up to the first dot ("a.txt" for "a.input.jpg").
    """
    pictures = [name for name in tree.names if name.lower().endswith(images.suffixes())]
    around = {name.lower(): name for name in tree.names}
    tables, notes = _tables(tree, pictures)
    classes, numbered = _classes(tree), 0
    made = []
    for name in pictures:
        facts = _beside_in(tree, name, around).over(tables.get(name, NOTHING))
        facts = facts.over(_of_side(tree, name)).named(classes)
        if not facts.caption and "concept" not in facts.labels and (folder := _class(name)):
            facts = facts.over(Facts("", {"concept": folder}))
        numbered += _lost(facts)
        made.append(Example(tree.place(name), facts.caption, facts.labels))
    return tuple(made), notes + _unnamed(numbered, tree.title)


def _classes(tree: _Tree) -> list[str]:
    """The names of classes that are numbers: in a list among the files or in a folder around them."""
    for name in tree.names:
        if posixpath.basename(name).lower() in CLASS_NAMES:
            return tree.text(name).splitlines()
    return _classes_in(tree.around)


def _classes_in(folders: Iterable[Path]) -> list[str]:
    lists = (folder / name for folder in folders for name in CLASS_NAMES)
    found = next((path for path in lists if path.is_file()), None)
    return files.text(found.read_bytes()).splitlines() if found else []


def _lost(facts: Facts) -> bool:
    """Whether nothing is known of a picture but a number."""
    return facts.number is not None and not facts.caption and "concept" not in facts.labels


def _unnamed(count: int, title: str) -> tuple[str, ...]:
    if not count:
        return ()
    return (
        f"Classes in {title} that are numbers without names: of {count} "
        f"{'picture' if count == 1 else 'pictures'}. Put the names into {CLASS_NAMES[0]} beside "
        "it, one a line.",
    )


def _beside_in(tree: _Tree, name: str, around: Mapping[str, str]) -> Facts:
    found = NOTHING
    for stem in dict.fromkeys((posixpath.splitext(name)[0], _key(name))):
        for suffix in BESIDE:
            if beside := around.get(f"{stem}{suffix}".lower()):
                found = found.over(Facts(line(tree.text(beside))))
        if beside := around.get(f"{stem}.json".lower()):
            found = found.over(Facts.of(record(tree.text(beside), posixpath.basename(stem))))
        if beside := around.get(f"{stem}.cls".lower()):
            found = found.over(Facts.of({"class": tree.text(beside).strip()}))
    return found


def _beside(path: Path) -> str:
    texts = (path.with_suffix(suffix) for suffix in BESIDE)
    return next((line(files.text(path.read_bytes())) for path in texts if path.is_file()), "")


def _of_side(tree: _Tree, name: str) -> Facts:
    folder, _, file = name.rpartition("/")
    for place in (folder, ""):
        if found := tree.sides.get(place, {}).get(_key(file)):
            return found
    return NOTHING


def _class(name: str) -> str:
    """The class that a picture's folder names: the nearest one that is more than "train" or "01"."""
    folders = [folder.replace("_", " ").strip() for folder in name.split("/")[:-1]]
    return next(
        (folder for folder in reversed(folders) if not GENERIC.fullmatch(folder.lower())), ""
    )


def _tables(tree: _Tree, pictures: list[str]) -> tuple[dict[str, Facts], tuple[str, ...]]:
    found: dict[str, Facts] = {}
    notes: list[str] = []
    known, stems = {*pictures}, {posixpath.splitext(name)[0] for name in pictures}
    for name in tree.names:
        if not captions.is_table(name) or posixpath.splitext(name)[0] in stems:
            continue
        folder = posixpath.dirname(name)
        rows = {
            posixpath.normpath(posixpath.join(folder, file)): facts
            for file, facts in reversed(
                [*captions.table(name, tree.read(name))]
            )  # the first of several counts
        }
        found |= {file: facts for file, facts in rows.items() if file in known}
        if missing := len(rows.keys() - known):
            notes.append(
                f"Not in {tree.title}: {missing} of {len(rows)} pictures that "
                f"{posixpath.basename(name)} names."
            )
    return found, tuple(notes)


# Parquet


def _parquet(path: Path) -> Source:
    """The pictures of a parquet file: the hub's image and text, img2dataset's, or our own splits."""
    known = archives.head(path)
    others = [name for name in known.schema.names if name != known.picture]
    if not known.picture:
        raise SlugError(
            f"{path.name} holds no pictures, only {', '.join(others)}: give the tar or the folder "
            "with the pictures."
        )
    wanted = [
        name for name in others if name.lower() in (*captions.CAPTIONS, *captions.CLASSES, "style")
    ]
    records = archives.columns(path, wanted).to_pylist() if wanted else []
    classes, listed = _class_names(known.schema), _classes_in((path.parent, path.parent.parent))
    made, numbered = [], 0
    for row, (there, file) in enumerate(archives.stored(path)):
        beside = path.parent / file if file else None
        place = f"{path}#{row}" if there else beside if beside and beside.is_file() else None
        if place is not None:
            facts = Facts.of(_spelt(records[row], classes) if records else {}).named(listed)
            numbered += _lost(facts)
            made.append(Example(place, facts.caption, facts.labels))
    absent = known.starts[-1] - len(made)
    without = f"Without a picture: {absent} of {known.starts[-1]} rows of {path.name}."
    notes = ((without,) if absent else ()) + _unnamed(numbered, path.name)
    return Source(path.name, tuple(made), notes, shard=True)


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """The names behind the numbers of a column of classes, as the hub's data sets note them."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: feature["names"]
            for name, feature in features.items()
            if isinstance(feature, dict) and isinstance(feature.get("names"), list)
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
    return bool(archives.head(path).picture)


def _side(path: Path) -> dict[str, Facts]:
    """What img2dataset's side table says of each key; nothing when it is no such table."""
    known = archives.head(path)
    said = [name for name in known.schema.names if name.lower() in captions.CAPTIONS]
    if known.picture or "key" not in known.schema.names or not said:
        return {}
    rows = archives.columns(path, ["key", *said]).to_pylist()
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


def _packed(name: str) -> bool:
    return archives.is_tar(Path(name)) or archives.is_zip(Path(name))


def _used(name: str) -> bool:
    """Whether a file is a picture, an archive, or says something of pictures."""
    said = captions.is_table(name) or name.lower().endswith(SAID)
    return said or _packed(name) or name.lower().endswith(images.suffixes())


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
            f"{root.name or root} holds git-lfs pointers in place of {len(pointers)} of its "
            f"files, such as {pointers[0]}: run `git lfs pull` there."
        )
