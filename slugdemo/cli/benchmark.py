"""The commands over many concepts: benchmark run, show, many, atlas and layers."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from slugdemo import catalog, files
from slugdemo.benchmark import atlas as entries
from slugdemo.benchmark import choices, runner, summary, tables
from slugdemo.benchmark.cells import Plan
from slugdemo.cli.options import Device, Download, Json, ModelName, opening, put, say, table
from slugdemo.errors import SlugError
from slugdemo.experiment import ORIGINAL
from slugdemo.many import COUNTS, IN_TURN, TOGETHER, many
from slugdemo.results import plain

Out = Annotated[Path, typer.Option(help="the folder of the results")]
Models = Annotated[str, typer.Option(help="names, separated by commas")]
Presets = Annotated[str, typer.Option(help='names with commas, or "all" that can be forgotten')]
Workers = Annotated[int, typer.Option(min=1, help="processes at once")]


def run(
    models: Models = "pocket-sd",
    concepts: Presets = "wizard",
    methods: Annotated[
        str, typer.Option(help='names with commas; "original" and controls count as methods')
    ] = f"{ORIGINAL},slug",
    method: Annotated[
        list[str] | None, typer.Option(help="a method of your own, FILE.py:FUNCTION")
    ] = None,
    candidate: Annotated[
        list[Path] | None, typer.Option(help="a folder with an edited model, judged likewise")
    ] = None,
    attacks: Annotated[
        str, typer.Option(help="names, separated by commas; none if not given")
    ] = "",
    seeds: Annotated[str, typer.Option(help="whole numbers, separated by commas")] = "0",
    engine: Annotated[str, typer.Option(help="processes or ray")] = "processes",
    workers: Workers = 1,
    address: Annotated[str, typer.Option(help="of a Ray cluster; a local one if not given")] = "",
    out: Out = Path("results"),
    as_json: Json = False,
) -> None:
    """Judge every method on every concept, going on where an earlier run stopped."""
    plan = Plan(
        models=_names(models),
        concepts=_concepts(concepts),
        methods=[*_names(methods), *(method or [])],
        attacks=_names(attacks) or [""],
        seeds=[_whole(seed) for seed in _names(seeds)],
        candidates=[str(folder.expanduser()) for folder in candidate or []],
    )
    cells, store = plan.cells(), runner.Store(out.expanduser())
    if address and engine != "ray":
        raise SlugError("--address names a Ray cluster: add --engine ray.")
    rows, spent, fresh = [], 0.0, 0
    for done in runner.run(cells, store, engine=engine, workers=workers, address=address):
        rows += [plain(asdict(row)) for row in done.rows]
        fresh, spent = fresh + (not done.known), spent + (0.0 if done.known else done.seconds)
        eta = f", about {spent / fresh * done.left / workers:.0f} s to go" if fresh else ""
        where = f"{done.cell.model}, {done.cell.concept}, {done.cell.method}"
        when = "known" if done.known else f"{done.seconds:.1f} s"
        say(f"{len(cells) - done.left} of {len(cells)}: {where} ({when}{eta})")
    put(rows, text=_table(out), as_json=as_json)


def show(out: Out = Path("results"), as_json: Json = False) -> None:
    """Print the results of a run: means over concepts with intervals and ranks."""
    frame = runner.table(out.expanduser())
    records = [plain(row) for row in frame.to_dict("records")]
    put(records, text=_table(out), as_json=as_json)


def ship(
    out: Out = Path("results"),
    shipped: Annotated[Path, typer.Option(help="the table that comes with the app")] = Path(
        "assets/results.parquet"
    ),
    readme: Annotated[Path, typer.Option(help="the text with tables made of it")] = Path(
        "README.md"
    ),
) -> None:
    """Put the rows of a run into the table that comes with the app, and make the README's tables anew."""
    fresh = runner.table(out.expanduser())
    if not readme.is_file():
        raise SlugError(f"There is no {readme}: name the text with the tables by --readme.")
    frame = tables.merged(pd.read_parquet(shipped), fresh) if shipped.is_file() else fresh
    frame.attrs["made"] = time.strftime("%Y-%m-%d", time.gmtime())
    files.writable(shipped)
    frame.to_parquet(shipped, index=False)
    readme.write_text(tables.filled(readme.read_text(), frame, catalog.names("style")))
    say(f"{len(fresh)} rows of {out} are among the {len(frame)} of {shipped}; {readme} shows them.")


def several(
    model: ModelName,
    concepts: Annotated[
        str, typer.Option(help="names, separated by commas, in the order of erasing")
    ],
    methods: Annotated[str, typer.Option(help="names, separated by commas")] = "slug",
    counts: Annotated[
        str, typer.Option(help="how many of them at once, separated by commas")
    ] = ",".join(map(str, COUNTS)),
    in_turn: Annotated[
        bool, typer.Option("--in-turn", help="one after another, measured after each")
    ] = False,
    seed: Annotated[int, typer.Option(help="of everything random")] = 0,
    out: Annotated[Path | None, typer.Option(help="a .parquet file for the rows")] = None,
    device: Device = "",
    download: Download = False,
    as_json: Json = False,
) -> None:
    """Erase many concepts in one model, together or one after another; what goes, what stays."""
    place = files.writable(out) if out else None
    here = opening(model, device, download=download)
    order = IN_TURN if in_turn else TOGETHER
    sizes = [_whole(count) for count in _names(counts)]
    found = []
    for rows in many(
        here, _concepts(concepts), _names(methods), order=order, counts=sizes, seed=seed
    ):
        found += [plain(asdict(row)) for row in rows]
        last = rows[-1]
        say(f"{last.method}, {last.count} concepts {last.order}: {last.seconds:.1f} s")
    if place:
        pd.DataFrame(found).to_parquet(place, index=False)
    columns = ["method", "order", "count", "concept", "metric", "value", "low", "high", "n"]
    put(found, text=table(found, [*columns, "seconds", "how"]), as_json=as_json)


def atlas(
    models: Models = "pocket-clip,pocket-sd,pocket-llava",
    concepts: Presets = "all",
    workers: Workers = 1,
    out: Annotated[Path, typer.Option(help="the folder of the entries")] = Path("atlas"),
    as_json: Json = False,
) -> None:
    """Compute what the page shows at once of every preset, going on where an earlier run stopped."""
    store = entries.Store(out.expanduser())
    wanted = entries.places(_names(models), _concepts(concepts))
    began, fresh, rows = time.monotonic(), 0, []
    for done in entries.run(wanted, store, workers=workers):
        fresh += not done.known
        entry = done.entry
        rows.append(
            {
                "model": entry.model,
                "concept": entry.concept,
                "layer": entry.layer,
                "strength": entry.strength,
                "feasible": entry.feasible,
                "seconds": round(entry.seconds, 1),
                "problem": entry.problem,
            }
        )
        passed = time.monotonic() - began
        eta = f", about {passed / fresh * done.left / 60:.0f} min to go" if fresh else ""
        when = "known" if done.known else f"{entry.seconds:.1f} s"
        said = entry.problem or entry.headline
        count = f"{len(wanted) - done.left} of {len(wanted)}"
        say(f"{count}: {entry.concept} in {entry.model} ({when}{eta}). {said}")
    columns = ["model", "concept", "layer", "strength", "feasible", "seconds", "problem"]
    put(rows, text=table(rows, columns), as_json=as_json)


def layers(
    models: Models = "pocket-clip",
    concepts: Presets = "wizard,cat,umbrella,pixel art",
    workers: Workers = 1,
    out: Annotated[Path, typer.Option(help="the folder of the choices")] = Path("atlas"),
    as_json: Json = False,
) -> None:
    """How sure the choice of a layer is: other seeds and sizes, causal tracing, chance."""
    store = choices.Store(out.expanduser())
    places = entries.places(_names(models), _concepts(concepts))
    began, rows = time.monotonic(), []
    for place, found, left in choices.run(places, store, workers=workers):
        rows += [plain(asdict(choice)) for choice in found]
        done = len(places) - left
        eta = (time.monotonic() - began) / done * left
        say(f"{done} of {len(places)}: {place} (about {eta:.0f} s to go)")
    columns = ["model", "concept", "what", "value", "layer", "overlap", "rank", "strength"]
    columns += ["forget_acc", "retain_acc", "feasible", "note"]
    put(rows, text=table(rows, columns), as_json=as_json)


def _table(out: Path) -> str:
    kinds = {entry["name"]: entry["kind"] for entry in catalog.listing()}
    means = summary.methods(runner.table(out.expanduser()), kinds)
    columns = ["model", "concepts", "metric", "method", "mean", "low", "high", "n", "seconds"]
    columns += ["rank", "rank_low", "rank_high"]
    return table(means.to_dict("records"), columns)


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _concepts(text: str) -> list[str]:
    if text.strip() == "all":
        return [entry["name"] for entry in catalog.listing() if entry.get("forgettable", True)]
    return [catalog.concept(name).name for name in _names(text)]


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise SlugError(f"A seed is a whole number, not {text!r}.") from error
