"""Double projections: towards the anchor's span, in the null space of what is kept.

CVPR 2026, arXiv 2604.10032. Knows a task's text states and a formula; draws nothing.
"""

import torch
from torch import Tensor

from slugdemo.closed_form import projector, span
from slugdemo.edit import Edit
from slugdemo.task import Task
from slugdemo.text_projections import guide, kept, moved, projections, tokens

ANCHORED, PRESERVED = 0.95, 0.99  # shares of energy that the two spans hold
SMALLEST = 0.1  # singular values of the concept's states, relative to the largest, that count


def double_projections(task: Task) -> Edit:
    """W' = W + W (c* - c) x^T / |x|^2 U^T, so that W' c = W c* and (W' - W) C_pres = 0:

    c* = S (S^T S)^+ S^T c is the concept's state projected onto the span of its anchors S, and
    x = U^T c what of it lies in U, the null space of the preserved states (SVD cut at k).

    Deviations: all tokens from the concept's last word on instead of one c, with the pseudoinverse
    in place of x^T / |x|^2; S is cut too, at 95 % of its energy, since the tokens of an anchor in
    many prompts span everything; k at 99 %; also the pooled text embedding.
    """
    pairs, rest = tokens(task, guide(task)), kept(task)
    return task.edit(
        moved(projections(task.model), lambda view: move(*pairs.seen(view), view(rest)))
    )


def move(concept: Tensor, anchors: Tensor, preserved: Tensor) -> Tensor:
    """The move M (D, D) for states (N, D) of the concept and its anchors, and (K, D) to preserve."""
    concept = concept.double()
    goal = concept @ projector(span(anchors, share=ANCHORED))  # c*
    null = torch.eye(concept.shape[1]).double() - projector(span(preserved, share=PRESERVED))
    inside = concept @ null  # U x, (N, D)
    return (goal - concept).T @ torch.linalg.pinv(inside, rtol=SMALLEST).T @ null
