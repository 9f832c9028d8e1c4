"""COMPARE: is that better than chance? The edit beside its controls, on the same model and judge."""

import time
from dataclasses import replace
from typing import Any

import torch

from slugdemo import weights
from slugdemo.edit import Edit
from slugdemo.search import Point
from slugdemo.ui import exams, locate, step, words
from slugdemo.ui.jobs import Watch
from slugdemo.ui.session import World, lot
from slugdemo.ui.view import Kept, View, label

CONTROLS = (
    "SLUG",
    "opposite direction",
    "random direction",
    "random layer",
)


def opposite(edit: Edit) -> Edit:
    """The same layer, as far along the other way: it should make the concept clearer, if anything."""
    return replace(
        edit, layer=f"{edit.layer} (opposite)", direction=weights.scaled(edit.direction, -1)
    )


def random(edit: Edit, *, seed: int) -> Edit:
    """The same layer, as far in a direction drawn by lot."""
    dice = torch.Generator().manual_seed(seed)
    noise = {
        name: torch.randn(one.shape, generator=dice) for name, one in sorted(edit.direction.items())
    }
    size = weights.norm(edit.direction) / weights.norm(noise)
    return replace(
        edit, layer=f"{edit.layer} (random {seed})", direction=weights.scaled(noise, size)
    )


def other_layer(world: World, view: View, watch: Watch) -> View:
    """The view on a layer drawn by lot from those off the front, at the step that CLIP likes best."""
    found = locate.locate(world, view, watch)
    off = [
        one.layer
        for one in found.scores
        if found.reads(one) and one.layer not in found.front and one.importance > 0
    ]
    pool = off or [one for one in found.front if one != view.layer] or [view.layer]
    moved = replace(view, layer=pool[lot(view.concept) % len(pool)])
    return replace(moved, step=step.guess(world, moved, watch))


def compare(world: World, view: View, watch: Watch) -> list[tuple[str, str, Point]]:
    """What each control does, as (name, where, point); the unedited model first.

    -g and the random direction go as far as the edit, in the same layer; the random layer goes to
    its own best step. Nothing of the tray is on.
    """
    exam, at = exams.exam(world, view, watch), view.step or 0.0
    edit = step.unstepped(world, view, watch)
    moved = other_layer(world, view, watch)
    elsewhere = world.edit(view.model, Kept(view.concept, moved.layer, 0.0), watch)
    tried = [
        ("before", edit, 0.0),
        (CONTROLS[0], edit, at),
        (CONTROLS[1], opposite(edit), at),
        (CONTROLS[2], random(edit, seed=lot(view.concept)), at),
        (CONTROLS[3], elsewhere, moved.step),
    ]
    rows = []
    for number, (name, one, far) in enumerate(tried):
        watch.say(f"Comparing: {name}", number, len(tried))
        where = "" if name == "before" else f"{words.short(_plain(one.layer))} at {far:.1%}"
        rows.append((name, where, exam(one)(far)))
    return rows


def _plain(layer: str) -> str:
    return layer.split(" (")[0]


def show(world: World, view: View, watch: Watch) -> dict[str, Any]:
    """The comparison as a table with bars and intervals."""
    rows = [
        {
            "name": name,
            "where": where,
            "forget": [point.forget, *point.forget_interval, point.n_forget],
            "retain": [point.retain, *point.retain_interval, point.n_retain],
        }
        for name, where, point in compare(world, view, watch)
    ]
    return {"rows": rows, "concept": label(view.concept), "asked": time.time()}
