"""What several commands share: their options, opening, progress and printing."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from slugdemo import catalog, edit, report
from slugdemo.concept import Concept
from slugdemo.config import Setting
from slugdemo.errors import SlugError
from slugdemo.eval_set import drawn
from slugdemo.experiment import Study
from slugdemo.layers import LayerScore
from slugdemo.methods.slug import Watch
from slugdemo.models.loading import Opened, opened
from slugdemo.search import Point

ModelName = Annotated[str, typer.Option("--model", help="a name of `models`, or a folder")]
Concepts = Annotated[list[str], typer.Option("--concept", help="may be given several times")]
OneConcept = Annotated[str, typer.Option("--concept", help="a name of `concepts`, or your own")]
Forget = Annotated[
    Path | None, typer.Option(help="your pictures of the concept: a folder, tar or parquet")
]
Retain = Annotated[Path | None, typer.Option(help="pictures of all else: a folder, tar or parquet")]
Draw = Annotated[int, typer.Option(min=0, help="let the model draw so many pictures of it instead")]
Caption = Annotated[str, typer.Option(help="the caption of your pictures that have none")]
Json = Annotated[bool, typer.Option("--json", help="for machines")]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps; the fastest one if not given")]
Download = Annotated[bool, typer.Option("--download", help="fetch what is only at the hub")]
Edits = Annotated[list[Path] | None, typer.Option("--edit", help="an edit file; several add up")]
Unit = Annotated[Literal["tensor", "group"], typer.Option(help="what a layer is")]
By = Annotated[
    Literal["absolute", "signed"], typer.Option(help="which alignment the front minimises")
]
Rule = Annotated[Literal["floor", "paper"], typer.Option(help="of the step search")]
Batch = Annotated[int, typer.Option(min=2, help="pairs in a batch of the gradients")]
Pictures = Annotated[list[Path], typer.Option("--picture", help="may be given several times")]


def say(text: str) -> None:
    """A line of progress."""
    typer.echo(text, err=True)


def put(facts: object, *, text: str, as_json: bool) -> None:
    """The result, for machines or for people."""
    typer.echo(report.dumps(facts) if as_json else text)


def opening(model: str, device: str, *, download: bool) -> Opened:
    """The model of this name on the device that was asked for."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # unknown, or a torch built without it
        raise SlugError(f"There is no device {device!r} here: try --device cpu.") from error
    return opened(model, device=device, download=download)


def study(one: Opened, concept: Concept, setting: Setting) -> Study:
    """A study that reports its gradients' batches."""
    return Study(one, concept, setting, tick=lambda: say(f"{concept.name}: a batch of gradients"))


def subject(
    one: Opened, name: str, *, forget: Path | None, retain: Path | None, caption: str, draw: int
) -> Concept:
    """The concept with its pictures: shipped, from files, or drawn by the model."""
    if draw:
        forget = drawn(one, name, count=draw)
    return catalog.concept(name, forget=forget, retain=retain, caption=caption)


def edits(one: Opened, paths: Sequence[Path] | None) -> list[edit.Edit]:
    """The edits in files, each made for this very model."""
    return [edit.load(path, weights=one.clip.digest) for path in paths or ()]


def watched(concept: str) -> Watch:
    """A watch that reports every evaluation."""

    def watch(score: LayerScore, point: Point) -> None:
        kept = "" if point.n_retain == 0 else f", retain {point.retain:.3f}"
        say(f"{concept}: {score.layer} at {point.step:.3f}: forget {point.forget:.3f}{kept}")

    return watch


def numbers(text: str) -> list[float]:
    """The numbers in a list with commas. Raises SlugError when one is none, or there is none."""
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found or not all(map(math.isfinite, found)):
        raise SlugError(f"{text!r} is not a list of numbers such as 0,0.1,0.2.")
    return found
