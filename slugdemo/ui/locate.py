"""LOCATE: which layer holds the concept, and which could be moved without harm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slugdemo.errors import SlugError
from slugdemo.layers import LayerScore, harm, pareto_front
from slugdemo.ui import figures, words
from slugdemo.ui.jobs import Watch
from slugdemo.ui.session import World
from slugdemo.ui.view import View, label


@dataclass(frozen=True)
class Map:
    """The scores of all layers, the names on the fronts, and the tensors that the host reads."""

    scores: tuple[LayerScore, ...]
    front: tuple[str, ...]
    readable: frozenset[str]
    by: str
    shapes: Mapping[str, str] = field(default_factory=dict)

    def reads(self, score: LayerScore) -> bool:
        """Whether a change of this layer can be seen at all."""
        return set(score.tensors) <= self.readable

    def score(self, layer: str) -> LayerScore:
        """The score of one layer; raises SlugError when there is none or nothing reads it."""
        for one in self.scores:
            if one.layer == layer:
                if self.reads(one):
                    return one
                raise SlugError(
                    f"{words.short(layer)} of the {one.tower} tower cannot be chosen: "
                    f"{why(one)}. Choose a layer that is not grey."
                )
        raise SlugError(f"This model has no layer called “{layer[:80]}”.")

    def best(self) -> str:
        """The front layer to begin with: most important x least aligned (as in RAZOR's score)."""
        mine = [one for one in self.scores if one.layer in self.front]
        return max(mine, key=lambda one: one.importance * (1 - harm(one, by=self.by))).layer


def locate(world: World, view: View, watch: Watch) -> Map:
    """The map of the layers for the concept in the view; raises SlugError when none can move."""
    scores = world.scores(view.model, view.concept, watch, unit=view.unit)
    watch.say("Trying which layers this model reads")
    readable = world.readers(view.model)
    fit = [one for one in scores if set(one.tensors) <= readable and one.importance > 0]
    if not fit:
        raise SlugError("No layer of this model has a gradient along which it could forget.")
    scores = sorted(scores, key=lambda one: (one.tower, words.depth(one.layer)))
    front = tuple(one.layer for one in pareto_front(fit, by=view.by))
    named = world.clip(view.model).named()
    shapes = {one.layer: _shape([named[name].shape for name in one.tensors]) for one in scores}
    return Map(tuple(scores), front, readable, view.by, shapes)


def _shape(shapes: Sequence[Sequence[int]]) -> str:
    """The shapes of a layer's tensors as people write them: "512 x 192"."""
    return ", ".join(" x ".join(map(str, shape)) for shape in shapes)


def show(found: Map, view: View) -> dict[str, Any]:
    """The scatter with its strip of slots, its table twin and its description."""
    figure = figures.scatter(
        found.scores,
        found.front,
        readable=found.readable,
        selected=view.layer,
        by=found.by,
        shapes=found.shapes,
    )
    top = max(one.importance for one in found.scores)
    rows = [_row(found, one, top) for one in found.scores]
    walk = sorted(
        (one for one in found.scores if one.layer in found.front),
        key=lambda one: (one.tower, harm(one, by=found.by)),
    )
    return {
        "figure": figure,
        "selected": view.layer,
        "by": found.by,
        "unit": view.unit,
        "front": [one.layer for one in walk],
        "rows": rows,
        "described": described(found, view),
    }


def _row(found: Map, score: LayerScore, top: float) -> dict[str, Any]:
    return {
        "layer": score.layer,
        "tower": score.tower,
        "name": words.short(score.layer),
        "params": score.params,
        "shape": found.shapes.get(score.layer, ""),
        "importance": score.importance,
        "alignment": score.alignment,
        "level": score.importance / top,
        "front": score.layer in found.front,
        "reads": found.reads(score),
        "why": "" if found.reads(score) else why(score),
    }


def why(score: LayerScore) -> str:
    """Why a layer is grey."""
    if "norm" in words.kind(score.layer):
        return "here layer norms stay as they are, as in the paper"
    return "this model does not read it, so editing it would change nothing"


def described(found: Map, view: View) -> str:
    """The plot in a sentence, for those who do not see it."""
    names = {one.layer: f"{words.short(one.layer)} ({one.tower})" for one in found.scores}
    front = ", ".join(names[one] for one in found.front)
    deaf = sum(not found.reads(one) for one in found.scores)
    silent = f" {deaf} layers are grey because they cannot be edited here." if deaf else ""
    return (
        f"Importance over {found.by} gradient alignment of {len(found.scores)} layers for “{label(view.concept)}”. "
        f"On the front: {front}. Chosen: {names.get(view.layer, 'none')}.{silent}"
    )


def choices(found: Map) -> list[tuple[str, str]]:
    """The layers that can be chosen, those on the front first, as (what is read, name)."""
    fit = [one for one in found.scores if found.reads(one)]
    fit.sort(key=lambda one: one.layer not in found.front)
    return [
        (
            f"{'★ ' if one.layer in found.front else ''}{one.tower} · {words.short(one.layer)}",
            one.layer,
        )
        for one in fit
    ]
