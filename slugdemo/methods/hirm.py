"""HiRM: the first text layer learns to send the concept's late activations to a random target.

As in the erasing toolkit's train_hirm.py; its own repository was not to be had. Knows a task; knows
no kind of model.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from slugdemo.edit import Edit, qualified
from slugdemo.errors import SlugError
from slugdemo.models.clip import Clip
from slugdemo.task import Task
from slugdemo.training import adamw, tower_weights, trained
from slugdemo.weights import Weights, substitute

BLOCKS = "transformer.resblocks."
RATE, STEPS, DECAY, COEFFICIENT = 3e-4, 300, 0.01, 10.0


def hirm(task: Task) -> Edit:
    """Trains block 0 of the text tower (attention and MLP) towards a target at the last block.

    The target is uniform noise (T, W), one vector a position, over its Frobenius norm, times a
    coefficient; the loss is the mean squared distance to it of what the last block's attention
    puts out (after its out_proj) at all T positions of the bare concept. Text only.

    Deviations: rate, iterations and coefficient are printed nowhere that we could read and are
    ours, chosen at pocket size; biases stay.
    """
    named = tower_weights(task)
    weights = {n: w for n, w in named.items() if n.startswith(f"{BLOCKS}0.") and ".ln_" not in n}
    if not weights:
        raise SlugError(f"{task.opened.model.name} has no text tower of blocks, which HiRM trains.")
    last = max(int(n.removeprefix(BLOCKS).split(".")[0]) for n in named if n.startswith(BLOCKS))
    tokens = task.clip.tokenize([task.concept.name])
    noise = torch.rand(late(task.clip, tokens, {}, block=last).shape, generator=task.generator())
    target = (COEFFICIENT * noise / noise.norm()).to(task.clip.device)

    def loss(now: Weights, _: int) -> Tensor:
        return F.mse_loss(late(task.clip, tokens, now, block=last), target)

    delta = trained(task, weights, loss, steps=STEPS, optimiser=adamw(RATE, DECAY))
    return task.edit({qualified(name): tensor for name, tensor in delta.items()})


def late(clip: Clip, tokens: Tensor, weights: Weights, *, block: int) -> Tensor:
    """What the attention of a text block puts out for tokens (N, T): (N, T, W), with gradients."""
    model = substitute(clip.model, weights) if weights else clip.model
    x = (
        model.token_embedding(tokens.to(clip.device))
        + model.positional_embedding[: tokens.shape[1]]
    )
    *before, last = list(model.transformer.resblocks)[: block + 1]
    for part in before:
        x = part(x, attn_mask=model.attn_mask)
    return last.attention(last.ln_1(x), attn_mask=model.attn_mask)
