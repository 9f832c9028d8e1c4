"""What the kinds of model have in common: progress, stopping, finite numbers, rules at inference.

Knows callbacks and tensors only; each call of a model has a watch of its own.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from slugdemo.errors import SlugError

Progress = Callable[[int, int], None]  # (steps done, steps in all)
Question = Callable[[], bool]
_BUILDING = threading.RLock()


@contextmanager
def building() -> Iterator[None]:
    """Modules are built by one thread at a time.

    While diffusers reads a pipeline, modules that any thread builds have parameters without values.
    """
    with _BUILDING:
        yield


class Drawing(TypedDict, total=False):
    """How pictures are drawn, and who watches; what is left out is the host's own choice."""

    steps: int
    guidance: float
    progress: Progress | None
    cancelled: Question | None


class Cancelled(SlugError):
    """The visitor stopped it."""


class Watch(NamedTuple):
    """The visitor's two callbacks, either of which may be missing."""

    progress: Progress | None = None
    cancelled: Question | None = None

    def step(self, done: int, total: int) -> None:
        """Reports step `done` of `total`; raises Cancelled when the visitor wants to stop."""
        if self.cancelled is not None and self.cancelled():
            raise Cancelled("Cancelled: nothing was changed, and nothing was kept.")
        if self.progress is not None:
            self.progress(done, total)

    def part(self, number: int, parts: int) -> "Watch":
        """The watch of part `number` of `parts` that are equally long; the visitor sees the whole."""

        def progress(done: int, total: int) -> None:
            if self.progress is not None:
                self.progress(number * total + done, parts * total)

        return Watch(progress, self.cancelled)


UNWATCHED = Watch()


def finite(tensor: Tensor) -> Tensor:
    """`tensor`; raises SlugError when any number in it is not finite."""
    if not torch.isfinite(tensor).all():
        raise SlugError(
            "With these weights the model gives numbers that are not finite: "
            "the step is far too large, or the weights are damaged."
        )
    return tensor


@dataclass(frozen=True)
class Moment:
    """One denoising step: number `step` of `steps`, at timestep `t` of the training schedule.

    `guided` says that the U-Net sees every picture twice: the first half of the batch reads the
    empty prompt, the second half the picture's own. `prompts` and their token `ids` (N, T) are
    None for pictures that are made from states alone.
    """

    step: int
    steps: int
    t: Tensor
    guidance: float
    guided: bool
    prompts: Sequence[str] | None = None
    ids: Tensor | None = None


class Outputs(NamedTuple):
    """What the U-Net gave at one moment, all (N, C, h, w), in its own prediction type.

    `text` reads the prompts' states and `blank` the empty prompt's (None without guidance).
    `latents` is what it saw, and `predict(states)` what it gives for other states there.
    """

    text: Tensor
    blank: Tensor | None
    latents: Tensor
    predict: Callable[[Tensor], Tensor]


class Rule:
    """What a method at inference does while pictures are made; by itself it changes nothing."""

    def begun(self) -> "Rule":
        """The rule for one denoising run: itself, or one that keeps what it needs of this run."""
        return self

    def conditions(self, states: Tensor, blank: Tensor, at: Moment) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """The states (N, T, D) that the U-Net is to read for the prompts and the empty prompt."""
        return states, blank

    def unet(self, unet: nn.Module, at: Moment) -> nn.Module:  # noqa: ARG002
        """The U-Net to use: itself, or a twin that shares its tensors."""
        return unet

    def combine(self, output: Tensor, seen: Outputs, at: Moment) -> Tensor:  # noqa: ARG002
        """What the scheduler is to follow, from `output`: guidance and the rules before this."""
        return output


# A rule by its name, from a Diffusion, its params and its strength (never 0: that is no rule).
RuleMaker = Callable[[Any, Mapping[str, str | float], float], Rule]
INFERENCE_RULES: dict[str, RuleMaker] = {}
