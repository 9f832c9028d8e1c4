"""Contact sheets that a person can look at: the world, pocket-sd over concepts x styles, failures first."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from PIL import Image, ImageDraw
from torch import Tensor

from slugdemo.pocket import sae
from slugdemo.pocket.styles import STYLES
from slugdemo.pocket.world import CALM, SIDE, Scene, Sprites, render, scenes

INK = (20, 20, 24)
WRONG = (204, 40, 40)
FEATURES, WIDE = 32, 9  # features on their sheet, and pictures of each


def grid(
    pictures: Sequence[Image.Image],
    labels: Sequence[str],
    *,
    columns: int,
    wrong: Sequence[bool] = (),
) -> Image.Image:
    """Pictures in rows with a label under each; a label of a failure is red."""
    cell, row = SIDE + 8, SIDE + 22
    sheet = Image.new("RGB", (columns * cell, -(-len(pictures) // columns) * row), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        x, y = i % columns * cell + 4, i // columns * row + 2
        sheet.paste(picture, (x, y))
        pen.text((x, y + SIDE + 1), label[:12], fill=WRONG if wrong and wrong[i] else INK)
    return sheet


def world(sprites: Sprites) -> Image.Image:
    """Renderings of the world: wide poses, then calm ones, two-thing scenes among them."""
    planned: list[Scene] = scenes(sprites, 90, seed=5, artists=sprites.trained, pairs=0.2)
    planned += scenes(sprites, 90, seed=6, artists=sprites.trained, spread=CALM)
    pixels = render(sprites, planned).permute(0, 2, 3, 1).numpy()
    return grid(
        [Image.fromarray(p) for p in pixels], [s.things[0].concept for s in planned], columns=18
    )


def prompts(table: pd.DataFrame) -> Image.Image:
    """pocket-sd's pictures, a concept a row and a style a column, the concepts that fail most first."""
    first = table.groupby(["concept", "style"], sort=False).first().reset_index()
    first["wrong"] = (first.concept != first.sees) | (first["style"] != first.looks)
    worst = first.groupby("concept").wrong.mean().sort_values(ascending=False).index
    order = {style: i for i, style in enumerate(STYLES)}
    rows = [
        r
        for concept in worst
        for r in sorted(
            first[first.concept == concept].to_dict("records"), key=lambda r: order[r["style"]]
        )
    ]
    return grid(
        [r["picture"] for r in rows],
        [r["sees"] if r["wrong"] else r["concept"] for r in rows],
        columns=len(STYLES),
        wrong=[r["wrong"] for r in rows],
    )


def features(table: pd.DataFrame, active: Tensor) -> Image.Image:
    """Features by their strongest pictures, a feature a row, those of many prompts first.

    `active` (N, F) says how active each feature is on the prompts of the table's N rows.
    """
    shown, labels = [], []
    rows = table.to_dict("records")
    for feature in sae.sample(active, FEATURES):
        best = sae.strongest(active, feature, WIDE)
        shown += [rows[at]["picture"] for at in best]
        labels += [f"{feature}: {active[at, feature]:.1f}" for at in best]
        blank = WIDE - len(best)
        shown += [Image.new("RGB", (SIDE, SIDE), "white")] * blank
        labels += [""] * blank
    return grid(shown, labels, columns=WIDE)


def write(
    folder: Path, sprites: Sprites | None, table: pd.DataFrame, active: Tensor | None = None
) -> list[Path]:
    """Write the sheets as PNG files and return their paths; of features when `active` is given."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {"prompts": prompts(table), **({"world": world(sprites)} if sprites else {})}
    made |= {"features": features(table, active)} if active is not None else {}
    for name, sheet in made.items():
        sheet.save(folder / f"{name}.png")
    return [folder / f"{name}.png" for name in made]
