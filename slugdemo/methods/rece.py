"""RECE: UCE against its own closed-form adversary (Gong et al., ECCV 2024, arXiv 2407.12383).

Knows a task's text states and two formulas; draws nothing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from slugdemo.closed_form import adversary, regression
from slugdemo.edit import Edit
from slugdemo.task import Task
from slugdemo.text_projections import Tokens, by_view, guide, kept, projections, tokens

RIDGE, PRESERVE = 10.0, 1.0  # of each UCE step
EPOCHS, ADVERSARY_RIDGE = 3, 0.1


def rece(task: Task) -> Edit:
    """Begins with a UCE edit; then in each epoch, with W' the current and W the original weights:

    1. c' = (r I + sum W'^T W')^-1 (sum W'^T W) c, the states that bring the concept back;
    2. one more UCE step that sends c' to the guide, with the ridge l |W'' - W'|^2 (the already
       edited W', as its code has it).

    Published: 3 epochs, r = .1, l = .1, guide " " and retain text " ". Deviations: the guide and
    what is kept are those of our UCE, as with " " alone the neighbours go; l = 10; step 2 asks
    for c again besides c', since its own c' would else undo the first step; also the pooled text
    embedding.
    """
    pairs, rest = tokens(task, guide(task)), kept(task)
    delta: dict[str, Tensor] = {}
    for view, group in by_view(projections(task.model)):
        task.step("Against its own adversary", len(delta), 0)
        move = moves([each.weight for each in group], pairs.seen(view), view(rest))[-1]
        delta |= {each.name: (each.weight.double() @ move).float() for each in group}
    return task.edit(delta)


def moves(weights: Sequence[Tensor], pairs: Tokens, rest: Tensor) -> list[Tensor]:
    """The moves M (D, D), W' = W + W M, after UCE and after each epoch."""
    sources, targets, rest = pairs.sources.double(), pairs.targets.double(), rest.double()
    found = [regression(sources, targets, rest, ridge=RIDGE, preserve=PRESERVE)]
    wanted = torch.cat([targets, targets, rest])
    price = torch.tensor([1.0] * 2 * len(sources) + [PRESERVE] * len(rest)).double()
    for _ in range(EPOCHS):
        now = torch.eye(len(found[0])).double() + found[-1]  # W' = W now
        attack = adversary(weights, [w.double() @ now for w in weights], ridge=ADVERSARY_RIDGE)
        rows = torch.cat([sources, sources @ attack.T, rest])
        goal = rows + wanted - rows @ now.T  # W'' = W' + W M moves rows that W' has not yet
        further = regression(rows, goal, rows[:0], ridge=RIDGE, erase=price)
        found.append(found[-1] + further)
    return found
