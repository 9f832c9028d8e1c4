"""How well: every shipped concept is erased in every host and judged on held-out pictures.

Nothing here is tuned on these pictures: settings are arguments, and the search has its own
pictures and its own noise. Prints nothing.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from slugdemo import catalog, experiment
from slugdemo.benchmark import ledger
from slugdemo.benchmark.figures import Figure
from slugdemo.benchmark.ledger import Ledger
from slugdemo.benchmark.speed import POCKET
from slugdemo.config import CONFIGS, Config
from slugdemo.errors import SlugError
from slugdemo.evaluation import metrics
from slugdemo.evaluation.eval_set import rehearsal
from slugdemo.evaluation.prompt_set import Measurement
from slugdemo.models.loading import Opened, opened
from slugdemo.results import plain
from slugdemo.task import Task

CONCEPT_KINDS = ("character", "object", "style")
MOST = {"character": 16, "object": 24, "style": 99}
THINGS = ("character", "object")


@dataclass(frozen=True)
class Bar:
    """What a mean over concepts shall be.

    `how`: "after" is the share itself, "drop" what the edit took away, "kept" the share as a
    fraction of the unedited model's own.
    """

    metric: str
    how: str
    limit: float
    less: bool = True
    kinds: tuple[str, ...] = CONCEPT_KINDS


BARS = {
    "zero-shot": [Bar("forget_acc", "after", 0.02), Bar("retain_acc", "drop", 0.02)],
    "diffusion": [
        Bar("ua", "after", 0.95, False, THINGS),
        Bar("ira", "kept", 0.93, False, THINGS),
        Bar("cra", "kept", 0.95, False, THINGS),
        Bar("ua", "after", 0.95, False, ("style",)),
        Bar("ira", "kept", 0.93, False, ("style",)),
        Bar("cra", "kept", 0.93, False, ("style",)),
    ],
    "vlm": [
        Bar("forget_acc", "after", 0.03),
        Bar("retain_acc", "drop", 0.02),
        Bar("style", "drop", 0.02, True, THINGS),
        Bar("concept", "drop", 0.02, True, ("style",)),
        Bar("background", "drop", 0.02),
    ],
}


@dataclass(frozen=True)
class Plan:
    """What is measured: hosts by kind and model name, how many concepts of each kind, how long.

    `controls` is the number of concepts of each kind for which the controls are measured too.
    `rehearse` holds out other pictures than the report's (see eval_set.rehearsal): configs are
    chosen there. What the `ledger` knows is not measured again.
    """

    hosts: Mapping[str, str] = field(default_factory=lambda: dict(POCKET))
    concepts: int | None = None
    controls: int = 2
    limit_seconds: float = math.inf
    device: str = "cpu"
    configs: Mapping[str, Config] = field(default_factory=lambda: dict(CONFIGS))
    rehearse: bool = False
    ledger: Ledger = field(default_factory=Ledger)


@dataclass(frozen=True)
class Cell:
    """One concept in one host: its rows, and those of each control, or why there are none."""

    host: str
    concept: str
    kind: str
    rows: tuple[Measurement, ...] = ()
    controls: Mapping[str, tuple[Measurement, ...]] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)
    problem: str = ""

    def plain(self) -> dict[str, object]:
        """The result as plain data."""
        return {
            "host": self.host,
            "concept": self.concept,
            "kind": self.kind,
            "rows": [_record(row) for row in self.rows],
            "controls": {
                name: [_record(row) for row in rows] for name, rows in self.controls.items()
            },
            "problem": self.problem,
            **self.facts,
        }

    @classmethod
    def known(cls, plain: Mapping[str, Any]) -> "Cell":
        """The result that was once made plain."""
        rest = dict(plain)
        host, concept, kind = (rest.pop(key) for key in ("host", "concept", "kind"))
        rows = _rows(rest.pop("rows"))
        controls = {name: _rows(some) for name, some in rest.pop("controls").items()}
        return cls(host, concept, kind, rows, controls, problem=rest.pop("problem"), facts=rest)


def results(plan: Plan) -> Iterator[Cell]:
    """Every result as it is measured, kinds of concepts in turn, until the time is over."""
    end, over = time.monotonic() + plan.limit_seconds, False
    for kind, name in plan.hosts.items():
        try:
            model = opened(name, device=plan.device)
        except SlugError as error:
            yield Cell(kind, "", "", problem=str(error))
            continue
        judge, shown = catalog.assets() / "models" / "judge", catalog.assets() / "concepts"
        where = ledger.stamp(model.model.folder, model.clip.digest, judge, shown, plan.rehearse)
        for at, entry in chosen(plan.concepts):
            controlled = at < plan.controls
            key = ledger.stamp(where, plan.configs[kind], entry, controlled)
            if known := plan.ledger.find(key):
                yield Cell.known(known)
                continue
            if time.monotonic() > end:
                over = True
                break
            found = result(plan, model, entry, controlled=controlled)
            plan.ledger.add(key, plain(found.plain()))
            yield found
    if over:
        yield Cell("", "", "", problem="The time was over before the end.")


def _record(row: Measurement) -> dict[str, object]:
    return row._asdict() | {"interval": row.interval}


def _rows(several: Sequence[Mapping[str, Any]]) -> tuple[Measurement, ...]:
    return tuple(
        Measurement(*(row[name] for name in Measurement._fields if name in row)) for row in several
    )


def chosen(count: int | None) -> list[tuple[int, Mapping]]:
    """The concepts to measure with their number in their kind, kinds in turn."""
    fit = [entry for entry in catalog.listing() if entry.get("forgettable", True)]
    picked = []
    for kind in CONCEPT_KINDS:
        some = [entry for entry in fit if entry["kind"] == kind]
        most = min(len(some), MOST[kind], count or len(some))
        picked += [(at, some[at * len(some) // most]) for at in range(most)]
    return sorted(picked, key=lambda entry: entry[0])


def result(plan: Plan, model: Opened, entry: Mapping, *, controlled: bool) -> Cell:
    """What erasing one concept does in one host."""
    place = (model.kind, entry["name"], entry["kind"])
    try:
        concept, eval_set = catalog.concept(entry["name"]), None
        if plan.rehearse:
            concept, eval_set = rehearsal(concept)
        task = Task(model, concept, plan.configs[model.kind], eval_set)
        erasure = experiment.erase(task)
        rows = experiment.report(task, [erasure.edit])
        others = experiment.controls(task, erasure.edit) if controlled else {}
        controls = {name: experiment.report(task, [edit]) for name, edit in others.items()}
    except SlugError as error:
        return Cell(*place, problem=str(error))
    facts = {
        "layer": erasure.edit.layer,
        "strength": erasure.edit.strength,
        "feasible": erasure.feasible,
        "search split": asdict(erasure.after),
        "control layers": {name: edit.layer for name, edit in others.items()},
        "seconds": task.clock.seconds,
    }
    return Cell(*place, rows, controls, facts)


def judged(found: Sequence[Cell]) -> list[Figure]:
    """The means over concepts against the bars, and those of the controls beside, host by host."""
    return [figure for kind in BARS for figure in _judged(kind, found)]


def _judged(kind: str, found: Sequence[Cell]) -> Iterator[Figure]:
    asked = [cell for cell in found if cell.host == kind and cell.concept]
    mine = [cell for cell in asked if cell.rows]
    if asked:
        name = f"{kind}: concepts without a result"
        yield Figure(name, float(len(asked) - len(mine)), 0.0, n=len(asked))
    for bar in BARS[kind]:
        who = "things" if bar.kinds == THINGS else "styles" if bar.kinds == ("style",) else "all"
        some = [cell for cell in mine if cell.kind in bar.kinds]
        label = f"{kind}, {who}: {bar.metric} {bar.how}"
        if values := _values(bar, [cell.rows for cell in some]):
            yield _figure(label, values, bar)
        for control in experiment.CONTROLS:
            rows = [cell.controls[control] for cell in some if control in cell.controls]
            if values := _values(bar, rows):
                yield _figure(f"{label}, control {control}", values, None)


def _figure(name: str, values: Sequence[float], bar: Bar | None) -> Figure:
    value, interval = metrics.mean(values)
    limit, less = (bar.limit, bar.less) if bar else (None, True)
    return Figure(name, value, limit, less, n=len(values), interval=interval)


def _values(bar: Bar, several: Sequence[Sequence[Measurement]]) -> list[float]:
    """One number for each concept that was measured in this way."""
    rows = [row for rows in several for row in rows if row.metric == bar.metric]
    if bar.how == "drop":
        return [row.before - row.after for row in rows]
    if bar.how == "kept":
        return [row.after / row.before for row in rows if row.before]
    return [row.after for row in rows]
