"""Few-shot erasing: the text tower learns to make the U-Net wrong about the concept's pictures.

Fuchi, Takagi, 2024, arXiv 2405.07288. Knows a task on a Diffusion.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Adam

from slugdemo import images
from slugdemo.edit import Edit, part_of
from slugdemo.task import Task
from slugdemo.training import shuffled, trained
from slugdemo.weights import Weights

RATE, BETAS, EPSILON, DECAY = 1e-4, (0.9, 0.98), 1e-6, 1e-8
PICTURES, BATCH, STEPS, TIMES = 8, 2, 40, 50


def few_shot(task: Task) -> Edit:
    """Ascends || e(x_t, t, tau(p)) - target ||^2 in the text tower, on a few pictures.

    Trains the MLPs' matrices and the last block's attention; x_0 are pictures to forget, t
    one of 50 denoising steps, the target what the U-Net is trained to give (velocity for
    v-prediction). Published: 4 pictures, batch 2, 4 epochs (about 8 steps), Adam with rate 1e-5,
    betas (.9, .98), eps 1e-6, weight decay 1e-8, ImageNet templates. Deviations: rate 1e-4, 8
    pictures, 40 steps; the prompts are the pictures' captions; matrices only.
    """
    model, shown = task.model, task.concept.forget[:PICTURES]
    weights = trainable(task)
    latents = model.encode([images.read(example.image) for example in shown])
    ids = model.tokens([example.caption for example in shown])[0]
    noise, batches = task.generator(1), shuffled(len(shown), BATCH, task.generator())

    def loss(now: Weights, _: int) -> Tensor:
        rows = next(batches)
        return -denoising_error(task, latents[rows], ids[rows], now, noise)

    optimiser = partial(Adam, lr=RATE, betas=BETAS, eps=EPSILON, weight_decay=DECAY)
    return task.edit(trained(task, weights, loss, steps=STEPS, optimiser=optimiser))


def trainable(task: Task) -> dict[str, Tensor]:
    """The MLPs' matrices of all text blocks and the last block's attention, "text/..."."""
    named = task.model.named()
    read = [name for name in named if part_of(name) == "text" and name[5:] in task.editable]
    blocks = [
        int(name.split("resblocks.")[1].split(".")[0]) for name in read if "resblocks" in name
    ]
    last = f"resblocks.{max(blocks)}.attn."
    return {name: named[name] for name in read if ".mlp." in name or last in name}


def denoising_error(
    task: Task, latents: Tensor, ids: Tensor, weights: Weights, noise: torch.Generator
) -> Tensor:
    """The model's own training loss at random denoising steps, with these text tensors."""
    model = task.model
    times = model.timesteps(TIMES)
    t = times[torch.randint(TIMES, (len(latents),), generator=noise)]
    drawn = torch.randn(latents.shape, generator=noise).to(latents)
    found = model.predict(
        model.schedule.noised(latents, t, drawn), t, model.states_of(ids, weights)
    )
    return F.mse_loss(found, model.schedule.target(latents, drawn, t))
