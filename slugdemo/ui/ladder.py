"""The ladder under STEP: the target, a neighbour and a stranger over the same few steps."""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

import torch

from slugdemo.ui import exams, see, step
from slugdemo.ui.jobs import Watch
from slugdemo.ui.session import World
from slugdemo.ui.view import View

Cell = dict[str, Any]
ARTICLE = re.compile(r"^(an?|the) ")


def show(world: World, view: View, watch: Watch) -> dict[str, Any]:
    """Three rows (target, neighbour, unrelated) over the rungs: pictures, classes or answers.

    Everything that is on in the tray is on in every rung but the first.
    """
    kind = world.kind(view.model)
    rungs = [replace(view, step=far) if far else view.unedited() for far in step.RUNGS]
    roles = see.cast(world, view)
    acting = tuple(one.applied() for one in rungs)
    key = ("ladder", view.model, view.concept, view.seed, tuple(map(str, roles)), acting)
    cells = world.results.get(key, lambda: LADDERS[kind](world, view, roles, rungs, watch))
    rows = [
        {"role": part.role, "name": part.name, "cells": row}
        | ({} if kind == "diffusion" else {"src": part.src})
        for part, row in zip(roles, cells, strict=True)
    ]
    return {"steps": step.RUNGS, "step": view.step or 0.0, "rows": rows, "kind": kind}


def _drawn(
    world: World, view: View, roles: Sequence[see.Part], rungs: Sequence[View], watch: Watch
) -> list[list[Cell]]:
    del view  # the rungs are views of the same concept
    prompts = [part.prompt for part in roles]
    rows = see.drawn(world, rungs, prompts, watch, "Drawing the ladder: denoising step")
    return [
        [{**cell, "ok": cell["text"] == part.name} for cell in column]
        for part, column in zip(roles, zip(*rows, strict=True), strict=True)
    ]


def _sorted(
    world: World, view: View, roles: Sequence[see.Part], rungs: Sequence[View], watch: Watch
) -> list[list[Cell]]:
    clip, host = world.clip(view.model), exams.zero_shot(world, view, split="test")
    pixels = torch.stack([clip.transform(part.picture) for part in roles])
    shown = host.showing(pixels)
    columns = []
    for rung in rungs:
        watch.say("Sorting the ladder's pictures")
        columns.append(shown.edited(world.edits(rung, watch)).probabilities())
    cells = []
    for row, part in enumerate(roles):
        own = host.classes.index(part.name)
        cells.append([_belief(host.classes, column[row], own) for column in columns])
    return cells


def _belief(classes: Sequence[str], beliefs: torch.Tensor, own: int) -> Cell:
    best = int(beliefs.argmax())
    return {"text": classes[best], "share": beliefs[own].item(), "ok": best == own, "bar": True}


def _told(
    world: World, view: View, roles: Sequence[see.Part], rungs: Sequence[View], watch: Watch
) -> list[list[Cell]]:
    host, asked = world.vlm(view.model), exams.question(world.concept(view.concept))
    pictures = [part.picture for part in roles]
    cells: list[list[Cell]] = [[] for _ in roles]
    for rung in rungs:
        watch.say("Asking the ladder's questions")
        answers = host.edited(world.edits(rung, watch)).answer(
            pictures, [asked] * len(roles), cancelled=watch.stop.is_set
        )
        for row, (part, answer) in enumerate(zip(roles, answers, strict=True)):
            cells[row].append({"text": answer, "ok": exams.says(answer, part.name)})
    return shorter(cells)


def shorter(cells: list[list[Cell]]) -> list[list[Cell]]:
    """The cells without the words that all their answers begin with, which stay under "full"."""
    said = [str(cell["text"]).split() for row in cells for cell in row]
    same = sum(1 for _ in takewhile(lambda words: len({*words}) == 1, zip(*said, strict=False)))
    if same < 3 or same == min(map(len, said)):
        same = 0
    return [
        [{**cell, "full": cell["text"], "text": _rest(cell, same)} for cell in row] for row in cells
    ]


def _rest(cell: Cell, skipped: int) -> str:
    words = " ".join(str(cell["text"]).split()[skipped:])
    return ARTICLE.sub("", words).rstrip(".") if skipped else words


LADDERS = {"zero-shot": _sorted, "diffusion": _drawn, "vlm": _told}
