"""The commands that find out: models, concepts, locate, sweep, erase."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from slugdemo import catalog, edit, report
from slugdemo.cli.options import (
    Batch,
    By,
    Caption,
    Concepts,
    Device,
    Download,
    Draw,
    Forget,
    Json,
    ModelName,
    OneConcept,
    Retain,
    Rule,
    Unit,
    numbers,
    opening,
    put,
    say,
    study,
    subject,
    watched,
)
from slugdemo.config import SETTINGS, Setting
from slugdemo.errors import SlugError
from slugdemo.evaluation import Size
from slugdemo.experiment import Study


def models(as_json: Json = False) -> None:
    """List the models that are here or known, with their size."""
    facts = [report.model(one) for one in catalog.models()]
    text = report.table(facts, ["name", "kind", "place", "megabytes", "minutes"])
    put(facts, text=text, as_json=as_json)


def concepts(as_json: Json = False) -> None:
    """List the concepts and styles that come with pictures to forget."""
    facts = [one for one in catalog.listing() if one.get("forgettable", True)]
    put(facts, text=report.table(facts, ["name", "kind", "group"]), as_json=as_json)


def locate(
    model: ModelName,
    concept: OneConcept,
    forget: Forget = None,
    retain: Retain = None,
    caption: Caption = "",
    draw: Draw = 0,
    unit: Unit = "tensor",
    by: By = "absolute",
    batch: Batch = Setting.batch,
    device: Device = "",
    download: Download = False,
    as_json: Json = False,
) -> None:
    """Show which layers hold a concept: importance, alignment, and the Pareto front."""
    one = opening(model, device, download=download)
    what = subject(one, concept, forget=forget, retain=retain, caption=caption, draw=draw)
    setting = Setting(unit=unit, by=by, batch=batch)
    work = study(one, what, setting)
    scores = sorted(work.scores, key=lambda one: (one.tower, -one.importance))
    layers = [report.score(one, front=work.front) for one in scores]
    columns = ["layer", "tower", "params", "importance", "alignment", "front"]
    facts = {"model": model, "concept": what.name, "by": by, "unit": unit, "layers": layers}
    facts["seconds"] = work.clock.seconds
    put(facts, text=report.table(layers, columns), as_json=as_json)


def sweep(
    model: ModelName,
    concept: OneConcept,
    layer: Annotated[str, typer.Option(help="a layer's name as `locate` prints it")],
    steps: Annotated[str, typer.Option(help="fractions of its norm")] = "0,.05,.1,.2,.4,.8",
    forget: Forget = None,
    retain: Retain = None,
    caption: Caption = "",
    draw: Draw = 0,
    unit: Unit = "tensor",
    batch: Batch = Setting.batch,
    top: Annotated[int, typer.Option(min=1, help="still there when among so many best")] = 1,
    device: Device = "",
    download: Download = False,
    as_json: Json = False,
) -> None:
    """Measure what each of some steps along one layer does."""
    one = opening(model, device, download=download)
    what = subject(one, concept, forget=forget, retain=retain, caption=caption, draw=draw)
    setting = Setting(unit=unit, batch=batch, size=Size(top=top))
    work = study(one, what, setting)
    facts = []
    for point in work.sweep(layer, numbers(steps)):
        say(f"step {point.step:g}: forget {point.forget:.3f}, retain {point.retain:.3f}")
        facts.append(report.point(point))
    columns = ["step", "forget", "forget_interval", "n_forget", "retain", "retain_interval"]
    put(facts, text=report.table(facts, [*columns, "n_retain"]), as_json=as_json)


def erase(
    model: ModelName,
    concept: Concepts,
    forget: Forget = None,
    retain: Retain = None,
    caption: Caption = "",
    draw: Draw = 0,
    layer: Annotated[str | None, typer.Option(help="try this layer only")] = None,
    step: Annotated[float | None, typer.Option(help="go this far, without a search")] = None,
    rule: Rule = "floor",
    loss: Annotated[float | None, typer.Option(help="how much retain accuracy may go")] = None,
    evaluations: Annotated[int | None, typer.Option(min=1, help="a layer's, at most")] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="still there when among so many best")
    ] = None,
    beyond: Annotated[float | None, typer.Option(help="farther than found, by this share")] = None,
    shortlist: Annotated[
        int | None, typer.Option(help="layers that a slow host is asked about; 0 for all")
    ] = None,
    unit: Unit = "tensor",
    by: By = "absolute",
    batch: Batch = Setting.batch,
    out: Annotated[Path | None, typer.Option(help="the file for the edit")] = None,
    test: Annotated[bool, typer.Option(help="judge on held-out pictures too")] = True,
    device: Device = "",
    download: Download = False,
    as_json: Json = False,
) -> None:
    """Find the layer and step that make a model forget, and write the edit.

    What is not given comes from the settings for the model's kind.
    """
    if forget and len(concept) > 1:
        raise SlugError("Your own pictures show one concept: give --concept once with --forget.")
    one = opening(model, device, download=download)
    if rule == "paper":
        top, beyond = top or 5, beyond or 0.0
    given = {"top": top, "loss": loss, "evaluations": evaluations, "beyond": beyond}
    shape = {"unit": unit, "by": by, "batch": batch, "rule": rule, "shortlist": shortlist}
    setting = SETTINGS[one.kind].changed({**given, **shape})
    sources = {"forget": forget, "retain": retain, "caption": caption, "draw": draw}
    works = [study(one, subject(one, name, **sources), setting) for name in concept]
    found = [work.erase(layer=layer, step=step, watch=watched(work.concept.name)) for work in works]
    size = partial(_saved, out=out, several=len(works) > 1)
    facts = [
        report.erased(work, got, rows=work.rows([got.edit]) if test else (), size=size(got.edit))
        for work, got in zip(works, found, strict=True)
    ]
    text = "\n\n".join(report.summary(each) for each in facts)
    if len(works) == 1:
        put(facts[0], text=text, as_json=as_json)
        return
    joint = _together(works, [outcome.edit for outcome in found]) if test else []
    columns = ["concept", "measure", "before", "after", "n", "interval"]
    text += f"\n\nAll together:\n{report.table(joint, columns)}" if joint else ""
    put({"model": model, "edits": facts, "together": joint}, text=text, as_json=as_json)


def _together(works: Sequence[Study], made: Sequence[edit.Edit]) -> list[report.Facts]:
    """What all edits at once do to each concept, on held-out material."""
    return [
        {"concept": work.concept.name, **report.row(row)}
        for work in works
        for row in work.rows(made)
    ]


def _saved(found: edit.Edit, *, out: Path | None, several: bool) -> int:
    """Writes the edit when there is a file for it; its size in bytes, in float16."""
    if out is None:
        return report.half_size(found)
    path = out.with_stem(f"{out.stem}-{found.concept.replace(' ', '-')}") if several else out
    try:
        edit.save(path, found)
    except OSError as error:
        raise SlugError(f"{path} cannot be written: {error.strerror}.") from error
    say(f"wrote {path}")
    return path.stat().st_size
