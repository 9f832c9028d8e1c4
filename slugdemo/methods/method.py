"""Method: what the registry says of a method for forgetting; knows tasks and edits only."""

import runpy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slugdemo.catalog import Model
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.layers import LayerScore
from slugdemo.task import Task

GROUPS = (
    "single layer",
    "SLUG variants",
    "several layers",
    "closed form on cross-attention",
    "closed form on CLIP's projections",
    "trained",
    "at inference",
)
HOSTS = {
    "zero-shot": "zero-shot CLIP",
    "diffusion": "Stable Diffusion",
    "vlm": "vision-language models",
}
PARTS = {
    "text": "the text tower",
    "vision": "the vision tower",
    "unet": "the U-Net",
    "none": "no weight",
}

SEARCH = ("evaluations", "margin", "shortlist")  # numbers of a search along strengths
FRONT = ("granularity", "alignment", "batch")  # and of the fronts that it begins with
OPTIONS = (*SEARCH, *FRONT)  # numbers in Config that only some methods use


@dataclass(frozen=True)
class Method:
    """One method of the field.

    `run` gives its edit at the strength that the method itself would apply. `hosts` are the
    kinds of model it works on, `parts` what it changes ("none" for rules at inference), `needs`
    "texts", "pictures" or "both"; `seconds` is a rough time on pocket-sized models, shown before
    it is started; `replaces` says whether it can turn the concept into a given anchor;
    `of_layer` gives the unstepped edit of a chosen layer, for methods that edit one; `together`
    erases the concepts of several tasks in one solve, for methods that can; `uses` are those of
    OPTIONS that have a part in its result; `lacks` says what a model of a kind that it serves
    still lacks, in a sentence, "" for nothing, for methods that need more than the model.
    """

    name: str
    run: Callable[[Task], Edit]
    group: str
    hosts: tuple[str, ...]
    parts: tuple[str, ...]
    needs: str
    cite: str
    deviations: str = ""
    seconds: float = 1.0
    replaces: bool = False
    of_layer: Callable[[Task, LayerScore], Edit] | None = None
    together: Callable[[Sequence[Task]], Edit] | None = None
    uses: tuple[str, ...] = ()
    lacks: Callable[[Model], str] | None = None

    def unable_on(self, model: Model, anchor: str = "") -> str:
        """Why it cannot serve a model, or replace there, in a sentence; "" when it can."""
        return self.unable(model.kind, anchor) or (self.lacks(model) if self.lacks else "")

    def unable(self, kind: str, anchor: str = "") -> str:
        """Why it cannot serve a kind of model, or replace there, in a sentence; "" when it can."""
        if kind in self.hosts:
            cannot = f"{self.name} removes a concept; it cannot replace it by another."
            return cannot if anchor and not self.replaces else ""
        able = " and ".join(HOSTS[host] for host in self.hosts)
        return (
            f"{self.name} cannot edit {HOSTS[kind]}: it changes {self.changes}, and works on "
            f"{able}."
        )

    @property
    def changes(self) -> str:
        """What it changes, in words."""
        return " and ".join(PARTS.get(part, part) for part in self.parts)

    def check(self, task: Task) -> None:
        """Raises SlugError unless the method can serve this task."""
        if reason := self.unable_on(task.opened.model, task.anchor):
            raise SlugError(reason)


def from_file(place: str) -> Method:
    """The method of one's own in "FILE.py:FUNCTION", a function from a Task to an Edit.

    It is offered to every kind of model. Raises SlugError when there is no such file or function,
    or the file cannot be run.
    """
    path, _, name = place.rpartition(":")
    if not Path(path).is_file():
        raise SlugError(f"There is no file {path!r}: a method of your own is FILE.py:FUNCTION.")
    try:
        run = runpy.run_path(path).get(name)
    except Exception as problem:  # somebody else's code may raise anything
        raise SlugError(f"{path} cannot be run: {type(problem).__name__}: {problem}.") from problem
    if not callable(run):
        raise SlugError(f"{path} has no function {name!r}.")
    return Method(name, run, "your own", tuple(HOSTS), ("any",), "both", place, uses=OPTIONS)
