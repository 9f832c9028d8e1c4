"""The judge: a small convolutional classifier of concept and style that shares no weight with what it judges.

Knows pictures and its own two lists of names; nothing of prompts, CLIP or edits.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from slugdemo.errors import SlugError
from slugdemo.models.base import building

SIDE = 64


class Residual(nn.Module):
    """Two 3 x 3 convolutions with batch norm, added to the input (projected where the width or stride changes)."""

    def __init__(self, narrow: int, wide: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(narrow, wide, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(wide, wide, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(narrow), nn.BatchNorm2d(wide)])
        self.skip = (
            nn.Conv2d(narrow, wide, 1, stride, bias=False)
            if (narrow, stride) != (wide, 1)
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, narrow, H, W) to (N, wide, H / stride, W / stride)."""
        calm = F.relu(self.norms[0](x))
        return self.skip(x) + self.second(F.relu(self.norms[1](self.first(calm))))


class Net(nn.Module):
    """Pixels (N, 3, 64, 64) in [-1, 1] to concept logits (N, C) and style logits (N, S)."""

    def __init__(
        self, concepts: int, styles: int, *, widths: Sequence[int] = (32, 64, 128, 256)
    ) -> None:
        super().__init__()
        stem, *blocks = widths
        self.stem = nn.Conv2d(3, stem, 5, 2, 2, bias=False)
        steps = [(stem, blocks[0], 2)]
        for narrow, wide in itertools.pairwise(blocks):
            steps += [(narrow, wide, 2), (wide, wide, 1)]
        self.blocks = nn.Sequential(*(Residual(*step) for step in steps))
        self.norm = nn.BatchNorm2d(blocks[-1])
        self.concept = nn.Linear(2 * blocks[-1], concepts)
        self.style = nn.Linear(2 * blocks[-1], styles)

    def pooled(self, pixels: Tensor) -> Tensor:
        """Mean- and max-pooled features: (N, 2 W)."""
        x = F.relu(self.norm(self.blocks(self.stem(pixels))))
        return torch.cat((x.mean((2, 3)), x.amax((2, 3))), 1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Concept and style logits from the pooled features."""
        pooled = self.pooled(pixels)
        return self.concept(pooled), self.style(pooled)


@dataclass(frozen=True)
class Verdict:
    """Probabilities of every concept (N, C) and every style (N, S)."""

    concept: Tensor
    style: Tensor


@dataclass(frozen=True)
class Judge:
    """A trained net and the names its outputs stand for."""

    net: Net
    concepts: list[str]
    styles: list[str]

    @classmethod
    def load(cls, folder: Path) -> "Judge":
        """The judge of a folder (judge.json, judge.safetensors); raises SlugError when it is not there."""
        try:
            names = json.loads((folder / "judge.json").read_text())
            weights = load_file(folder / "judge.safetensors")
        except OSError as problem:
            raise SlugError(
                f"There is no judge in {folder}; it needs judge.json and judge.safetensors."
            ) from problem
        with building():
            net = Net(len(names["concepts"]), len(names["styles"]), widths=names["widths"])
        net.load_state_dict(
            {n: w.float() if w.is_floating_point() else w for n, w in weights.items()}
        )
        return cls(net.eval().requires_grad_(False), names["concepts"], names["styles"])

    @torch.inference_mode()
    def pixels(self, pixels: Tensor) -> Verdict:
        """The verdict on pixels (N, 3, 64, 64) in [-1, 1]."""
        parts = [self.net(some) for some in pixels.split(256)]
        concept, style = (torch.cat(part).softmax(-1) for part in zip(*parts, strict=True))
        return Verdict(concept, style)

    def __call__(self, pictures: Sequence[Image.Image]) -> Verdict:
        """The verdict on pictures of any size; raises ValueError for an empty list."""
        return self.pixels(_pixels(pictures))

    @torch.inference_mode()
    def features(self, pictures: Sequence[Image.Image]) -> Tensor:
        """The pooled features (N, D) of pictures of any size; raises ValueError for an empty list."""
        return torch.cat([self.net.pooled(some) for some in _pixels(pictures).split(256)])


def _pixels(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures of any size as (N, 3, 64, 64) in [-1, 1]."""
    if not pictures:
        raise ValueError("the judge was given 0 pictures, it needs at least 1")
    small = [p.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC) for p in pictures]
    stack = torch.from_numpy(np.stack([np.asarray(p) for p in small]))
    return stack.permute(0, 3, 1, 2).float() / 127.5 - 1
