"""FORGET: which model, which concept, and the very pictures that stand for it."""

import base64
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from slugdemo import images as pictures
from slugdemo.catalog import Model
from slugdemo.concept import PLAIN, Example
from slugdemo.ui import shelf
from slugdemo.ui.session import World
from slugdemo.ui.view import View, label

SHOWN = 10
THUMB = 48  # pixels of a thumbnail
TITLES = {"zero-shot": "Zero-shot", "diffusion": "Stable Diffusion", "vlm": "VLM"}
READS = {
    "zero-shot": "sorts pictures; both towers can be edited",
    "diffusion": "draws pictures; reads the text tower",
    "vlm": "answers questions; reads the vision tower",
}


def catalogue(world: World) -> dict[str, Any]:
    """Everything that can be chosen: models by host, concepts by kind with a thumbnail each."""
    every = (*world.shelf.offers, *world.shelf.published)
    models = [
        {"title": title, "note": READS[kind], "rows": [_model(m) for m in every if m.kind == kind]}
        for kind, title in TITLES.items()
    ]
    thumbs = _thumbs(world)
    concepts = [
        {
            "title": title,
            "rows": [
                {"name": one.name, "src": thumbs[one.name]}
                for one in world.shelf.offered
                if one.kind == kind
            ],
        }
        for kind, title in shelf.KINDS.items()
    ]
    return {"models": models, "concepts": [one for one in concepts if one["rows"]]}


def _model(model: Model) -> dict[str, Any]:
    size = f"{model.bytes / 1e9:.1f} GB" if model.bytes > 1e9 else f"{model.bytes / 1e6:.0f} MB"
    there = model.place != "hub"
    needs = "" if there else f"not here: {size} to fetch, {model.minutes:.0f} min at 100 Mbit/s"
    return {"name": model.name, "note": size if there else needs, "here": there}


def _thumbs(world: World) -> dict[str, str]:
    """One small picture for each concept that is offered, without a style where there is one."""
    found = {}
    table = world.shelf.tables["forget"]
    for entry in world.shelf.offered:
        rows = table[table[entry.domain] == entry.name]
        rows = rows.sort_values("style", key=lambda one: one != PLAIN, kind="stable").head(1)
        small = shelf.decoded(rows)[0]
        small.thumbnail((THUMB, THUMB))
        found[entry.name] = source(small, quality=70)
    return found


def chosen(world: World, view: View) -> dict[str, Any]:
    """What stands on the two buttons that open the catalogue."""
    first = pictures.read(world.concept(view.concept).forget[0].image)
    first.thumbnail((THUMB, THUMB))
    return {
        "model": view.model,
        "host": TITLES[world.kind(view.model)],
        "concept": label(view.concept),
        "src": source(first, quality=70),
    }


def show(world: World, view: View) -> dict[str, Any]:
    """The pictures that stand for forgetting and for keeping: {"groups": [...]}."""
    concept = world.concept(view.concept)
    return {
        "groups": [
            _group("forget", f"Forget “{concept.name}”", concept.forget),
            _group("retain", "Keep the rest", world.divided(concept)[0]),
        ]
    }


def _group(role: str, title: str, every: Sequence[Example]) -> dict[str, Any]:
    some = [every[at * len(every) // SHOWN] for at in range(SHOWN)]
    some = list({str(one.image): one for one in some}.values())
    shown = [{"src": source(pictures.read(one.image)), "alt": one.caption} for one in some]
    return {"role": role, "title": title, "count": len(every), "pictures": shown}


def source(picture: Image.Image, *, quality: int = 0) -> str:
    """A picture as an address that holds it all: data:image/webp, without loss unless asked for."""
    packed = io.BytesIO()
    picture.save(packed, "webp", lossless=not quality, quality=quality or 80)
    return "data:image/webp;base64," + base64.b64encode(packed.getvalue()).decode()
