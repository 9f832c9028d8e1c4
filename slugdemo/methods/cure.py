"""CURE: the spectral eraser (Das Biswas et al., NeurIPS 2025, arXiv 2505.12677).

Knows a task's text states and a formula; draws nothing.
"""

from torch import Tensor

from slugdemo.closed_form import spectral
from slugdemo.edit import Edit
from slugdemo.task import Task
from slugdemo.text_projections import guide, kept, moved, projections, tokens

EXPANSION = 2.0


def cure(task: Task) -> Edit:
    """W' = W - W (P_F - P_F P_R), P = V diag(f(r)) V^T from the SVD of token states:

    r_i = s_i^2 / sum s^2, f(r) = a r / ((a - 1) r + 1); F are states of the concept, R of what is
    kept, so that only what the concept has for itself goes. a = 2, as published for objects.

    Published: the mean over a prompt's tokens, keys and values of cross-attention. Deviations:
    the single tokens from the concept's last word on in its plain prompt; also the pooled text
    embedding. Nothing stands in for what goes, and pocket-sd's styles stay.
    """
    own, rest = tokens(task, guide(task), many=False).sources, kept(task)
    return task.edit(moved(projections(task.model), lambda view: move(view(own), view(rest))))


def move(forget: Tensor, retain: Tensor) -> Tensor:
    """The move -(P_F - P_F P_R) (D, D) for states (N, D) to forget and (K, D) to retain."""
    own, others = (spectral(rows, expansion=EXPANSION) for rows in (forget, retain))
    return own @ others - own
