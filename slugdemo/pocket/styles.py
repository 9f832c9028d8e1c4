"""Styles as image code: every function takes and returns pictures (N, 3, H, W) in [0, 1].

Knows torch and colour, nothing of concepts or captions. All of it is plain filtering, so a style is a pure
function of the picture and of the generators that its noise is drawn from.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

Noise = Sequence[Generator]  # one a picture
Style = Callable[[Tensor, Noise], Tensor]


def unit(pictures: Tensor) -> float:
    """How many pixels of these pictures are one at 128 across: lengths below are given at that size."""
    return pictures.shape[-1] / 128


def grey(pictures: Tensor) -> Tensor:
    """Luma (N, 1, H, W), Rec. 601 weights."""
    red, green, blue = pictures.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]


def blur(pictures: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, edges repeated; sigma in pixels."""
    reach = max(1, round(2.5 * sigma))
    line = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    line = (line / line.sum()).expand(pictures.shape[1], 1, 1, -1)
    for kernel, pad in ((line, (reach, reach, 0, 0)), (line.transpose(2, 3), (0, 0, reach, reach))):
        pictures = F.conv2d(
            F.pad(pictures, pad, mode="replicate"), kernel, groups=pictures.shape[1]
        )
    return pictures


def edges(pictures: Tensor) -> Tensor:
    """Strength of the strongest colour edge at each pixel, (N, 1, H, W) in [0, 1]."""
    reach = max(1, round(unit(pictures)))
    soft = F.pad(blur(pictures, 0.8 * unit(pictures)), (reach,) * 4, mode="replicate")
    inner, after, before = slice(reach, -reach), slice(2 * reach, None), slice(None, -2 * reach)
    across = soft[..., inner, after] - soft[..., inner, before]
    down = soft[..., after, inner] - soft[..., before, inner]
    return (across**2 + down**2).sum(1, keepdim=True).sqrt().mul(1.6).clamp(0, 1)


def noise(pictures: Tensor, generators: Noise, *, cell: int = 1) -> Tensor:
    """Uniform noise in [-0.5, 0.5], (N, 1, H, W), in square cells of `cell` units, smoothly joined."""
    height, width = pictures.shape[2:]
    cell = max(1, round(cell * unit(pictures)))
    size = (1, 1, -(-height // cell), -(-width // cell))
    grain = torch.cat([torch.rand(size, generator=g) for g in generators]) - 0.5
    return grain if cell == 1 else F.interpolate(grain, (height, width), mode="bilinear")


def ramp(values: Tensor, colours: list[tuple[int, int, int]]) -> Tensor:
    """Values (N, 1, H, W) in [0, 1] to colours, linearly along the list."""
    table = torch.tensor(colours) / 255.0  # (C, 3)
    place = values[:, 0].clamp(0, 1) * (len(colours) - 1)
    low = place.floor().long().clamp(max=len(colours) - 2)
    share = (place - low)[..., None]
    return ((1 - share) * table[low] + share * table[low + 1]).permute(0, 3, 1, 2)


def plain(pictures: Tensor, generators: Noise) -> Tensor:
    """The picture as it is."""
    return pictures


def pencil_sketch(pictures: Tensor, generators: Noise) -> Tensor:
    """Graphite lines and light hatching on white paper."""
    light = grey(pictures)
    rows = torch.arange(light.shape[2], dtype=light.dtype)[:, None] + torch.arange(
        light.shape[3], dtype=light.dtype
    )
    hatching = 0.16 * (torch.sin(rows * (0.9 / unit(pictures))) > 0.2) * (light < 0.55)
    paper = 0.97 + 0.06 * noise(pictures, generators)
    return (paper - 0.85 * edges(pictures) - hatching).clamp(0, 1).expand(-1, 3, -1, -1)


def pixel_art(pictures: Tensor, generators: Noise) -> Tensor:
    """Twenty-one by twenty-one large pixels, seven levels a channel, colours a little louder."""
    small = F.interpolate(pictures, (21, 21), mode="area")
    loud = (grey(small) + 1.3 * (small - grey(small))).clamp(0, 1)
    return F.interpolate((loud * 6).round() / 6, pictures.shape[2:], mode="nearest")


def neon(pictures: Tensor, generators: Noise) -> Tensor:
    """Glowing tubes of light along the outlines, on black."""
    lines = edges(pictures)
    tint = blur(pictures, 1.5 * unit(pictures))
    tint = tint / tint.amax(1, keepdim=True).clamp(min=0.2)
    tint = 0.35 * tint + 0.65 * torch.stack(
        (tint[:, 0] ** 2, tint[:, 1] ** 3, tint[:, 2].clamp(min=0.6)), 1
    )
    tube = lines * tint
    return (1.1 * tube + 1.5 * blur(tube, 3.0 * unit(pictures)) + 0.35 * lines**3).clamp(0, 1)


def blueprint(pictures: Tensor, generators: Noise) -> Tensor:
    """White construction lines on blue squared paper."""
    step = pictures.shape[-1] // 8
    grid = torch.zeros(pictures.shape[2:])
    ruled = torch.arange(len(grid)) % step < 2 * unit(pictures)
    grid[ruled], grid[:, ruled] = 0.22, 0.22
    lines = torch.maximum(edges(pictures) * 1.1, grid[None, None]).clamp(0, 1)
    return ramp(lines, [(22, 62, 150), (240, 246, 255)])


def watercolour(pictures: Tensor, generators: Noise) -> Tensor:
    """Pale washes that run, darker where they dry, on rough paper that stays white at the border."""
    wash = blur(pictures, 1.8 * unit(pictures))
    wash = 1 - 0.72 * (1 - wash) * (1 + 0.9 * noise(pictures, generators, cell=12))
    dried = 0.3 * edges(wash) * (1 - pictures)
    span = torch.linspace(-1, 1, pictures.shape[-1])
    far = torch.maximum(span[:, None].abs(), span.abs())[None, None] + 0.14 * noise(
        pictures, generators, cell=10
    )
    paper = ((far - 0.84) * 9).clamp(0, 1)
    return (
        (1 - paper) * (wash - dried) + paper * 0.985 + 0.05 * noise(pictures, generators)
    ).clamp(0, 1)


def pop_art(pictures: Tensor, generators: Noise) -> Tensor:
    """Four loud inks chosen by lightness, halftone dots in the two light ones, black contours."""
    light = blur(grey(pictures), 1.0 * unit(pictures))
    inks = torch.tensor([(30, 10, 110), (235, 20, 120), (255, 205, 0), (60, 220, 235)]) / 255.0
    level = (light[:, 0] * 3.999).long().clamp(0, 3)
    flat = inks[level].permute(0, 3, 1, 2)
    step = pictures.shape[-1] / 16
    wave = torch.cos(torch.arange(pictures.shape[-1]) * 2 * torch.pi / step)
    dots = ((wave[:, None] + wave) > 0.75) & (level[:, None] >= 2)
    dotted = torch.where(dots, torch.tensor([235, 20, 120]).view(1, 3, 1, 1) / 255.0, flat)
    return dotted * (1 - (edges(pictures) * 1.5).clamp(0, 1)) + 0.05 * (edges(pictures))


def sepia(pictures: Tensor, generators: Noise) -> Tensor:
    """An old photograph: brown toning, faded blacks, dark corners, grain."""
    toned = ramp(grey(pictures), [(48, 26, 8), (160, 112, 60), (250, 228, 180)])
    span = torch.linspace(-1, 1, pictures.shape[-1])
    corners = 1 - 0.32 * ((span[:, None] ** 2 + span**2) / 2) ** 1.5
    return (toned * corners + 0.07 * noise(pictures, generators, cell=2)).clamp(0, 1)


def heat_map(pictures: Tensor, generators: Noise) -> Tensor:
    """A thermal camera: lightness from black over violet, red and orange to white."""
    colours = [
        (4, 2, 30),
        (84, 10, 150),
        (205, 30, 110),
        (250, 120, 20),
        (255, 215, 40),
        (255, 255, 235),
    ]
    return ramp(blur(grey(pictures), 0.9 * unit(pictures)), colours)


STYLES: dict[str, Style] = {
    "plain": plain,
    "pencil sketch": pencil_sketch,
    "pixel art": pixel_art,
    "neon": neon,
    "blueprint": blueprint,
    "watercolour": watercolour,
    "pop art": pop_art,
    "sepia": sepia,
    "heat map": heat_map,
}
KEEPS_BACKGROUND = ("plain", "pixel art", "watercolour")  # the others repaint the ground
