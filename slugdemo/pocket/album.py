"""Albums: many rendered scenes kept as one file of pixels, made once and read by every training."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from slugdemo.pocket.world import SIDE, WIDE, Scene, Spread, Sprites, rendered, scenes


@dataclass(frozen=True)
class Album:
    """Pictures uint8 (N, 3, 64, 64), memory-mapped, and the scenes they show."""

    pictures: np.ndarray
    scenes: list[Scene]

    def __len__(self) -> int:
        return len(self.scenes)

    def batch(self, which: Tensor) -> Tensor:
        """The chosen pictures as float (N, 3, 64, 64) in [-1, 1]."""
        return torch.from_numpy(self.pictures[np.sort(which.numpy())]).float().div_(127.5).sub_(1)


def album(
    sprites: Sprites,
    folder: Path,
    count: int,
    *,
    seed: int,
    hands: Sequence[str],
    spread: Spread = WIDE,
    pairs: float = 0.0,
) -> Album:
    """The album of these settings, rendered into `folder` unless a whole one lies there."""
    planned = scenes(sprites, count, seed=seed, hands=hands, spread=spread, pairs=pairs)
    tag = f"{count}-{seed}-{'+'.join(hands)}-{spread.size[0]}-{pairs}"
    file = folder / f"album-{tag}.npy"
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
    return Album(np.load(file, mmap_mode="r"), planned)


def joined(albums: Sequence[Album]) -> Album:
    """All pictures of the albums in one; of several, the pixels then lie in memory."""
    if len(albums) == 1:
        return albums[0]
    return Album(
        np.concatenate([one.pictures for one in albums]), [s for one in albums for s in one.scenes]
    )
