"""World: what all visitors share. Models, pictures, gradients and finished results; nobody changes them."""

import gc
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from slugdemo import data as examples
from slugdemo import layers
from slugdemo.catalog import Model
from slugdemo.concept import Concept, Example
from slugdemo.config import Setting
from slugdemo.data import Pairs
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.evaluation import World as Surroundings
from slugdemo.evaluation.judge import Judge
from slugdemo.experiment import FEW, MOST
from slugdemo.gradients import Gradients, gradients
from slugdemo.layers import LayerScore
from slugdemo.methods.slug import direction
from slugdemo.models import loading
from slugdemo.models.clip import Clip
from slugdemo.models.diffusion import Diffusion
from slugdemo.models.llava import Llava
from slugdemo.models.loading import Opened
from slugdemo.ui.guests import Guests
from slugdemo.ui.jobs import Watch
from slugdemo.ui.shelf import Shelf
from slugdemo.ui.view import MARK, Kept, View, label

OWN, EACH = 80, {"concept": 2, "style": 20}  # test pictures of the target, and of each other name


class Shop:
    """The last `size` results by what they were made from; made once, however many ask."""

    def __init__(self, size: int) -> None:
        self._size, self._guard = size, threading.Lock()
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._locks: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:  # noqa: ANN401
        """What lies under `key`; made first when nothing does."""
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            with self._guard:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]
            made = make()
            self.put(key, made)
            return made

    def put(self, key: Hashable, value: Any) -> None:  # noqa: ANN401
        """Lays down what is already made."""
        with self._guard:
            self._kept[key] = value
            while len(self._kept) > self._size:
                self._locks.pop(self._kept.popitem(last=False)[0], None)

    def let_go(self, sparing: Collection[Hashable] = ()) -> bool:
        """Forgets what was used longest ago, but none of `sparing`; whether there was anything."""
        with self._guard:
            oldest = next((key for key in self._kept if key not in sparing), None)
            self._kept.pop(oldest, None)
        return oldest is not None

    def clear(self, wanted: Callable[[Hashable], bool] = lambda _: True) -> int:
        """Forgets everything whose key is `wanted`; how much that was."""
        with self._guard:
            gone = [key for key in self._kept if wanted(key)]
            for key in gone:
                del self._kept[key]
        return len(gone)

    def items(self) -> list[tuple[Hashable, Any]]:
        """All that is there by key, what was used longest ago first."""
        with self._guard:
            return list(self._kept.items())

    def peek(self, key: Hashable) -> Any:  # noqa: ANN401
        """What lies under `key`, None when nothing does."""
        with self._guard:
            return self._kept.get(key)


@dataclass(frozen=True)
class World:
    """The models, pictures and finished results that all visitors share, and what guests brought."""

    shelf: Shelf
    cache: Path
    guests: Guests = field(default_factory=Guests)
    models: Shop = field(default_factory=lambda: Shop(16))
    sets: Shop = field(default_factory=lambda: Shop(3))
    edited: Shop = field(default_factory=lambda: Shop(64))
    drawn: Shop = field(default_factory=lambda: Shop(256))
    results: Shop = field(default_factory=lambda: Shop(4096))

    @classmethod
    def at(cls, assets: Path, cache: Path) -> "World":
        """The world in an assets folder, remembering gradients in `cache`."""
        return cls(Shelf(assets), cache)

    @cached_property
    def judge(self) -> Judge | None:
        """The judge of generated pictures, if it is there."""
        folder = self.shelf.folder / "models" / "judge"
        return Judge.load(folder) if (folder / "judge.json").is_file() else None

    def _read(self, part: str, model: str, make: Callable[[], Any]) -> Any:  # noqa: ANN401
        """A part of a model; where memory is short, the models used longest ago make room."""
        room = partial(self._unload, model)
        return self.models.get((part, model), lambda: loading.fitting(make, room))

    def _unload(self, wanted: str) -> bool:
        gone = self.models.let_go([wanted, ("clip", wanted), ("host", wanted)])
        while self.sets.let_go():
            continue
        gc.collect()
        return gone

    def kind(self, model: str) -> str:
        """What kind of host a model is."""
        return self.shelf.offer(model).kind

    def opened(self, model: str) -> Opened:
        """The model of this name; raises SlugError when it must be fetched first."""
        offer = self.shelf.offer(model)
        fetch = partial(loading.opened, model)
        return self.models.get(model, fetch if offer.folder is None else lambda: Opened(offer))

    def clip(self, model: str) -> Clip:
        """The CLIP whose towers the model of this name carries."""
        offer = self.shelf.offer(model)
        family = offer.name.split("-")[0]
        for one in self.shelf.offers:
            kin = one.place == offer.place == "embedded" and one.name.split("-")[0] == family
            if one.kind == "zero-shot" and kin:
                return self._read("clip", one.name, partial(_clip, one))
        if offer.place == "embedded":
            raise SlugError(f"{model} needs the CLIP that it carries, and its folder is missing.")
        return self._read("clip", model, lambda: self.opened(model).clip)

    def diffusion(self, model: str) -> Diffusion:
        """The Stable Diffusion host of this name."""
        return self._read("host", model, lambda: self.opened(model).host)

    def vlm(self, model: str) -> Llava:
        """The LLaVA host of this name."""
        return self._read("host", model, lambda: self.opened(model).host)

    def readers(self, model: str) -> frozenset[str]:
        """The tensors that the host reads, found by trying, and that the paper's code would edit."""
        return self.models.get(("reads", model), lambda: self._readers(model))

    def _readers(self, model: str) -> frozenset[str]:
        clip = self.clip(model)
        if self.kind(model) == "zero-shot":
            return frozenset(layers.candidates(clip))
        host = self._read("host", model, lambda: self.opened(model).host)
        return frozenset(host.editable()) & {*layers.candidates(clip, rule="no norms")}

    def concept(self, name: str) -> Concept:
        """The concept of this name with its pictures, the visitor's own or a shipped one.

        Shipped pictures to forget get the bare name as their caption, as in the paper.
        """
        if MARK in name:
            own = self.guests.find(name.split(MARK)[-1])
            if not isinstance(own, Concept):
                raise SlugError(
                    f"“{label(name)[:60]}” is gone: pictures of your own are kept only while the "
                    "page is open. Bring them again, or choose another concept."
                )
            return own
        return self.results.get(("concept", name), lambda: self._shipped(name))

    def _shipped(self, name: str) -> Concept:
        self.shelf.entry(name)
        found = examples.shipped(self.shelf.folder / "concepts", name)
        return replace(found, forget=tuple(replace(e, caption=found.words) for e in found.forget))

    def divided(self, concept: Concept) -> tuple[Sequence[Example], Sequence[Example]]:
        """Retain pictures for the gradient, and others for the search, as a Study has them."""
        retain = concept.retain
        return (retain, retain) if len(retain) < FEW else (retain[::2][:MOST], retain[1::2])

    def around(self, name: str) -> Surroundings:
        """What there is besides a concept: all names, its kin, and pictures no search sees."""
        concept, shelf = self.concept(name), self.shelf
        each = EACH[concept.domain]
        places = shelf.held_out(concept.name, concept.domain, own=OWN, others=each)
        kept = {str(one.image): one for one in self._held_out()}
        test = tuple(kept[place] for place in places)
        if MARK in name:  # what the visitor brought is all there is
            test += concept.forget
        kin = shelf.group(concept.name)
        return Surroundings(shelf.names("concept"), shelf.names("style"), kin, test)

    def _held_out(self) -> tuple[Example, ...]:
        path = self.shelf.folder / "concepts" / "test.parquet"
        shown = path.is_file() and len(self.shelf.tables["test"])
        return self.results.get("held out", lambda: examples.parquet(path)) if shown else ()

    def gradients(self, model: str, concept: str, watch: Watch) -> Gradients:
        """The two gradients for a concept, from memory when they were taken before."""
        clip = self.clip(model)
        key = ("gradients", clip.name, concept)
        return self.results.get(key, lambda: self._gradients(clip, self.concept(concept), watch))

    def _gradients(self, clip: Clip, concept: Concept, watch: Watch) -> Gradients:
        size, seed, retain = Setting.batch, Setting.seed, self.divided(concept)[0]
        own = Pairs(concept.forget, clip, size=size)
        rest = Pairs(retain, clip, size=min(size, len(retain)), seed=seed)
        done, total = [0], len(own) + len(rest)

        def tick() -> None:
            done[0] += 1
            watch.say(f"Taking gradients, batch {done[0]} of {total}", done[0], total)

        watch.say(f"Taking gradients of {len(concept.forget)} + {len(retain)} pictures", 0, total)
        names = layers.candidates(clip)
        return gradients(clip, own, retain=rest, names=names, cache=self.cache, tick=tick)

    def scores(
        self, model: str, concept: str, watch: Watch, *, unit: str = layers.UNITS[0]
    ) -> list[LayerScore]:
        """Importance and alignment of every layer."""
        slopes, clip = self.gradients(model, concept, watch), self.clip(model)
        key = ("scores", clip.name, concept, unit)
        return self.results.get(key, lambda: layers.scores(clip.named(), slopes, unit=unit))

    def score(self, model: str, concept: str, layer: str, watch: Watch) -> LayerScore:
        """The score of one layer, a tensor or a group; raises SlugError when there is none."""
        for unit in layers.UNITS:
            for one in self.scores(model, concept, watch, unit=unit):
                if one.layer == layer:
                    return one
        raise SlugError(f"This model has no layer called “{layer[:80]}”.")

    def edit(self, model: str, kept: Kept, watch: Watch) -> Edit:
        """The edit of a concept in a layer, `kept.step` far; perhaps from a visitor's file."""
        clip = self.clip(model)
        if isinstance(given := self.guests.find(kept.concept.split(MARK)[-1]), Edit):
            if given.about.get("weights") != clip.digest:
                raise SlugError(f"The edit “{label(kept.concept)}” was made for other weights.")
            return given.at(kept.step)
        key = ("edit", clip.name, kept.concept, kept.layer)
        return self.edited.get(key, lambda: self._unstepped(model, kept, watch)).at(kept.step)

    def _unstepped(self, model: str, kept: Kept, watch: Watch) -> Edit:
        concept, clip = self.concept(kept.concept), self.clip(model)
        slopes = self.gradients(model, kept.concept, watch)
        score = self.score(model, kept.concept, kept.layer, watch)
        return direction(clip, concept.name, score=score, gradients=slopes)

    def edits(self, view: View, watch: Watch) -> list[Edit]:
        """The edits that act on the model of this view."""
        return [self.edit(view.model, kept, watch) for kept in view.applied()]

    def first(self) -> View:
        """Where a visitor begins: pictures if they can be made, and a character if there is one."""
        offers, entries = self.shelf.offers, self.shelf.offered
        if not offers or not entries:
            return View()
        liked = [one for one in entries if one.name == "wizard"]
        made = [one for one in offers if one.kind == "diffusion"]
        return View((made or list(offers))[0].name, (liked or list(entries))[0].name)

    def settled(self, view: View) -> View:
        """The view with first choices where it has none; raises SlugError for unknown names."""
        first = self.first()
        view = replace(view, model=view.model or first.model, concept=view.concept or first.concept)
        if not view.model or not view.concept:
            raise SlugError("There is no model with concepts in the assets folder yet.")
        self.opened(view.model)
        self.concept(view.concept)
        return view.checked()


def _clip(model: Model) -> Clip:
    return Opened(model).clip


def lot(name: str) -> int:
    """A seed that is the same in every run."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:6], 16)
