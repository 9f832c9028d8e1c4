"""Pictures as visitors bring them: other colours, other lines, other shapes, so that models look at more than pixels.

Knows pictures and the scenes they show. What a change makes unknown, the style or the ground, is "" in the scene
that comes back, and nothing is taught about it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from slugdemo.pocket.styles import STYLES, blur, edges, grey
from slugdemo.pocket.world import Scene

SHARE = 0.5  # of a batch that is changed
WARP = 0.12  # how far an elastic warp moves a point, as a share of half the picture, at most
CUT = (0.15, 0.4)  # side of a cut-out, as a share of the picture


def recoloured(picture: Tensor, generator: Generator) -> Tensor:
    """Channels swapped and mixed, and half of the time a negative; picture (1, 3, H, W) in [0, 1]."""
    order = torch.eye(3)[torch.randperm(3, generator=generator)]
    mixed = order + 0.35 * (torch.rand(3, 3, generator=generator) - 0.5)
    mixed = mixed / mixed.sum(1, keepdim=True)
    out = torch.einsum("ij,njhw->nihw", mixed, picture).clamp(0, 1)
    return 1 - out if torch.rand((), generator=generator) < 0.5 else out


def line_art(picture: Tensor, generator: Generator) -> Tensor:
    """Outlines in one random ink on one random paper."""
    paper, ink = torch.rand(2, 3, 1, 1, generator=generator).sort(dim=0, descending=True).values
    if torch.rand((), generator=generator) < 0.3:
        paper, ink = ink, paper
    lines = (edges(picture) * (0.8 + torch.rand((), generator=generator))).clamp(0, 1)
    return paper + lines * (ink - paper)


def palette(picture: Tensor, generator: Generator) -> Tensor:
    """A few levels of lightness, each in a random colour."""
    count = int(torch.randint(3, 7, (), generator=generator))
    level = (blur(grey(picture), 0.8)[:, 0] * (count - 1e-3)).long().clamp(0, count - 1)
    return torch.rand(count, 3, generator=generator)[level].permute(0, 3, 1, 2)


def mixed_style(picture: Tensor, generator: Generator, *, styles: Sequence[str]) -> Tensor:
    """A second style, one of `styles`, over the first, half and half at least."""
    style = STYLES[styles[int(torch.randint(len(styles), (), generator=generator))]]
    share = 0.5 + 0.5 * torch.rand((), generator=generator)
    return torch.lerp(picture, style(picture, [generator]), share)


def warped(picture: Tensor, generator: Generator) -> Tensor:
    """An elastic warp: a smooth field of shifts."""
    coarse = (torch.rand(1, 2, 4, 4, generator=generator) - 0.5) * 2 * WARP
    shift = F.interpolate(coarse, picture.shape[2:], mode="bicubic").permute(0, 2, 3, 1)
    still = F.affine_grid(torch.eye(2, 3)[None], list(picture.shape), align_corners=False)
    return F.grid_sample(picture, still + shift, padding_mode="border", align_corners=False)


def cut_out(picture: Tensor, generator: Generator) -> Tensor:
    """One rectangle of a random colour over the picture (DeVries and Taylor 2017)."""
    size = picture.shape[2]
    low, high = CUT
    tall, wide = (size * (low + (high - low) * torch.rand(2, generator=generator))).long().tolist()
    top = int(torch.randint(size - tall, (), generator=generator))
    left = int(torch.randint(size - wide, (), generator=generator))
    out = picture.clone()
    out[..., top : top + tall, left : left + wide] = torch.rand(1, 3, 1, 1, generator=generator)
    return out


Change = Callable[[Tensor, Generator], Tensor]
NAMED: tuple[Change, ...] = (
    warped,
    cut_out,
)  # style and ground are as before, after all others unknown


def augmented(
    pictures: Tensor, scenes: Sequence[Scene], generator: Generator, *, styles: Sequence[str]
) -> tuple[Tensor, list[Scene]]:
    """Pictures (N, 3, H, W) in [-1, 1], `SHARE` of them changed at random, and what they show now.

    `styles` are those that a picture may be mixed with.
    """
    kinds: tuple[Change, ...] = (
        recoloured,
        line_art,
        palette,
        partial(mixed_style, styles=styles),
        *NAMED,
    )
    out, shown = pictures.clone(), list(scenes)
    for i in (torch.rand(len(pictures), generator=generator) < SHARE).nonzero().flatten().tolist():
        change = kinds[int(torch.randint(len(kinds), (), generator=generator))]
        out[i : i + 1] = change((pictures[i : i + 1] + 1) / 2, generator).clamp(0, 1) * 2 - 1
        if change not in NAMED:
            shown[i] = replace(shown[i], style="", ground="")
    return out, shown
