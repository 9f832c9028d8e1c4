"""CCUP-like: the null space of a concept's text embeddings at CLIP's final projection.

After arXiv 2512.14137, whose exact form we have not seen. Knows a task's text features.
"""

import torch
from torch import Tensor

from slugdemo.clip_projections import Features, folded, texts
from slugdemo.closed_form import projector, span
from slugdemo.edit import Edit
from slugdemo.task import Task

AMOUNT = 1.0  # of the direction that goes
RETAINED = 0.5  # share of energy of the retain texts that is left alone
DIRECTIONS = 1


def ccup(task: Task) -> Edit:
    """W <- (I - a U U^T) W for the projection W of pictures, a = 1:

    U is the leading direction of the concept's text features once the leading directions of the
    other names' have been projected out. No picture is needed.

    Ours throughout: one direction, half the energy of the other names, the projection of the
    vision tower (in that of the text tower other styles suffer).
    """
    return task.edit(folded(task, {"vision": eraser(texts(task))}))


def eraser(features: Features) -> Tensor:
    """The projection I - a U U^T (D, D)."""
    own = features.forget.double()
    beyond = own - own @ projector(span(features.retain, share=RETAINED))
    unit = torch.eye(own.shape[1], dtype=own.dtype)
    return unit - AMOUNT * projector(span(beyond)[:DIRECTIONS])
