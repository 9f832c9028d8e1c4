"""Example pictures with captions, from wherever they are, as Concepts and as batches of tensors.

Sources are a folder of pictures, an img2dataset tar, a visitor's uploads, what Stable Diffusion
made, and the splits that come with the app. Nothing is unpacked: an Example names the place of
its picture, and pictures are read when their batch is. Knows nothing of losses, layers or hosts.
"""

import difflib
import hashlib
import json
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor
from webdataset.tariterators import group_by_keys, tar_file_iterator

from slugdemo import images as pictures
from slugdemo.concept import Concept, Example
from slugdemo.errors import SlugError
from slugdemo.models.clip import Clip

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".avif")
LABELS = ("concept", "style")
FEWEST = 2  # a contrastive loss needs something to contrast


def folder(path: Path, *, caption: str = "") -> tuple[Example, ...]:
    """The pictures in a folder and its sub-folders, in the order of their paths.

    A caption is the text in `name.txt` beside `name.jpg`, else `caption`, else the name of the
    sub-folder ("school_bus" is read as "school bus"), which is also the label "concept".
    Raises SlugError when there are no pictures, or one has no caption.
    """
    if not path.is_dir():
        raise SlugError(f"There is no folder {path}.")
    files = sorted(file for file in path.rglob("[!.]*") if file.suffix.lower() in SUFFIXES)
    return _some([_in_folder(file, path, caption) for file in files], path)


def tar(path: Path, *, caption: str = "") -> tuple[Example, ...]:
    """The pairs in a WebDataset tar as img2dataset writes it: jpg, txt and json of one key.

    A caption is the txt, else "caption" in the json, else `caption`; "concept" and "style" in the
    json become labels. Raises SlugError when the tar is damaged or cut off, holds no pictures, or
    a picture has no caption.
    """
    pictures.members(path)
    try:
        with path.open("rb") as stream:
            files = (_renamed(file, path) for file in tar_file_iterator(stream))
            samples = [dict(sample) for sample in group_by_keys(files)]
    except Exception as error:  # webdataset and tarfile raise many kinds
        raise SlugError(f"{path.name} cannot be read as a WebDataset tar: {error}.") from error
    return _some([one for sample in samples for one in _in_tar(sample, path, caption)], path)


def uploads(paths: Sequence[Path], *, caption: str) -> tuple[Example, ...]:
    """A visitor's own pictures, all with one caption; each is read once now, to be sure.

    Raises SlugError for a caption without a letter, no picture, or one that cannot be used.
    """
    if not caption.strip():
        raise SlugError("Say in a few words what your pictures show.")
    for path in paths:
        pictures.read(path)
    label = {"concept": caption.strip()}
    return _some([Example(path, caption.strip(), label) for path in paths], Path("the upload"))


def stored(
    images: Sequence[Image], captions: Sequence[str], *, directory: Path, concept: str
) -> tuple[Example, ...]:
    """Pictures from memory, such as Stable Diffusion made of its own idea, kept as PNG files.

    So the paper gathers characters and novel concepts (SLUG, sec. 4.3). A file is named after its
    contents: the same picture is kept once.
    """
    if len(images) != len(captions):
        raise ValueError(f"{len(images)} pictures need as many captions, got {len(captions)}")
    directory.mkdir(parents=True, exist_ok=True)
    made = []
    for image, caption in zip(images, captions, strict=True):
        name = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()[:32]
        path = directory / f"{name}.png"
        if not path.exists():
            draft = path.with_suffix(f".{secrets.token_hex(4)}.part")
            image.save(draft, "PNG")
            draft.replace(path)
        made.append(Example(path, _captioned(caption, path.name), {"concept": concept}))
    return _some(made, directory)


def parquet(path: Path) -> tuple[Example, ...]:
    """The pictures of a shipped split, each with the prompt that made it as its caption."""
    table = pictures.table(path)
    if missing := sorted({pictures.COLUMN, "prompt", *LABELS} - {*table.column_names}):
        raise SlugError(f"{path.name} has no column {', '.join(missing)}.")
    rows = table.select(["prompt", *LABELS]).to_pylist()
    return _some(
        [
            Example(f"{path}#{number}", row["prompt"], {label: row[label] for label in LABELS})
            for number, row in enumerate(rows)
        ],
        path,
    )


def listing(directory: Path) -> list[Mapping]:
    """What is known of each shipped concept: name, kind, group, synonyms, descriptions."""
    path = directory / "concepts.json"
    try:
        entries = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SlugError(f"{path} cannot be read: {error}.") from error
    return [entry for entry in entries if {"name", "kind"} <= entry.keys()]


def shipped(directory: Path, name: str) -> Concept:
    """The shipped concept of this name or synonym, with its forget and retain pictures.

    Retain pictures are all that do not show it. Raises SlugError for an unknown name, with the
    nearest known ones, and for a concept without pictures to forget.
    """
    entry = _entry(listing(directory), name)
    found, kind = entry["name"], entry["kind"]
    label = "style" if kind == "style" else "concept"
    forget = [e for e in parquet(directory / "forget.parquet") if e.labels[label] == found]
    retain = [e for e in parquet(directory / "retain.parquet") if e.labels[label] != found]
    return concept(found, forget, retain, kind=kind)


def concept(
    name: str, forget: Iterable[Example], retain: Iterable[Example], *, kind: str = "custom"
) -> Concept:
    """The Concept of these examples.

    Raises SlugError when either set has fewer than two pictures or both hold the same one.
    """
    made = Concept(name.strip(), kind, tuple(forget), tuple(retain))
    if not made.name:
        raise SlugError("Give the thing to forget a name.")
    for purpose, some in (("forget", made.forget), ("keep", made.retain)):
        if len(some) < FEWEST:
            raise SlugError(
                f"{made.name!r} has {len(some)} pictures to {purpose}: at least {FEWEST} are needed."
            )
    both = {str(example.image) for example in made.forget} & {str(e.image) for e in made.retain}
    if both:
        raise SlugError(f"{len(both)} pictures are to be forgotten and kept at once: {min(both)}.")
    return made


def divided(
    examples: Iterable[Example], words: Sequence[str]
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """The examples whose caption mentions one of `words`, and all others.

    So the paper gathers its forget set from LAION (SLUG, sec. 4). Whole words count, in any case;
    underscores and hyphens are spaces.
    """
    several = "|".join(re.escape(_spaced(word)) for word in words if word.strip())
    if not several:
        raise SlugError("Give the thing to forget a name.")
    pattern = re.compile(rf"(?<!\w)({several})(?!\w)")
    found: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        found[pattern.search(_spaced(example.caption)) is None].append(example)
    return tuple(found[0]), tuple(found[1])


def pixels(examples: Iterable[Example], transform: Callable[[Image], Tensor]) -> Tensor:
    """The examples' pictures as the model's inputs: (N, 3, H, W). Raises SlugError for a bad one."""
    inputs = [transform(pictures.read(example.image)) for example in examples]
    if not inputs:
        raise SlugError("There are no example pictures: choose or upload at least one.")
    return torch.stack(inputs)


class Pairs:
    """Batches of pixels (N, 3, H, W) and tokens (N, T), read anew in each pass, one at a time.

    `size` pairs in a batch, the last one perhaps smaller; in the order given, or shuffled once by
    `seed`. Only one batch of pictures is in memory.
    """

    def __init__(
        self, examples: Sequence[Example], clip: Clip, *, size: int, seed: int | None = None
    ) -> None:
        if size < 1:
            raise ValueError(f"a batch has at least 1 pair, not {size}")
        order = list(range(len(examples)))
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
            order = torch.randperm(len(examples), generator=generator).tolist()
        self._examples = [examples[number] for number in order]
        self._clip, self._size = clip, size

    def __len__(self) -> int:
        return -(-len(self._examples) // self._size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self._examples), self._size):
            part = self._examples[start : start + self._size]
            tokens = self._clip.tokenize([example.caption for example in part])
            yield pixels(part, self._clip.transform), tokens


def _some(examples: list[Example], source: Path) -> tuple[Example, ...]:
    if not examples:
        raise SlugError(f"There are no pictures in {source.name or source}.")
    return tuple(examples)


def _in_folder(file: Path, root: Path, caption: str) -> Example:
    parent = "" if file.parent == root else file.parent.name.replace("_", " ").strip()
    beside = file.with_suffix(".txt")
    text = beside.read_text(errors="replace").strip() if beside.is_file() else caption or parent
    return Example(file, _captioned(text, file.name), {"concept": parent} if parent else {})


def _renamed(file: Mapping, tar_path: Path) -> dict:
    """A member as webdataset groups it, with a picture's bytes replaced by its full name."""
    name = file["fname"]
    data = name if name.lower().endswith(SUFFIXES) else file["data"]
    return {"fname": name, "data": data, "__url__": str(tar_path)}


def _in_tar(sample: Mapping, path: Path, caption: str) -> list[Example]:
    facts = _facts(sample)
    text = sample["txt"].decode(errors="replace") if "txt" in sample else facts.get("caption")
    labels = {label: str(facts[label]) for label in LABELS if facts.get(label)}
    return [
        Example(f"{path}#{name}", _captioned(str(text or caption), name), labels)
        for suffix, name in sample.items()
        if f".{suffix}".endswith(SUFFIXES)
    ]


def _facts(sample: Mapping) -> dict:
    try:
        facts = json.loads(sample.get("json", "{}"))
    except ValueError as error:
        raise SlugError(f"The json of {sample['__key__']} cannot be read: {error}.") from error
    return facts if isinstance(facts, dict) else {}


def _captioned(text: str, name: str) -> str:
    if not text.strip():
        raise SlugError(f"{name} has no caption: put one beside it, or give one for all pictures.")
    return " ".join(text.split())


def _entry(entries: Sequence[Mapping], name: str) -> Mapping:
    wanted = _spaced(name)
    for entry in entries:
        if wanted in {_spaced(word) for word in (entry["name"], *entry.get("synonyms", ()))}:
            return entry
    known = [entry["name"] for entry in entries]
    near = difflib.get_close_matches(name.strip(), known, n=3) or known[:3]
    raise SlugError(f"There is no concept {name!r} here. Did you mean {', '.join(near)}?")


def _spaced(text: str) -> str:
    return " ".join(re.split(r"[\s_-]+", text.strip().lower()))
