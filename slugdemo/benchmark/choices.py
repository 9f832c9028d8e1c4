"""How sure the choice of a layer is: over seeds, set sizes and batch sizes, and beside other ways to choose.

Knows the engine and files; prints nothing.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slugdemo import catalog, experiment
from slugdemo.benchmark import atlas, cells, runner
from slugdemo.benchmark.atlas import Place
from slugdemo.benchmark.ledger import stamp
from slugdemo.config import CONFIGS
from slugdemo.edit import clip_name
from slugdemo.errors import SlugError
from slugdemo.layers import LayerScore, harm
from slugdemo.models.base import Cancelled
from slugdemo.results import plain
from slugdemo.task import Task

FILE = "choices.parquet"
SEEDS, BATCHES = (1, 2, 3), (8, 16, 64)
FORGET, RETAIN = (2, 4, 8), (48, 96, 192)  # pictures
WAYS = {"gradients": "slug", "causal tracing": "slug causal tracing"}
RANDOM = "random layer"


@dataclass(frozen=True)
class Choice:
    """A layer that was chosen for a concept, and how.

    `what` is "config" (as shipped), "seed", "batch", "forget pictures", "retain pictures" (with
    the `value` that differs), or "way". Of gradients that differ, `overlap` is the share of the
    layers on either Pareto front that are on both, and `rank` Spearman's correlation of
    importance over all layers; of a way, `strength` to `feasible` are what the step search found.
    """

    model: str
    concept: str
    what: str
    value: str
    layer: str
    overlap: float = float("nan")
    rank: float = float("nan")
    strength: float = float("nan")
    forget_acc: float = float("nan")
    retain_acc: float = float("nan")
    feasible: bool = False
    note: str = ""


# ---- gradients that differ


def spread(task: Task) -> Iterator[Choice]:
    """The most promising layer by the task's gradients, and by those of other seeds and sizes."""
    model, concept = task.opened.model.name, task.concept.name
    here = Choice(model, concept, "config", "", promising(task).layer, overlap=1.0, rank=1.0)
    yield here
    for what, value, other in _others(task):
        task.step(f"Gradients: {what} {value}", 0, 0)
        yield replace(
            here,
            what=what,
            value=str(value),
            layer=promising(other).layer,
            overlap=_overlap(task.front, other.front),
            rank=_rank(task.scores, other.scores),
        )


def promising(task: Task) -> LayerScore:
    """The layer on the fronts with the largest importance * (1 - harm): where a search would begin."""

    def promise(score: LayerScore) -> float:
        return score.importance * (1 - harm(score, alignment=task.config.alignment))

    return max(task.front, key=promise)


def _others(task: Task) -> Iterator[tuple[str, int, Task]]:
    concept, kept = task.concept, task.concept.retain
    for name, values in (("seed", SEEDS), ("batch", BATCHES)):
        for value in values:
            yield name, value, _as(task, config=task.config.changed({name: value}))
    for count in FORGET:
        if count < len(concept.forget):
            some = replace(concept, forget=concept.forget[:count])
            yield "forget pictures", count, _as(task, concept=some)
    for count in RETAIN:
        if 2 * count < len(kept):  # every second one is the search's
            yield (
                "retain pictures",
                count,
                _as(task, concept=replace(concept, retain=kept[: 2 * count])),
            )


def _as(task: Task, **changed: Any) -> Task:  # noqa: ANN401
    """The task with another concept or config; what the model reads is the same."""
    other = replace(task, located=None, searches=[], **changed)
    other.__dict__["editable"] = task.editable
    return other


def _overlap(first: Sequence[LayerScore], second: Sequence[LayerScore]) -> float:
    a, b = {score.layer for score in first}, {score.layer for score in second}
    return len(a & b) / max(1, len(a | b))


def _rank(first: Sequence[LayerScore], second: Sequence[LayerScore]) -> float:
    known = {score.layer: score.importance for score in second}
    both = [score for score in first if score.layer in known]
    sides = ([score.importance for score in both], [known[score.layer] for score in both])
    ranks = np.array([np.argsort(np.argsort(side)) for side in sides], dtype=float)
    return float(np.corrcoef(ranks)[0, 1])


# ---- other ways to choose


def ways(task: Task) -> Iterator[Choice]:
    """What gradients, causal tracing and chance choose, each with the step search on its layer."""
    found: experiment.Erasure | None = None
    for way, method in WAYS.items():
        try:
            erasure = experiment.erase(task.by(method))
        except Cancelled:
            raise
        except SlugError as problem:
            yield _way(task, way, note=str(problem))
            continue
        found = found or erasure
        yield _way(task, way, erasure)
    if found is not None:
        edit = experiment.control(task, found.edit, RANDOM)
        if edit is not None:
            layer, strength = clip_name(edit.layer), edit.strength
            yield _way(task, RANDOM, experiment.erase(task, layer=layer, strength=strength))


def _way(
    task: Task, way: str, erasure: experiment.Erasure | None = None, *, note: str = ""
) -> Choice:
    about = Choice(task.opened.model.name, task.concept.name, "way", way, "", note=note)
    if erasure is None:
        return about
    after = erasure.after
    return replace(
        about,
        layer=clip_name(erasure.edit.layer),
        strength=erasure.edit.strength,
        forget_acc=after.forget_acc,
        retain_acc=after.retain_acc,
        feasible=erasure.feasible,
    )


# ---- many


class Store:
    """A folder of choices: one file for each concept in a model, and a table of them all."""

    def __init__(self, folder: Path) -> None:
        """Raises SlugError when the folder cannot be made."""
        self.folder = folder
        try:
            (folder / "choices").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SlugError(f"{folder} cannot be written: {error.strerror}.") from error

    def _file(self, place: Place) -> Path:
        name = stamp(place.model, place.concept, atlas.keyed(place.model))[:24]
        return self.folder / "choices" / f"{name}.json"

    def find(self, place: Place) -> list[Choice] | None:
        """The choices of a place, if they are (wholly) there for what is here now."""
        try:
            rows = json.loads(self._file(place).read_text())
            return [Choice(**{k: _number(v) for k, v in row.items()}) for row in rows]
        except (OSError, ValueError, TypeError):
            return None

    def add(self, place: Place, choices: Sequence[Choice]) -> None:
        """Writes the choices of a place, whole or not at all."""
        path = self._file(place)
        draft = path.with_suffix(f".{os.getpid()}.part")
        draft.write_text(json.dumps([plain(asdict(choice)) for choice in choices]))
        os.replace(draft, path)

    def pack(self, places: Sequence[Place]) -> None:
        """Writes these places into the table, each row with the key of its model."""
        fresh = {place: found for place in places if (found := self.find(place))}
        old = _read(self.folder / FILE)
        rows = [
            row
            for row in ([] if old is None else old.to_dict("records"))
            if Place(row["model"], row["concept"]) not in fresh
        ]
        rows += [
            {**asdict(choice), "key": atlas.keyed(place.model)}
            for place, found in fresh.items()
            for choice in found
        ]
        draft = self.folder / f"{FILE}.{os.getpid()}.part"
        pd.DataFrame(rows).to_parquet(draft, index=False)
        os.replace(draft, self.folder / FILE)


def _number(value: Any) -> Any:  # noqa: ANN401
    return float("nan") if value is None else value


def run(
    places: Sequence[Place], store: Store, *, workers: int = 1
) -> Iterator[tuple[Place, list[Choice], int]]:
    """The choices of every place as they get ready, with how many are still to come."""
    known = {place: found for place in places if (found := store.find(place)) is not None}
    left = len(places)
    for place, choices in known.items():
        left -= 1
        yield place, choices, left
    missing = [place for place in places if place not in known]
    try:
        for place, choices in runner.computed(compute, missing, workers):
            store.add(place, choices)
            left -= 1
            yield place, choices, left
    finally:
        store.pack(places)


def compute(place: Place) -> tuple[Place, list[Choice]]:
    """The choices of a place; what a worker runs."""
    here = cells.model(place.model)
    task = Task(here, catalog.concept(place.concept), CONFIGS[here.kind])
    return place, [*spread(task), *ways(task)]


def shipped(folder: Path, keys: Mapping[str, str]) -> list[Choice]:
    """The choices of a folder that were made under these keys, by model; perhaps none."""
    frame = _table(folder / FILE)
    if frame is None:
        return []
    rows = frame.to_dict("records")
    current = [row for row in rows if keys.get(str(row["model"])) == row["key"]]
    return [Choice(**{name: row[name] for name in row if name != "key"}) for row in current]


@cache
def _table(path: Path) -> pd.DataFrame | None:
    return _read(path)


def _read(path: Path) -> pd.DataFrame | None:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError):
        return None
