"""The same five questions without the page: named endpoints for gradio_client and MCP.

Every call brings all that it needs; pictures travel as data addresses (data:image/...;base64,...).
"""

import base64
import binascii
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from slugdemo import images as pictures
from slugdemo.errors import SlugError
from slugdemo.search import Point
from slugdemo.ui import exams, forget, locate, step, take
from slugdemo.ui.asked import asked
from slugdemo.ui.jobs import BROKEN, Watch, full
from slugdemo.ui.relief import relieved
from slugdemo.ui.session import World
from slugdemo.ui.view import Kept, View

QUIET = Watch(lambda *_: None)


NAMES = (
    "models",
    "concepts",
    "rank_layers",
    "sweep",
    "search_step",
    "erase",
    "generate",
    "classify",
    "ask",
)


@dataclass(frozen=True)
class Api:
    """The endpoints over one world; `NAMES` are published, under their own names."""

    world: World

    def models(self) -> list[dict]:
        """The models that are here: name, kind and size in bytes."""
        return [{"name": m.name, "kind": m.kind, "bytes": m.bytes} for m in self.world.shelf.offers]

    def concepts(self) -> list[dict]:
        """The concepts that can be forgotten: name, kind and group."""
        return [asdict(one) for one in self.world.shelf.offered]

    def rank_layers(self, model: str, concept: str) -> list[dict]:
        """Importance and alignment of every layer, and whether it is on the Pareto front."""
        view = self.world.settled(View(model, concept))
        found = locate.locate(self.world, view, QUIET)
        return locate.show(found, view)["rows"]

    def sweep(self, model: str, concept: str, layer: str, steps: list[float]) -> list[dict]:
        """What is left of the concept and of everything else at each step along one layer."""
        view = self.world.settled(View(model, concept, layer))
        edit = self.world.edit(model, Kept(concept, layer, 0.0), QUIET)
        evaluate = exams.exam(self.world, view, QUIET)(edit)
        return [_point(evaluate(step.check(one))) for one in steps[:32]]

    def search_step(self, model: str, concept: str, layer: str) -> dict:
        """The step that forgets and keeps most on one layer, with every step that was tried."""
        view = self.world.settled(View(model, concept, layer))
        view, reason = step.find(self.world, view, QUIET, shown=lambda _: None)
        return {"layer": layer, "step": view.step, "tried": list(view.trace), "reason": reason}

    def erase(self, model: str, concept: str) -> dict:
        """The best layer and step of all front layers, why, and the edit's file as base64."""
        view = self.world.settled(View(model, concept))
        view, reason = step.find_everywhere(self.world, view, QUIET)
        with tempfile.TemporaryDirectory() as room:
            path = take.edit_file(self.world, view, QUIET, room=Path(room))
            data = base64.b64encode(path.read_bytes()).decode()
        return {"layer": view.layer, "step": view.step, "reason": reason, "safetensors": data}

    def generate(
        self,
        model: str,
        prompt: str,
        seed: int,
        concept: str = "",
        layer: str = "",
        step: float = 0.0,
    ) -> dict:
        """A picture of Stable Diffusion, edited when a concept, a layer and a step are given."""
        _kind(self.world, model, "diffusion")
        host = self.world.diffusion(model).edited(_edits(self.world, model, concept, layer, step))
        options = {"steps": exams.STEPS, "guidance": exams.GUIDANCE}
        return {"picture": forget.source(host.generate([prompt], seeds=[seed], **options)[0])}

    def classify(
        self, model: str, picture: str, concept: str, layer: str = "", step: float = 0.0
    ) -> dict:
        """What zero-shot CLIP believes of a picture, over all names of the concept's kind."""
        clip = self.world.clip(model)
        host = exams.zero_shot(self.world, self.world.settled(View(model, concept)), split="test")
        host = host.showing(clip.transform(_picture(picture))[None])
        beliefs = host.edited(_edits(self.world, model, concept, layer, step)).probabilities()[0]
        return dict(zip(host.classes, beliefs.tolist(), strict=True))

    def ask(
        self,
        model: str,
        picture: str,
        question: str,
        concept: str = "",
        layer: str = "",
        step: float = 0,
    ) -> dict:
        """A vision-language model's answer about a picture."""
        _kind(self.world, model, "vlm")
        host = self.world.vlm(model).edited(_edits(self.world, model, concept, layer, step))
        return {"answer": host.answer([_picture(picture)], [question])[0]}


def publish(world: World) -> None:
    """Makes the endpoints of the page; called inside gr.Blocks."""
    calls = Api(world)
    for name in NAMES:
        gr.api(
            _spoken(asked(getattr(calls, name)), partial(relieved, world)),
            api_name=name,
            concurrency_id="work",
            concurrency_limit=2,
        )


def _spoken(function: Callable, room: Callable[[], str]) -> Callable:
    """The same, with errors as sentences that reach the caller; `room` says what memory it freed."""

    @wraps(function)
    def speaking(*given: Any, **named: Any) -> Any:  # noqa: ANN401
        try:
            return function(*given, **named)
        except SlugError as error:
            raise gr.Error(str(error), print_exception=False) from error
        except Exception as error:  # a mistake of ours: the log has it, the caller a sentence
            raise gr.Error(room() if full(error) else BROKEN) from error

    return speaking


def _kind(world: World, model: str, kind: str) -> None:
    if world.kind(model) != kind:
        raise SlugError(f"{model} is a model for {world.kind(model)}, not for {kind}.")


def _edits(world: World, model: str, concept: str, layer: str, far: float) -> list:
    view = View(model, concept, layer, step.check(far))
    return world.edits(view, QUIET) if concept and layer else []


def _point(point: Point) -> dict:
    return {**asdict(point), "parts": dict(point.parts)}


def _picture(address: str) -> Image.Image:
    """The picture in a data address; raises SlugError when it is none, or far too large."""
    try:
        data = base64.b64decode(address.split(",", 1)[-1], validate=True)
    except (binascii.Error, ValueError) as error:
        raise SlugError("This cannot be read as a picture.") from error
    return pictures.decoded(data, "The picture")
