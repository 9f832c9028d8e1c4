"""LEACE: the least change of CLIP's features that hides a concept from every linear probe.

Belrose et al., NeurIPS 2023, arXiv 2306.03819. Knows a task's features and a formula.
"""

import torch
from torch import Tensor

from slugdemo.clip_projections import Features, folded, pictures, texts
from slugdemo.closed_form import whitening
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
    erasers = {"vision": eraser(pictures(task)), "text": eraser(texts(task))}
    return task.edit(folded(task, erasers))


def eraser(features: Features) -> Tensor:
    """The projection P (D, D) that makes the concept's features look like the others'."""
    x, z = features.all.double(), features.labels.double()
    together = (x - x.mean(0)).T @ (z - z.mean()) / len(x)  # S_xz, (D,)
    white, colour = whitening(x)
    direction = white @ together
    direction = direction / direction.norm()
    return torch.eye(len(white)).double() - torch.outer(colour @ direction, white @ direction)
