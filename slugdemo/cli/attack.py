"""The commands that attack: attacks, attack."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from slugdemo import attacks as registry
from slugdemo import catalog, experiment, verdict
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
from slugdemo.results import rows

ALL = "all"


def attacks(as_json: Json = False) -> None:
    """List the attacks and probes: on which models, through what, and where they come from."""
    facts = [records.attack(attack) for attack in ATTACKS.values()]
    text = table(facts, ["name", "group", "hosts", "parts", "access", "needs", "cite"])
    put(facts, text=text, as_json=as_json)


def attack(
    model: ModelName,
    edit: Annotated[Path, typer.Option("--edit", help="the edit file to attack")],
    attack: Annotated[
        list[str], typer.Option("--attack", help="a name of `attacks`; give it again for more")
    ],
    on: Annotated[
        str, typer.Option(help="with commas: edited, original (ceiling), reference (floor); or all")
    ] = ALL,
    device: Device = "",
    download: Download = False,
    as_json: Json = False,
) -> None:
    """Try to bring a forgotten concept back, beside the same attacks on two other models.

    The original model knows the concept and is the ceiling; the reference never saw it and is
    the floor: how much of it the attack itself puts in.
    """
    chosen = ON if on == ALL else [name.strip() for name in on.split(",") if name.strip()]
    for name in attack:
        registry.named(name)
    here = opening(model, device, download=download)
    (made,) = edits(here, [edit])
    task = working(here, catalog.concept(made.concept), configured(here, {}))
    each = experiment.attack_each(task, attack, made, on=chosen)
    found = [row for part in each for row in part]
    columns = ["attack", "on", "metric", "value", "low", "high", "n", "seconds", "note"]
    text = table([asdict(row) for row in found], columns)
    said = verdict.summary(found)
    put(rows(found), text=f"{text}\n{said}" if said else text, as_json=as_json)
