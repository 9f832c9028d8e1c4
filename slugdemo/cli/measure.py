"""The commands that measure: bench speed, bench quality, bench fullsize."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from slugdemo.benchmark import fullsize as sizes
from slugdemo.benchmark import quality as qualities
from slugdemo.benchmark import speed as speeds
from slugdemo.benchmark.figures import Figure
from slugdemo.benchmark.ledger import Ledger
from slugdemo.cli.options import Device, Json, put, say, table
from slugdemo.config import CONFIGS
from slugdemo.errors import SlugError

COLUMNS = ["name", "value", "unit", "bar", "met", "n", "interval"]


def speed(
    pairs: Annotated[
        int, typer.Option(min=speeds.SIZE, help="behind each gradient")
    ] = speeds.Plan.pairs,
    repeat: Annotated[
        int, typer.Option(min=1, help="rounds; the median counts")
    ] = speeds.Plan.repeat,
    full: Annotated[bool, typer.Option(help="also a full-size ViT-B-32, for minutes")] = False,
    as_json: Json = False,
) -> None:
    """Measure what the engine costs over what it must compute, as ratios: a list with --json."""
    found = []
    for figure in speeds.figures(speeds.Plan(pairs=pairs, repeat=repeat, full=full)):
        say(f"{figure.name}: {figure.details.get('skipped', f'{figure.value:.3g} {figure.unit}')}")
        found.append(figure)
    facts = [figure.facts() for figure in found]
    put(facts, text=table(facts, COLUMNS), as_json=as_json)


def quality(
    host: Annotated[
        list[str] | None, typer.Option(help="zero-shot, diffusion or vlm; all if not given")
    ] = None,
    concepts: Annotated[int | None, typer.Option(min=1, help="of each kind, at most")] = None,
    controls: Annotated[int, typer.Option(help="concepts of each kind with controls")] = 2,
    limit_seconds: Annotated[float, typer.Option(help="stop after so many seconds")] = math.inf,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="a concept is still there when among so many best classes"),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="how far to go beyond the step that was found, as a share of it"),
    ] = None,
    shortlist: Annotated[
        int | None, typer.Option(help="layers to try on a slow model; 0 for all")
    ] = None,
    evaluations: Annotated[
        int | None, typer.Option(min=1, help="evaluations of a layer, at most")
    ] = None,
    max_retain_drop: Annotated[
        float | None, typer.Option(help="how much retain accuracy may be lost")
    ] = None,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="judge on other pictures than the report's")
    ] = False,
    kept: Annotated[
        Path | None, typer.Option(help="a file of results: go on from them, and add to them")
    ] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Erase every shipped concept in every kind of model and judge on held-out pictures.

    Choose numbers with --rehearse, so that the report split stays unseen.
    """
    if unknown := sorted({*(host or ())} - {*speeds.POCKET}):
        raise SlugError(
            f"There is no host {unknown[0]!r}; choose among {', '.join(speeds.POCKET)}."
        )
    hosts = {kind: name for kind, name in speeds.POCKET.items() if not host or kind in host}
    if shortlist is not None and set(hosts) == {"zero-shot"}:
        raise SlugError("--shortlist has no effect with zero-shot CLIP, which tries every layer.")
    given = {
        "top": top,
        "margin": margin,
        "shortlist": shortlist,
        "evaluations": evaluations,
        "max_retain_drop": max_retain_drop,
    }
    configs = {kind: CONFIGS[kind].changed(given) for kind in hosts}
    ledger = Ledger(kept)
    plan = qualities.Plan(
        hosts, concepts, controls, limit_seconds, device or "cpu", configs, rehearse, ledger
    )
    found = []
    for cell in qualities.results(plan):
        said = ", ".join(f"{row.metric} {row.before:.3f} -> {row.after:.3f}" for row in cell.rows)
        say(f"{cell.host}, {cell.concept}: {said}" if said else cell.problem)
        found.append(cell)
    figures = qualities.judged(found)
    facts: dict[str, object] = {
        "figures": [each.facts() for each in figures],
        "results": [cell.plain() for cell in found],
        "configs": {kind: asdict(config) for kind, config in configs.items()},
        "held out": "rehearsal" if rehearse else "test",
    }
    _show(facts, figures, as_json=as_json)


def fullsize(
    pairs: Annotated[int, typer.Option(min=2, help="behind each gradient")] = sizes.Plan.pairs,
    clip: Annotated[
        list[str] | None, typer.Option(help="open_clip's name; may be repeated")
    ] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Measure time and memory at the published sizes, with random weights: nothing is fetched.

    The paper reports 39 s, 3.61 GB of memory and 0.04 GB of storage.
    """
    found = []
    chosen = tuple(clip or sizes.Plan.clips)
    for figure in sizes.figures(sizes.Plan(chosen, pairs=pairs, device=device)):
        say(f"{figure.name}: {figure.value:.2f} s")
        found.append(figure.facts())
    columns = ["name", "value", "unit", "cpu_seconds", "memory_gb", "whole_gb", "weights_gb"]
    columns += ["stored_gb"]
    columns += ["paper_seconds", "paper_memory_gb", "paper_stored_gb"]
    put({"figures": found, "paper": sizes.PAPER}, text=table(found, columns), as_json=as_json)


def _show(facts: dict[str, object], figures: list[Figure], *, as_json: bool) -> None:
    put(facts, text=table([figure.facts() for figure in figures], COLUMNS), as_json=as_json)
