"""SalUn: training restricted to the weights most salient to what shall be forgotten.

Fan et al., ICLR 2024, arXiv 2310.12508; on CLIP as in SLUG's table 1. Knows a task; knows no kind
of model.
"""

import torch
from torch import Tensor

from slugdemo.edit import Edit, qualified
from slugdemo.task import Task
from slugdemo.training import adamw, forget_then_retain, tower_weights, trained
from slugdemo.weights import Weights

SHARE = 0.5
RATE, DECAY = 1e-4, 0.1
FORGET_STEPS = {"zero-shot": 6, "diffusion": 30, "vlm": 12}  # by kind of model
RETAIN_STEPS = 20


def salun(task: Task) -> Edit:
    """GAFT on the `SHARE` of weights with the largest |grad L_f|; all others stay (eq. 4 to 6).

    The mask is m = 1(|grad L_f| >= gamma) with gamma the median over all trained tensors
    together. SLUG's repository: learning rate 1e-7 or 1e-6, 10 epochs, batch 32, weight decay .1.
    Deviations: rate 1e-4, a few iterations of each kind; weight decay does not reach what the mask
    holds; biases, embeddings and (inside other models) layer norms stay.
    """
    weights = tower_weights(task)
    gradient = {name: task.gradients.forget[name] for name in weights}
    loss = forget_then_retain(
        task, weights, forget_steps=FORGET_STEPS[task.kind], retain_steps=RETAIN_STEPS
    )
    delta = trained(
        task,
        weights,
        loss,
        steps=FORGET_STEPS[task.kind] + RETAIN_STEPS,
        optimiser=adamw(RATE, DECAY),
        masks=salient(gradient, SHARE),
    )
    return task.edit({qualified(name): tensor for name, tensor in delta.items()})


def salient(gradient: Weights, share: float) -> dict[str, Tensor]:
    """Masks of the entries with the largest |gradient|, `share` of all tensors' together."""
    sizes = torch.cat([tensor.abs().flatten() for tensor in gradient.values()])
    kept = max(1, round(share * sizes.numel()))
    threshold = sizes.kthvalue(sizes.numel() - kept + 1).values
    return {name: tensor.abs() >= threshold for name, tensor in gradient.items()}
