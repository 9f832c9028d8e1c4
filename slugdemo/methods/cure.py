"""CURE: the spectral eraser (Das Biswas et al., NeurIPS 2025, arXiv 2505.12677).

Knows a task's text states and a formula; draws nothing.
"""

from torch import Tensor

from slugdemo.closed_form import spectral
from slugdemo.edit import Edit
from slugdemo.task import Task
from slugdemo.text_projections import kept, moved, projections, tokens, guide

EXPANSION = 2.0
MANY = False


def cure(task: Task) -> Edit:
    """W' = W - W (P_F - P_F P_R), P = V diag(f(r)) V^T, f(r) = a r / ((a - 1) r + 1) (eqs. 4 to 8)
    """
    pairs, rest = tokens(task, guide(task), many=MANY), kept(task)
    return task.edit(
        moved(projections(task.model), lambda view: move(view(pairs.sources), view(rest)))
    )


def move(forget: Tensor, retain: Tensor) -> Tensor:
    """-(P_F - P_F P_R): (D, D)."""
    own, others = spectral(forget, expansion=EXPANSION), spectral(retain, expansion=EXPANSION)
    return own @ others - own
