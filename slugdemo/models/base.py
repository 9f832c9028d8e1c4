"""What happens between two steps of a long answer: report, ask whether to stop, check the numbers.

Knows callbacks and tensors only; each call of a host has a watch of its own.
"""

from collections.abc import Callable
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

from slugdemo.errors import SlugError

Progress = Callable[[int, int], None]  # (steps done, steps in all)
Question = Callable[[], bool]


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


UNWATCHED = Watch()


def finite(tensor: Tensor) -> Tensor:
    """`tensor`; raises SlugError when any number in it is not finite."""
    if not torch.isfinite(tensor).all():
        raise SlugError(
            "With these weights the model gives numbers that are not finite: "
            "the step is far too large, or the weights are damaged."
        )
    return tensor
