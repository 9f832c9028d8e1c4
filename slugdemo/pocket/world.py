"""The sprite world: what stands where, drawn by which artist, on which ground, in which style; and its pictures.

Knows sprites, poses and pixels; knows no words (words.py) and no models. A scene is a value; the same scene always
gives the same picture.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from slugdemo.errors import SlugError
from slugdemo.pocket.names import Names
from slugdemo.pocket.styles import STYLES

SIDE = 128  # pixels of a finished picture
DRAWN = 2 * SIDE  # pictures are drawn and styled at twice that, then averaged down
HELD_OUT = "blob"  # the artist that no model is trained on
GROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (248, 248, 246),
    "black": (28, 28, 32),
    "grey": (150, 152, 156),
    "red": (206, 62, 58),
    "yellow": (246, 216, 92),
    "green": (112, 178, 96),
    "blue": (86, 140, 214),
    "purple": (150, 104, 190),
}


@dataclass(frozen=True)
class Thing:
    """One sprite in its place: centre (x, y) and size as fractions of the picture, turn in degrees."""

    concept: str
    artist: str
    x: float
    y: float
    size: float
    turn: float
    mirrored: bool


@dataclass(frozen=True)
class Scene:
    """One or two things on a ground in a style; `seed` feeds the style's noise and the ground's shade.

    Ground or style is "" where it is not known, in a picture that was not rendered (varied.py).
    """

    things: tuple[Thing, ...]
    ground: str
    style: str
    seed: int


@dataclass(frozen=True)
class Spread:
    """How much poses vary: sizes of a single thing, shift, turn in degrees, and the share that is mirrored."""

    size: tuple[float, float]
    shift: float
    turn: float
    mirrored: float


WIDE = Spread(size=(0.74, 0.94), shift=0.04, turn=6.0, mirrored=0.15)
CALM = Spread(size=(0.8, 0.88), shift=0.015, turn=3.0, mirrored=0.0)


class Sprites:
    """All sprites of a folder `<artist>/<name>.png`, RGBA premultiplied, and the names of this world."""

    def __init__(self, folder: Path, *, without: Iterable[str] = ()) -> None:
        """Read every artist's sprites; names in `without` are left out of the world.

        Raises SlugError for a missing, empty or unreadable folder, and for an unknown name.
        """
        if not folder.is_dir():
            raise SlugError(
                f"There is no sprite folder at {folder}; give --sprites a folder <artist>/<name>.png."
            )
        found = {d.name: sorted(d.glob("*.png")) for d in sorted(folder.iterdir()) if d.is_dir()}
        found = {artist: files for artist, files in found.items() if files}
        if not found:
            raise SlugError(f"{folder} holds no <artist>/<name>.png pictures.")
        drawn = sorted({f.stem.replace("_", " ") for files in found.values() for f in files})
        self.known = Names(tuple(drawn), tuple(STYLES)).without(without)
        self.names = list(self.known.concepts)
        self.groups = _groups(folder)
        self._pictures = {
            (artist, f.stem.replace("_", " ")): _read(f)
            for artist, files in found.items()
            for f in files
        }
        self._colours = {
            key: p[:3].sum((1, 2)) / p[3].sum().clamp(min=1) for key, p in self._pictures.items()
        }
        self.artists = list(found)

    @property
    def trained(self) -> list[str]:
        """The artists that models may see: all but the held-out one (all, where that is the only one)."""
        return [h for h in self.artists if h != HELD_OUT] or self.artists

    def picture(self, artist: str, concept: str) -> Tensor:
        """One sprite (4, 160, 160), premultiplied; raises SlugError for a name that is not in the list."""
        if (artist, concept) not in self._pictures:
            raise SlugError(f"The artist {artist!r} has no sprite named {concept!r}.")
        return self._pictures[artist, concept]

    def grounds(self, things: Sequence[Thing]) -> list[str]:
        """The grounds that these things stand out from, in lightness; the best one at least."""
        gaps = {name: min(self._gap(name, t) for t in things) for name in GROUNDS}
        return [name for name, gap in gaps.items() if gap > 0.16] or [
            max(gaps, key=gaps.__getitem__)
        ]

    def _gap(self, ground: str, thing: Thing) -> float:
        colour = torch.tensor(GROUNDS[ground]) / 255.0
        apart = self._colours[thing.artist, thing.concept] - colour
        return abs(float(apart @ torch.tensor([0.299, 0.587, 0.114])))

    def draws(self, artist: str) -> list[str]:
        """The concepts that this artist has drawn."""
        return [concept for concept in self.names if (artist, concept) in self._pictures]


def _groups(folder: Path) -> dict[str, str]:
    listing = folder / "concepts.json"
    return (
        {row["caption"]: row["group"] for row in json.loads(listing.read_text())}
        if listing.is_file()
        else {}
    )


def _read(file: Path) -> Tensor:
    try:
        with Image.open(file) as opened:
            rgba = opened.convert("RGBA").resize((160, 160), Image.Resampling.LANCZOS)
    except (UnidentifiedImageError, OSError) as problem:
        raise SlugError(f"{file} is not a readable picture.") from problem
    pixels = torch.from_numpy(np.array(rgba, dtype=np.float32) / 255).permute(2, 0, 1)
    return torch.cat((pixels[:3] * pixels[3:], pixels[3:]))  # (4, 160, 160)


def scene(
    sprites: Sprites,
    rng: np.random.Generator,
    *,
    artists: Sequence[str],
    spread: Spread = WIDE,
    concept: str | None = None,
    style: str | None = None,
    ground: str | None = None,
    pairs: float = 0.0,
) -> Scene:
    """A random scene; what is given stays fixed, the rest is drawn from `rng`. `pairs`: share of two-thing scenes."""
    artist = str(rng.choice(artists))
    names = sprites.draws(artist)
    concept = concept or str(rng.choice(names))
    both = rng.random() < pairs
    things = [_thing(rng, concept, artist, spread)]
    if both:
        other = str(rng.choice([name for name in names if name != concept]))
        left, right = (concept, other) if rng.random() < 0.5 else (other, concept)
        things = [_half(rng, left, artist, 0.27), _half(rng, right, artist, 0.73)]
    ground = ground or str(rng.choice(sprites.grounds(things)))
    return Scene(
        tuple(things),
        ground,
        style or str(rng.choice(sprites.known.styles)),
        int(rng.integers(2**31)),
    )


def _thing(rng: np.random.Generator, concept: str, artist: str, spread: Spread) -> Thing:
    x, y = 0.5 + rng.uniform(-spread.shift, spread.shift, 2)
    return Thing(
        concept,
        artist,
        float(x),
        float(y),
        float(rng.uniform(*spread.size)),
        float(rng.uniform(-spread.turn, spread.turn)),
        bool(rng.random() < spread.mirrored),
    )


def _half(rng: np.random.Generator, concept: str, artist: str, x: float) -> Thing:
    dx, dy = rng.uniform(-0.03, 0.03), rng.uniform(-0.12, 0.12)
    return Thing(
        concept,
        artist,
        x + float(dx),
        0.5 + float(dy),
        float(rng.uniform(0.44, 0.52)),
        float(rng.uniform(-6, 6)),
        False,
    )


def render(sprites: Sprites, scenes: Sequence[Scene]) -> Tensor:
    """Pictures of the scenes, uint8 (N, 3, 128, 128)."""
    canvas = torch.stack([_ground(s) for s in scenes])
    for place in range(max(len(s.things) for s in scenes)):
        which = [i for i, s in enumerate(scenes) if len(s.things) > place]
        layer = _placed(sprites, [scenes[i].things[place] for i in which])
        canvas[which] = layer[:, :3] + (1 - layer[:, 3:]) * canvas[which]
    out = torch.empty(len(scenes), 3, SIDE, SIDE, dtype=torch.uint8)
    for style in {s.style for s in scenes}:
        which = [i for i, s in enumerate(scenes) if s.style == style]
        generators = [torch.Generator().manual_seed(scenes[i].seed) for i in which]
        styled = STYLES[style](canvas[which].clamp(0, 1), generators)
        out[which] = (F.avg_pool2d(styled, 2).clamp(0, 1) * 255).round().to(torch.uint8)
    return out


def _ground(scene: Scene) -> Tensor:
    """A soft vertical gradient around the named colour, (3, 256, 256)."""
    rng = np.random.default_rng(scene.seed)
    colour = torch.tensor(GROUNDS[scene.ground]).view(3, 1, 1) / 255.0
    fall = torch.linspace(float(rng.uniform(0, 0.07)), -float(rng.uniform(0, 0.07)), DRAWN).view(
        1, DRAWN, 1
    )
    return (colour + fall).expand(3, DRAWN, DRAWN)


def _placed(sprites: Sprites, things: Sequence[Thing]) -> Tensor:
    """Sprites turned, scaled and moved to their places on an empty canvas, (N, 4, 256, 256)."""
    angle = torch.tensor([np.deg2rad(t.turn) for t in things])
    grow = 1 / torch.tensor([t.size for t in things])
    flip = torch.tensor([-1.0 if t.mirrored else 1.0 for t in things])
    cos, sin = torch.cos(angle) * grow, torch.sin(angle) * grow
    x, y = (2 * torch.tensor([getattr(t, axis) for t in things]) - 1 for axis in "xy")
    rows = torch.stack(
        (
            torch.stack((flip * cos, flip * sin, -flip * (cos * x + sin * y)), 1),
            torch.stack((-sin, cos, sin * x - cos * y), 1),
        ),
        1,
    )  # (N, 2, 3)
    grid = F.affine_grid(rows.float(), [len(things), 4, DRAWN, DRAWN], align_corners=False)
    stack = torch.stack([sprites.picture(t.artist, t.concept) for t in things])
    return F.grid_sample(stack, grid, align_corners=False)


def scenes(
    sprites: Sprites,
    count: int,
    *,
    seed: int,
    artists: Sequence[str],
    spread: Spread = WIDE,
    pairs: float = 0.0,
) -> list[Scene]:
    """`count` random scenes, concepts and styles in balance; the i-th depends on `seed` and i alone."""
    combos = [(c, s) for c in sprites.known.concepts for s in sprites.known.styles]
    order = np.random.default_rng(seed).permutation(len(combos))
    picked = []
    for i in range(count):
        concept, style = combos[order[i % len(combos)]]
        able = [h for h in artists if concept in sprites.draws(h)]
        picked.append(
            scene(
                sprites,
                np.random.default_rng((seed, i)),
                artists=able,
                spread=spread,
                concept=concept,
                style=style,
                pairs=pairs,
            )
        )
    return picked


def rendered(sprites: Sprites, planned: Sequence[Scene], *, batch: int = 64) -> Iterable[Tensor]:
    """Pictures of many scenes, batch by batch, sorted nowhere: uint8 (<=batch, 3, 128, 128)."""
    for start in range(0, len(planned), batch):
        yield render(sprites, planned[start : start + batch])
