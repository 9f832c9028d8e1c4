"""AppState: what all visitors share. Models, tasks, edits and finished results; nobody changes them.

Every cache is bounded, and whatever falls out of one can be made again: when memory runs out, drawn
pictures, features, gradients and the model that nobody has asked for longest are let go of.
"""

import gc
import threading
from collections.abc import Callable, Collection, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Generic, TypeVar

import torch
from cachetools import LRUCache

from slugdemo import catalog, cost
from slugdemo import data as examples
from slugdemo import edit as edits
from slugdemo.benchmark import atlas
from slugdemo.benchmark.atlas import Entry, Shipped
from slugdemo.catalog import Model
from slugdemo.concept import PLAIN, Concept, Example
from slugdemo.config import CONFIGS, Config
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.evaluation.eval_set import around, drawn
from slugdemo.evaluation.prompt_set import EvalSet, Evaluation
from slugdemo.layers import GRANULARITIES
from slugdemo.methods import named
from slugdemo.models import loading
from slugdemo.models.diffusion import Diffusion
from slugdemo.models.loading import Opened
from slugdemo.models.zero_shot import ZeroShot
from slugdemo.search import Score
from slugdemo.task import Task, never, unwatched
from slugdemo.ui import jobs
from slugdemo.ui.tasks import Watch
from slugdemo.ui.uploads import Uploads
from slugdemo.ui.view import DIGEST, MARK, Kept, View, label
from slugdemo.ui.workers import Workers

Value = TypeVar("Value")
DRAWN = 12  # pictures of a concept that comes without any
SHORT = "This machine ran out of memory, and what was being made is dropped."
IN_USE = 1  # models that are left alone: the one at work
LONGEST = 100  # letters of a concept's name
CONCEPT_TITLES = {"character": "Characters", "object": "Objects", "style": "Styles"}


class Cache(Generic[Value]):
    """The last `size` results by what they were made from; made once, however many ask."""

    def __init__(self, size: int) -> None:
        self._guard = threading.Lock()
        self._kept: LRUCache[Hashable, Value] = LRUCache(size)
        self._making: dict[Hashable, Future[None]] = {}

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """What lies under `key`; made first when nothing does.

        Who asks while it is being made waits for it, and makes it when that fails.
        """
        while True:
            with self._guard:
                if key in self._kept:
                    return self._kept[key]
                other = self._making.get(key)
                if other is None:
                    mine = self._making[key] = Future()
            if other is None:
                return self._made(key, make, mine)
            other.result()

    def _made(self, key: Hashable, make: Callable[[], Value], mine: "Future[None]") -> Value:
        try:
            value = make()
            self.put(key, value)
            return value
        finally:
            with self._guard:
                del self._making[key]
            mine.set_result(None)

    def put(self, key: Hashable, value: Value) -> None:
        """Keeps what is already made."""
        with self._guard:
            self._kept[key] = value

    def let_go(self, sparing: Collection[Hashable] = ()) -> Hashable | None:
        """Forgets what was used longest ago, but none of `sparing`; its key, None for nothing."""
        spared = []
        with self._guard:
            while self._kept:
                key, value = self._kept.popitem()
                if key not in sparing:
                    break
                spared.append((key, value))
            else:
                key = None
            self._kept.update(spared)
        return key

    def clear(self, wanted: Callable[[Any], bool] = lambda _: True) -> int:
        """Forgets everything whose key is `wanted`; how much that was."""
        with self._guard:
            gone = [key for key in self._kept if wanted(key)]
            for key in gone:
                del self._kept[key]
        return len(gone)

    def items(self) -> list[tuple[Any, Value]]:
        """All that is there by key."""
        with self._guard:
            return list(self._kept.items())

    def peek(self, key: Hashable) -> Value | None:
        """What lies under `key`, None when nothing does."""
        with self._guard:
            return self._kept.get(key)


@dataclass(frozen=True)
class AppState:
    """What all visitors share, and what they brought.

    `tasks` are by model, concept, alignment and granularity; `features` are held-out pictures
    before a CLIP, by concept, and `single` those that are looked at; `evaluations` what CLIPs are
    asked, by task; `edits` by layer or by digest; `scores` what evaluators measured; `pictures`
    what was drawn and how it was judged; `shown` whatever else is on the page. `workers` do what
    takes long. The folder of models and pictures is `catalog.assets()`.
    """

    uploads: Uploads = field(default_factory=Uploads)
    workers: Workers = field(default_factory=Workers)
    prepared: set[str] = field(default_factory=set)  # models that a worker was told to open
    models: Cache[Opened] = field(default_factory=lambda: Cache(8))
    tasks: Cache[Task] = field(default_factory=lambda: Cache(6))
    features: Cache[ZeroShot] = field(default_factory=lambda: Cache(3))
    single: Cache[ZeroShot] = field(default_factory=lambda: Cache(8))
    evaluations: Cache[Evaluation] = field(default_factory=lambda: Cache(3))
    edits: Cache[Edit] = field(default_factory=lambda: Cache(64))
    scores: Cache[Score] = field(default_factory=lambda: Cache(4096))
    pictures: Cache[dict[str, Any]] = field(default_factory=lambda: Cache(256))
    shown: Cache[Any] = field(default_factory=lambda: Cache(256))

    # ---- what can be chosen

    @cached_property
    def offers(self) -> tuple[Model, ...]:
        """The models that are here, zero-shot first."""
        here = [model for model in catalog.models() if model.place != "hub"]
        return tuple(sorted(here, key=lambda model: catalog.MODEL_KINDS.index(model.kind)))

    @cached_property
    def published(self) -> tuple[Model, ...]:
        """The models of full size that could be here too."""
        return tuple(model for model in catalog.models() if model.place == "hub")

    @cached_property
    def forgettable(self) -> dict[str, list[str]]:
        """The shipped concepts with pictures to forget, by kind, characters first."""
        seen = {name for example in self.forget_pictures for name in example.labels.values()}
        found: dict[str, list[str]] = {kind: [] for kind in CONCEPT_TITLES}
        for entry in catalog.listing():
            if entry["name"] in seen - {PLAIN} and entry.get("forgettable", True):
                found.setdefault(entry["kind"], []).append(entry["name"])
        return {kind: names for kind, names in found.items() if names}

    @cached_property
    def forget_pictures(self) -> tuple[Example, ...]:
        """The shipped pictures of what can be forgotten; perhaps none."""
        path = catalog.assets() / "concepts" / "forget.parquet"
        return examples.parquet(path) if path.is_file() else ()

    @cached_property
    def test_pictures(self) -> tuple[Example, ...]:
        """The shipped pictures that no gradient and no search sees; perhaps none."""
        return catalog.held_out()

    def first(self) -> View:
        """Where a visitor begins: pictures if they can be made, and a character if there is one."""
        names = [name for some in self.forgettable.values() for name in some]
        if not self.offers or not names:
            return View()
        artists = [model for model in self.offers if model.kind == "diffusion"]
        concept = "wizard" if "wizard" in names else names[0]
        return View((artists or list(self.offers))[0].name, concept)

    def settled(self, view: View) -> View:
        """The view with first choices where it has none; raises SlugError for unknown names."""
        first = self.first()
        view = replace(view, model=view.model or first.model, concept=view.concept or first.concept)
        if not view.model or not view.concept:
            raise SlugError("There is no model with concepts in the assets folder yet.")
        self.kind(view.model)
        if MARK not in view.concept:
            view = replace(view, concept=catalog.known(view.concept).name)
        self.concept(view.concept)
        anchor = catalog.known(view.anchor).name if view.anchor else ""
        if anchor and anchor == label(view.concept):
            raise SlugError(f"“{anchor}” cannot be replaced by itself: choose another name.")
        return replace(view, method=named(view.method).name, anchor=anchor).checked()

    # ---- models

    def model(self, name: str) -> Model:
        """What is known of a model; raises SlugError when nobody knows it."""
        for model in (*self.offers, *self.published):
            if model.name == name:
                return model
        raise SlugError(f"There is no model called “{name[:60]}” here.")

    def kind(self, model: str) -> str:
        """The kind of a model: "zero-shot", "diffusion" or "vlm"."""
        return self.model(model).kind

    def opened(self, name: str) -> Opened:
        """The model of this name, read; where memory is short, those used longest ago make room.

        Raises SlugError when it is unknown or must be fetched first.
        """
        self.model(name)
        room = partial(self._unload, name)
        return self.models.get(name, lambda: loading.fitting(partial(_read, name), room))

    def _unload(self, wanted: str) -> bool:
        gone = self.models.let_go([wanted])
        self.tasks.clear()
        self.features.clear()
        self.single.clear()
        self.evaluations.clear()
        gc.collect()
        return gone is not None

    # ---- concepts

    def concept(self, name: str) -> Concept:
        """The concept of this name with its pictures, the visitor's own or a shipped one."""
        if MARK in name:
            own = self.uploads.find(name.split(MARK)[-1])
            if not isinstance(own, Concept):
                raise SlugError(
                    f"“{label(name)[:60]}” is gone: pictures of your own are kept only while the "
                    "page is open. Bring them again, or choose another concept."
                )
            return own
        if len(name) > LONGEST:
            raise SlugError(f"There is no concept called “{name[:60]}…” here.")
        meaning = catalog.known(name)
        there = any(meaning.name in names for names in self.forgettable.values())
        bare = meaning.drawable and not there
        make = partial(self._drawn if bare else catalog.concept, name)
        return self.shown.get(("concept", name), make)

    def artist(self) -> str:
        """The name of the first model that draws. Raises SlugError when none is here."""
        for model in self.offers:
            if model.kind == "diffusion":
                return model.name
        raise SlugError("No model here can draw: upload pictures instead.")

    def _drawn(self, name: str) -> Concept:
        """A concept that the models know but that comes without pictures: one of them draws it."""
        folder, notes = drawn(self.opened(self.artist()), name, count=DRAWN)
        found = catalog.concept(name, forget=folder)
        return replace(found, notes=notes + found.notes)

    def eval_set(self, name: str) -> EvalSet:
        """The names and held-out pictures around a concept; what a visitor brought is all there is."""
        concept = self.concept(name)
        found = around(concept)
        return replace(found, test=found.test + concept.forget) if MARK in name else found

    # ---- what comes with the app

    @cached_property
    def shipped(self) -> Shipped:
        """The entries that come with the app, current or not."""
        return Shipped(atlas.place())

    def entry(self, model: str, concept: str) -> Entry | None:
        """What was found of a preset concept beforehand; None when anything has changed since.

        That is weights, pictures, settings, or the form of entries.
        """
        if concept not in self.shipped.concepts(model):
            return None
        key = self.shown.get(("entry key", model), lambda: atlas.key(model))
        found = self.shown.get(
            ("entry", model, concept), lambda: self.shipped.find(model, concept, key)
        )
        return None if found is None or found.problem else found

    def _remember(self, view: View, kept: Kept, edit: Edit) -> None:
        """Keeps the scores that were measured beforehand along an edit of one layer."""
        entry = self.entry(view.model, kept.concept)
        if entry is None or kept.method != Config.method or len(edit.delta) > 1:
            return
        curve = entry.curve if kept.layer == entry.layer else ()
        mine = replace(view, concept=kept.concept)
        most = entry.before.n_retain if entry.before else 0
        full, some, none = jobs.EVALUATORS
        for score in (*entry.tried.get(kept.layer, ()), *curve):
            which = full if score.n_retain == most else some if score.n_retain else none
            self.scores.put(score_key(mine, edit.digest, score.strength, which), score)

    # ---- tasks and edits

    def task(self, view: View, watch: Watch) -> Task:
        """The task of the view, with its gradients taken, watched and stopped by this visitor."""
        key = (view.model, view.concept, view.alignment, view.granularity)
        ready = self.tasks.get(key, lambda: self._task(view, watch))
        anchor = view.anchor if named(view.method).replaces else ""
        mine = ready.watched(watch.progress, watch.stop.is_set).by(view.method).becoming(anchor)
        if mine.kind == "zero-shot":  # the same for every method and visitor, as nobody watches it
            mine.evaluation = self.evaluations.get(
                key, lambda: ready.watched(unwatched, never).evaluation
            )
        return mine

    def keep_ready(self, model: str) -> None:
        """Takes the gradient of all that is kept, so that pictures of one's own wait for theirs alone."""
        opened = self.opened(model)
        beside = Concept("pictures of one's own", "object", retain=catalog.kept())
        _ = Task(opened, beside, CONFIGS[opened.kind]).retain_gradient

    def _task(self, view: View, watch: Watch) -> Task:
        opened = self.opened(view.model)
        given = {"alignment": view.alignment, "granularity": view.granularity}
        config = CONFIGS[opened.kind].changed(given)
        tensors = config.granularity == CONFIGS[opened.kind].granularity
        entry = self.entry(view.model, view.concept) if tensors else None
        task = Task(
            opened,
            self.concept(view.concept),
            config,
            self.eval_set(view.concept),
            located=entry.located if entry else None,
            progress=watch.progress,
            cancelled=watch.stop.is_set,
        )
        if not task.front:
            raise SlugError("No layer of this model has a gradient along which it could forget.")
        _ = task.forget_gradient  # made once for all who will share this task
        cost.trim()  # the activations' room, which nobody needs until the next gradient
        return task.watched(unwatched, never)

    def edit(self, view: View, kept: Kept, watch: Watch) -> Edit:
        """The edit of a layer, of a method or of a visitor's file, as far as `kept` says.

        What a method gave is found by its digest, and made again where it is not here any more.
        Raises SlugError for an edit that was made for other weights, and as `jobs.make`.
        """
        given = self.uploads.find(kept.concept.split(MARK)[-1])
        if isinstance(given, Edit):
            clip, unet = digests(self.opened(view.model))
            try:
                edits.check(given, clip, unet=unet)
            except SlugError as error:
                raise SlugError(f"“{label(kept.concept)}” does not fit here. {error}") from error
            return given.at(kept.strength)
        key = (view.model, *kept.place)
        return self.edits.get(key, lambda: self._edit(view, kept, watch)).at(kept.strength)

    def _edit(self, view: View, kept: Kept, watch: Watch) -> Edit:
        mine = replace(view, concept=kept.concept, method=kept.method, anchor=kept.anchor)
        task, method = self.task(mine, watch), named(kept.method)
        if not kept.layer:
            watch.say(f"Making the edit by {method.name} again")
            return self.keep(view, self.workers.run(jobs.make, task, jobs.unheard).edit)
        if method.of_layer is None:
            raise SlugError(f"{method.name} does not edit one chosen layer.")
        for granularity in sorted(GRANULARITIES, key=lambda each: each != view.granularity):
            other = self.task(replace(mine, granularity=granularity), watch)
            for score in other.scores:
                if score.layer == kept.layer:
                    edit = method.of_layer(other, score)
                    self._remember(view, kept, edit)
                    return edit
        raise SlugError(f"This model has no layer called “{kept.layer[:80]}”.")

    def measured(self, view: View) -> jobs.Known:
        """All scores of a concept in a model that are remembered."""
        mine = (view.model, view.concept)
        return {key[2:]: score for key, score in self.scores.items() if key[:2] == mine}

    def hear(self, view: View, told: jobs.Told) -> None:
        """Remembers a score that a job has told."""
        self.scores.put((view.model, view.concept, *told[0]), told[2])

    def keep(self, view: View, edit: Edit) -> Edit:
        """Keeps what a method gave for a concept, so that its digest finds it."""
        kept = Kept(view.concept, "", 0.0, method=edit.method, digest=edit.digest[:DIGEST])
        self.edits.put((view.model, *kept.place), edit)
        return edit

    def applied(self, view: View, watch: Watch) -> list[Edit]:
        """The edits that act on the model of this view."""
        return [self.edit(view, kept, watch) for kept in view.applied()]


def freed(state: AppState) -> str:
    """Frees what can be made again when memory has run out; says what that was."""
    opened = state.models.items()
    hosts = [found.host for _, found in opened if found.kind == "diffusion"]
    pictures = sum(host.forget_pictures() for host in hosts if isinstance(host, Diffusion))
    unused = state.models.let_go() if len(opened) > IN_USE else None
    features = state.tasks.clear() + state.features.clear() + state.single.clear()
    features += state.evaluations.clear()
    counts = (
        (state.pictures.clear() + pictures, "drawn picture", "drawn pictures"),
        (features, "set of features", "sets of features"),
        (state.edits.clear(), "edit", "edits"),
        (state.shown.clear(), "other result", "other results"),
        (state.workers.let_go(), "idle worker", "idle workers"),
    )
    gone = [f"{count} {single if count == 1 else many}" for count, single, many in counts if count]
    gone += [f"the model {unused}"] if unused else []
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if not gone:
        return f"{SHORT} Nothing more can be freed: choose something smaller."
    return f"{SHORT} Freed: {', '.join(gone)}. Try again, or choose something smaller."


def _read(name: str) -> Opened:
    """The model with its weights in memory."""
    found = loading.opened(name)
    for part in ("clip",) if found.kind == "zero-shot" else ("host", "clip"):
        getattr(found, part)
    return found


def digests(opened: Opened) -> tuple[str, str]:
    """The digests of a model's CLIP and of its U-Net, "" where it has none."""
    unet = getattr(opened.host, "unet_digest", "") if opened.kind == "diffusion" else ""
    return opened.clip.digest, unet


def single_layer(method: str) -> bool:
    """Whether a method edits one layer, which a visitor may choose."""
    return named(method).of_layer is not None


def by_layer(view: View) -> str:
    """The method that edits the layer which a visitor chooses: that of the view, if it can."""
    return view.method if single_layer(view.method) else View.method


def score_key(view: View, digest: str, strength: float, which: str = "full") -> tuple[object, ...]:
    """Under what a score is remembered; at strength 0 all edits are the same."""
    return view.model, view.concept, *jobs.measured(digest, strength, which)
