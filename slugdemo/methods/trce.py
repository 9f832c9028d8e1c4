"""TRCE, stage 1: the meaning goes where the end token carries it (Chen et al., ICCV 2025).

arXiv 2503.07389. Knows a task's text states and a formula; draws nothing and trains nothing.
"""

import torch
from torch import Tensor

from slugdemo.closed_form import regression
from slugdemo.edit import Edit
from slugdemo.task import Task
from slugdemo.text_projections import Tokens, guide, kept, last_of, moved, projections, prompts

PLACES = (0.0, 1.0, 0.0, 0.0)  # first token, first end token, last end token, the concept's word
RIDGE, PRESERVE = 0.1, 0.003


def trce(task: Task) -> Edit:
    """W' = (sum_i w_i W t_i s_i^T + p K)(sum_i w_i s_i s_i^T + p K)^-1 over four places of a prompt:

    the first token, the first end token, the last end token (times the number of end tokens) and
    the concept's word, which goes to the anchor's last end token. Its settings weigh them
    0, 1, 0, 0: the first end token alone is moved.

    Published: thirty templates, p K from MS-COCO captions, l = 0; a trained second stage.
    Deviations: stage 1 only; our prompts, K of other names, the anchor is the nearest name of the
    group, l = .1 and p = .003 (with l = 0 and p = .0001 the weights grow a hundredfold);
    also the pooled text embedding.
    """
    pairs, weights = places(task)
    rest = kept(task)
    return task.edit(
        moved(
            projections(task.model),
            lambda view: regression(
                *pairs.seen(view), view(rest), ridge=RIDGE, erase=weights, preserve=PRESERVE
            ),
        )
    )


def places(task: Task) -> tuple[Tokens, Tensor]:
    """States at the four places of every prompt, those of the anchor, and their weights (N,)."""
    model, word = task.model, task.concept.name
    old, new = prompts(task, word), prompts(task, guide(task))
    before, after = model.states(old), model.states(new)  # (P, T, D)
    ends, goals, words = model.ends(old), model.ends(new), last_of(model, old, word)
    rows = torch.arange(len(old))
    sources = [before[:, 0], before[rows, ends], before[:, -1], before[rows, torch.tensor(words)]]
    targets = [after[:, 0], after[rows, goals], after[:, -1], after[:, -1]]
    first, end, last, own = PLACES
    ones = torch.ones(len(old))
    weights = torch.cat([first * ones, end * ones, last * (before.shape[1] - ends - 1), own * ones])
    return Tokens(torch.cat(sources), torch.cat(targets)), weights / len(old)
