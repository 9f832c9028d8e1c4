"""Example pictures with captions, from wherever they are, as Concepts and as batches of tensors.

A picture comes from a folder or archive (`sources`), a visitor's uploads, Stable Diffusion or the
splits that come with the app; here it is decided which of them are forgotten and which are kept.
Nothing is unpacked: an Example names the place of its picture, and pictures are read when their
batch is. Knows nothing of losses, layers or hosts.
"""

import hashlib
import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from PIL.Image import Image, fromarray
from torch import Tensor

from slugdemo import files, images
from slugdemo import weights as tensors
from slugdemo.concept import DOMAINS, Concept, Example, Names, domain
from slugdemo.errors import SlugError
from slugdemo.models.clip import Clip
from slugdemo.sources import Source, read

FEWEST = 2  # a contrastive loss needs something to contrast
ALMOST_NOTHING = 0.1  # of what is kept; when no more is recognised, nothing can be said of it


def uploads(paths: Sequence[Path], *, caption: str) -> tuple[Example, ...]:
    """A visitor's own pictures, all with one caption; each is read once now, to be sure.

    Raises SlugError for a caption without a letter, no picture, or one that cannot be used.
    """
    if not caption.strip():
        raise SlugError("Say in a few words what your pictures show.")
    if not paths:
        raise SlugError("There are no pictures in the upload.")
    for path in paths:
        images.read(path)
    label = {"concept": caption.strip()}
    return tuple(Example(path, caption.strip(), label) for path in paths)


def stored(
    pictures: Sequence[Image], captions: Sequence[str], *, directory: Path, concept: str
) -> tuple[Example, ...]:
    """Pictures from memory, such as Stable Diffusion made of its own idea, kept as PNG files.

    So the paper gathers characters and novel concepts (SLUG, sec. 4.3). A file is named after its
    contents: the same picture is kept once.
    """
    if len(pictures) != len(captions):
        raise ValueError(f"{len(pictures)} pictures need as many captions, got {len(captions)}")
    directory.mkdir(parents=True, exist_ok=True)
    made = []
    for picture, caption in zip(pictures, captions, strict=True):
        name = hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest()[:32]
        path = directory / f"{name}.png"
        if not path.exists():
            draft = path.with_suffix(f".{secrets.token_hex(4)}.part")
            picture.save(draft, "PNG")
            draft.replace(path)
        made.append(Example(path, " ".join(caption.split()), {"concept": concept}))
    return tuple(made)


def parquet(path: Path) -> tuple[Example, ...]:
    """The pictures of a parquet file, such as a shipped split, each with its own caption; a file
    that has not changed is read once.

    Raises SlugError when it has no pictures, or one without a caption.
    """
    return _parquet(path, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(maxsize=6)
def _parquet(path: Path, changed: int) -> tuple[Example, ...]:  # noqa: ARG001
    return _captioned(read(path), Names())[0]


def listing(directory: Path) -> list[Mapping]:
    """What is known of each shipped concept: name, kind, group, synonyms, descriptions."""
    path = directory / "concepts.json"
    files.no_pointer(path)
    try:
        entries = json.loads(files.text(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise SlugError(f"{path} cannot be read: {error}.") from error
    return [entry for entry in entries if {"name", "kind"} <= entry.keys()]


def shipped(directory: Path, name: str) -> Concept:
    """The shipped concept of this name or synonym, with its forget and retain pictures.

    Pictures to forget get a caption that names the concept alone ("a picture of a wizard"; the
    paper takes the bare name); retain pictures are all that do not show it. Raises SlugError for
    an unknown name, with the nearest known ones, and for a concept without pictures to forget.
    """
    names = Names.of(listing(directory))
    found = names.known(name)
    if not found:
        raise SlugError(unknown(name, names))
    kind = names.kinds[found]
    label = domain(kind)
    forget = [e for e in parquet(directory / "forget.parquet") if e.labels.get(label) == found]
    if not forget:
        raise SlugError(
            f"{found!r} comes without pictures to forget: let Stable Diffusion draw it, or bring "
            "pictures of your own."
        )
    retain = [e for e in parquet(directory / "retain.parquet") if e.labels.get(label) != found]
    caption = names.words(found)
    return concept(found, [replace(e, caption=caption) for e in forget], retain, kind=kind)


def unknown(name: str, names: Names) -> str:
    """The sentence about a name that nobody here knows, with the nearest that are known."""
    near = names.near(name)
    hint = f"Did you mean {', '.join(near)}?" if near else "Bring pictures of it."
    return f"There is no concept {name!r} here. {hint}"


def concept(
    name: str,
    forget: Iterable[Example],
    retain: Iterable[Example],
    *,
    kind: str = "custom",
    notes: Sequence[str] = (),
) -> Concept:
    """The Concept of these examples.

    Raises SlugError when either set has fewer than two pictures or both hold the same one.
    """
    made = Concept(name.strip(), kind, tuple(forget), tuple(retain), tuple(notes))
    if not made.name:
        raise SlugError("Give the thing to forget a name.")
    for purpose, some in (("forget", made.forget), ("keep", made.retain)):
        if len(some) < FEWEST:
            raise SlugError(
                f"{made.name!r} has {_counted(len(some))} to {purpose}: at least {FEWEST} are "
                f"needed.{_also(notes)}"
            )
    both = {str(example.image) for example in made.forget} & {str(e.image) for e in made.retain}
    if both:
        raise SlugError(
            f"{len(both)} pictures are both to be forgotten and to be kept: {min(both)}."
        )
    return made


def brought(
    name: str,
    *,
    names: Names,
    forget: Source,
    retain: Source | None = None,
    others: Iterable[Example] = (),
    caption: str = "",
) -> Concept:
    """The Concept of one's own pictures, under the known name where `name` stands for one.

    `forget` holds pictures of the concept, perhaps among others: those that say they show
    something else are kept when there is no `retain`, and left out when there is. Without
    `retain` and without enough of those, `others` are kept. Captions are read for the names they
    hold, classes are names, and nothing that shows the concept is kept. `caption` is for pictures
    to forget that have none. `notes` say what was left out. Raises SlugError as `concept` does,
    and when no picture has a caption.
    """
    if not name.strip():
        raise SlugError("Give the thing to forget a name.")
    names = names.adding(name)
    name = names.canonical(name)
    given, notes = _captioned(forget, names, caption or names.words(name))
    mine, rest = _parted(given, name, names, shard=forget.shard)
    if not mine:
        raise SlugError(f"None of the {len(given)} captions in {forget.title} mentions {name!r}.")
    if retain is not None:
        notes += _left_out(len(rest), forget.title, f"showing something else than {name}")
        rest, more = _captioned(retain, names)
        notes += more
    elif len(rest) < FEWEST:
        notes += _left_out(len(rest), forget.title, f"showing something else than {name}")
        rest = tuple(others)
    kept = tuple(example for example in rest if not names.shows(example, name))
    if retain is not None:
        notes += _left_out(len(rest) - len(kept), retain.title, f"showing {name}")
    kind = names.kind(name)
    return concept(
        name,
        [_labelled(example, names, domain(kind), name) for example in mine],
        [_labelled(example, names, domain(kind)) for example in kept],
        kind=kind,
        notes=notes,
    )


def doubt(recognised: float, count: int) -> str:
    """A sentence when almost nothing of what is kept is recognised before an edit; else "".

    Then what an edit keeps says nothing. `recognised` is the share of `count` pictures or prompts.
    """
    if not count or recognised > ALMOST_NOTHING:
        return ""
    return (
        f"Before the edit only {round(recognised * count)} of the {count} things to keep are "
        "recognised, so nothing can be said of what it keeps: give pictures to keep whose captions "
        "name what they show, or keep the shipped ones."
    )


def pixels(examples: Iterable[Example], transform: Callable[[Image], Tensor]) -> Tensor:
    """The examples' pictures as the model's inputs: (N, 3, H, W). Raises SlugError for a bad one."""
    inputs = [transform(images.read(example.image)) for example in examples]
    if not inputs:
        raise SlugError("There are no example pictures: choose or upload at least one.")
    return torch.stack(inputs)


def looks(transform: Callable[[Image], Tensor]) -> str:
    """The identity of a transform: the sha256 of what it makes of a picture with all brightnesses."""
    levels = torch.arange(96 * 64 * 3).mul(7919).remainder(256).view(64, 96, 3)
    made = transform(fromarray(levels.byte().numpy()))
    return tensors.digest({"pixels": made})


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

    @cached_property
    def digest(self) -> str:
        """The sha256 of all that the batches depend on; no picture is decoded for it."""
        total = hashlib.sha256(f"{self._size} {looks(self._clip.transform)}".encode())
        total.update(tensors.digest({"tokens": self._tokens}).encode())
        for example in self._examples:
            total.update(hashlib.sha256(images.data(example.image)).digest())
        return total.hexdigest()

    @cached_property
    def _tokens(self) -> Tensor:
        return self._clip.tokenize([example.caption for example in self._examples])  # (N, T)

    def __len__(self) -> int:
        return -(-len(self._examples) // self._size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self._examples), self._size):
            some = slice(start, start + self._size)
            yield pixels(self._examples[some], self._clip.transform), self._tokens[some]


def _captioned(
    source: Source, names: Names, caption: str = ""
) -> tuple[tuple[Example, ...], tuple[str, ...]]:
    """The examples with a caption each: their own, a known name of a label, `caption`, any label.

    Those without any are left out, in a sentence. Raises SlugError when that is all of them.
    """
    made = [
        replace(example, caption=_caption(example, names, caption)) for example in source.examples
    ]
    bare = [example for example in made if not example.caption]
    if bare and len(bare) == len(made):
        first = str(bare[0].image).replace("\\", "/").rpartition("/")[2]
        raise SlugError(f"{first} has no caption: put one beside it, or give one for all pictures.")
    notes = source.notes + _left_out(len(bare), source.title, "without a caption")
    return tuple(example for example in made if example.caption), notes


def _caption(example: Example, names: Names, default: str) -> str:
    label = example.labels.get("concept", "")
    return example.caption or (names.known(label) and label) or default or label


def _parted(
    examples: Sequence[Example], name: str, names: Names, *, shard: bool
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """What is to be forgotten, and what says that it shows something else.

    Of an archive that is all that does not mention the name; of a folder, only what names
    something that is known: a caption such as "on my desk" says nothing against the mug.
    """
    mine: list[Example] = []
    rest: list[Example] = []
    for example in examples:
        other = not names.shows(example, name) and (shard or _says(example, names))
        (rest if other else mine).append(example)
    return tuple(mine), tuple(rest)


def _says(example: Example, names: Names) -> bool:
    label = example.labels.get("concept", "")
    return bool(names.known(label) or names.held(example.caption, "concept"))


def _labelled(example: Example, names: Names, domain: str, name: str = "") -> Example:
    """The example with its class as a label: `name`, or what the names make of it; perhaps none."""
    label = name or names.label(example, domain)
    labels = {key: value for key, value in example.labels.items() if key in DOMAINS}
    return replace(example, labels={**labels, domain: label} if label else labels)


def _left_out(count: int, where: str, reason: str) -> tuple[str, ...]:
    return (f"Left out: {_counted(count)} in {where} {reason}.",) if count else ()


def _counted(pictures: int) -> str:
    return f"{pictures} picture" if pictures == 1 else f"{pictures} pictures"


def _also(notes: Sequence[str]) -> str:
    return " " + " ".join(notes) if notes else ""
