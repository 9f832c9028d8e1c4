"""A vision transformer that starts as a stack of small convolutions.

Its patch embedding whitens patches, and every head of every block looks at one neighbour of each patch, the one to
the left, say (convolutional initialization, Zheng, Li and Lucey 2024). All of it is free to change in training.
Without it a transformer of pocket-clip's size takes many times as long to find edges and parts.
"""

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

PLACES = 32  # dimensions that start with a patch's place and nothing else
SHARP = 3.0  # how sharply heads look at their neighbour


@torch.no_grad()
def convolutional(
    visual: open_clip.transformer.VisionTransformer, pictures: Tensor, *, seed: int
) -> None:
    """Start the vision tower, in place, as whitened patches under 3 x 3 convolutions, learnt on pictures (N, 3, H, W).

    The last `PLACES` dimensions hold the place of a patch, which no block writes to at the start.
    """
    torch.manual_seed(seed)
    width, patch = visual.conv1.out_channels, visual.conv1.kernel_size[0]
    side, own = visual.grid_size[0], visual.conv1.out_channels - PLACES
    visual.conv1.weight.zero_()
    filters = (
        0.6 * whitening(F.unfold(pictures, patch, stride=patch).transpose(1, 2).flatten(0, 1))[:own]
    )
    visual.conv1.weight[: len(filters)] = filters.view(-1, *visual.conv1.weight.shape[1:])
    visual.positional_embedding.zero_()
    visual.positional_embedding[0, :own] = 0.3 * torch.randn(own)
    visual.positional_embedding[1:, own:] = places(side)
    for block in visual.transformer.resblocks:
        looks = torch.randperm(9)[: block.attn.num_heads].tolist()
        reach = width // block.attn.num_heads
        query, key, value = block.attn.in_proj_weight.chunk(3)
        for projection in (query, key):
            projection.normal_(std=0.02)
        for head, look in enumerate(looks):
            rows = slice(head * reach, head * reach + PLACES)
            query[rows, own:] += SHARP * moved(look // 3 - 1, look % 3 - 1)
            key[rows, own:] += SHARP * torch.eye(PLACES)
        value.copy_(0.7 * nn.init.orthogonal_(torch.empty(width, width)))
        block.attn.out_proj.weight.copy_(0.7 * nn.init.orthogonal_(torch.empty(width, width)))
        for written in (block.attn.out_proj.weight, block.mlp.c_proj.weight):
            written[own:] = 0


def whitening(patches: Tensor) -> Tensor:
    """Filters (D, D) that give patches (N, D) equal variance in every direction, the strongest first."""
    variance, axes = torch.linalg.eigh(torch.cov(patches.T))
    return (axes / (variance + 0.003).sqrt()).T.flip(0)


def places(side: int) -> Tensor:
    """Cosines and sines of row and column of a square grid of patches, (side * side, PLACES)."""
    angle = torch.arange(side)[:, None] * _paces()
    line = torch.stack((angle.cos(), angle.sin()), -1).flatten(1)  # (side, PLACES / 2)
    return torch.cat(
        (line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)), -1
    ).flatten(0, 1)


def moved(down: int, right: int) -> Tensor:
    """The rotation (PLACES, PLACES) that takes the code of a place to that of its neighbour."""
    angle = torch.cat((down * _paces(), right * _paces()))
    cos, sin = angle.cos(), angle.sin()
    turns = torch.stack((torch.stack((cos, -sin), -1), torch.stack((sin, cos), -1)), -2)
    return torch.block_diag(*turns)


def _paces() -> Tensor:
    count = PLACES // 4
    return torch.pi / 2 * torch.arange(1, count + 1) / (count + 0.5)
