"""SPM: a rank-1 adapter in what reads text, folded into the weights.

Lyu et al., CVPR 2024, arXiv 2312.16145. Knows a task on a Diffusion.
"""

import torch
from torch import Tensor

from slugdemo.concept import prompt, style_prompt
from slugdemo.edit import Edit
from slugdemo.task import Task
from slugdemo.training import adamw, shuffled, trained
from slugdemo.unet_training import asked, on_the_way, predicted, text_readers
from slugdemo.weights import Weights

RANK, ETA, ANCHORING = 1, 1.0, 1.0
RATE, STEPS, BATCH, ANCHORS, CONTEXTS = 3e-3, 60, 4, 6, 2
DOWN, UP = "down ", "up "


def spm(task: Task) -> Edit:
    """Adapters w + up down^T on every matrix that reads text; ESD's loss, and anchors that stay.

    Minimises || e(x_t, c) - (e*(x_t, "") - eta (e*(x_t, c) - e*(x_t, ""))) ||^2 plus the
    latent anchoring || e(x_t, c_a) - e*(x_t, c_a) ||^2 over preserved names c_a (eq. 4 to 6).
    Published: rank 1, 3000 iterations, rate 1e-4, anchoring weighted by 1000 times the distance
    of the texts, 4 anchors, all layers of the U-Net; at inference the adapter counts by how near
    the prompt is (facilitated transport). Deviations: 60 iterations, rate 3e-3, what reads text
    only, 6 anchors of equal weight; folded into the weights, so no transport at inference.
    """
    model, words = task.model, asked(task, CONTEXTS)
    anchors = kept(task)
    texts = [*words, *anchors]
    seen = on_the_way(task, texts)
    states = model.states(texts)[seen.which]
    own = predicted(task, seen, states)
    blank = predicted(task, seen, model.states([""]).expand_as(states))
    erased = (seen.which < len(words)).view(-1, 1, 1, 1)
    goal = torch.where(erased.to(own.device), blank - ETA * (own - blank), own)
    rows_of = [rows.nonzero().flatten() for rows in (erased.flatten(), ~erased.flatten())]
    batches = [shuffled(len(rows), BATCH, task.generator(at)) for at, rows in enumerate(rows_of)]
    weights = {n: w for n, w in text_readers(task).items() if w.dim() == 2}

    def loss(now: Weights, _: int) -> Tensor:
        rows = torch.cat([own[next(some)] for own, some in zip(rows_of, batches, strict=True)])
        full = {n: weights[n] + moved.to(weights[n].dtype) for n, moved in folded(now).items()}
        found = model.predict(seen.latents[rows], seen.t[rows], states[rows], full)
        wrong = (found - goal[rows]).square().flatten(1).mean(1)
        return wrong[:BATCH].mean() + ANCHORING * wrong[BATCH:].mean()

    start = adapters(weights, task.generator(2))
    moved = trained(task, start, loss, steps=STEPS, optimiser=adamw(RATE, 0.0))
    return task.edit(folded({name: start[name] + moved[name] for name in start}))


def kept(task: Task) -> list[str]:
    """The prompts of a few preserved names, neighbours first."""
    write = style_prompt if task.concept.kind == "style" else prompt
    near = [name for name in task.eval_set.neighbours if name in task.preserved][: ANCHORS // 2]
    rest = [name for name in task.preserved if name not in near]
    order = torch.randperm(len(rest), generator=task.generator()).tolist()
    return [write(name) for name in [*near, *(rest[at] for at in order)][:ANCHORS]]


def adapters(weights: Weights, noise: torch.Generator) -> dict[str, Tensor]:
    """Two thin matrices for each matrix (out, in): random (rank, in), and zeros (out, rank)."""
    found = {}
    for name, weight in weights.items():
        thin = torch.randn((RANK, weight.shape[1]), generator=noise) / RANK**0.5
        found[DOWN + name] = thin.to(weight.device)
        found[UP + name] = torch.zeros((weight.shape[0], RANK), device=weight.device)
    return found


def folded(thin: Weights) -> dict[str, Tensor]:
    """The differences up down^T (out, in) by the names of the matrices they belong to."""
    names = [name.removeprefix(UP) for name in thin if name.startswith(UP)]
    return {name: thin[UP + name] @ thin[DOWN + name] for name in names}
