"""Pictures that widen what pocket-llava reads beside the rendered ones: drawn by pocket-sd, and recoloured.

The first look like those that it is shown in the app. The second belong to no style and are asked about their ground
alone, so that its colour is read from the picture and not told by the style, which may be what is erased.
"""

import colorsys
import io
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from slugdemo.evaluation.judge import Judge
from slugdemo.models.diffusion import Diffusion
from slugdemo.pocket.dialogue import REPAINTED
from slugdemo.pocket.examples import Order, made
from slugdemo.pocket.picture_set import PictureSet
from slugdemo.pocket.words import prompt
from slugdemo.pocket.world import Scene, Thing

FIRST_SEED = 4_000_000  # of the noise; the shipped pictures have lower ones (pictures.py)
CHUNK = 384  # pictures in a file
EDGE = slice(8, 14)  # pixels from the border, where a ground is looked at
HUES = {
    "red": (345, 372),
    "brown": (18, 44),
    "yellow": (44, 68),
    "green": (78, 165),
    "blue": (190, 250),
    "purple": (258, 310),
}  # in degrees
COLOURED = ("plain", "pixel art", "blueprint", "sepia")  # styles in which a ground has a hue


def visible(pictures: Tensor) -> list[str]:
    """The names of the grounds of pictures uint8 (N, 3, H, W), "" for a colour between two names."""
    pixels = pictures.float() / 255
    sides = (
        pixels[:, :, EDGE],
        pixels.flip(2)[:, :, EDGE],
        pixels[..., EDGE],
        pixels.flip(3)[..., EDGE],
    )
    return [
        _name(*colour)
        for colour in torch.cat([side.flatten(2) for side in sides], 2).median(2).values.tolist()
    ]


def _name(red: float, green: float, blue: float) -> str:
    """The name of a colour, each part in [0, 1]; "" where people would not agree."""
    hue, strength, light = colorsys.rgb_to_hsv(red, green, blue)
    if light < 0.2:
        return "black"
    if strength < 0.12:
        return "white" if light > 0.88 else "grey" if 0.35 < light < 0.75 else ""
    degrees = hue * 360 + 360 * (hue * 360 < 12)
    names = [name for name, (low, high) in HUES.items() if low <= degrees < high]
    clear = (
        strength > 0.28
        and light > 0.4
        and not (names == ["brown"] and light > 0.8)
        and not (names == ["yellow"] and light < 0.8)
    )
    return names[0] if names and clear else ""


def recoloured(source: PictureSet, count: int, *, seed: int) -> PictureSet:
    """The first `count` pictures, those with a hue and a clear ground, channels swapped and half of them negatives."""
    rng, orders = np.random.default_rng(seed), list(permutations(range(3)))
    kept = [i for i in range(min(count, len(source))) if source.scenes[i].style in COLOURED]
    pictures = np.stack(
        [source.pictures[i][list(orders[rng.integers(1, len(orders))])] for i in kept]
    )
    turned = rng.random(len(kept)) < 0.5
    pictures[turned] = 255 - pictures[turned]
    grounds = visible(torch.from_numpy(pictures))
    clear = np.array([bool(ground) for ground in grounds])
    scenes = [
        replace(source.scenes[i], style="", ground=ground)
        for i, ground in zip(kept, grounds, strict=True)
    ]
    return PictureSet(pictures[clear], [scene for scene in scenes if scene.ground])


def drawn(model: Diffusion, judge: Judge, folder: Path, *, each: int) -> PictureSet:
    """`each` pictures of every concept in every style that the judge knows, without those that it takes for others.

    Written to `folder` chunk by chunk; what lies there is not drawn again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [(concept, style) for concept in judge.concepts for style in judge.styles] * each
    wanted = [Order(prompt(c, s), c, s, FIRST_SEED + i) for i, (c, s) in enumerate(pairs)]
    parts = []
    for start in range(0, len(wanted), CHUNK):
        file = folder / f"drawn-{start}.npz"
        if not file.is_file():
            half = file.with_suffix(f".{os.getpid()}.part.npz")
            pictures, right = _looked(model, judge, wanted[start : start + CHUNK])
            np.savez(half, pictures=pictures, right=right)
            os.replace(half, file)
        with np.load(file) as kept:
            parts.append({name: kept[name] for name in kept.files})
    shown, sure = (np.concatenate([part[name] for part in parts]) for name in ("pictures", "right"))
    scenes = [
        _scene(order, ground)
        for order, ground in zip(wanted, visible(torch.from_numpy(shown)), strict=True)
    ]
    return PictureSet(shown[sure], [s for s, kept in zip(scenes, sure, strict=True) if kept])


def _looked(
    model: Diffusion, judge: Judge, wanted: Sequence[Order]
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 (N, 3, 128, 128) of the orders, and whether the judge sees in each what was ordered."""
    rows = list(made(model, judge, wanted))
    opened = [Image.open(io.BytesIO(row["webp"])).convert("RGB") for row in rows]
    right = [
        row["judge_concept"] == row["concept"] and row["judge_style"] == row["style"]
        for row in rows
    ]
    pictures = np.stack([np.asarray(picture).transpose(2, 0, 1) for picture in opened])
    return pictures, np.array(right)


def _scene(order: Order, ground: str) -> Scene:
    """What a drawn picture shows; its ground is the style's, or what is clearly seen of it."""
    thing = Thing(order.concept, "", 0.5, 0.5, 0.84, 0.0, False)
    told = REPAINTED.get(order.style, ground if order.style in COLOURED else "")
    return Scene((thing,), told, order.style, order.seed)
