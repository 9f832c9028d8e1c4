"""Tiny real models with random weights: the real classes, in the real formats.

Every parameter is drawn at random, biases and norms too, so that no error hides behind a zero.
"""

import torch
from torch import nn

import slugdemo  # noqa: F401  (its torchvision guard runs before open_clip)

import open_clip  # isort: skip

VOCABULARY = 320
CONTEXT = 24
WIDTH = 24


def randomised(module: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        gain = "ln" in name or "norm" in name
        parameter.data = noise * 0.2 + 1 if gain and name.endswith("weight") else noise * 0.2
    return module.eval()


def clip_model(
    seed: int = 0, *, blocks: int = 3, quick_gelu: bool = True, width: int = WIDTH
) -> open_clip.CLIP:
    """A CLIP for pictures of 32 x 32 px and 24 tokens, D = 16."""
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": blocks}
    text = {
        "context_length": CONTEXT,
        "vocab_size": VOCABULARY,
        "width": width,
        "heads": 2,
        "layers": blocks,
    }
    return randomised(open_clip.CLIP(16, vision, text, quick_gelu=quick_gelu), seed)
