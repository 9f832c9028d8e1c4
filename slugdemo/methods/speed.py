"""SPEED: erasing in the null space of what is kept (Li et al., ICLR 2026, arXiv 2503.07392).

Knows a task's text states and a formula; draws nothing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from slugdemo.closed_form import centres, null_space
from slugdemo.edit import Edit
from slugdemo.task import Task
from slugdemo.text_projections import Tokens, guide, joined, kept, projections, tokens

THRESHOLD, RIDGE, COPIES, CENTRES = 0.01, 1.0, 10, 3


def speed(task: Task) -> Edit:
    """W' = W + W (C_at - C_tt) P (I - M K (K^T P M K)^-1 K^T P) M, M = (C_tt P + s I)^-1.

    C_tt = mean c_t c_t^T over the concept's tokens and C_at = mean c_a c_t^T with those of its
    guide; P projects onto the null space of the states to keep; K holds the empty prompt's first
    token and the 3 k-means centres of its others, which stay exactly. What is kept:
    states that the unconstrained edit E = W (C_at - C_tt)(I + C_tt)^-1 moves more than the mean,
    each 10 times with noise along the direction that W reads least, again those above the mean.

    Published: values only, the last token, threshold .1 of C_rr's singular values, s = 1.
    Deviations: keys too and the pooled text embedding; tokens from the concept's last word on;
    the threshold is relative to the largest singular value (.01); k-means begun without chance.
    """
    return speed_together([task])


def speed_together(tasks: Sequence[Task]) -> Edit:
    """The one edit for the concepts of several tasks: C_tt and C_at are means over all of them."""
    task = tasks[0]
    pairs, rest = joined([tokens(some, guide(some)) for some in tasks]), kept(task)
    blank, noise = task.model.states([""])[0], task.generator()
    delta = {}
    for projection in projections(task.model):
        seen = pairs.seen(projection.view)
        fixed = invariant(projection.view(blank))
        own = influenced(projection.weight, seen, projection.view(rest), noise)
        delta[projection.name] = (projection.weight.double() @ move(seen, own, fixed)).float()
    return task.edit(delta)


def invariant(blank: Tensor) -> Tensor:
    """The first state of the empty prompt (T, D) and the centres of its others: (4, D)."""
    return torch.cat([blank[:1].double(), centres(blank[1:], CENTRES)])


def influenced(weight: Tensor, pairs: Tokens, rest: Tensor, noise: torch.Generator) -> Tensor:
    """Of `rest` (K, D) and noisy copies those that the unconstrained edit moves most: (R, D)."""
    weight, rest = weight.double(), rest.double()
    before, across = moments(pairs)
    unit = torch.eye(len(before), dtype=before.dtype)
    change = weight @ (across - before) @ torch.linalg.inv(unit + before)  # E (O, D)
    chosen = above_mean(rest, change)
    least = torch.linalg.svd(weight, full_matrices=True).Vh[-1]  # what W reads least
    spread = torch.randn(COPIES * len(chosen), len(least), generator=noise).double()
    copies = chosen.repeat(COPIES, 1) + (spread @ least)[:, None] * least
    return torch.cat([chosen, above_mean(copies, change)])


def above_mean(rows: Tensor, change: Tensor) -> Tensor:
    """The rows (N, D) that `change` (O, D) moves more than it does on average."""
    far = (rows @ change.T).norm(dim=1)
    return rows[far > far.mean()] if len(rows) > 1 else rows


def moments(pairs: Tokens) -> tuple[Tensor, Tensor]:
    """C_tt and C_at: (D, D) each."""
    sources, targets = pairs.sources.double(), pairs.targets.double()
    return sources.T @ sources / len(sources), targets.T @ sources / len(sources)


def move(pairs: Tokens, own: Tensor, fixed: Tensor) -> Tensor:
    """The move M (D, D) of W' = W + W M for states `own` (R, D) to keep and `fixed` (4, D)."""
    before, across = moments(pairs)
    unit, keys = torch.eye(len(before), dtype=before.dtype), fixed.T  # (D, D), (D, 4)
    null = null_space(own.T @ own / len(own), threshold=THRESHOLD)
    inverse = torch.linalg.inv(before @ null + RIDGE * unit)
    held = keys.T @ null @ inverse @ keys
    correction = unit - inverse @ keys @ torch.linalg.pinv(held, rtol=1e-10) @ keys.T @ null
    return (across - before) @ null @ correction @ inverse
