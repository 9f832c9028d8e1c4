"""ESD: the U-Net learns to predict, for the concept, what guidance away from it would give.

Gandikota et al., ICCV 2023, arXiv 2303.07345. Knows a task on a Diffusion.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from slugdemo.edit import Edit
from slugdemo.task import Task
from slugdemo.training import adamw, shuffled, trained
from slugdemo.unet_training import asked, beside_text, on_the_way, predicted, text_readers
from slugdemo.weights import Weights

ETA, BATCH = 2.0, 4
RATE_X, RATE_U = 1e-3, 1.5e-4
STEPS_X = {"concept": 20, "style": 30}  # by what is erased
STEPS_U = {"concept": 60, "style": 60}
CONTEXTS = 2


def esd_x(task: Task) -> Edit:
    """ESD on what reads text: cross-attention, and the pooled text where the U-Net reads it.

    The loss is that of `_edited`. Published: learning rate 5e-5, 200 iterations, cross-attention alone.
    """
    return _edited(task, text_readers(task), RATE_X, STEPS_X)


def esd_u(task: Task) -> Edit:
    """ESD on all that does not read text, for concepts that no word names.

    The loss is that of `_edited`. Published: learning rate 5e-5, 200 iterations.
    """
    return _edited(task, beside_text(task), RATE_U, STEPS_U)


def _edited(task: Task, weights: Weights, rate: float, steps: Mapping[str, int]) -> Edit:
    """Minimises || e(x_t, c) - (e*(x_t, c) - eta (e*(x_t, c) - e*(x_t, ""))) ||^2 (eq. 7).

    e* is the original U-Net, x_t lies on its way to pictures of c at guidance 3, t is uniform over
    its denoising steps; as in the authors' current code (the paper takes x_t from the model being
    edited). The loss is in the model's own prediction type, as the target is a combination whose
    factors sum to 1. Deviations: x_t and e* are computed once for a pool of pictures and drawn
    from it; 10 denoising steps for 50; c is the concept alone and in two contexts.
    """
    model, prompts = task.model, asked(task, CONTEXTS)
    seen = on_the_way(task, prompts)
    states = model.states(prompts)[seen.which]
    blank = model.states([""]).expand_as(states)
    own, without = predicted(task, seen, states), predicted(task, seen, blank)
    goal = target(own, own, without)
    batches = shuffled(len(seen), BATCH, task.generator())

    def loss(now: Weights, _: int) -> Tensor:
        rows = next(batches)
        found = model.predict(seen.latents[rows], seen.t[rows], states[rows], now)
        return F.mse_loss(found, goal[rows])

    return task.edit(
        trained(task, weights, loss, steps=steps[task.concept.domain], optimiser=adamw(rate, 0.0))
    )


def target(start: Tensor, own: Tensor, blank: Tensor, *, eta: float = ETA) -> Tensor:
    """e*(x_t, c') - eta (e*(x_t, c) - e*(x_t, ""))."""
    return start - eta * (own - blank)
