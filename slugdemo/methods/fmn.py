"""FMN: forget-me-not, the U-Net learns to pay no attention to the concept's words.

Zhang et al., 2023, arXiv 2303.17591. Knows a task on a Diffusion.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from slugdemo import images
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.task import Task
from slugdemo.training import adamw, shuffled, trained
from slugdemo.unet_training import text_readers
from slugdemo.weights import Weights

RATE, DECAY, STEPS, BATCH, TIMES = 5e-4, 0.0, 35, 4, 50


def fmn(task: Task) -> Edit:
    """Minimises the attention that pictures of the concept pay to its words (attention resteering).

    The loss is the mean over cross-attention layers of the mean squared attention probability of
    the tokens from the concept's name on; x_t are noised pictures to forget with their captions.
    Published: 35 iterations, rate 2e-6, after 500 of textual inversion; the name's tokens alone.
    Deviations: rate 5e-4, no inversion (the name stands for itself); the tokens from the name on,
    as the end tokens say what the prompt is about too (with the name's alone nothing happens at
    pocket size). Text that the U-Net reads without attention (its pooled `add_embedding`) stays
    as it is, so styles may survive.
    """
    model, shown = task.model, task.concept.forget
    weights = {n: w for n, w in text_readers(task).items() if ".to_k." in n or ".to_q." in n}
    latents = model.encode([images.read(example.image) for example in shown])
    captions = [example.caption for example in shown]
    ids, states = model.tokens(captions)[0], model.states(captions)
    names = [name_places(task, row) for row in ids]
    if not all(bool(places.any()) for places in names):
        raise SlugError(f"A caption of {task.concept.name!r} does not hold the name, as FMN needs.")
    places, noise, times = torch.stack(names), task.generator(1), model.timesteps(TIMES)
    batches = shuffled(len(shown), BATCH, task.generator())

    def loss(now: Weights, _: int) -> Tensor:
        rows = next(batches)
        t = times[torch.randint(TIMES, (len(rows),), generator=noise)]
        drawn = torch.randn(latents[rows].shape, generator=noise).to(latents)
        with Attention(places[rows]) as seen:
            model.predict(model.schedule.noised(latents[rows], t, drawn), t, states[rows], now)
        return seen.loss()

    return task.edit(trained(task, weights, loss, steps=STEPS, optimiser=adamw(RATE, DECAY)))


def name_places(task: Task, row: Tensor) -> Tensor:
    """The tokens of a prompt (T,) from the concept's name on: (T,) of booleans."""
    end = int(task.model.ends([task.concept.name])[0])
    name = task.model.tokens([task.concept.name])[0][0, 1:end]
    places = torch.zeros_like(row, dtype=torch.bool)
    for start in range(len(row) - len(name) + 1):
        if torch.equal(row[start : start + len(name)], name):
            places[start:] = True
            break
    return places


class Attention(TorchFunctionMode):
    """While it is entered: the attention that pictures pay to some tokens of their prompts.

    `places` (N, T) are these tokens. It looks at each scaled dot product over T keys, so that no
    hook stands on the model that all visitors share.
    """

    def __init__(self, places: Tensor) -> None:
        super().__init__()
        self._places = places
        self._found: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable,
        types: Any,  # noqa: ANN401
        args: tuple = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Runs the function, and looks at the attention of those that are attention to text."""
        given = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            query, key = (
                args[at] if len(args) > at else given[n] for at, n in enumerate(("query", "key"))
            )
            if key.shape[-2] == self._places.shape[1]:
                self._found.append(self._paid(query, key))
        return func(*args, **given)

    def _paid(self, query: Tensor, key: Tensor) -> Tensor:
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5  # (N, heads, P, T)
        chances = scores.softmax(-1).transpose(1, 3)  # (N, T, P, heads)
        return chances[self._places].square().mean()

    def loss(self) -> Tensor:
        """The mean over cross-attention layers of the mean squared attention to these tokens."""
        return torch.stack(self._found).mean()
