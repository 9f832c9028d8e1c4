"""SSD: selective synaptic dampening of the weights that matter more to what shall be forgotten.

Foster, Schoepf, Brintrup, AAAI 2024, arXiv 2308.07707; on CLIP as in SLUG's table 1. Trains
nothing. Knows a task; knows no kind of model.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from slugdemo.concept import Example
from slugdemo.edit import Edit, qualified
from slugdemo.gradients import forget_loss
from slugdemo.task import Task
from slugdemo.training import TowerPairs, differentiated, shuffled, tower_weights
from slugdemo.weights import Weights

ALPHA = {"zero-shot": 50.0, "diffusion": 10.0, "vlm": 12.0}  # by kind of model
LAMBDA, POWER = 1.0, 1.0
BATCHES, SIZE = 16, 8


def ssd(task: Task) -> Edit:
    """Dampens the weights whose importance to the forget set stands out; one pass, no training.

    1. Importance of each weight: the mean over batches of the squared gradient (eq. 4), I_f on
       the pairs to forget and I_D on those to retain.
    2. Where I_f > alpha I_D: w <- w min((lambda I_D / I_f)^p, 1) (eq. 6 and 7).

    SLUG's repository: alpha 10, lambda swept from .1 to 5 and applied cumulatively, p 1.
    Deviations: one dampening; alpha 10 only where the text tower alone is edited, 50 and 12 where
    pictures are read too, since less takes much of the rest; both importances are of L_f = mean(1 - cos),
    so that they compare; biases, embeddings and (inside other models) layer norms stay.
    """
    weights = tower_weights(task)
    own = importance(task, task.concept.forget, weights)
    rest = importance(task, task.retain_split[0], weights)
    alpha = ALPHA[task.kind]
    factors = {name: dampening(own[name], rest[name], alpha=alpha) for name in weights}
    return task.edit({qualified(name): w * (factors[name] - 1) for name, w in weights.items()})


def importance(task: Task, examples: Sequence[Example], weights: Weights) -> dict[str, Tensor]:
    """The mean over `BATCHES` batches of the squared gradient of L_f, for each weight."""
    pairs = TowerPairs(task.clip, examples, list(weights))
    batches = shuffled(len(pairs), SIZE, task.generator())
    leaves = {name: w.detach().float().requires_grad_() for name, w in weights.items()}
    total = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    for done in range(BATCHES):
        task.step("Importance", done, BATCHES)
        with torch.enable_grad():
            value = forget_loss(*pairs.features(next(batches), leaves))
        for name, gradient in zip(total, differentiated(value, leaves), strict=True):
            total[name] += gradient.square() / BATCHES
    return {name: tensor.detach() for name, tensor in total.items()}


def dampening(
    forget: Tensor,
    retain: Tensor,
    *,
    alpha: float,
    scale: float = LAMBDA,
    power: float = POWER,
) -> Tensor:
    """What each weight is multiplied by, from its two importances (eq. 6 and 7); in [0, 1]."""
    ratio = (scale * retain / forget.clamp(min=torch.finfo(forget.dtype).tiny)) ** power
    return torch.where(forget > alpha * retain, ratio.clamp(max=1.0), torch.ones_like(forget))
