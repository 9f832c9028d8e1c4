"""View: what one visitor looks at, as a value that fits into a link. World: what all of them share.

A View holds names and numbers only, never a model or a tensor; every request brings its own.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import torch

from slugdemo import gradients as slopes
from slugdemo import layers
from slugdemo.clip import Clip
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.gradients import Gradients
from slugdemo.hosts.diffusion import Diffusion
from slugdemo.hosts.vlm import Vlm
from slugdemo.judge import Judge
from slugdemo.layers import ALIGNMENTS, LayerScore
from slugdemo.methods.slug import direction
from slugdemo.ui import shelf
from slugdemo.ui.jobs import Watch
from slugdemo.ui.shelf import Entry, Shelf

VERSION = "1"
FORGET, RETAIN, BATCH = 64, 256, 64  # most pictures behind a gradient, and how many at once
FARTHEST = 1.0  # the largest step: as far as the layer is long
KEPT = 8  # edits in a tray at most
LARGEST_SEED = 2**31 - 1


@dataclass(frozen=True)
class Kept:
    """One edit in the tray."""

    concept: str
    layer: str
    step: float
    on: bool = True


@dataclass(frozen=True)
class View:
    """What a visitor has chosen; empty strings and None mean "not yet"."""

    model: str = ""
    concept: str = ""
    layer: str = ""
    step: float | None = None
    seed: int = 0
    words: str = ""
    picture: int = 0
    tray: tuple[Kept, ...] = ()
    by: str = ALIGNMENTS[0]  # how alignment is read
    own: str = ""  # a picture of the visitor's own; no part of a link
    trace: tuple[float, ...] = ()  # the steps that a search has tried; no part of a link

    def query(self) -> str:
        """The view as a query string, with a version."""
        pairs: list[tuple[str, str]] = [("v", VERSION)]
        for key in ("model", "concept", "layer", "words"):
            if value := getattr(self, key):
                pairs.append((key, value))
        if self.step is not None:
            pairs.append(("step", f"{self.step:g}"))
        pairs += [(key, str(value)) for key in ("seed", "picture") if (value := getattr(self, key))]
        if self.by != ALIGNMENTS[0]:
            pairs.append(("by", self.by))
        for kept in self.tray:
            on = "on" if kept.on else "off"
            pairs.append(("keep", f"{kept.concept}~{kept.layer}~{kept.step:g}~{on}"))
        return urlencode(pairs)

    @classmethod
    def parse(cls, query: dict[str, list[str]]) -> "View":
        """The view in a query string; raises SlugError when it is none of ours."""
        if query.get("v", [VERSION]) != [VERSION]:
            raise SlugError("This link was made by another version of slugdemo.")
        text = {
            key: query[key][0][:200] for key in ("model", "concept", "layer", "by") if key in query
        }
        try:
            step = float(query["step"][0]) if "step" in query else None
            numbers = {key: int(query[key][0]) for key in ("seed", "picture") if key in query}
            tray = tuple(_kept(one) for one in query.get("keep", [])[:KEPT])
        except (ValueError, IndexError) as error:
            raise SlugError("This link is damaged: one of its numbers is no number.") from error
        view = cls(**text, step=step, words=query.get("words", [""])[0][:400], **numbers, tray=tray)
        return view.checked()

    def checked(self) -> "View":
        """The same view; raises SlugError when a number is out of range."""
        steps = [self.step or 0.0, *(kept.step for kept in self.tray)]
        if not all(0 <= step <= FARTHEST for step in steps):
            raise SlugError(f"A step lies between 0 and {FARTHEST:g} of the layer's norm.")
        if self.by not in ALIGNMENTS:
            raise SlugError(f"Alignment is read as {' or '.join(ALIGNMENTS)}, not otherwise.")
        if not 0 <= self.seed <= LARGEST_SEED or not 0 <= self.picture <= 10_000:
            raise SlugError(f"A seed is a whole number from 0 to {LARGEST_SEED}.")
        return self


def _kept(text: str) -> Kept:
    concept, layer, step, on = text[:400].split("~")
    return Kept(concept, layer, float(step), on == "on")


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
            with self._guard:
                self._kept[key] = made
                while len(self._kept) > self._size:
                    self._locks.pop(self._kept.popitem(last=False)[0], None)
            return made

    def peek(self, key: Hashable) -> Any:  # noqa: ANN401
        """What lies under `key`, None when nothing does."""
        with self._guard:
            return self._kept.get(key)


@dataclass(frozen=True)
class World:
    """The models, pictures and finished results that all visitors share; nobody changes them."""

    shelf: Shelf
    cache: Path
    models: Shop = field(default_factory=lambda: Shop(16))
    sets: Shop = field(default_factory=lambda: Shop(3))
    edited: Shop = field(default_factory=lambda: Shop(64))
    uploads: Shop = field(default_factory=lambda: Shop(64))
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

    def clip(self, model: str) -> Clip:
        """The CLIP whose towers the model of this name carries."""
        family = self.shelf.offer(model).name.split("-")[0]
        for offer in self.shelf.offers:
            if offer.kind == "zero-shot" and offer.name.split("-")[0] == family:
                folder = offer.folder
                return self.models.get(offer.name, partial(Clip.from_folder, folder))
        raise SlugError(f"{model} needs the CLIP that it carries, and its folder is missing.")

    def diffusion(self, model: str) -> Diffusion:
        """The Stable Diffusion host of this name."""
        folder = self.shelf.offer(model).folder
        return self.models.get(model, lambda: Diffusion.from_folder(folder))

    def vlm(self, model: str) -> Vlm:
        """The LLaVA host of this name."""
        folder = self.shelf.offer(model).folder
        return self.models.get(model, lambda: Vlm.from_folder(folder))

    def readers(self, model: str) -> frozenset[str]:
        """The tensors that change what the model of this name puts out, found by trying."""
        offer = self.shelf.offer(model)
        if offer.kind == "zero-shot":
            return frozenset(layers.candidates(self.clip(model)))
        host = self.diffusion(model) if offer.kind == "diffusion" else self.vlm(model)
        return self.models.get(("reads", model), lambda: frozenset(host.editable()))

    def gradients(self, model: str, concept: Entry, watch: Watch) -> Gradients:
        """The two gradients for a concept, from memory when they were taken before."""
        clip = self.clip(model)
        key = ("gradients", clip.name, concept.name)
        return self.results.get(key, lambda: self._gradients(clip, concept, watch))

    def _gradients(self, clip: Clip, concept: Entry, watch: Watch) -> Gradients:
        forget, retain = self.examples(concept)
        named = forget.assign(prompt=concept.words)  # the bare name, as in the paper
        batches = [slopes.batches(*self.pairs(clip, rows), size=BATCH) for rows in (named, retain)]
        done, total = [0], sum(len(part) for part in batches)

        def tick() -> None:
            done[0] += 1
            watch.say(f"Taking gradients, batch {done[0]} of {total}", done[0], total)

        watch.say(f"Taking gradients of {len(forget)} + {len(retain)} pictures", 0, total)
        names = layers.candidates(clip)
        return slopes.gradients(
            clip, batches[0], retain=batches[1], names=names, cache=self.cache, tick=tick
        )

    def examples(self, concept: Entry) -> tuple[Any, Any]:
        """The records of what to forget and of what to retain; the second never shows the first."""
        tables, column = self.shelf.tables, concept.domain
        forget = tables["forget"][tables["forget"][column] == concept.name]
        retain = tables["retain"][tables["retain"][column] != concept.name]
        return (
            shelf.spread(forget, FORGET, seed=0),
            shelf.spread(retain, RETAIN, seed=lot(concept.name)),
        )

    def pairs(self, clip: Clip, rows: Any) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: ANN401
        """Pictures (N, 3, H, W) and their captions' tokens (N, T)."""
        if rows.empty:
            raise SlugError("There are no example pictures for this.")
        pixels = torch.stack([clip.transform(one) for one in shelf.decoded(rows)])
        return pixels, clip.tokenize(list(rows["prompt"]))

    def scores(self, model: str, concept: Entry, watch: Watch) -> list[LayerScore]:
        """Importance and alignment of every layer."""
        gradients = self.gradients(model, concept, watch)
        clip = self.clip(model)
        key = ("scores", clip.name, concept.name)
        return self.results.get(key, lambda: layers.scores(clip.named(), gradients))

    def edit(self, model: str, kept: Kept, watch: Watch) -> Edit:
        """The edit of a concept in a layer, `kept.step` far."""
        clip = self.clip(model)
        key = ("edit", clip.name, kept.concept, kept.layer)
        return self.edited.get(key, lambda: self._unstepped(model, kept, watch)).at(kept.step)

    def _unstepped(self, model: str, kept: Kept, watch: Watch) -> Edit:
        entry, clip = self.shelf.entry(kept.concept), self.clip(model)
        gradients = self.gradients(model, entry, watch)
        for score in self.scores(model, entry, watch):
            if score.layer == kept.layer:
                return direction(clip, entry.name, score=score, gradients=gradients)
        raise SlugError(f"This model has no layer called “{kept.layer[:80]}”.")

    def edits(self, view: View, watch: Watch) -> list[Edit]:
        """The edit that is looked at and those in the tray that are on; the same one counts once."""
        wanted = [kept for kept in view.tray if kept.on]
        if view.layer and view.step:
            own = Kept(view.concept, view.layer, view.step)
            same = (view.concept, view.layer)
            wanted = [one for one in wanted if (one.concept, one.layer) != same] + [own]
        return [self.edit(view.model, kept, watch) for kept in wanted]

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
        self.shelf.offer(view.model)
        self.shelf.entry(view.concept)
        return view.checked()


def lot(name: str) -> int:
    """A seed that is the same in every run."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:6], 16)
