"""Jobs: what takes long, as functions of a task; the same in the server and in a worker process.

`tell` is given what is found on the way. Knows the engine; knows no processes, visitors or page.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from PIL.Image import Image

from slugdemo import attacks, experiment, ladder, many
from slugdemo.attacks.attack import Attacked
from slugdemo.benchmark import atlas
from slugdemo.benchmark.atlas import Entry
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.evaluation.prompt_set import Measurement
from slugdemo.experiment import Erasure, Made
from slugdemo.methods.sae import Meaning
from slugdemo.methods.sae import meanings as sae_meanings
from slugdemo.models.base import Cancelled
from slugdemo.results import Result
from slugdemo.search import Evaluate, Evaluator, Score, where
from slugdemo.task import Task

Tell = Callable[[Any], None]
Measured = tuple[str, float, str]  # an edit's digest ("" at 0), a strength, one of `EVALUATORS`
EVALUATORS = ("full", "while kept", "forget only")  # by how much they measure
Known = dict[Measured, Score]
Told = tuple[Measured, Edit, Score]


def unheard(found: object) -> None:
    """The `tell` of those who wait for the end."""


def ready(task: Task, tell: Tell) -> None:
    """Opens what all other jobs need, and looks at a little of it for the first time."""
    del tell
    next(iter(task.evaluation.reporting([])))


def erase(task: Task, tell: Tell, layer: str = "", known: Known | None = None) -> Erasure:
    """What `experiment.erase` gives; is told (`Told`) of each score.

    `known` are scores that need not be measured again.
    """
    return experiment.erase(_remembering(task, tell, known), layer=layer)


def make(task: Task, tell: Tell) -> Made:
    """What `experiment.made` gives."""
    del tell
    return experiment.made(task)


def scores(
    task: Task, tell: Tell, edit: Edit, strengths: Sequence[float], known: Known | None = None
) -> list[Score]:
    """The scores of `experiment.curve`; tells as `erase`."""
    return list(experiment.curve(_remembering(task, tell, known), edit, strengths))


def controls(
    task: Task, tell: Tell, edit: Edit, known: Known | None = None
) -> list[tuple[str, str, Score]]:
    """What each control does beside the edit, as (name, where, score), the unedited model first.

    Tells as `erase`.
    """
    task = _remembering(task, tell, known)
    tried = {"before": edit.at(0.0), edit.method: edit} | dict(experiment.controls(task, edit))
    rows = []
    for number, (name, other) in enumerate(tried.items()):
        task.step(f"Comparing: {name}", number, len(tried))
        score = task.evaluators.full(other)(other.strength)
        rows.append((name, "" if name == "before" else where(other, other.strength), score))
    return rows


def control(task: Task, tell: Tell, edit: Edit, name: str) -> Edit | None:
    """What `experiment.control` gives."""
    del tell
    return experiment.control(task, edit, name)


def report(
    task: Task, tell: Tell, edits: Sequence[Edit], *, beside: bool = True
) -> list[Measurement]:
    """Tells the rows of `experiment.reporting`, the last time all of them.

    Gives what `experiment.distance` gives, which looks at the same pictures; nothing where no
    model never saw the concept, or where it is not to be `beside`.
    """
    for rows in experiment.reporting(task, edits):
        tell(rows)
    try:
        return experiment.distance(task, edits) if beside else []
    except Cancelled:
        raise
    except SlugError:
        return []


def check_known(task: Task, tell: Tell) -> Score:
    """What `experiment.known` gives."""
    del tell
    return experiment.known(task)


def results(task: Task, tell: Tell) -> list[Result]:
    """The rows of `experiment.results` for the task's method, on both splits."""
    del tell
    erasure = experiment.erase(task)
    measured = experiment.report(task, [erasure.edit])
    return experiment.results(task, erasure, measured)


def attack(
    task: Task, tell: Tell, name: str, edits: Sequence[Edit], on: str
) -> tuple[list[Result], Attacked]:
    """What `experiment.attack` gives; tells each loss (a float) and each picture that is shown."""

    def follow(loss: float) -> None:
        tell(float(loss))

    return experiment.attack(task, name, edits, on=on, show=tell, follow=follow)


def attack_each(
    task: Task, tell: Tell, name: str, edits: Sequence[Edit], on: Sequence[str] = attacks.ON
) -> list[Result]:
    """The rows of `experiment.attack_each` for one attack."""
    del tell
    return [row for rows in experiment.attack_each(task, [name], edits, on=on) for row in rows]


def draw(
    task: Task, tell: Tell, prompts: Sequence[str], edits: Sequence[Sequence[Edit]], seed: int
) -> list[list[ladder.Drawn]]:
    """What `ladder.drawn` gives."""
    del tell
    return ladder.drawn(task, prompts, edits, seed=seed, saying="Drawing the gallery")


def meanings(task: Task, tell: Tell, seed: int) -> list[tuple[Meaning, list[Image]]]:
    """What the features mean that sae turns off for the task's concept, and a picture a caption."""
    del tell
    found = sae_meanings(task, experiment.made(task.by("sae")).edit)
    texts = list(dict.fromkeys(text for meaning in found for text in meaning.captions))
    size = task.config.size

    def progress(done: int, total: int) -> None:
        task.step("Drawing what the features mean", done, total)

    drawn = task.model.generate(
        texts,
        seeds=[seed] * len(texts),
        steps=size.denoising,
        guidance=size.guidance,
        progress=progress,
        cancelled=task.cancelled,
    )
    pictures = dict(zip(texts, drawn, strict=True))
    return [(meaning, [pictures[text] for text in meaning.captions]) for meaning in found]


def erase_many(
    task: Task,
    tell: Tell,
    concepts: Sequence[str],
    method: str,
    order: str,
    counts: Sequence[int],
) -> None:
    """Tells the rows of `many.many` for one method in the task's model."""
    made = many.many(
        task.opened,
        concepts,
        [method],
        order=order,
        counts=counts,
        progress=task.progress,
        cancelled=task.cancelled,
    )
    for rows in made:
        tell(rows)


def entry(task: Task, tell: Tell, key: str) -> Entry:
    """What `atlas.make` gives, without the pictures."""
    del tell
    return atlas.make(task, key)[0]


def _remembering(task: Task, tell: Tell, known: Known | None) -> Task:
    """The task with evaluators that measure nothing twice, and tell of every score."""
    plain, kept = task.evaluators, dict(known or {})
    remember = partial(_remembered, kept, tell)

    def while_kept(edit: Edit, least: float) -> Evaluate:
        assert plain.while_kept
        evaluate = plain.while_kept(edit, least)
        return remember(lambda _: evaluate, "while kept")(edit)

    task.evaluators = replace(
        plain,
        full=remember(plain.full, "full"),
        forget_only=plain.forget_only and remember(plain.forget_only, "forget only"),
        while_kept=plain.while_kept and while_kept,
    )
    return task


def _remembered(kept: Known, tell: Tell, evaluator: Evaluator, which: str) -> Evaluator:
    def of(edit: Edit) -> Evaluate:
        evaluate, digest = evaluator(edit), edit.digest

        def at(strength: float) -> Score:
            name = measured(digest, strength, which)
            if name not in kept:
                kept[name] = evaluate(strength)
            tell((name, edit, kept[name]))
            return kept[name]

        return at

    return of


def measured(digest: str, strength: float, which: str) -> Measured:
    """Under what a score is remembered; at strength 0 all edits are the same."""
    return digest if strength else "", round(strength, 6), which
