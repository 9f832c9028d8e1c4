"""Cells: one method (or control, or reference) on one concept of one model, attacked or not.

Each is computed on its own and known by a hash of all that it depends on. Knows the engine; knows
no processes, files of results or tables.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path

from slugdemo import catalog, experiment
from slugdemo.catalog import Model
from slugdemo.config import CONFIGS
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.experiment import ORIGINAL, REFERENCE, REFERENCES
from slugdemo.methods import named
from slugdemo.methods.method import from_file
from slugdemo.models.loading import Opened, opened
from slugdemo.results import Result
from slugdemo.task import Task

CODE = Path(__file__).parents[1]
NOT_CODE = ("ui", "cli", "pocket", "benchmark")  # what cannot change a result


@dataclass(frozen=True)
class Cell:
    """What is measured: names, and the seed of all that is drawn at random.

    `method` is a name of METHODS, one of experiment.CONTROLS, "original", "reference" (the
    model that never saw the concept), "FILE.py:FUNCTION", or a folder with an edited model when `candidate` is set.
    `attack` is a name of ATTACKS or "".
    """

    model: str
    concept: str
    method: str
    attack: str = ""
    seed: int = 0
    candidate: bool = False

    def __str__(self) -> str:
        return f"{self.method} on {self.concept} in {self.model}"


@dataclass(frozen=True)
class Plan:
    """The cells of all combinations; a method that cannot serve a model is left out there."""

    models: Sequence[str]
    concepts: Sequence[str]
    methods: Sequence[str] = (ORIGINAL, "slug")
    attacks: Sequence[str] = ("",)
    seeds: Sequence[int] = (0,)
    candidates: Sequence[str] = field(default=())

    def cells(self) -> list[Cell]:
        """The cells in the order in which they are computed: concept by concept."""
        found = [
            Cell(model, concept, method, attack, seed)
            for model, concept, seed, method, attack in itertools.product(
                self.models, self.concepts, self.seeds, self.methods, self.attacks
            )
            if serves(method, catalog.find(model))
        ]
        return found + [
            Cell(model, concept, folder, candidate=True)
            for model, concept, folder in itertools.product(
                self.models, self.concepts, self.candidates
            )
        ]


def serves(method: str, model: Model) -> bool:
    """Whether a method, control or reference can serve a model.

    Raises SlugError for a name that is none.
    """
    if ".py:" in method:
        from_file(method)
        return True
    other = method in (ORIGINAL, REFERENCE, *experiment.CONTROLS)
    return other or not named(method).unable_on(model)


@cache
def code_version() -> str:
    """The hash of all modules that can change a result."""
    total = hashlib.sha256()
    for file in sorted(CODE.rglob("*.py")):
        place = file.relative_to(CODE)
        if place.parts[0] not in NOT_CODE:
            total.update(f"{place.as_posix()}\n".encode() + file.read_bytes())
    return total.hexdigest()[:16]


def key(cell: Cell) -> str:
    """What a cell depends on: its names, all weights that take part, the pictures, and the code."""
    found, root = catalog.find(cell.model), catalog.assets()
    beside = ("pocket-clip", "judge", REFERENCES.get(found.kind, ""))
    folders = [found.folder, *(root / "models" / name for name in beside if name)]
    weights = [_folder_digest(folder) for folder in folders]
    pictures = _folder_digest(root / "concepts")
    own = ""
    if ".py:" in cell.method:
        own = hashlib.sha256(Path(cell.method.rpartition(":")[0]).read_bytes()).hexdigest()
    if cell.candidate:
        own = _folder_digest(Path(cell.method))
    parts = (*astuple(cell), weights, pictures, own, code_version())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


@cache
def _folder_digest(folder: Path | None) -> str:
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*")) if folder else []:
        if file.is_file() and file.suffix != ".md":
            with file.open("rb") as data:
                total.update(file.name.encode() + hashlib.file_digest(data, "sha256").digest())
    return total.hexdigest()


@cache
def model(name: str) -> Opened:
    """A model, read once in each process."""
    return opened(name)


def compute(cell: Cell) -> list[Result]:
    """The rows of a cell; one row with a `note` when the method says why it cannot."""
    try:
        return list(_computed(cell))
    except SlugError as problem:
        return [
            Result(
                cell.model,
                cell.concept,
                cell.method,
                cell.attack,
                seed=cell.seed,
                note=str(problem),
            )
        ]


def _computed(cell: Cell) -> Iterator[Result]:
    if cell.candidate:
        task = _task(cell, model(cell.method))
        yield from experiment.reported(task, Path(cell.method).name, [])
        return
    task = _task(cell, model(cell.model))
    if cell.attack:
        yield from _attacked(cell, task)
    elif cell.method == ORIGINAL:
        yield from experiment.reported(task, ORIGINAL, [])
    elif cell.method == REFERENCE:
        yield from experiment.reference_rows(task)
    elif cell.method in experiment.CONTROLS:
        edit = experiment.erase(task).edit
        control = experiment.controls(task, edit).get(cell.method)
        if control is None:
            raise SlugError(f"There is no {cell.method} for an edit by {edit.method}.")
        yield from experiment.reported(task, cell.method, [control])
    else:
        method = from_file(cell.method) if ".py:" in cell.method else named(cell.method)
        own = task.by(method.name)
        erasure = experiment.erase(own, method=method)
        yield from experiment.results(own, erasure, experiment.report(own, [erasure.edit]))


def _attacked(cell: Cell, task: Task) -> Iterator[Result]:
    """The attack on the original, on the reference, or on what the method made."""
    on = cell.method if cell.method in (ORIGINAL, REFERENCE) else "edited"
    edit = _attacked_edit(replace(cell, attack="")) if on == "edited" else None
    yield from experiment.attack(task, cell.attack, edit, on=on)[0]


@lru_cache(maxsize=8)
def _attacked_edit(cell: Cell) -> Edit:
    """The edit of a method on a concept: made once for all attacks on it in this process."""
    task = _task(cell, model(cell.model))
    return experiment.erase(task.by(named(cell.method).name)).edit


def _task(cell: Cell, here: Opened) -> Task:
    config = CONFIGS[here.kind].changed({"seed": cell.seed})
    return Task(here, catalog.concept(cell.concept), config)
