"""RECE: UCE against its own closed-form adversary (Gong et al., ECCV 2024, arXiv 2407.12383).

Knows a task's text states and two formulas; draws nothing.
"""

import torch
from torch import Tensor

from slugdemo.closed_form import adversary, regression
from slugdemo.edit import Edit
from slugdemo.task import Task
from slugdemo.text_projections import Tokens, View, by_view, guide, kept, projections, tokens

RIDGE, PRESERVE = 10.0, 1.0  # of each UCE step
EPOCHS, ADVERSARY_RIDGE = 3, 0.1


def rece(task: Task) -> Edit:
    """Begins with a UCE edit; then in each epoch, with W' the current and W the original weights:

    1. c' = (r I + sum W'^T W')^-1 (sum W'^T W) c, the states that get back the concept (eq. 8);
    2. one more UCE step that sends c' to the guide, with ridge l |W'' - W'|^2 (the already edited
       W', as in its code).

    Published: 3 epochs, r = .1, l = .1, the retain text " ", guide " ". Deviations: the guide and
    what is kept are those of our UCE, since with " " alone all neighbours go; l = 10; also the
    pooled text embedding.
    """
    pairs, rest, delta = tokens(task, guide(task)), kept(task), {}
    for view, group in by_view(projections(task.model)):
        weights = [one.weight for one in group]
        move = moves(weights, pairs, rest, view)[-1]
        delta |= {one.name: (one.weight.double() @ move).float() for one in group}
    return task.edit(delta)


def moves(weights: list[Tensor], pairs: Tokens, rest: Tensor, view: View) -> list[Tensor]:
    """The moves M (D, D), W' = W + W M, after UCE and after each epoch."""
    sources, targets, kept_states = (
        view(states).double() for states in (pairs.sources, pairs.targets, rest)
    )
    found = [regression(sources, targets, kept_states, ridge=RIDGE, preserve=PRESERVE)]
    for _ in range(EPOCHS):
        now = torch.eye(len(found[-1])).double() + found[-1]  # W' = W now
        attack = adversary(weights, [w.double() @ now for w in weights], ridge=ADVERSARY_RIDGE)
        rows = torch.cat([sources, sources @ attack.T, kept_states])
        wanted = torch.cat([targets, targets, kept_states])
        price = torch.tensor([1.0] * 2 * len(sources) + [PRESERVE] * len(kept_states)).double()
        further = regression(
            rows, rows + wanted - rows @ now.T, rows[:0], ridge=RIDGE, erase=price
        )
        found.append(found[-1] + further)
    return found
