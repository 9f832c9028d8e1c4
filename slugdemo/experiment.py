"""The one engine: what the page, the command line, the API and the benchmark call.

From a model and a concept to layers, scores, edits, and rates on the report split. Knows tasks,
methods and attacks; prints nothing, and knows no options, tables or page.
"""

import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from slugdemo import attacks, catalog, data, search, weights
from slugdemo.attacks.attack import Attacked, Follow, Show, Target, unfollowed, unseen
from slugdemo.config import CONFIGS, Config
from slugdemo.cost import Peak
from slugdemo.edit import LAYER_NORM, Edit, qualified
from slugdemo.errors import SlugError
from slugdemo.evaluation import metrics
from slugdemo.evaluation.prompt_set import Measurement
from slugdemo.methods import METHODS, named
from slugdemo.methods.method import Method
from slugdemo.methods.slug import direction
from slugdemo.models.base import Cancelled
from slugdemo.models.loading import Opened, opened
from slugdemo.results import Result
from slugdemo.search import Goal, Score, Search, told
from slugdemo.task import Task
from slugdemo.weights import Weights

ORIGINAL, REFERENCE = "original", "reference"
CONTROLS = ("opposite direction", "random direction", "random layer", "all front layers")


class Made(NamedTuple):
    """The edit that a method gave, what it searched, and what both cost."""

    edit: Edit
    search: Search | None
    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Erasure:
    """What erasing one concept gave: the edit, its score on the search split, and why.

    `before` is the unedited score; `feasible` is true exactly when `after` meets `goal`; `search`
    holds all that was tried, for methods that search. `seconds` and `peak_bytes` are what it cost.
    """

    task: Task
    edit: Edit
    before: Score
    after: Score
    goal: Goal
    feasible: bool
    reason: str
    search: Search | None = None
    seconds: float = float("nan")
    peak_bytes: int = 0

    @property
    def headline(self) -> str:
        """The result in one line."""
        return told(self.edit, self.after)


def task(
    model: str | Opened,
    concept: str,
    *,
    config: Config | None = None,
    forget: Path | None = None,
    retain: Path | None = None,
    caption: str = "",
    anchor: str = "",
) -> Task:
    """The task of forgetting a concept in a model, by their names.

    `forget` and `retain` are places of pictures of one's own, `caption` is for those to forget
    that have none; `config` is that of the model's kind by default; `anchor` is what the concept
    should become, for methods that can replace. Raises SlugError for an unknown name, and as
    `catalog.concept`.
    """
    here = opened(model) if isinstance(model, str) else model
    chosen = catalog.concept(concept, forget=forget, retain=retain, caption=caption)
    return Task(here, chosen, config or CONFIGS[here.kind], anchor=anchor)


def sweep(task: Task, layer: str, strengths: Sequence[float]) -> Iterator[Score]:
    """A score for each strength along one layer, as it is measured."""
    yield from curve(task, direction(task, task.layer(layer)), strengths)


def curve(task: Task, edit: Edit, strengths: Sequence[float]) -> Iterator[Score]:
    """A score for each strength of any edit, as it is measured on the search split."""
    evaluate = task.evaluators.full(edit)
    for done, strength in enumerate(strengths):
        task.step("Step by step", done, len(strengths))
        yield evaluate(strength)


def erase(
    task: Task,
    *,
    layer: str = "",
    strength: float | None = None,
    method: Method | None = None,
) -> Erasure:
    """The edit by the task's method, at its best strength or at the one given.

    `layer` (for single-layer methods) and `strength` fix what is otherwise searched; `method` is
    one that METHODS does not hold. Raises SlugError when the method cannot serve the task, when the
    model does not know the concept, or when a single-layer method is given a strength without a
    layer.
    """
    method = method or named(task.config.method)
    _check(task, method, layer, strength)
    before = known(task)
    return _erasure(task, before, _made(task, method, layer, strength))


def made(task: Task) -> Made:
    """The edit by the task's method and what it cost, not judged yet.

    Raises SlugError when the method cannot serve the task.
    """
    method = named(task.config.method)
    method.check(task)
    return _made(task, method, "", None)


def known(task: Task) -> Score:
    """The unedited score on the search split.

    Raises SlugError when the model does not know the concept, so that it has nothing to forget.
    """
    before = task.evaluators.full(_nothing(task))(0.0)
    search.check_known(task.concept.name, before)
    return before


def _check(task: Task, method: Method, layer: str, strength: float | None) -> None:
    method.check(task)
    if strength is not None and not math.isfinite(strength):
        raise SlugError(f"A strength is a finite number, not {strength}.")
    if layer and not method.of_layer:
        raise SlugError(f"{method.name} does not edit one chosen layer: leave the layer out.")
    if method.of_layer and strength is not None and not layer:
        raise SlugError("A strength belongs to a layer: name the layer too.")


def _made(task: Task, method: Method, layer: str, strength: float | None) -> Made:
    seen = len(task.searches)
    began = time.perf_counter()
    with Peak() as peak:
        if layer and method.of_layer:
            edit = method.of_layer(task, task.layer(layer))
            edit = task.tune([edit]) if strength is None else edit
        else:
            edit = method.run(task)
    found = task.searches[-1] if len(task.searches) > seen else None
    if strength is not None:
        edit, found = edit.at(strength), None
    return Made(edit, found, time.perf_counter() - began, peak.bytes)


def _erasure(task: Task, before: Score, what: Made) -> Erasure:
    edit, found, seconds, peak = what
    if found is None:
        after = task.evaluators.full(edit)(edit.strength)
        goal = search.goal_of(before, task.config.tuning)
        feasible, reason = goal.met(after), f"{told(edit, after)}."
    else:
        after, goal, feasible, reason = found.score, found.goal, found.feasible, found.reason
    if doubt := data.doubt(before.retain_acc, before.n_retain):
        reason = f"{reason} {doubt}"
    noted = edit.noted(**_facts(task, before, after))
    return Erasure(task, noted, before, after, goal, feasible, reason, found, seconds, peak)


def _nothing(task: Task) -> Edit:
    return Edit(task.concept.name, task.config.method, {}, 0.0)


def _facts(task: Task, before: Score, after: Score) -> dict[str, str]:
    config = task.config
    return {
        "host": task.opened.model.name,
        "kind": task.concept.kind,
        "rule": config.tuning.rule,
        "alignment": config.alignment,
        "granularity": config.granularity,
        "top": repr(config.evaluation_size.top),
        "margin": repr(config.tuning.effective.margin),
        "batch": repr(config.batch),
        "seed": repr(config.seed),
        "gradient_forget_pictures": repr(len(task.concept.forget)),
        "gradient_retain_pictures": repr(len(task.retain_split[0])),
        "forget_before": repr(before.forget_acc),
        "forget_after": repr(after.forget_acc),
        "retain_before": repr(before.retain_acc),
        "retain_after": repr(after.retain_acc),
        "n_forget": repr(after.n_forget),
        "n_retain": repr(after.n_retain),
        "torch": torch.__version__,
    }


def results(task: Task, erasure: Erasure, measured: Sequence[Measurement] = ()) -> list[Result]:
    """An erasure as rows: the search split, what was measured on the report split, and its size.

    With `measured` also how far it ends from the model that never saw the concept, if there is one.
    """
    about = Result(
        model=task.opened.model.name,
        concept=task.concept.name,
        method=erasure.edit.method,
        seconds=erasure.seconds,
        peak_bytes=erasure.peak_bytes,
        seed=task.config.seed,
        digest=task.digest,
    )
    after = erasure.after
    rows = [
        about.of("forget_acc", after.forget_acc, after.n_forget, split="search"),
        about.of("retain_acc", after.retain_acc, after.n_retain, split="search"),
    ]
    rows += [about.measured(row) for row in measured]
    return rows + (_besides(task, about, [erasure.edit]) if measured else [])


def reported(
    task: Task,
    name: str,
    edits: Sequence[Edit],
    *,
    seconds: float = 0.0,
    peak_bytes: int = 0,
) -> list[Result]:
    """The rows of anything that is compared: a method, a control or a reference, by its name.

    Where there is a model that never saw the concept, how far from it this one ends is among them.
    """
    about = Result(
        model=task.opened.model.name,
        concept=task.concept.name,
        method=name,
        seconds=seconds,
        peak_bytes=peak_bytes,
        seed=task.config.seed,
        digest=task.digest,
    )
    return [about.measured(row) for row in report(task, edits)] + _besides(task, about, edits)


def _besides(task: Task, about: Result, edits: Sequence[Edit]) -> list[Result]:
    """How far the edited model is from the one that never saw the concept, and the edit's size."""
    rows: list[Result] = []
    with suppress(SlugError):
        rows += [about.measured(row) for row in distance(task, edits)]
    return rows + [about.amount(*some) for edit in edits for some in size(edit).items()]


def size(edit: Edit) -> dict[str, float]:
    """What an edit touches: layers, parameters that it changes, and bytes to store (16-bit)."""
    layers = {name.rpartition(".")[0] or name for name in edit.delta}
    moved = sum(int(tensor.count_nonzero()) for tensor in edit.delta.values())
    stored = 2 * sum(tensor.numel() for tensor in edit.delta.values())
    return {"layers": len(layers), "parameters": moved, "bytes": stored}


# ---- beside the model that never saw the concept


def unseen_task(task: Task) -> Task:
    """The same concept, prompts, seeds, pictures and judge before the model that never saw it.

    Raises SlugError as `reference` does.
    """
    here = reference(task)
    twin = Task(here, task.concept, task.config, task.eval_set)
    twin.progress, twin.cancelled = task.progress, task.cancelled
    return twin


def reference_rows(task: Task) -> list[Result]:
    """The rows of the model that never saw the concept, as method "reference" of this model.

    One row with a `note` where there is no such model.
    """
    model, concept = task.opened.model.name, task.concept.name
    try:
        rows = reported(unseen_task(task), REFERENCE, [])
    except SlugError as problem:
        return [Result(model, concept, REFERENCE, seed=task.config.seed, note=str(problem))]
    return [replace(row, model=model) for row in rows]


def distance(task: Task, edits: Sequence[Edit]) -> list[Measurement]:
    """How near the edited model is to the one that never saw the concept, on the report split.

    "as never saw it": the share of items that both answer alike (for pictures: that the judge
    calls alike, in name and style). "distance to never saw it": for pictures the mean of 1 less
    the cosine of the judge's features, seed by seed; for CLIPs 1 less their features' linear CKA.
    Raises SlugError as `reference` does.
    """
    floor = unseen_task(task).evaluation.seen([])
    sides = [task.evaluation.seen(some) for some in ([], edits)]
    same = [side.agreement(floor) for side in sides]
    rows = [_rate("as never saw it", same)]
    if floor.features.size:
        apart = _apart if task.kind == "diffusion" else _unlike
        far = [apart(side.features, floor.features) for side in sides]
        rows.append(
            Measurement("distance to never saw it", far[0], far[1], len(same[0]), amount=True)
        )
    return rows


def _rate(metric: str, sides: Sequence[np.ndarray]) -> Measurement:
    before, after = (metrics.share(side) for side in sides)
    return Measurement(metric, before, after, len(sides[0]))


def _apart(first: np.ndarray, second: np.ndarray) -> float:
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(np.mean(1 - (first * second).sum(1) / lengths))


def _unlike(first: np.ndarray, second: np.ndarray) -> float:
    return 1 - metrics.cka(first, second)


def compare(task: Task, methods: Sequence[str] = ()) -> Iterator[list[Result]]:
    """The rows of the original, of the model that never saw it, then of each method as it is done.

    Without names all methods that can serve the task are compared. Raises SlugError for a name
    that is none; a method that fails on this concept gives one row with metric "problem".
    """
    chosen = [named(name) for name in methods] or [
        method for method in METHODS.values() if not method.unable_on(task.opened.model)
    ]
    yield reported(task, ORIGINAL, [])
    yield reference_rows(task)
    for done, method in enumerate(chosen):
        task.step(f"Comparing: {method.name}", done, len(chosen))
        try:
            erasure = erase(task.by(method.name))
        except Cancelled:
            raise
        except SlugError as problem:
            yield [
                Result(task.opened.model.name, task.concept.name, method.name, note=str(problem))
            ]
            continue
        yield reported(
            task,
            method.name,
            [erasure.edit],
            seconds=erasure.seconds,
            peak_bytes=erasure.peak_bytes,
        )


def _as_long(along: Weights, edit: Edit) -> Edit:
    """The edit along other tensors, as long as its own."""
    factor = weights.norm(edit.delta) / weights.norm(along)
    delta = {name: tensor * factor for name, tensor in along.items()}
    return Edit(edit.concept, edit.method, delta, edit.strength, edit.unit, about=edit.about)


def reporting(task: Task, edits: Sequence[Edit]) -> Iterator[tuple[Measurement, ...]]:
    """The report as it grows: a first answer on a few pictures, the last on all (see `report`)."""
    for rows in task.evaluation.reporting(edits):
        yield tuple(rows)


def report(task: Task, edits: Sequence[Edit]) -> tuple[Measurement, ...]:
    """What edits do on the report split, which no gradient and no search has seen."""
    evaluation = task.evaluation
    with task.clock("report"):
        return tuple(evaluation.report(edits))


def controls(task: Task, edit: Edit) -> Mapping[str, Edit]:
    """Edits that should not work as well, one for each of CONTROLS that applies (see `control`)."""
    found = {name: control(task, edit, name) for name in CONTROLS}
    return {name: other for name, other in found.items() if other is not None}


def control(task: Task, edit: Edit, name: str) -> Edit | None:
    """One of CONTROLS beside an edit; None where it does not apply.

    The opposite and the random direction go as far as `edit`, in its tensors; the random layer
    is searched for its own best step; all front layers move together, each by the strength of
    `edit`. Only single-layer edits have the last two.
    """
    if name == "opposite direction":
        return edit.at(-edit.strength)
    if name == "random direction":
        return _random_direction(task, edit) if edit.delta else None
    if edit.unit != LAYER_NORM:
        return None
    return _random_layer(task, edit) if name == "random layer" else _all_front_layers(task, edit)


def _random_direction(task: Task, edit: Edit) -> Edit:
    noise = task.generator()
    along = {name: torch.randn(t.shape, generator=noise) for name, t in edit.delta.items()}
    return _as_long(along, edit)


def _random_layer(task: Task, edit: Edit) -> Edit | None:
    others = [s.layer for s in task.scores if qualified(s.layer) != edit.layer and s.importance > 0]
    if not others:
        return None
    chosen = others[int(torch.randint(len(others), (1,), generator=task.generator(1)))]
    return task.tune([direction(task, task.layer(chosen))])


def _all_front_layers(task: Task, edit: Edit) -> Edit:
    fronts = [direction(task, score) for score in task.front]
    both = {name: tensor for some in fronts for name, tensor in some.delta.items()}
    about = {key: value for key, value in edit.about.items() if key not in ("layer", "ratio")}
    return Edit(edit.concept, edit.method, both, edit.strength, edit.unit, about=about)


REFERENCES = {"zero-shot": "reference-clip", "diffusion": "reference-sd"}


def reference(task: Task) -> Opened:
    """The model of the task's kind that never saw the concept: exact unlearning.

    It is read once for a model, so that its pictures are drawn once too. Raises SlugError as
    `reference_name`.
    """
    name = reference_name(task.kind, task.concept.name, task.opened.model.name)
    key, kept = ("reference", name), task.opened.kept
    if key not in kept:
        kept[key] = opened(name, device=task.opened.device)
    return kept[key]


def reference_name(kind: str, concept: str, model: str) -> str:
    """The name of the model of a kind that never saw a concept, to stand beside `model`.

    Its folder has a file `withheld.json` with the names that were kept from it. Raises SlugError
    when there is no such model here, or it saw this concept.
    """
    name = REFERENCES.get(kind, "")
    found = [model for model in catalog.local() if name and model.name == name]
    withheld = catalog.withheld(found[0]) if found else []
    if concept not in withheld:
        some = f"; {name} never saw {', '.join(withheld)}" if withheld else ""
        raise SlugError(
            f"There is no reference for {concept!r}: no model of the kind of {model} was trained "
            f"without it{some}."
        )
    return name


def attack(
    task: Task,
    name: str,
    edit: Edit | Sequence[Edit] | None = None,
    *,
    on: str = "edited",
    show: Show = unseen,
    follow: Follow = unfollowed,
) -> tuple[list[Result], Attacked]:
    """An attack on the edited model, on the original (its ceiling) or on the reference (its floor).

    Rows: "success", and the rate "before attack" of the same model on the same seeds. Several
    edits act together. `show` is given the best picture so far, `follow` each loss. Raises
    SlugError for an attack that cannot be tried here, and where there is no edit or no reference
    to attack.
    """
    chosen = attacks.named(name)
    chosen.check(task)
    if on not in attacks.ON:
        raise SlugError(f"An attack is on one of {', '.join(attacks.ON)}, not on {on!r}.")
    edits = [edit] if isinstance(edit, Edit) else list(edit or ())
    if on == "edited" and not edits:
        raise SlugError("There is no edit to attack: make one, or attack the original.")
    began = time.perf_counter()
    never = reference(task) if on == "reference" else None
    target = Target(task, edits, on, never, show, follow)
    found = chosen.run(target)
    told_found = f"found “{found.found}”" if found.found else ""
    about = Result(
        model=task.opened.model.name,
        concept=task.concept.name,
        method=" + ".join(dict.fromkeys(e.method for e in edits)) if on == "edited" else on,
        attack=chosen.name,
        on=on,
        seconds=time.perf_counter() - began,
        seed=task.config.seed,
        digest=(never or task.opened).digest,
        note="; ".join(part for part in (found.note, told_found) if part),
    )
    return [
        about.of("success", found.success, found.n),
        about.of("before attack", found.before, found.n_before),
    ], found


def attack_each(
    task: Task,
    names: Sequence[str],
    edit: Edit | Sequence[Edit] | None = None,
    *,
    on: Sequence[str] = attacks.ON,
) -> Iterator[list[Result]]:
    """The rows of each attack on each model in turn, as `attack`, as they are done.

    Where there is no reference, one row with metric "success" whose note says why. Raises
    SlugError as `attack`, for a wrong name before anything is tried.
    """
    for name in names:
        attacks.named(name).check(task)
    if wrong := [where for where in on if where not in attacks.ON]:
        raise SlugError(f"An attack is on one of {', '.join(attacks.ON)}, not on {wrong[0]!r}.")
    for name, where in itertools.product(names, on):
        try:
            yield attack(task, name, edit, on=where)[0]
        except SlugError as problem:
            if where != "reference":
                raise
            yield [missing(task, name, str(problem))]


def missing(task: Task, name: str, reason: str) -> Result:
    """The row that says why there is no floor: no model that never saw the concept."""
    model, concept = task.opened.model.name, task.concept.name
    attacked = attacks.named(name).name
    return Result(model, concept, REFERENCE, attacked, REFERENCE, "success", note=reason)
