"""The atlas: what SLUG finds for every preset concept, computed beforehand and shown at once.

An entry is one concept in one model: all that the page shows of it before anybody touches anything.
Knows the engine and files; computes nothing by itself, prints nothing.
"""

import base64
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from slugdemo import catalog, experiment, images, ladder, weights
from slugdemo.benchmark import cells, runner
from slugdemo.benchmark.ledger import stamp
from slugdemo.config import CONFIGS
from slugdemo.edit import Edit, clip_name
from slugdemo.errors import SlugError
from slugdemo.layers import LayerScore
from slugdemo.models.base import Cancelled
from slugdemo.results import plain
from slugdemo.search import Goal, Score
from slugdemo.task import Located, Task

FORMAT = 1  # of an entry; another one is made anew
ENTRIES, PICTURES = "entries.parquet", "pictures.parquet"
QUALITY = 90  # of a shipped picture, of 100
CARRIED = ("pocket-clip", "judge")  # what every model's results depend on besides its own folder
SEED = 0  # of the pictures that are drawn

PICTURE = re.compile(r'"picture":"([0-9a-f]+)"')  # as an entry names it

Row = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where an entry belongs: a model and a concept, by their names."""

    model: str
    concept: str

    def __str__(self) -> str:
        return f"{self.concept} in {self.model}"


@dataclass(frozen=True)
class Entry:
    """What was found for one concept in one model.

    `layers` are the scores of every layer of CLIP, `editable` those that the model reads, with
    the `shapes` of their tensors; `layer` and `strength` what the search chose, `size` the norm of
    that layer and `ratio` that norm over its gradient's. `tried` are the scores of the step search
    by layer, `curve` those along the chosen one, `see` and `ladder` what is seen (pictures by their
    names), `collateral` what else has changed. `weights` is the digest of the CLIP, `code` that of
    the modules that made it.
    `problem` says why there is nothing else.
    """

    model: str
    concept: str
    kind: str
    key: str
    code: str
    problem: str = ""
    weights: str = ""
    layers: tuple[LayerScore, ...] = ()
    shapes: Mapping[str, str] = field(default_factory=dict)
    editable: tuple[str, ...] = ()
    front: tuple[str, ...] = ()
    layer: str = ""
    strength: float = 0.0
    size: float = 0.0
    ratio: float = 0.0
    before: Score | None = None
    after: Score | None = None
    goal: Goal | None = None
    feasible: bool = False
    headline: str = ""
    reason: str = ""
    tried: Mapping[str, tuple[Score, ...]] = field(default_factory=dict)
    curve: tuple[Score, ...] = ()
    see: Row = field(default_factory=dict)
    ladder: tuple[tuple[Row, ...], ...] = ()
    collateral: Row = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def located(self) -> Located:
        """What a task need not locate again."""
        readable = {*self.editable}
        names = [name for score in self.layers if score.layer in readable for name in score.tensors]
        return Located(self.layers, frozenset(names))


Pictures = Mapping[str, bytes]  # name -> WebP file


# ---- making an entry


def key(model: str) -> str:
    """The hash of all that the entries of a model depend on but code: weights, pictures, config."""
    found, root = catalog.find(model), catalog.assets()
    folders = [root / "models" / name for name in CARRIED]
    parts = [found.folder, *(folder for folder in folders if folder != found.folder)]
    return stamp(FORMAT, CONFIGS[found.kind], *parts, root / "concepts")


def make(task: Task, name: str) -> tuple[Entry, Pictures]:
    """The entry of a task's concept, and the pictures in it; `name` is the `key` of its model.

    An entry with a `problem` where the search ends in a sentence. Raises Cancelled.
    """
    about: dict[str, Any] = {
        "model": task.opened.model.name,
        "concept": task.concept.name,
        "kind": task.kind,
        "key": name,
        "code": cells.code_version(),
    }
    began = time.perf_counter()
    try:
        erasure = experiment.erase(task)
    except Cancelled:
        raise
    except SlugError as problem:
        return Entry(**about, problem=str(problem)), {}
    pictures: dict[str, bytes] = {}
    edit = erasure.edit.at(round(erasure.edit.strength, 4))
    found = Entry(
        **about,
        **_located(task),
        **_searched(erasure, edit),
        curve=tuple(_curve(task, erasure)),
        **_seen(task, edit, pictures),
        seconds=time.perf_counter() - began,
    )
    return found, pictures


def _located(task: Task) -> Row:
    return {
        "weights": task.clip.digest,
        "layers": tuple(task.every_score),
        "shapes": task.shapes,
        "editable": tuple(score.layer for score in task.scores),
        "front": tuple(score.layer for score in task.front),
    }


def _searched(erasure: experiment.Erasure, edit: Edit) -> Row:
    attempts = erasure.search.attempts if erasure.search else ()
    return {
        "layer": clip_name(edit.layer),
        "strength": edit.strength,
        "size": weights.norm(edit.delta),
        "ratio": float(edit.about["ratio"]),
        "before": erasure.before,
        "after": erasure.after,
        "goal": erasure.goal,
        "feasible": erasure.feasible,
        "headline": f"{erasure.headline}.",
        "reason": erasure.reason,
        "tried": {clip_name(each.edit.layer): each.trace for each in attempts},
    }


def _curve(task: Task, erasure: experiment.Erasure) -> Iterator[Score]:
    """The scores along the chosen layer, with those that the search has measured already."""
    attempt = erasure.search.attempts[0].trace if erasure.search else ()
    known = {round(score.strength, 6): score for score in attempt if score.n_retain}
    known[0.0] = erasure.before
    evaluate = task.evaluators.full(erasure.edit)
    strengths = ladder.strengths(task.kind, "layer")
    for done, strength in enumerate(strengths):
        task.step("Step by step", done, len(strengths))
        yield known.get(strength) or evaluate(strength)


def _seen(task: Task, edit: Edit, pictures: dict[str, bytes]) -> Row:
    """What the page shows of an edit: before and after, the ladder, and what else has changed."""
    shown = catalog.held_out()
    parts = ladder.looks(task.concept, task.eval_set, shown)
    around = ladder.surroundings(task, shown)
    rungs = [[edit.at(far)] if far else [] for far in ladder.RUNGS["layer"]]
    roles, question = ladder.cast(parts), ladder.asked(task.kind, task.concept)
    see: Row
    if task.kind == "diffusion":
        rows = ladder.drawn(
            task, [part.prompt for part in roles], rungs, seed=SEED, saying="Drawing the ladder"
        )
        cells_ = [
            [
                {**_kept(drawn, pictures), "ok": drawn.text == part.name}
                for drawn in (row[at] for row in rows)
            ]
            for at, part in enumerate(roles)
        ]
        sides = ladder.drawn(task, [question], [[], [edit]], seed=SEED, saying="Drawing")
        before, after = (_kept(side[0], pictures) for side in sides)
        see = {"before": before, "after": after, "prompt": question}
    elif task.kind == "vlm":
        cells_ = ladder.answered(task, roles, rungs)
        see = {"question": question, **ladder.answers(task, parts[0], question, [edit])}
    else:
        cells_ = ladder.classified(task, around, roles, rungs)
        pixels = task.clip.transform(parts[0].picture)
        see = {"bars": ladder.bars(around.showing(pixels[None]), [edit], task.concept.name)}
    return {
        "see": see,
        "ladder": tuple(tuple(row) for row in cells_),
        "collateral": ladder.collateral(around, [edit], {task.concept.name}),
    }


def _kept(drawn: ladder.Drawn, pictures: dict[str, bytes]) -> Row:
    """A drawn picture as a cell that names it."""
    packed = images.webp(drawn.picture, quality=QUALITY)
    name = stamp(packed)[:16]
    pictures[name] = packed
    return {"picture": name, "text": drawn.text, "share": drawn.share}


# ---- comparing


def compared(shipped: Entry, now: Entry) -> list[tuple[str, str, str]]:
    """Two entries of one concept line by line, as (what, shipped, now).

    Gradients differ in their last digits between machines; what is compared is what a visitor
    reads: layer, step, figures to a tenth of a per cent, scores of layers to three digits.
    """
    old, new = _told(shipped), _told(now)
    return [(what, old.get(what, ""), new.get(what, "")) for what in {**old, **new}]


def _told(entry: Entry) -> dict[str, str]:
    told = {"problem": entry.problem, "layer": entry.layer, "step": f"{entry.strength:.3f}"}
    for name, score in (("before", entry.before), ("after", entry.after)):
        if score:
            told[f"{name}: left"] = f"{100 * score.forget_acc:.1f} % of {score.n_forget}"
            told[f"{name}: kept"] = f"{100 * score.retain_acc:.1f} % of {score.n_retain}"
    for score in entry.curve:
        rates = f"{100 * score.forget_acc:.1f} % left, {100 * score.retain_acc:.1f} % kept"
        told[f"at strength {score.strength:g}"] = rates
    told["front"] = ", ".join(entry.front)
    told |= {
        f"importance of {score.layer}": f"{score.importance:.3g}"
        for score in entry.layers
        if score.layer in entry.front
    }
    return told


# ---- keeping entries


class Store:
    """A folder of entries: one file for each as it gets ready, and two tables of them all."""

    def __init__(self, folder: Path) -> None:
        """Raises SlugError when the folder cannot be made."""
        self.folder = folder
        try:
            (folder / "entries").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SlugError(f"{folder} cannot be written: {error.strerror}.") from error
        self._packed = Shipped(folder)

    def _file(self, place: Place) -> Path:
        return self.folder / "entries" / f"{stamp(place.model, place.concept)[:24]}.json"

    def find(self, place: Place, name: str) -> Entry | None:
        """The entry of a place, if it is (wholly) there and was made under this key."""
        kept = self._read(self._file(place))
        if kept and kept[0].key == name:
            return kept[0]
        return self._packed.find(place.model, place.concept, name)

    def add(self, entry: Entry, pictures: Pictures) -> None:
        """Writes an entry down, whole or not at all. Raises SlugError when the disk is full."""
        path = self._file(Place(entry.model, entry.concept))
        draft = path.with_suffix(f".{os.getpid()}.part")
        packed = {name: base64.b64encode(data).decode() for name, data in pictures.items()}
        try:
            draft.write_text(json.dumps({"entry": plain(asdict(entry)), "pictures": packed}))
            os.replace(draft, path)
        except OSError as error:
            raise SlugError(f"{path} cannot be written: {error.strerror}.") from error

    def _read(self, path: Path) -> tuple[Entry, Pictures] | None:
        try:
            kept = json.loads(path.read_text())
            pictures = {name: base64.b64decode(data) for name, data in kept["pictures"].items()}
            return entry_of(kept["entry"]), pictures
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def pack(self) -> int:
        """Writes the tables of all entries that are there, those of its tables too; how many."""
        texts, shown = dict(self._packed.texts), dict(self._packed.pictures)
        for path in sorted(self.folder.glob("entries/*.json")):
            if found := self._read(path):
                entry, pictures = found
                text = json.dumps(plain(asdict(entry)), separators=(",", ":"))
                texts[entry.model, entry.concept] = entry.key, text
                shown |= pictures
        named = {name for _, text in texts.values() for name in PICTURE.findall(text)}
        rows = [(*place, *kept) for place, kept in sorted(texts.items())]
        some = sorted(pair for pair in shown.items() if pair[0] in named)
        tables = {
            ENTRIES: pd.DataFrame(rows, columns=["model", "concept", "key", "entry"]),
            PICTURES: pd.DataFrame(some, columns=["name", "webp"]),
        }
        for file, frame in tables.items():
            draft = self.folder / f"{file}.{os.getpid()}.part"
            frame.to_parquet(draft, index=False, compression="zstd")
            os.replace(draft, self.folder / file)
        return len(rows)


def entry_of(kept: Row) -> Entry:
    """An entry from plain data. Raises KeyError or TypeError for anything else."""
    both = {name: _score(kept[name]) for name in ("before", "after") if kept[name]}
    return Entry(
        **{
            **kept,
            **both,
            "layers": tuple(
                LayerScore(**{**row, "tensors": tuple(row["tensors"])}) for row in kept["layers"]
            ),
            "editable": tuple(kept["editable"]),
            "front": tuple(kept["front"]),
            "goal": Goal(**kept["goal"]) if kept["goal"] else None,
            "tried": {layer: tuple(map(_score, rows)) for layer, rows in kept["tried"].items()},
            "curve": tuple(map(_score, kept["curve"])),
            "ladder": tuple(map(tuple, kept["ladder"])),
        }
    )


def _score(row: Row) -> Score:
    rate = row["retain_acc"]
    return Score(**{**row, "retain_acc": float("nan") if rate is None else rate})


# ---- what comes with the app


class Shipped:
    """The entries of a folder's two tables; nothing where they are not, or are damaged."""

    def __init__(self, folder: Path) -> None:
        """Reads the tables: `texts` by model and concept (the key, the entry), `pictures` by name."""
        self.texts: dict[tuple[str, str], tuple[str, str]] = {}
        self.pictures: dict[str, bytes] = {}
        try:
            table = pd.read_parquet(folder / ENTRIES)
            shown = pd.read_parquet(folder / PICTURES)
            for row in table.itertuples():
                self.texts[str(row.model), str(row.concept)] = str(row.key), str(row.entry)
            self.pictures = dict(zip(shown["name"], shown["webp"], strict=True))
        except (OSError, ValueError, KeyError, AttributeError):
            self.texts = {}

    def concepts(self, model: str) -> list[str]:
        """The concepts of which there is an entry in a model."""
        return [concept for name, concept in self.texts if name == model]

    def find(self, model: str, concept: str, name: str) -> Entry | None:
        """The entry, if it was made under this key: by these weights, pictures and config."""
        kept = self.texts.get((model, concept))
        if kept is None or kept[0] != name:
            return None
        try:
            return entry_of(json.loads(kept[1]))
        except (ValueError, KeyError, TypeError):
            return None


def place() -> Path:
    """The folder of the entries that come with the app."""
    return catalog.assets() / "atlas"


# ---- computing many


@dataclass(frozen=True)
class Done:
    """An entry that is ready: how many are still to come, and whether it was there already."""

    entry: Entry
    left: int
    known: bool


def places(models: Sequence[str], concepts: Sequence[str]) -> list[Place]:
    """All pairs, concept by concept. Raises SlugError for a model that is none."""
    for name in models:
        catalog.find(name)
    return [Place(model, concept) for concept in concepts for model in models]


def run(
    wanted: Sequence[Place], store: Store, *, workers: int = 1,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Done]:  # fmt: skip
    """Every entry as it gets ready, those of earlier runs first; the tables at the end."""
    left, missing = len(wanted), []
    for each in wanted:
        if kept := store.find(each, keyed(each.model)):
            left -= 1
            yield Done(kept, left, known=True)
        else:
            missing.append(each)
    try:
        for entry, pictures in runner.computed(compute, missing, workers):
            store.add(entry, pictures)
            left -= 1
            yield Done(entry, left, known=False)
            if cancelled():
                return
    finally:
        store.pack()


@cache
def keyed(model: str) -> str:
    """`key`, taken once in a process."""
    return key(model)


def compute(where: Place) -> tuple[Entry, Pictures]:
    """The entry of a place; what a worker runs."""
    here = cells.model(where.model)
    task = Task(here, catalog.concept(where.concept), CONFIGS[here.kind])
    return make(task, keyed(where.model))
