"""Five sprites in two artists, drawn here, so that the tests need no picture from outside."""

import json
from pathlib import Path

from PIL import Image, ImageDraw

SHAPES = {
    "disc": lambda pen, ink: pen.ellipse((20, 20, 140, 140), fill=ink),
    "box": lambda pen, ink: pen.rectangle((25, 25, 135, 135), fill=ink),
    "roof": lambda pen, ink: pen.polygon(((80, 15), (150, 140), (10, 140)), fill=ink),
    "bar": lambda pen, ink: pen.rectangle((10, 60, 150, 100), fill=ink),
    "hoop": lambda pen, ink: pen.ellipse((20, 20, 140, 140), outline=ink, width=24),
}
ARTISTS = {
    "marker": ("#c0392b", "#2c5fb3", "#27803b", "#7d3fa0", "#c77f12"),
    "blob": ("#803020",) * 5,
}


def draw_shapes(folder: Path) -> Path:
    """Write the sprites and their concepts.json into `folder` and return it."""
    for artist, inks in ARTISTS.items():
        (folder / artist).mkdir(parents=True)
        for (name, draw), ink in zip(SHAPES.items(), inks, strict=True):
            sprite = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
            draw(ImageDraw.Draw(sprite), ink)
            sprite.save(folder / artist / f"{name}.png")
    listing = [{"caption": n, "group": "character" if n == "disc" else "thing"} for n in SHAPES]
    (folder / "concepts.json").write_text(json.dumps(listing))
    return folder
