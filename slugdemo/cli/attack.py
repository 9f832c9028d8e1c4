"""The commands that attack: attacks, attack."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from slugdemo import attacks as registry
from slugdemo import catalog, experiment
from slugdemo.attacks import ATTACKS, ON
from slugdemo.cli import records
from slugdemo.cli.options import (
    Device,
    Download,
    Json,
    ModelName,
    configured,
    edits,
    opening,
    put,
    table,
    working,
)
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.results import Result, rows
from slugdemo.task import Task


def attacks(as_json: Json = False) -> None:
    """List the attacks and probes: on which models, through what, and where they come from."""
    facts = [records.attack(attack) for attack in ATTACKS.values()]
    text = table(facts, ["name", "group", "hosts", "parts", "access", "needs", "cite"])
    put(facts, text=text, as_json=as_json)


def attack(
    model: ModelName,
    edit: Annotated[Path, typer.Option("--edit", help="the edit file to attack")],
    attack: Annotated[str, typer.Option("--attack", help="a name of `attacks`")],
    on: Annotated[
        str, typer.Option(help="with commas: edited, original (ceiling), reference (floor)")
    ] = ",".join(ON),
    device: Device = "",
    download: Download = False,
    as_json: Json = False,
) -> None:
    """Try to bring a forgotten concept back, beside the same attack on two other models.

    The original model knows the concept and is the ceiling; the reference never saw it and is
    the floor: how much of it the attack itself puts in.
    """
    registry.named(attack)
    chosen = [name.strip() for name in on.split(",") if name.strip()]
    here = opening(model, device, download=download)
    (made,) = edits(here, [edit])
    task = working(here, catalog.concept(made.concept), configured(here, {}))
    found = [row for part in _tried(task, attack, made, chosen) for row in part]
    columns = ["on", "metric", "value", "low", "high", "n", "seconds", "note"]
    put(rows(found), text=table([asdict(row) for row in found], columns), as_json=as_json)


def _tried(task: Task, attack: str, edit: Edit, chosen: list[str]) -> Iterator[list[Result]]:
    """The rows of each model in turn; one row that says why where there is no reference."""
    for name in chosen:
        try:
            yield experiment.attack(task, attack, edit, on=name)[0]
        except SlugError as problem:
            if name != "reference":
                raise
            facts = task.opened.model.name, task.concept.name, name
            yield [Result(*facts, attack=attack, on=name, metric="success", note=str(problem))]
