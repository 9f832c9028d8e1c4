"""What several commands share: their options, opening, progress and printing."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from rich.console import Console
from rich.table import Table

from slugdemo import catalog, edit, files, results
from slugdemo.concept import Concept
from slugdemo.config import CONFIGS, Config
from slugdemo.errors import SlugError
from slugdemo.evaluation.eval_set import drawn
from slugdemo.models.loading import Opened, opened
from slugdemo.task import Task

ModelName = Annotated[str, typer.Option("--model", help="a name of `models`, or a folder")]
Concepts = Annotated[list[str], typer.Option("--concept", help="may be given several times")]
OneConcept = Annotated[str, typer.Option("--concept", help="a name of `concepts`, or your own")]
Forget = Annotated[
    Path | None, typer.Option(help="your pictures of the concept: a folder, tar, zip or parquet")
]
Retain = Annotated[Path | None, typer.Option(help="your pictures of everything else: likewise")]
Draw = Annotated[
    int, typer.Option(min=0, help="draw so many pictures of it with Stable Diffusion instead")
]
Caption = Annotated[str, typer.Option(help="the caption of your pictures that have none")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Device = Annotated[
    str, typer.Option(help="cpu, cuda or mps; cuda if there is one, else cpu, by default")
]
Download = Annotated[bool, typer.Option("--download", help="fetch a model that is only at the hub")]
Edits = Annotated[list[Path] | None, typer.Option("--edit", help="an edit file; several add up")]
Granularity = Annotated[
    Literal["tensor", "group"], typer.Option(help="a layer is one tensor, or a group of them")
]
Alignment = Annotated[
    Literal["absolute", "signed"], typer.Option(help="which alignment the front minimises")
]
Rule = Annotated[
    Literal["floor", "paper"],
    typer.Option(help="of the step search: with a floor under what is kept, or the paper's own"),
]
Batch = Annotated[int, typer.Option(min=2, help="pairs in each batch of the gradients")]
Pictures = Annotated[list[Path], typer.Option("--picture", help="may be given several times")]

DRAWN = 12  # pictures of a concept that comes without any


class Status:
    """One line on stderr that is rewritten on a terminal; a line for each tenth elsewhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._said = ""

    def __call__(self, text: str, done: int, total: int) -> None:
        """Step `done` of `total` (0: unknown) of what is being done."""
        count = f" {done} of {total}" if total else ""
        if self._console.is_terminal:
            self._console.print(f"{text}{count}"[: self._console.width - 1].ljust(60), end="\r")
            return
        tenth = f"{text} {10 * done // total}" if total else text
        if tenth != self._said:
            self._said = tenth
            say(f"{text}{count}")


def say(text: str) -> None:
    """A line of progress."""
    typer.echo(text, err=True)


def put(facts: object, *, text: str, as_json: bool) -> None:
    """The result, for machines or for people."""
    typer.echo(results.dumps(facts) if as_json else text)


def table(records: Sequence[Mapping[str, object]], columns: Sequence[str]) -> str:
    """The columns of some records as text, numbers to the right."""
    drawn = Table(box=None, pad_edge=False)
    for column in columns:
        numeric = all(_number(record.get(column)) for record in records)
        drawn.add_column(column, justify="right" if numeric else "left", no_wrap=True)
    for record in records:
        drawn.add_row(*(_cell(record.get(column)) for column in columns))
    console = Console(width=10_000, file=None, highlight=False, no_color=True)
    with console.capture() as capture:
        console.print(drawn)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _number(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if 0 < abs(value) < 0.1 else f"{value:.3f}"
    if isinstance(value, (list, tuple)):
        return " .. ".join(_cell(inner) for inner in value)
    return str(value)


def opening(model: str, device: str, *, download: bool) -> Opened:
    """The model of this name on the device that was asked for."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # unknown, or a torch built without it
        raise SlugError(f"There is no device {device!r} here: try --device cpu.") from error
    return opened(model, device=device, download=download)


def working(model: Opened, concept: Concept, config: Config, anchor: str = "") -> Task:
    """A task that reports its progress."""
    return Task(model, concept, config, anchor=anchor, progress=Status())


def configured(model: Opened, given: Mapping[str, str | float | None]) -> Config:
    """The config of the model's kind with what was given."""
    return CONFIGS[model.kind].changed(given)


def subject(
    model: Opened, name: str, *, forget: Path | None, retain: Path | None, caption: str, draw: int
) -> Concept:
    """The concept with its pictures: shipped, from files, or drawn; says what was left out.

    What the embedded models know, but what comes without pictures, is drawn unasked.
    """
    if draw and forget:
        raise SlugError(
            "Either draw pictures with --draw or give your own with --forget, not both."
        )
    meaning = catalog.known(name)
    if not (forget or draw or meaning.preset) and meaning.drawable:
        draw = DRAWN
        say(f"{meaning.name} comes without pictures, so {draw} are drawn.")
    if draw:
        forget, notes = drawn(_artist(model), name, count=draw)
        for note in notes:
            say(note)
    found = catalog.concept(name, forget=forget, retain=retain, caption=caption)
    for note in found.notes:
        say(note)
    return found


def _artist(model: Opened) -> Opened:
    """The model itself if it draws, else the first Stable Diffusion that is here."""
    if model.kind == "diffusion":
        return model
    here = [found.name for found in catalog.local() if found.kind == "diffusion"]
    if not here:
        raise SlugError("No model here can draw: give pictures of your own with --forget.")
    say(f"{here[0]} draws them.")
    return opened(here[0], device=model.device)


def once(names: Sequence[str]) -> list[str]:
    """Names without those that stand for the same thing as an earlier one; says which those are."""
    known = catalog.names_known()
    found: list[str] = []
    for name in names:
        if any(known.same(name, other) for other in found):
            say(f"{name!r} is given more than once; it counts once.")
        else:
            found.append(name)
    return found


def edits(model: Opened, paths: Sequence[Path] | None) -> list[edit.Edit]:
    """The edits in files, each made for this very model."""
    unet = model.host.unet_digest if model.kind == "diffusion" and paths else ""
    places = map(files.expanded, paths or ())
    return [edit.load(path, weights=model.clip.digest, unet=unet) for path in places]


def numbers(text: str) -> list[float]:
    """The numbers in a list with commas. Raises SlugError when one is none, or there is none."""
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found or not all(map(math.isfinite, found)):
        raise SlugError(f"{text!r} is not a list of numbers such as 0,0.1,0.2.")
    return found


RENAMED = {
    "--by": "--alignment",
    "--unit": "--granularity",
    "--loss": "--max-retain-drop",
    "--beyond": "--margin",
    "--step": "--strength",
}
RENAMED_IN = {"sweep": {"--steps": "--strengths"}}


def current(command: str, arguments: Sequence[str]) -> list[str]:
    """The arguments of a command with options under their present names; says which were old."""
    names = RENAMED | RENAMED_IN.get(command, {})
    found = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in names:
            say(f"{name} is now {names[name]}.")
            argument = f"{names[name]}{equals}{value}"
        found.append(argument)
    return found
