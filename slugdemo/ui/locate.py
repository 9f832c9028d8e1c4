"""LOCATE: which layer holds the concept, and which could be moved without harm."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from slugdemo.errors import SlugError
from slugdemo.layer_names import depth, kind, label, short
from slugdemo.layers import LayerScore, harm
from slugdemo.task import Task
from slugdemo.ui import plots
from slugdemo.ui.view import View
from slugdemo.ui.view import label as called


@dataclass(frozen=True)
class Map:
    """The scores of all layers of CLIP, the names on the fronts, and those that can be edited here."""

    scores: tuple[LayerScore, ...]
    front: tuple[str, ...]
    editable: frozenset[str]
    alignment: str
    shapes: Mapping[str, str] = field(default_factory=dict)

    def score(self, layer: str) -> LayerScore:
        """The score of one layer; raises SlugError when there is none or it cannot be edited."""
        for score in self.scores:
            if score.layer == layer:
                if layer in self.editable:
                    return score
                raise SlugError(
                    f"{label(layer)} cannot be chosen: {why(score)}. Choose a layer that is not "
                    "grey."
                )
        raise SlugError(f"This model has no layer called “{layer[:80]}”.")

    def best(self) -> str:
        """The front layer to begin with: the most important and least aligned."""
        front = [score for score in self.scores if score.layer in self.front]
        return max(front, key=self._promise).layer

    def _promise(self, score: LayerScore) -> float:
        return score.importance * (1 - harm(score, alignment=self.alignment))


def locate(task: Task) -> Map:
    """The map of the layers for the concept of a task, those that the model does not read too."""
    config = task.config
    every = sorted(task.every_score, key=lambda score: (score.tower, depth(score.layer)))
    front = tuple(score.layer for score in task.front)
    editable = frozenset(score.layer for score in task.scores)
    return Map(tuple(every), front, editable, config.alignment, task.shapes)


def show(found: Map, view: View) -> dict[str, Any]:
    """The scatter with its strip of slots, its table twin and its description."""
    figure = plots.scatter(
        found.scores,
        found.front,
        editable=found.editable,
        selected=view.layer,
        alignment=found.alignment,
        shapes=found.shapes,
    )
    top = max(score.importance for score in found.scores)
    walk = sorted(
        (score for score in found.scores if score.layer in found.front),
        key=lambda score: (score.tower, harm(score, alignment=found.alignment)),
    )
    return {
        "figure": figure,
        "selected": view.layer,
        "alignment": found.alignment,
        "granularity": view.granularity,
        "front": [score.layer for score in walk],
        "rows": [_row(found, score, top) for score in found.scores],
        "described": described(found, view),
    }


def _row(found: Map, score: LayerScore, top: float) -> dict[str, Any]:
    reads = score.layer in found.editable
    return {
        "layer": score.layer,
        "tower": score.tower,
        "name": short(score.layer),
        "params": score.params,
        "shape": found.shapes.get(score.layer, ""),
        "importance": score.importance,
        "alignment": score.alignment,
        "level": score.importance / top,
        "front": score.layer in found.front,
        "reads": reads,
        "why": "" if reads else why(score),
    }


def why(score: LayerScore) -> str:
    """Why a layer is grey."""
    if kind(score.layer) == "norm":
        return "layer norms stay as they are in this kind of model, as in the paper"
    return "this model does not read it, so editing it would change nothing"


def described(found: Map, view: View) -> str:
    """The plot in a sentence, for those who do not see it."""
    names = {score.layer: label(score.layer) for score in found.scores}
    front = ", ".join(names[layer] for layer in found.front)
    unread = sum(score.layer not in found.editable for score in found.scores)
    grey = f" {unread} layers are grey because they cannot be edited here." if unread else ""
    return (
        f"Importance over {found.alignment} gradient alignment of {len(found.scores)} layers for "
        f"“{called(view.concept)}”. On the front: {front}. "
        f"Chosen: {names.get(view.layer, 'none')}.{grey}"
    )


def choices(found: Map) -> list[tuple[str, str]]:
    """The layers that can be chosen, those on the front first, as (what is read, name)."""
    fit = [score.layer for score in found.scores if score.layer in found.editable]
    fit.sort(key=lambda layer: layer not in found.front)
    return [(f"{'★ ' if layer in found.front else ''}{label(layer)}", layer) for layer in fit]
