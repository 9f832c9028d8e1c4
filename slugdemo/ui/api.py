"""The same five questions without the page: named endpoints for gradio_client and MCP.

Every call brings all that it needs; pictures of at most 5 MB travel as data addresses
(data:image/...;base64,...) or by gradio_client's handle_file.
"""

import base64
import inspect
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image
from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, validate_call

from slugdemo import images
from slugdemo.attacks import ATTACKS
from slugdemo.config import CONFIGS
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.methods import METHODS
from slugdemo.methods import named as method_named
from slugdemo.methods.method import HOSTS
from slugdemo.models.prompts import MOST
from slugdemo.results import rows
from slugdemo.search import Score
from slugdemo.ui import edits, jobs, locate, see, step
from slugdemo.ui.state import AppState, freed
from slugdemo.ui.tasks import BROKEN, PLACES, out_of_memory, unwatched
from slugdemo.ui.view import DIGEST, View, check

STRENGTHS = 32  # numbers in a list
QUEUE = {"concurrency_id": "api", "concurrency_limit": 2}  # the page's own keeps its limit
AT_ONCE = {"concurrency_id": "lists", "concurrency_limit": 2}


def _whole(given: object) -> object:
    """2.0 is a whole number too."""
    return int(given) if isinstance(given, float) and given.is_integer() else given


Text = Annotated[str, Field(max_length=MOST)]
Picture = str | dict[str, Any]  # its size is checked when it is read
Number = Annotated[float, Field(allow_inf_nan=False, ge=-(2**53), le=2**53)]
Whole = Annotated[int, BeforeValidator(_whole), Field(ge=-(2**53), le=2**53)]
Numbers = Annotated[list[Number], Field(max_length=STRENGTHS)]
checked = validate_call(config=ConfigDict(strict=True))
KIND_OF = {"string": "a text", "float": "a number", "int": "a whole number", "list": "a list"}
NAMES = (
    "models",
    "concepts",
    "methods",
    "rank_layers",
    "sweep",
    "search_step",
    "erase",
    "compare",
    "attacks",
    "attack",
    "generate",
    "classify",
    "ask",
)
LISTS = ("models", "concepts", "methods", "attacks")  # known at once: they wait for nothing else
TAKES_LONG = ("sweep", "search_step", "erase", "compare", "attack")  # nothing short waits for them


@dataclass(frozen=True)
class Api:
    """The endpoints over one state; `NAMES` are published, under their own names.

    An edit is named by its concept and layer, or by the `edit` (a digest) that `erase` gave.
    """

    state: AppState

    def models(self) -> list[dict[str, Any]]:
        """The models that are here: name, kind and size in bytes."""
        return [{"name": m.name, "kind": m.kind, "bytes": m.bytes} for m in self.state.offers]

    def concepts(self) -> list[dict[str, Any]]:
        """The concepts that can be forgotten: name and kind."""
        found = self.state.forgettable.items()
        return [{"name": name, "kind": kind} for kind, names in found for name in names]

    def methods(self) -> list[dict[str, Any]]:
        """The methods of forgetting: what they change, in which models, and where they come from."""
        keys = ("name", "group", "hosts", "parts", "needs", "cite", "deviations", "seconds")
        return [{key: getattr(method, key) for key in keys} for method in METHODS.values()]

    @checked
    def rank_layers(self, model: Text, concept: Text) -> list[dict[str, Any]]:
        """Importance and alignment of every layer, and whether it is on the Pareto front."""
        view = self.state.settled(View(model, concept))
        found = locate.locate(self.state.task(view, unwatched()))
        return locate.show(found, view)["rows"]

    @checked
    def sweep(
        self, model: Text, concept: Text, layer: Text, strengths: Numbers
    ) -> list[dict[str, Any]]:
        """What is left of the concept and of everything else at each strength along one layer."""
        view = self.state.settled(View(model, concept, layer))
        wanted = [check(strength) for strength in strengths]
        edit = step.unstepped(self.state, view, unwatched())
        task, hear = self.state.task(view, unwatched()), partial(self.state.hear, view)
        known = self.state.measured(view)
        found = self.state.workers.run(jobs.scores, task, hear, edit, wanted, known)
        return [_score(score) for score in found]

    @checked
    def search_step(self, model: Text, concept: Text, layer: Text) -> dict[str, Any]:
        """The strength that forgets and keeps most on one layer, with every one that was tried."""
        view = self.state.settled(View(model, concept, layer))
        found = step.find_step(self.state, view, unwatched(), shown=lambda _: None)
        tried = list(found.view.trace)
        facts = {"layer": layer, "strength": found.view.strength, "tried": tried}
        return {**facts, "headline": found.headline, "reason": found.reason}

    @checked
    def erase(self, model: Text, concept: Text, method: Text = View.method) -> dict[str, Any]:
        """What a method finds for a concept, its scores, why, and the edit's file as base64."""
        view = self.state.settled(View(model, concept, method=method_named(method).name))
        found = step.erase(self.state, view, unwatched())
        if found.erasure is None:
            raise SlugError("It was stopped before anything was found.")
        with tempfile.TemporaryDirectory() as room:
            path = edits.edit_file(self.state, found.view, unwatched(), room=Path(room))
            packed = path.read_bytes()
        before, after = found.erasure.before, found.erasure.after
        return {
            "model": model,
            "concept": concept,
            "method": view.method,
            "layer": found.view.layer,
            "strength": found.view.strength,
            "edit": found.view.digest or found.erasure.edit.digest[:DIGEST],
            "unit": found.erasure.edit.unit,
            "feasible": found.erasure.feasible,
            "headline": found.headline,
            "reason": found.reason,
            "forget_before": before.forget_acc,
            "forget_after": after.forget_acc,
            "retain_before": before.retain_acc,
            "retain_after": after.retain_acc,
            "n_forget": after.n_forget,
            "n_retain": after.n_retain,
            "intervals": {"forget": after.forget_interval, "retain": after.retain_interval},
            "seconds": found.erasure.seconds,
            "edit_bytes": len(packed),
            "safetensors": base64.b64encode(packed).decode(),
        }

    @checked
    def compare(self, model: Text, concept: Text, method: Text) -> list[dict[str, Any]]:
        """The rows of one method on a concept: the search split, and the report split."""
        view = self.state.settled(View(model, concept, method=method_named(method).name))
        task = self.state.task(view, unwatched())
        return rows(self.state.workers.run(jobs.results, task, jobs.unheard))

    def attacks(self) -> list[dict[str, Any]]:
        """The attacks and probes: on which models, through what, and where they come from."""
        keys = ("name", "group", "hosts", "parts", "needs", "cite", "deviations")
        return [{key: getattr(attack, key) for key in keys} for attack in ATTACKS.values()]

    @checked
    def attack(
        self,
        model: Text,
        concept: Text,
        attack: Text,
        on: Text = "edited",
        layer: Text = "",
        strength: Number = 0.0,
        method: Text = View.method,
        edit: Text = "",
    ) -> list[dict[str, Any]]:
        """The rows of one attack on the "edited", "original" or "reference" model, or on "all"."""
        view = View(model, concept, layer, check(strength), method=method, digest=edit)
        view = self.state.settled(view)
        made = self._edits(view)
        task = self.state.task(view, unwatched())
        ask = self.state.workers.run
        if on == "all":
            return rows(ask(jobs.attack_each, task, jobs.unheard, attack, made))
        return rows(ask(jobs.attack, task, jobs.unheard, attack, made, on)[0])

    @checked
    def generate(
        self,
        model: Text,
        prompt: Text,
        seed: Whole,
        concept: Text = "",
        layer: Text = "",
        strength: Number = 0.0,
        method: Text = View.method,
        edit: Text = "",
    ) -> dict[str, Any]:
        """A picture of Stable Diffusion, edited when a concept, an edit and a strength are given."""
        self._check_kind(model, "diffusion")
        view = View(model, concept, layer, check(strength), method=method, digest=edit)
        host = self.state.opened(model).host.edited(self._edits(view))
        size = CONFIGS["diffusion"].size
        drawing = {"steps": size.denoising, "guidance": size.guidance}
        (picture,) = host.generate([prompt], seeds=[seed], **drawing)
        return {"picture": images.source(picture)}

    @checked
    def classify(
        self,
        model: Text,
        picture: Picture,
        concept: Text,
        layer: Text = "",
        strength: Number = 0.0,
        method: Text = View.method,
        edit: Text = "",
    ) -> dict[str, float]:
        """What zero-shot CLIP believes of a picture, over all names of the concept's kind."""
        view = View(model, concept, layer, check(strength), method=method, digest=edit)
        shown = _picture(picture)
        view = self.state.settled(view)
        task = self.state.task(view, unwatched())
        host = see.zero_shot(self.state, view, task).showing(task.clip.transform(shown)[None])
        beliefs = host.edited(self._edits(view)).probabilities()[0]
        return dict(zip(host.classes, beliefs.tolist(), strict=True))

    @checked
    def ask(
        self,
        model: Text,
        picture: Picture,
        question: Text,
        concept: Text = "",
        layer: Text = "",
        strength: Number = 0.0,
        method: Text = View.method,
        edit: Text = "",
    ) -> dict[str, str]:
        """A vision-language model's answer about a picture."""
        self._check_kind(model, "vlm")
        view = View(model, concept, layer, check(strength), method=method, digest=edit)
        host = self.state.opened(model).host.edited(self._edits(view))
        return {"answer": host.answer([_picture(picture)], [question])[0]}

    def _check_kind(self, model: str, kind: str) -> None:
        if (own := self.state.kind(model)) != kind:
            raise SlugError(f"This call is for {HOSTS[kind]}; {model} belongs to {HOSTS[own]}.")

    def _edits(self, view: View) -> list[Edit]:
        if view.chosen and not view.concept:
            raise SlugError("A layer or an edit belongs to a concept: name that too.")
        if view.strength and not view.chosen:
            raise SlugError(
                "A strength belongs to an edit: name its layer, or the edit that erase gave."
            )
        if not view.chosen:
            return []
        return self.state.applied(self.state.settled(view), unwatched())


def publish(state: AppState) -> None:
    """Makes the endpoints of the page; called inside gr.Blocks."""
    calls = Api(state)
    most = max(PLACES, state.workers.count)
    long = {"concurrency_id": "long", "concurrency_limit": most}
    lines: dict[str, dict[str, Any]] = dict.fromkeys(NAMES, QUEUE)
    lines |= dict.fromkeys(TAKES_LONG, long) | dict.fromkeys(LISTS, AT_ONCE)
    for name, line in lines.items():
        gr.api(spoken(getattr(calls, name), partial(freed, state)), api_name=name, **line)


def spoken(function: Callable[..., Any], free_memory: Callable[[], str]) -> Callable[..., Any]:
    """The same, with errors as sentences that reach the caller; `free_memory` says what it freed."""

    @wraps(function)
    def speaking(*given: Any, **named: Any) -> Any:  # noqa: ANN401
        try:
            return asked(function)(*given, **named)
        except SlugError as error:
            raise gr.Error(str(error), print_exception=False) from error
        except Exception as error:  # a mistake of ours: the log has it, the caller a sentence
            raise gr.Error(free_memory() if out_of_memory(error) else BROKEN) from error

    return speaking


def asked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which says in a sentence what is wrong with its arguments."""

    @wraps(function)
    def asking(*given: Any, **named: Any) -> Any:  # noqa: ANN401
        try:
            inspect.signature(function).bind(*given, **named)
        except TypeError as error:
            raise SlugError(f"The arguments do not fit this endpoint: {error}.") from error
        try:
            return function(*given, **named)
        except ValidationError as error:
            raise SlugError(_wrong(error, function)) from error

    return asking


def _wrong(error: ValidationError, function: Callable[..., Any]) -> str:
    """What is wrong with the first bad argument, in a sentence."""
    first = error.errors(include_url=False, include_input=False)[0]
    at = first["loc"][0]
    names = list(inspect.signature(function).parameters)
    name = names[at - 1] if isinstance(at, int) else at  # 0 is the Api itself
    kind, context = first["type"], first.get("ctx", {})
    if kind == "string_unicode":
        return f"“{name}” holds half of a letter, which is no text."
    if kind.endswith("_too_long") or kind == "too_long":
        return f"“{name}” is too long: at most {context.get('max_length')} are read."
    if kind.split("_")[0] in KIND_OF and kind.endswith(("_type", "_from_float")):
        return f"“{name}” is {KIND_OF[kind.split('_')[0]]}."
    return f"“{name}” is a finite number of bearable size."


def _score(score: Score) -> dict[str, Any]:
    return {**asdict(score), "parts": dict(score.parts)}


def _picture(given: str | dict[str, Any]) -> Image.Image:
    """The picture in a data address, or in the file that gradio_client's handle_file brought.

    Raises SlugError when it is none, or larger than 5 MB.
    """
    if isinstance(given, str):
        return images.addressed(given)
    if (
        given.get("meta", {}).get("_type") != "gradio.FileData"
    ):  # those gradio has checked and moved
        raise SlugError("“picture” is a data address, or a file by gradio_client's handle_file.")
    path = Path(str(given.get("path")))
    if not path.resolve().is_relative_to(Path(get_upload_folder()).resolve()):
        raise SlugError("“picture” names a file that was not uploaded.")
    return images.uploaded(path)
