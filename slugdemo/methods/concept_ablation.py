"""CA: concept ablation, the concept's prompt comes to mean what an anchor's prompt means.

Kumari et al., ICCV 2023, arXiv 2303.13516, the model-based variant. Knows a task on a Diffusion.
"""

import torch.nn.functional as F
from torch import Tensor

from slugdemo.edit import Edit
from slugdemo.task import Task
from slugdemo.training import adamw, shuffled, trained
from slugdemo.unet_training import anchor, asked, on_the_way, predicted, text_readers
from slugdemo.weights import Weights

RATE, DECAY, STEPS, BATCH = 5e-4, 0.0, 40, 4
CONTEXTS = 2


def ca(task: Task) -> Edit:
    """Minimises || e(x_t, c*) - e*(x_t, c) ||^2 (eq. 6): c* the concept's prompt, c the anchor's.

    e* is the original U-Net without gradient; x_t lies on its way to pictures of the anchor. A
    thing's anchor is the task's, or its next neighbour; a style's is the task's, or no style.
    Published: 100 iterations, learning rate 2e-6 times batch and GPUs, 1000 pictures of the
    anchor, cross-attention's key and value alone. Deviations: learning rate 5e-4, 40 iterations;
    x_t from a pool; trains all that reads text, the pooled text too.
    """
    model, prompts = task.model, asked(task, CONTEXTS)
    anchors = asked(task, CONTEXTS, instead=anchor(task))
    seen = on_the_way(task, anchors)
    goal = predicted(task, seen, model.states(anchors)[seen.which])
    states = model.states(prompts)[seen.which]
    batches = shuffled(len(seen), BATCH, task.generator())

    def loss(now: Weights, _: int) -> Tensor:
        rows = next(batches)
        found = model.predict(seen.latents[rows], seen.t[rows], states[rows], now)
        return F.mse_loss(found, goal[rows])

    return task.edit(
        trained(task, text_readers(task), loss, steps=STEPS, optimiser=adamw(RATE, DECAY))
    )
