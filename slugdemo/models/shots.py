"""Pictures to make, and which of them one denoising run makes together.

Knows hosts that draw, prompts and seeds; knows no pipeline and no network.
"""

import math
from collections.abc import Hashable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple, Protocol

import torch
from PIL.Image import Image
from torch import Tensor, nn

from slugdemo.errors import SlugError
from slugdemo.models.base import Rule, Watch
from slugdemo.models.image_cache import ImageCache

LARGEST_SEED = 2**63 - 1
MOST_STEPS = 1000


class Host(Protocol):
    """What draws: a model with a U-Net, and with rules that it follows meanwhile."""

    unet: nn.Module
    rules: tuple[Rule, ...]
    batch: int
    images: ImageCache | None

    def states(self, prompts: Sequence[str]) -> Tensor:
        """What the U-Net reads of P prompts: (P, T, D)."""

    def drawn(
        self,
        states: Tensor,
        blank: Tensor,
        *,
        prompts: Sequence[str] | None,
        seeds: Sequence[int],
        drawn: "Drawn",
        watch: Watch,
    ) -> list[Image]:
        """The N pictures of one denoising run, from `states` and `blank` (N, T, D)."""


class Drawn(NamedTuple):
    """How pictures are drawn."""

    steps: int
    guidance: float


class Shot(NamedTuple):
    """One picture to make: by which host, of what, from which noise."""

    host: Host
    prompt: str
    seed: int

    def remembered(self, drawn: Drawn) -> Image | None:
        """The picture, if the host is unedited and has made it before."""
        images = self.host.images
        return None if images is None else images.get((self.prompt, self.seed, drawn))

    def remember(self, picture: Image, drawn: Drawn) -> Image:
        """`picture`, which an unedited host will not make again."""
        if self.host.images is not None:
            self.host.images.put((self.prompt, self.seed, drawn), picture)
        return picture


def runs(shots: Sequence[Shot]) -> Iterator[list[Shot]]:
    """The shots by the denoising run that makes them: of one U-Net, a batch at most."""
    alike: dict[Hashable, list[Shot]] = {}
    for shot in shots:
        host = shot.host
        alike.setdefault(id(host) if host.rules else id(host.unet), []).append(shot)
    for group in alike.values():
        batch = group[0].host.batch
        for begin in range(0, len(group), batch):
            yield group[begin : begin + batch]


def made(run: Sequence[Shot], drawn: Drawn, watch: Watch) -> list[Image]:
    """The pictures of shots that share a U-Net; each host's own text tower reads their prompts."""
    text, blank = [], []
    for host, group in groupby(run, key=lambda shot: shot.host):
        prompts = [shot.prompt for shot in group]
        order = {prompt: row for row, prompt in enumerate(dict.fromkeys(["", *prompts]))}
        states = host.states(list(order))
        text.append(states[[order[prompt] for prompt in prompts]])
        blank.append(states[:1].expand(len(prompts), -1, -1))
    return run[0].host.drawn(
        torch.cat(text),
        torch.cat(blank),
        prompts=[shot.prompt for shot in run],
        seeds=[shot.seed for shot in run],
        drawn=drawn,
        watch=watch,
    )


def sources(seeds: Sequence[int]) -> list[torch.Generator]:
    """A source of noise for each seed."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def check(prompts: Sequence[str] | None, seeds: Sequence[int], drawn: Drawn) -> None:
    """Raises ValueError for prompts that have no seed each, SlugError for a wrong number."""
    if prompts is not None and len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts need as many seeds, got {len(seeds)}")
    for seed in seeds:
        if not 0 <= seed <= LARGEST_SEED:
            raise SlugError(f"A seed is a whole number from 0 to {LARGEST_SEED}, not {seed}.")
    if not 1 <= drawn.steps <= MOST_STEPS:
        raise SlugError(f"Choose between 1 and {MOST_STEPS} denoising steps, not {drawn.steps}.")
    if not 0 <= drawn.guidance < math.inf:
        raise SlugError(f"The guidance is a number from 0 upwards, not {drawn.guidance}.")
