"""The commands that find out: models, concepts, methods, locate, sweep, erase, compare."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from slugdemo import catalog, edit, experiment, files
from slugdemo.cli import records
from slugdemo.cli.options import (
    Alignment,
    Batch,
    Caption,
    Concepts,
    Device,
    Download,
    Draw,
    Forget,
    Granularity,
    Json,
    ModelName,
    OneConcept,
    Retain,
    Rule,
    configured,
    numbers,
    once,
    opening,
    put,
    say,
    subject,
    table,
    working,
)
from slugdemo.config import CONFIGS, Config
from slugdemo.errors import SlugError
from slugdemo.methods import METHODS, named
from slugdemo.methods.method import OPTIONS, SEARCH, Method
from slugdemo.results import rows
from slugdemo.task import Task


def models(as_json: Json = False) -> None:
    """List the models that are here or known, with their size, and what cannot be opened."""
    facts = [records.model(model) for model in catalog.models()]
    text = table(facts, ["name", "kind", "place", "megabytes", "minutes"])
    reasons = [f"{name} cannot be opened: {why}" for name, why in catalog.refused().items()]
    put(facts, text="\n".join([text, *reasons]), as_json=as_json)


def concepts(as_json: Json = False) -> None:
    """List the concepts and styles that come with pictures to forget."""
    facts = [entry for entry in catalog.listing() if entry.get("forgettable", True)]
    put(facts, text=table(facts, ["name", "kind", "group"]), as_json=as_json)


def methods(
    model: Annotated[str, typer.Option(help="say which of them cannot serve this model")] = "",
    as_json: Json = False,
) -> None:
    """List the methods: what they change, on which models, and where they come from."""
    on = catalog.find(model) if model else None
    facts = [records.method(method, on) for method in METHODS.values()]
    text = table(facts, ["name", "group", "hosts", "parts", "needs", "cite"])
    away = [fact["unable"] for fact in facts if fact.get("unable")]
    put(facts, text="\n".join([text, *away]), as_json=as_json)


def locate(
    model: ModelName,
    concept: OneConcept,
    forget: Forget = None,
    retain: Retain = None,
    caption: Caption = "",
    draw: Draw = 0,
    granularity: Granularity = "tensor",
    alignment: Alignment = "absolute",
    batch: Batch = Config.batch,
    device: Device = "",
    download: Download = False,
    as_json: Json = False,
) -> None:
    """Show which layers hold a concept: importance, alignment, and the Pareto front."""
    here = opening(model, device, download=download)
    what = subject(here, concept, forget=forget, retain=retain, caption=caption, draw=draw)
    given = {"granularity": granularity, "alignment": alignment, "batch": batch}
    task = working(here, what, configured(here, given))
    scores = sorted(task.scores, key=lambda score: (score.tower, -score.importance))
    layers = [records.layer(score, front=task.front) for score in scores]
    columns = ["name", "params", "importance", "alignment", "front", "layer"]
    facts: records.Facts = {"model": model, "concept": what.name, **given, "layers": layers}
    facts["seconds"] = task.clock.seconds
    put(facts, text=table(layers, columns), as_json=as_json)


def sweep(
    model: ModelName,
    concept: OneConcept,
    layer: Annotated[str, typer.Option(help="a layer as `locate` prints it")],
    strengths: Annotated[
        str, typer.Option(help="fractions of the layer's norm")
    ] = "0,.05,.1,.2,.4,.8",
    forget: Forget = None,
    retain: Retain = None,
    caption: Caption = "",
    draw: Draw = 0,
    granularity: Granularity = "tensor",
    batch: Batch = Config.batch,
    top: Annotated[
        int, typer.Option(min=1, help="a concept is still there when among so many best")
    ] = 1,
    device: Device = "",
    download: Download = False,
    as_json: Json = False,
) -> None:
    """Measure what each of some strengths along one layer does."""
    here = opening(model, device, download=download)
    what = subject(here, concept, forget=forget, retain=retain, caption=caption, draw=draw)
    config = configured(here, {"granularity": granularity, "batch": batch, "top": top})
    task = working(here, what, config)
    facts = []
    for score in experiment.sweep(task, layer, numbers(strengths)):
        facts.append(records.score(score))
        left, kept = score.forget_acc, score.retain_acc
        say(f"strength {score.strength:g}: {left:.3f} left, {kept:.3f} kept")
    columns = ["strength", "forget_acc", "forget_interval", "n_forget"]
    columns += ["retain_acc", "retain_interval", "n_retain"]
    put(facts, text=table(facts, columns), as_json=as_json)


def erase(
    model: ModelName,
    concept: Concepts,
    method: Annotated[str, typer.Option(help="a name of `methods`")] = Config.method,
    forget: Forget = None,
    retain: Retain = None,
    caption: Caption = "",
    draw: Draw = 0,
    replace_by: Annotated[
        str, typer.Option(help="what the concept should become, for methods that can replace")
    ] = "",
    layer: Annotated[str, typer.Option(help="try this layer only")] = "",
    strength: Annotated[float | None, typer.Option(help="go this far, without a search")] = None,
    rule: Rule = "floor",
    max_retain_drop: Annotated[
        float | None, typer.Option(help="how much retain accuracy may be lost")
    ] = None,
    evaluations: Annotated[
        int | None, typer.Option(min=1, help="evaluations of a layer, at most")
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="a concept is still there when among so many best"),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="how far beyond the found step to go, as a share of it"),
    ] = None,
    shortlist: Annotated[
        int | None, typer.Option(help="layers to try on a slow model; 0 for all")
    ] = None,
    granularity: Granularity = "tensor",
    alignment: Alignment = "absolute",
    batch: Batch = Config.batch,
    seed: Annotated[int, typer.Option(help="of everything random")] = Config.seed,
    out: Annotated[Path | None, typer.Option(help="the file for the edit")] = None,
    test: Annotated[bool, typer.Option(help="judge on held-out pictures too")] = True,
    device: Device = "",
    download: Download = False,
    as_json: Json = False,
) -> None:
    """Make a model forget a concept by a method, judge it, and write the edit.

    What is not given comes from the config for the model's kind.
    """
    concept = once(concept)
    if forget and len(concept) > 1:
        raise SlugError("Your own pictures show one concept: give --concept once with --forget.")
    chosen = named(method)
    outs = _outs(out, concept)
    here = opening(model, device, download=download)
    given: dict[str, str | float | None] = {
        "method": chosen.name,
        "rule": rule,
        "max_retain_drop": max_retain_drop,
        "evaluations": evaluations,
        "top": top,
        "margin": margin,
        "shortlist": shortlist,
        "granularity": granularity,
        "alignment": alignment,
        "batch": batch,
        "seed": seed,
    }
    _no_spare(given, chosen, here.kind, layer=layer, strength=strength)
    config = configured(here, given)
    sources = {"forget": forget, "retain": retain, "caption": caption, "draw": draw}
    tasks = [
        working(here, subject(here, name, **sources), config, replace_by)  # type: ignore[arg-type]
        for name in concept
    ]
    found = [experiment.erase(task, layer=layer, strength=strength) for task in tasks]
    facts = [
        records.erasure(
            erasure,
            measured=experiment.report(erasure.task, [erasure.edit]) if test else (),
            edit_bytes=_saved(erasure.edit, path),
        )
        for erasure, path in zip(found, outs, strict=True)
    ]
    text = "\n\n".join(records.summary(fact, table) for fact in facts)
    if len(tasks) == 1:
        put(facts[0], text=text, as_json=as_json)
        return
    joint = _together(tasks, [erasure.edit for erasure in found]) if test else []
    columns = ["concept", "metric", "before", "after", "n", "interval"]
    text += f"\n\nAll together:\n{table(joint, columns)}" if joint else ""
    put({"model": model, "edits": facts, "together": joint}, text=text, as_json=as_json)


def compare(
    model: ModelName,
    concept: OneConcept,
    methods: Annotated[
        str,
        typer.Option(help="names, separated by commas; all that can serve the model if not given"),
    ] = "",
    device: Device = "",
    download: Download = False,
    as_json: Json = False,
) -> None:
    """Erase one concept by several methods, judged by the same judge on the same pictures."""
    here = opening(model, device, download=download)
    what = subject(here, concept, forget=None, retain=None, caption="", draw=0)
    task = working(here, what, configured(here, {}))
    names = [name.strip() for name in methods.split(",") if name.strip()]
    found = [result for part in experiment.compare(task, names) for result in part]
    columns = ["method", "metric", "value", "low", "high", "n", "seconds", "note"]
    text = table([asdict(result) for result in found], columns)
    put(rows(found), text=text, as_json=as_json)


def _no_spare(
    given: Mapping[str, str | float | None],
    method: Method,
    kind: str,
    *,
    layer: str,
    strength: float | None,
) -> None:
    """Raises SlugError for an option that would have no effect on the result."""
    unused = tuple(name for name in OPTIONS if name not in method.uses)
    fixed: tuple[tuple[bool, tuple[str, ...], str], ...] = (
        (strength is not None, SEARCH, "a given --strength, which is not searched"),
        (
            given["rule"] == "paper",
            (*SEARCH, "max_retain_drop", "top"),
            "the paper's rule, which fixes it",
        ),
        (True, unused, method.name),
        (bool(layer), ("shortlist", "alignment"), "a given --layer, which no front chooses"),
        (kind == "zero-shot", ("shortlist",), "zero-shot CLIP, which tries every layer"),
        (kind == "vlm", ("top",), "a model that answers in words"),
    )
    for applies, names, reason in fixed:
        for name in names:
            if applies and given[name] not in (None, getattr(CONFIGS[kind], name, None)):
                option = name.replace("_", "-")
                raise SlugError(f"--{option} has no effect with {reason}: leave one of them out.")


def _together(tasks: Sequence[Task], made: Sequence[edit.Edit]) -> list[records.Facts]:
    """What all edits at once do to each concept, on held-out pictures."""
    return [
        {"concept": task.concept.name, **records.measurement(row)}
        for task in tasks
        for row in experiment.report(task, made)
    ]


def _outs(out: Path | None, concepts: Sequence[str]) -> list[Path | None]:
    """The file of each concept's edit, which can be written: a name each where there are several."""
    if out is None:
        return [None] * len(concepts)
    if len(concepts) == 1:
        return [files.writable(out)]
    out = files.expanded(out)
    stems = [files.safe_name(catalog.names_known().canonical(name)) for name in concepts]
    numbered = [f"{s}-{at}" if stems.count(s) > 1 else s for at, s in enumerate(stems, 1)]
    return [files.writable(out.with_stem(f"{out.stem}-{stem}")) for stem in numbered]


def _saved(found: edit.Edit, path: Path | None) -> int:
    """Writes the edit when there is a file for it; its size in bytes, in float16."""
    if path is None:
        return records.half_size(found)
    try:
        edit.save(path, found)
    except OSError as error:
        raise SlugError(f"{path} cannot be written: {error.strerror}.") from error
    say(f"wrote {path}")
    return path.stat().st_size
