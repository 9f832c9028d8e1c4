"""Training on copies: leaves, a loss, an optimiser, and the difference that is left in the end.

What the trained methods have in common. Knows a task's progress and pairs before CLIP; knows no
method, no U-Net and no evaluation.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from slugdemo import data
from slugdemo.concept import Example
from slugdemo.errors import SlugError
from slugdemo.gradients import forget_loss, retain_loss_of
from slugdemo.models.clip import Clip, tower
from slugdemo.task import Task
from slugdemo.weights import Weights

Loss = Callable[[Weights, int], Tensor]  # (the weights now, iteration from 0) -> what is minimised
MakeOptimiser = Callable[[list[Tensor]], Optimizer]


def adamw(rate: float, decay: float = 0.1) -> MakeOptimiser:
    """AdamW with a learning rate and a weight decay, for `trained`."""
    return partial(AdamW, lr=rate, weight_decay=decay)


def trained(
    task: Task,
    weights: Weights,
    loss: Loss,
    *,
    steps: int,
    optimiser: MakeOptimiser,
    masks: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Final minus original of `weights` (float32) after `steps` iterations of minimising `loss`.

    Works on copies in float32: `loss` gets them by name, in the model's own type, and is
    differentiated by them alone, so the model stays as it is. Where a tensor has a mask (its
    shape, 0 or 1), entries with 0 never move, not even by weight decay. Reports "Training" before
    each iteration and may raise Cancelled there; raises SlugError when the loss is not a number.
    """
    leaves = {name: w.detach().float().clone().requires_grad_() for name, w in weights.items()}
    made = optimiser(list(leaves.values()))
    for step in range(steps):
        task.step("Training", step, steps)
        with torch.enable_grad():
            value = loss(
                {name: leaf.to(weights[name].dtype) for name, leaf in leaves.items()}, step
            )
        for leaf, gradient in zip(leaves.values(), differentiated(value, leaves), strict=True):
            leaf.grad = gradient
        made.step()
        _held(leaves, weights, masks or {})
    return {name: leaf.detach() - weights[name].float() for name, leaf in leaves.items()}


def differentiated(value: Tensor, leaves: Weights, *, retain_graph: bool = False) -> list[Tensor]:
    """d value / d leaf for each leaf, zeros where it plays no part.

    `retain_graph` as in torch: another loss of the same features follows. Raises SlugError when
    the value is not a number.
    """
    if not value.isfinite():
        raise SlugError(
            f"The training loss is {value.item()}: the learning rate is far too high for this "
            "model, or a picture or the model holds values that are not numbers."
        )
    found = torch.autograd.grad(
        value, list(leaves.values()), allow_unused=True, retain_graph=retain_graph
    )
    pairs = zip(leaves.values(), found, strict=True)
    return [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in pairs]


@torch.no_grad()
def _held(leaves: Weights, weights: Weights, masks: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        leaf = leaves[name]
        leaf.copy_(torch.where(mask.to(leaf.device).bool(), leaf, weights[name].float()))


def tower_weights(task: Task) -> dict[str, Tensor]:
    """What the trained methods train of CLIP, by open_clip name: the matrices that the model reads.

    Biases, embeddings and, inside other models, layer norms stay as they are.
    """
    named = task.clip.named()
    return {name: named[name] for name in named if name in task.editable}


def shuffled(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Rows of `count` items in batches of `size` without end, shuffled anew in every epoch.

    All batches are full, as a contrastive loss depends on their size; with fewer items than
    `size` a batch is all of them.
    """
    while True:
        order = torch.randperm(count, generator=generator)
        yield from (rows for rows in order.split(size) if len(rows) == min(size, count))


class TowerPairs:
    """Pairs before a CLIP of which some tensors are trained.

    `names` are the trained tensors. A tower without one is run once, and equal captions are read
    once a batch.
    """

    def __init__(self, clip: Clip, examples: Sequence[Example], names: Sequence[str]) -> None:
        self._clip = clip
        self._trained = {tower(name) for name in names}
        captions = [example.caption for example in examples]
        texts = list(dict.fromkeys(captions))
        self._text = torch.tensor([texts.index(caption) for caption in captions])  # (N,)
        self._tokens = clip.tokenize(texts)
        self._pixels = data.pixels(examples, clip.transform)
        self._ready: dict[str, Tensor] = {}
        with torch.no_grad():
            if "text" not in self._trained:
                self._ready["text"] = clip.encode_text(self._tokens)
            if "vision" not in self._trained:
                parts = [clip.encode_image(part) for part in self._pixels.split(64)]
                self._ready["vision"] = torch.cat(parts)

    def __len__(self) -> int:
        return len(self._text)

    def features(self, rows: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
        """The unit features of these pairs, pictures (N, D) and texts (N, D), with gradients."""
        image, text = self._ready.get("vision"), self._ready.get("text")
        which = self._text[rows]
        if text is None:
            some, which = which.unique(return_inverse=True)
            text = self._clip.encode_text(self._tokens[some], weights=weights)
        if image is None:
            return self._clip.encode_image(self._pixels[rows], weights=weights), text[which]
        return image[rows], text[which]


def forget_then_retain(
    task: Task, weights: Weights, *, forget_steps: int, retain_steps: int
) -> Loss:
    """The loss of GAFT: minus L_f for the first iterations, then L_r (SLUG's repository).

    `weights` are those that will be trained; for `forget_steps + retain_steps` iterations.
    """
    names, noise = list(weights), task.generator()
    forget = TowerPairs(task.clip, task.concept.forget, names)
    retain = TowerPairs(task.clip, task.retain_split[0], names)
    own = shuffled(len(forget), task.config.batch, noise)
    rest = shuffled(len(retain), task.config.batch, noise)
    contrast = retain_loss_of(task.clip)

    def loss(now: Weights, step: int) -> Tensor:
        if step % (forget_steps + retain_steps) < forget_steps:
            return -forget_loss(*forget.features(next(own), now))
        return contrast(*retain.features(next(rest), now))

    return loss
