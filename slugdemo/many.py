"""Many concepts erased in one model, together or one after another: what goes, and what stays.

Knows tasks, methods and their edits; prints nothing. Rates are on held-out pictures (CLIP) or on
pictures drawn from the report split's noise (Stable Diffusion), with one judge for all.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from slugdemo import catalog
from slugdemo.config import CONFIGS
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.evaluation import metrics
from slugdemo.evaluation.classify import ClassifyEvaluation
from slugdemo.evaluation.generate import GenerateEvaluation
from slugdemo.evaluation.prompt_set import PromptSpec, prompt_set
from slugdemo.methods import named
from slugdemo.methods.method import Method
from slugdemo.models.base import Question
from slugdemo.models.loading import Opened
from slugdemo.task import Progress, Task, never, unwatched

TOGETHER, IN_TURN = "together", "one after another"
ORDERS = (TOGETHER, IN_TURN)
ONE_SOLVE, SUM = "one solve", "sum of edits"
COUNTS = (1, 5, 10, 25, 50)
DRAWN, BESIDE = 2, 40  # pictures of each erased concept, and of everything else


@dataclass(frozen=True)
class Joint:
    """One point of a curve: a rate once `count` concepts are erased, `concept` the last of them.

    `order` is one of ORDERS. `metric` is "forget_acc", what is still told of all erased so far, or
    "retain_acc", of the names that are never erased. `how` says what many edits are: "one solve"
    or "sum of edits". `seconds` went into all edits so far.
    """

    model: str
    method: str
    order: str
    count: int
    concept: str
    metric: str
    value: float
    n: int
    low: float
    high: float
    seconds: float
    how: str
    seed: int
    digest: str


class Told(NamedTuple):
    """Which items show what (N,), and which of them are told right (N,)."""

    shown: np.ndarray
    right: np.ndarray


def many(
    here: Opened,
    concepts: Sequence[str],
    methods: Sequence[str],
    *,
    order: str = TOGETHER,
    counts: Sequence[int] = COUNTS,
    seed: int = 0,
    progress: Progress = unwatched,
    cancelled: Question = never,
) -> Iterator[list[Joint]]:
    """Two rows for the unedited model (count 0), then for each method and count, as they are done.

    Together the first `count` concepts are erased at once: by one solve where the method has one,
    else each in the original model, and the edits are added up. One after another each is erased
    in the model that the earlier edits left, and every count up to the last is measured. All
    concepts are of one domain. Raises SlugError for an unknown name, for fewer than two concepts or
    nothing beside them, for a vision-language model, and for methods that cannot serve the model.
    """
    series = Series.of(here, concepts, seed, progress, cancelled)
    if order not in ORDERS:
        raise SlugError(f"The order is one of {', '.join(ORDERS)}, not {order!r}.")
    chosen = [named(name) for name in methods]
    for method in chosen:
        method.check(series.tasks[0])
    yield series.rows("original", order, 0, 0.0, "", [])
    sizes = [count for count in sorted({*counts}) if 1 <= count <= len(series.tasks)]
    for method in chosen:
        made = series.together(method, sizes) if order == TOGETHER else series.in_turn(method)
        for count, edits, seconds, how in made:
            yield series.rows(method.name, order, count, seconds, how, edits)


Step = tuple[int, list[Edit], float, str]  # count, edits, seconds so far, how


@dataclass(frozen=True, eq=False)
class Series:
    """The tasks of concepts that are to go from one model, and what judges all of them alike."""

    here: Opened
    tasks: tuple[Task, ...]

    @classmethod
    def of(
        cls,
        here: Opened,
        concepts: Sequence[str],
        seed: int,
        progress: Progress = unwatched,
        cancelled: Question = never,
    ) -> "Series":
        """The series of concepts by their names. Raises SlugError as `many` does."""
        if here.kind not in ("zero-shot", "diffusion"):
            raise SlugError(f"{here.model.name} answers questions: erase concepts one at a time.")
        known = [catalog.concept(name) for name in dict.fromkeys(concepts)]
        if len(known) < 2 or len({concept.domain for concept in known}) > 1:
            raise SlugError("Name two or more concepts, all of them things or all of them styles.")
        names = frozenset(concept.name for concept in known)
        config = CONFIGS[here.kind].changed({"seed": seed})
        tasks = [Task(here, concept, config, gone=names) for concept in known]
        for task in tasks:
            task.progress, task.cancelled = progress, cancelled
        if not tasks[0].preserved:
            raise SlugError("Nothing would be left to keep: name fewer concepts.")
        return cls(here, tuple(tasks))

    def together(self, method: Method, counts: Sequence[int]) -> Iterator[Step]:
        """The edits of the first concepts, for each count."""
        own = [task.by(method.name) for task in self.tasks]
        added: list[Edit] = []
        began = time.perf_counter()
        for count in counts:
            if method.together:
                began = time.perf_counter()
                gone = frozenset(task.concept.name for task in own[:count])
                edits, how = (
                    [method.together([replace(t, gone=gone) for t in own[:count]])],
                    ONE_SOLVE,
                )
            else:
                for task in own[len(added) : count]:
                    task.step(f"{method.name}: {task.concept.name}", len(added), len(own))
                    added.append(method.run(task))
                edits, how = list(added), SUM
            yield count, edits, time.perf_counter() - began, how

    def in_turn(self, method: Method) -> Iterator[Step]:
        """The edits after each concept, each made in the model that the earlier ones left."""
        edits: list[Edit] = []
        began = time.perf_counter()
        for task in self.tasks:
            task.step(f"{method.name}: {task.concept.name}", len(edits), len(self.tasks))
            edited = Task(self.here.edited(edits), task.concept, task.config, gone=task.gone)
            edited.progress, edited.cancelled = task.progress, task.cancelled
            edits.append(method.run(edited.by(method.name)))
            yield len(edits), list(edits), time.perf_counter() - began, SUM

    def rows(
        self, method: str, order: str, count: int, seconds: float, how: str, edits: list[Edit]
    ) -> list[Joint]:
        """What is still told of the concepts erased so far (of all of them at 0) and of the rest."""
        told = self.told(edits)
        names = [task.concept.name for task in self.tasks]
        erased = np.isin(told.shown, names[: count or None])
        rest = ~np.isin(told.shown, names)
        first = self.tasks[0]
        found = []
        if not erased.any():
            raise SlugError(f"No held-out picture shows {names[0]}: name other concepts.")
        if not rest.any():
            raise SlugError("No held-out picture shows anything that stays: name fewer concepts.")
        for metric, some in (("forget_acc", erased), ("retain_acc", rest)):
            value, n = metrics.share(told.right[some]), int(some.sum())
            found.append(
                Joint(
                    self.here.model.name,
                    method,
                    order,
                    count,
                    names[count - 1] if count else "",
                    metric,
                    value,
                    n,
                    *metrics.wilson(value, n),
                    seconds,
                    how,
                    first.config.seed,
                    first.digest,
                )
            )
        return found

    def told(self, edits: Sequence[Edit]) -> Told:
        """What the edited model still tells right. Raises SlugError without held-out pictures."""
        evaluation = self.tasks[0].evaluation
        if isinstance(evaluation, GenerateEvaluation):
            return self._drawn(evaluation, edits)
        assert isinstance(evaluation, ClassifyEvaluation)
        seen = evaluation.seen(edits).names[self.tasks[0].concept.domain]
        shown = np.array(evaluation.shown())
        return Told(shown, seen == shown)

    def _drawn(self, evaluation: GenerateEvaluation, edits: Sequence[Edit]) -> Told:
        specs, domain = self.specs(), self.tasks[0].concept.domain
        scores = evaluation.judged_by.look(evaluation.pictures(edits, specs))[domain]
        seen = np.array(evaluation.judged_by.names[domain])[scores.argmax(1)]
        shown = np.array([getattr(spec, domain) for spec in specs])
        return Told(shown, seen == shown)

    def specs(self) -> list[PromptSpec]:
        """What is drawn: two pictures of each concept, and others that hold none of them."""
        first, found = self.tasks[0], []
        gone, names = first.gone, first.eval_set
        rest = replace(
            names,
            concepts=tuple(name for name in names.concepts if name not in gone),
            styles=tuple(name for name in names.styles if name not in gone),
            neighbours=(),
        )
        for task in self.tasks:
            found += prompt_set(task.concept, rest, own=DRAWN, others=1, seed=names.noise)[:DRAWN]
        return found + prompt_set(first.concept, rest, own=0, others=BESIDE, seed=names.noise)
