"""LEACE: the least change of CLIP's features that hides a concept from every linear probe.

Belrose et al., NeurIPS 2023, arXiv 2306.03819. Knows a task's features and a formula.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from slugdemo.clip_projections import Features, folded, pictures, shown, texts
from slugdemo.closed_form import span, whitening
from slugdemo.edit import Edit
from slugdemo.task import Task


def leace(task: Task) -> Edit:
    """P = I - W^+ u u^T W with W = S_xx^(-1/2) and u the unit vector along W S_xz, on each tower:

    x are features, z says whether they are of the concept, and no linear probe of P x can tell.
    P is folded into visual.proj and text_projection. Features of pictures decide in the vision
    tower, those of prompts in the text tower.

    Deviations: no bias, as CLIP's projections have none (the authors' affine=False); S_xx is the
    sample covariance, without their shrinkage.
    """
    return leace_together([task])


def leace_together(tasks: Sequence[Task]) -> Edit:
    """The one projection for the concepts of several tasks: z has a column for each of them."""
    first, *others = tasks
    seen = pictures(first)
    more = [seen._replace(forget=shown(task, task.concept.forget)) for task in others]
    erasers = {
        "vision": eraser(seen, *more),
        "text": eraser(*[texts(task) for task in tasks]),
    }
    return tasks[0].edit(folded(tasks[0], erasers))


def eraser(*concepts: Features) -> Tensor:
    """The projection P (D, D) that makes each concept's features look like the others'.

    What is retained is that of the first concept, which holds none of the K.
    """
    x = torch.cat([*(features.forget for features in concepts), concepts[0].retain]).double()
    counts = torch.tensor([len(features.forget) for features in concepts])
    owner = torch.arange(len(concepts)).repeat_interleave(counts)
    z = torch.zeros(len(x), len(concepts), dtype=x.dtype)
    z[torch.arange(len(owner)), owner] = 1.0
    together = (x - x.mean(0)).T @ (z - z.mean(0)) / len(x)  # S_xz, (D, K)
    white, colour = whitening(x)
    directions = span((white @ together).T).T  # (D, R)
    return torch.eye(len(white)).double() - (colour @ directions) @ (white @ directions).T
