"""Before and after inside: cosines and features under edits, as data that a page can draw.

Knows tasks and edits; knows no plots.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from slugdemo.edit import Edit
from slugdemo.task import Task


@dataclass(frozen=True)
class Matrix:
    """Cosines of C kinds of pictures (rows) with C names (columns), before and after an edit."""

    names: tuple[str, ...]
    before: tuple[tuple[float, ...], ...]
    after: tuple[tuple[float, ...], ...]


def cosine_matrix(task: Task, edits: Sequence[Edit], *, count: int = 12) -> Matrix:
    """The cosines of pictures with names in the task's CLIP: the concept first, then the nearest.

    A row is the mean over a name's search pictures. Edits of a U-Net change none.
    """
    host = task.classified.host
    names = [host.classes[at] for at in host.labels.unique().tolist() if at >= 0]
    near = task.near().nearness.get("meaning", {})
    rest = sorted((n for n in names if n != task.concept.name), key=lambda n: -near.get(n, -1.0))
    shown = [task.concept.name, *rest[: count - 1]]
    columns = torch.tensor([host.classes.index(name) for name in shown])

    def cosines(scores: torch.Tensor) -> tuple[tuple[float, ...], ...]:
        rows = [scores[host.labels == at][:, columns].mean(0) for at in columns]
        return tuple(tuple(row.tolist()) for row in rows)

    return Matrix(tuple(shown), cosines(host.scores), cosines(host.edited(edits).scores))


@dataclass(frozen=True)
class Point:
    """One item of the report split on a map: what it was to show, and where it lay and lies."""

    name: str
    before: tuple[float, float]
    after: tuple[float, float]


def embedding_map(task: Task, edits: Sequence[Edit]) -> list[Point]:
    """The report split's features on the two main axes (PCA) that they have before the edit.

    Of Stable Diffusion the judge's features of its pictures, of CLIP its own; nothing for models
    that give none.
    """
    before, after = (task.evaluation.seen(some) for some in ([], edits))
    if not before.features.size:
        return []
    middle = before.features.mean(0)
    axes = np.linalg.svd(before.features - middle, full_matrices=False)[2][:2]
    places = [(seen.features - middle) @ axes.T for seen in (before, after)]
    return [
        Point(str(name), _pair(first), _pair(second))
        for name, first, second in zip(task.evaluation.shown(), *places, strict=True)
    ]


def _pair(place: np.ndarray) -> tuple[float, float]:
    return float(place[0]), float(place[1])
