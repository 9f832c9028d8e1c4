"""FORGET: which model, which concept, and the very pictures that stand for it."""

import base64
import io
from typing import Any

import pandas as pd
from PIL import Image

from slugdemo.ui import shelf
from slugdemo.ui.session import View, World

SHOWN = {"forget": 8, "retain": 8}
LARGE = 200_000_000  # bytes from which a size is worth saying
TITLES = {"zero-shot": "Zero-shot", "diffusion": "Stable Diffusion", "vlm": "VLM"}


def models(world: World) -> list[tuple[str, str]]:
    """The models that can be chosen, as (what is read, name)."""
    return [
        (f"{TITLES[one.kind]} · {one.name}{_size(one.bytes)}", one.name)
        for one in world.shelf.offers
    ]


def _size(count: int) -> str:
    """The size of a model, where it matters."""
    return f" ({count / 1e9:.1f} GB)" if count > LARGE else ""


def concepts(world: World) -> list[tuple[str, str]]:
    """The concepts that can be chosen, characters, objects, styles, as (what is read, name)."""
    return [(f"{shelf.KINDS[one.kind][:-1]} · {one.name}", one.name) for one in world.shelf.offered]


def show(world: World, view: View) -> dict[str, Any]:
    """The pictures that stand for forgetting and for keeping: {"groups": [...]}."""
    forget, retain = world.examples(world.shelf.entry(view.concept))
    return {
        "groups": [
            _group("forget", f"Forget “{view.concept}”", forget),
            _group("retain", "Keep the rest", retain),
        ]
    }


def _group(role: str, title: str, rows: pd.DataFrame) -> dict[str, Any]:
    some = shelf.spread(rows, SHOWN[role], seed=6)
    pictures = [
        {"src": source(picture), "alt": prompt}
        for picture, prompt in zip(shelf.decoded(some), some["prompt"], strict=True)
    ]
    return {"role": role, "title": title, "count": len(rows), "pictures": pictures}


def source(picture: Image.Image) -> str:
    """A picture as an address that holds it all: data:image/webp, without loss."""
    packed = io.BytesIO()
    picture.save(packed, "webp", lossless=True)
    return "data:image/webp;base64," + base64.b64encode(packed.getvalue()).decode()
