"""INLP: iterated projections onto the null spaces of linear probes (Ravfogel et al., ACL 2020).

arXiv 2004.07667. Knows a task's features and a logistic regression.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from slugdemo.clip_projections import Features, folded, pictures, texts
from slugdemo.closed_form import projector, span
from slugdemo.edit import Edit
from slugdemo.task import Task

ROUNDS, DECAY, ITERATIONS = 2, 1e-2, 50


def inlp(task: Task) -> Edit:
    """P = I - B^T B, B spanned by the probes of several rounds, on each tower:

    a logistic regression learns to tell the concept's features from the others', its direction
    is projected out, and the next round begins with what is left. P is folded into visual.proj
    and text_projection; features of pictures decide in the first, those of prompts in the second.

    Published: as many rounds as it takes to bring the probe to chance. Deviations: 2 rounds, as a
    few pictures can be told apart for ever and each round costs a direction; both classes weigh
    the same; weight decay .01.
    """
    erasers = {"vision": eraser(pictures(task)), "text": eraser(texts(task))}
    return task.edit(folded(task, erasers))


def eraser(features: Features) -> Tensor:
    """The projection P (D, D)."""
    x, z = features.all.double(), features.labels.double()
    found = x[:0]
    for _ in range(ROUNDS):
        found = span(torch.cat([found, probe(x - x @ projector(found), z)[None]]))
    return torch.eye(x.shape[1], dtype=x.dtype) - projector(found)


def probe(x: Tensor, labels: Tensor) -> Tensor:
    """The direction (D,) of a logistic regression of labels (N,) in {0, 1} on features (N, D)."""
    share = torch.where(labels > 0, 0.5 / labels.sum(), 0.5 / (1 - labels).sum())
    weights = torch.zeros(x.shape[1] + 1, dtype=x.dtype, requires_grad=True)
    search = torch.optim.LBFGS([weights], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        with torch.enable_grad():
            logits = x @ weights[:-1] + weights[-1]
            losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
            loss = (share * losses).sum() + DECAY * (weights[:-1] ** 2).sum()
        weights.grad = torch.autograd.grad(loss, weights)[0]
        return loss

    search.step(closure)  # type: ignore[arg-type]
    return weights.detach()[:-1]
