"""Picture sets: many rendered scenes kept as one file of pixels, made once and read by every training.

Knows files of pixels and the scenes they show; nothing of models.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from slugdemo.pocket.names import Names
from slugdemo.pocket.world import SIDE, WIDE, Scene, Spread, Sprites, rendered, scenes


@dataclass(frozen=True)
class PictureSet:
    """Pictures uint8 (N, 3, 128, 128), memory-mapped, and the scenes they show."""

    pictures: np.ndarray
    scenes: list[Scene]

    def __len__(self) -> int:
        return len(self.scenes)

    def batch(self, which: Tensor, *, side: int = SIDE) -> Tensor:
        """The chosen pictures in their order in the set, averaged down to `side`: (N, 3, side, side) in [-1, 1]."""
        pixels = torch.from_numpy(self.pictures[np.sort(which.numpy())]).float().div_(127.5).sub_(1)
        return pixels if side == SIDE else F.avg_pool2d(pixels, SIDE // side)


def render_set(
    sprites: Sprites,
    folder: Path,
    count: int,
    *,
    seed: int,
    artists: Sequence[str],
    spread: Spread = WIDE,
    pairs: float = 0.0,
) -> PictureSet:
    """The picture set of these settings, rendered into `folder` unless a whole one lies there."""
    planned = scenes(sprites, count, seed=seed, artists=artists, spread=spread, pairs=pairs)
    file = folder / f"pictures-{sha256(repr(planned).encode()).hexdigest()[:16]}.npy"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        half = file.with_suffix(f".{os.getpid()}.part")
        pixels = np.lib.format.open_memmap(half, "w+", np.uint8, (count, 3, SIDE, SIDE))
        at = 0
        for pictures in rendered(sprites, planned):
            pixels[at : at + len(pictures)] = pictures.numpy()
            at += len(pictures)
        pixels.flush()
        os.replace(half, file)
    return PictureSet(np.load(file, mmap_mode="r"), planned)


def joined(sets: Sequence[PictureSet]) -> PictureSet:
    """All pictures of several sets in one, in memory."""
    pixels = np.concatenate([some.pictures for some in sets])
    return PictureSet(pixels, [scene for some in sets for scene in some.scenes])


def limited(pictures: PictureSet, names: Names) -> PictureSet:
    """The pictures that show nothing but these names, in memory."""
    kept = [
        i
        for i, scene in enumerate(pictures.scenes)
        if scene.style in names.styles and all(t.concept in names.concepts for t in scene.things)
    ]
    return PictureSet(pictures.pictures[kept], [pictures.scenes[i] for i in kept])
