"""How well: every shipped concept is erased in every host and judged on held-out material.

Nothing here is tuned on that material: settings are arguments, and the search has its own
pictures and its own noise. Prints nothing.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slugdemo import catalog, report
from slugdemo.benchmark import ledger
from slugdemo.benchmark.figures import Figure
from slugdemo.benchmark.ledger import Ledger
from slugdemo.benchmark.speed import POCKET
from slugdemo.config import SETTINGS, Setting
from slugdemo.errors import SlugError
from slugdemo.eval_set import rehearsal
from slugdemo.evaluation import Row, metrics
from slugdemo.experiment import Study
from slugdemo.models.loading import Opened, opened

KINDS = ("character", "object", "style")
MOST = {"character": 16, "object": 24, "style": 99}
THINGS = ("character", "object")


@dataclass(frozen=True)
class Bar:
    """What a mean over concepts shall be.

    `how`: "after" is the share itself, "loss" what the edit took away, "kept" the share as a
    fraction of the unedited model's own.
    """

    measure: str
    how: str
    limit: float
    less: bool = True
    kinds: tuple[str, ...] = KINDS


BARS = {
    "zero-shot": [Bar("forget", "after", 0.02), Bar("retain", "loss", 0.02)],
    "diffusion": [
        Bar("ua", "after", 0.95, False, THINGS),
        Bar("ira", "kept", 0.93, False, THINGS),
        Bar("cra", "kept", 0.95, False, THINGS),
        Bar("ua", "after", 0.95, False, ("style",)),
        Bar("ira", "kept", 0.93, False, ("style",)),
        Bar("cra", "kept", 0.93, False, ("style",)),
    ],
    "vlm": [
        Bar("forget", "after", 0.03),
        Bar("retain", "loss", 0.02),
        Bar("style", "loss", 0.02, True, THINGS),
        Bar("concept", "loss", 0.02, True, ("style",)),
        Bar("background", "loss", 0.02),
    ],
}


@dataclass(frozen=True)
class Plan:
    """What is measured: hosts by kind and model name, how many concepts of each kind, how long.

    `controls` is the number of concepts of each kind for which the controls are measured too.
    `rehearse` holds out other material than the test's (see world.rehearsal): settings are
    chosen there. What the `ledger` knows is not measured again.
    """

    hosts: Mapping[str, str] = field(default_factory=lambda: dict(POCKET))
    concepts: int | None = None
    controls: int = 2
    limit_seconds: float = math.inf
    device: str = "cpu"
    settings: Mapping[str, Setting] = field(default_factory=lambda: dict(SETTINGS))
    rehearse: bool = False
    ledger: Ledger = field(default_factory=Ledger)


@dataclass(frozen=True)
class Result:
    """One concept in one host: its rows, and those of each control, or why there are none."""

    host: str
    concept: str
    kind: str
    rows: tuple[Row, ...] = ()
    controls: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)
    problem: str = ""

    def plain(self) -> dict[str, object]:
        """The result as plain data."""
        return {
            "host": self.host,
            "concept": self.concept,
            "kind": self.kind,
            "rows": [report.row(one) for one in self.rows],
            "controls": {
                name: [report.row(one) for one in rows] for name, rows in self.controls.items()
            },
            "problem": self.problem,
            **self.facts,
        }

    @classmethod
    def known(cls, plain: Mapping[str, Any]) -> "Result":
        """The result that was once made plain."""
        rest = dict(plain)
        place = [rest.pop(key) for key in ("host", "concept", "kind")]
        rows = _rows(rest.pop("rows"))
        controls = {name: _rows(some) for name, some in rest.pop("controls").items()}
        return cls(*place, rows, controls, problem=rest.pop("problem"), facts=rest)


def results(plan: Plan) -> Iterator[Result]:
    """Every result as it is measured, kinds of concepts in turn, until the time is over."""
    end, over = time.monotonic() + plan.limit_seconds, False
    for kind, name in plan.hosts.items():
        try:
            one = opened(name, device=plan.device)
        except SlugError as error:
            yield Result(kind, "", "", problem=str(error))
            continue
        judge, shown = catalog.assets() / "models" / "judge", catalog.assets() / "concepts"
        where = ledger.stamp(one.model.folder, one.clip.digest, judge, shown, plan.rehearse)
        for at, entry in chosen(plan.concepts):
            controlled = at < plan.controls
            key = ledger.stamp(where, plan.settings[kind], entry, controlled)
            if known := plan.ledger.find(key):
                yield Result.known(known)
                continue
            if time.monotonic() > end:
                over = True
                break
            found = result(plan, one, entry, controlled=controlled)
            plan.ledger.add(key, report.plain(found.plain()))
            yield found
    if over:
        yield Result("", "", "", problem="The time was over before the end.")


def _rows(several: Sequence[Mapping[str, Any]]) -> tuple[Row, ...]:
    return tuple(Row(*(one[name] for name in Row._fields)) for one in several)


def chosen(count: int | None) -> list[tuple[int, Mapping]]:
    """The concepts to measure with their number in their kind, kinds in turn."""
    fit = [one for one in catalog.listing() if one.get("forgettable", True)]
    picked = []
    for kind in KINDS:
        some = [one for one in fit if one["kind"] == kind]
        most = min(len(some), MOST[kind], count or len(some))
        picked += [(at, some[at * len(some) // most]) for at in range(most)]
    return sorted(picked, key=lambda one: one[0])


def result(plan: Plan, one: Opened, entry: Mapping, *, controlled: bool) -> Result:
    """What erasing one concept does in one host."""
    place = (one.kind, entry["name"], entry["kind"])
    try:
        concept, world = catalog.concept(entry["name"]), None
        if plan.rehearse:
            concept, world = rehearsal(concept)
        study = Study(one, concept, plan.settings[one.kind], world)
        outcome = study.erase()
        rows = study.rows([outcome.edit])
        others = study.controls(outcome.edit) if controlled else {}
        controls = {name: study.rows([edit]) for name, edit in others.items()}
    except SlugError as error:
        return Result(*place, problem=str(error))
    facts = {
        "layer": outcome.edit.layer,
        "step": outcome.edit.step,
        "feasible": outcome.feasible,
        "searched": report.point(outcome.point),
        "control layers": {name: edit.layer for name, edit in others.items()},
        "seconds": study.clock.seconds,
    }
    return Result(*place, rows, controls, facts)


def judged(found: Sequence[Result]) -> list[Figure]:
    """The means over concepts against the bars, and those of the controls beside, host by host."""
    return [figure for kind in BARS for figure in _judged(kind, found)]


def _judged(kind: str, found: Sequence[Result]) -> Iterator[Figure]:
    asked = [one for one in found if one.host == kind and one.concept]
    mine = [one for one in asked if one.rows]
    if asked:
        name = f"{kind}: concepts without a result"
        yield Figure(name, float(len(asked) - len(mine)), 0.0, n=len(asked))
    for bar in BARS[kind]:
        who = "things" if bar.kinds == THINGS else "styles" if bar.kinds == ("style",) else "all"
        some = [one for one in mine if one.kind in bar.kinds]
        label = f"{kind}, {who}: {bar.measure} {bar.how}"
        if values := _values(bar, [one.rows for one in some]):
            yield _figure(label, values, bar)
        for control in ("-g", "random direction", "random layer"):
            rows = [one.controls[control] for one in some if control in one.controls]
            if values := _values(bar, rows):
                yield _figure(f"{label}, control {control}", values, None)


def _figure(name: str, values: Sequence[float], bar: Bar | None) -> Figure:
    value, interval = metrics.mean(values)
    limit, less = (bar.limit, bar.less) if bar else (None, True)
    return Figure(name, value, limit, less, n=len(values), interval=interval)


def _values(bar: Bar, several: Sequence[Sequence[Row]]) -> list[float]:
    """One number for each concept that was measured in this way."""
    rows = [row for rows in several for row in rows if row.measure == bar.measure]
    if bar.how == "loss":
        return [row.before - row.after for row in rows]
    if bar.how == "kept":
        return [row.after / row.before for row in rows if row.before]
    return [row.after for row in rows]
