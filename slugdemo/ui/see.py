"""SEE: what the edited model does now, beside what it did, and what else has changed.

The ladder shows it step by step, from one seed.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL.Image import Image

from slugdemo import images as pictures
from slugdemo import ladder
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.ladder import Cell, Part
from slugdemo.models.zero_shot import ZeroShot
from slugdemo.task import Task
from slugdemo.ui import step
from slugdemo.ui.state import AppState
from slugdemo.ui.tasks import Watch
from slugdemo.ui.view import View, label

CHANGED = 4  # other concepts named
SIDE = 512  # pixels that are kept of a picture that a visitor gives
CLIP_PARTS = {"text", "vision"}


def cast(state: AppState, view: View) -> list[Part]:
    """The three that the ladder compares: the target, a neighbour, something unrelated."""
    return ladder.cast(looks(state, view))


def looks(state: AppState, view: View) -> list[Part]:
    """The held-out pictures that can be looked at: some of the target, a neighbour, others.

    Raises SlugError when there are none.
    """
    found = state.shown.get(("looks", view.concept), lambda: _looks(state, view))
    if not found:
        raise SlugError(f"There are no pictures of “{label(view.concept)}” to look at.")
    return found


def _looks(state: AppState, view: View) -> list[Part]:
    concept, names = state.concept(view.concept), state.eval_set(view.concept)
    return ladder.looks(concept, names, state.test_pictures)


def zero_shot(state: AppState, view: View, task: Task) -> ZeroShot:
    """The CLIP behind a model before some held-out pictures of every name of the domain."""
    key = (task.clip.digest, view.concept)
    return state.features.get(key, lambda: ladder.surroundings(task, state.test_pictures))


def show(state: AppState, view: View, watch: Watch) -> dict[str, Any]:
    """Before and after, in the way of the model: bars, pictures or answers."""
    kind = state.kind(view.model)
    return {"kind": kind, **SHOWS[kind](state, view, watch)}


def keep_picture(state: AppState, visitor: str, path: Path) -> str:
    """The secret under which a visitor's picture can be looked at.

    Kept in memory only, and only while the page is open. Raises SlugError for a file that is no
    picture or is far too large.
    """
    small = pictures.read(path)
    small.thumbnail((SIDE, SIDE))
    return state.uploads.bring(visitor, small)


def looked(state: AppState, view: View) -> tuple[Part, dict[str, Any]]:
    """The picture that is looked at, and all that can be."""
    parts = looks(state, view)
    own = state.uploads.find(view.own)
    if isinstance(own, Image):
        parts = [Part("own", "", "your own picture", own), *parts[:-1]]
    chosen = min(view.picture, len(parts) - 1)
    shown = [
        {"src": part.src, "alt": part.prompt, "role": part.role, "name": part.name}
        for part in parts
    ]
    return parts[chosen], {"pictures": shown, "chosen": chosen}


def _bars(state: AppState, view: View, watch: Watch) -> dict[str, Any]:
    watch.check()
    part, others = looked(state, view)
    task = state.task(view, watch)

    def single() -> ZeroShot:
        return zero_shot(state, view, task).showing(task.clip.transform(part.picture)[None])

    key = (task.clip.digest, view.concept, str(part.place))
    seen = state.single.get(key, single) if part.place else single()  # a visitor's own is not kept
    rows = ladder.bars(seen, state.applied(view, watch), label(view.concept))
    return {**others, "bars": rows}


def _wipe(state: AppState, view: View, watch: Watch) -> dict[str, Any]:
    asked = view.words.strip() or first_words(state, view)
    sides = drawn(state, [view.unedited(), view], [asked], watch, "Drawing: denoising step")
    return {"before": sides[0][0], "after": sides[1][0], "prompt": asked}


def drawn(
    state: AppState, views: Sequence[View], prompts: Sequence[str], watch: Watch, saying: str
) -> list[list[dict[str, Any]]]:
    """A row of judged pictures for each view's edits, one for each prompt; none kept is drawn again."""
    keys = [
        [(view.model, view.concept, view.applied(), view.seed, asked) for asked in prompts]
        for view in views
    ]
    rows: list[list[Any]] = [[state.pictures.peek(key) for key in row] for row in keys]
    lacking = [number for number, row in enumerate(rows) if None in row]
    if lacking:
        task = state.task(views[0], watch)
        acting = [state.applied(views[number], watch) for number in lacking]
        made = ladder.drawn(task, prompts, acting, seed=views[0].seed, saying=saying)
        for number, row in zip(lacking, made, strict=True):
            rows[number] = [
                {"src": pictures.display(cell.picture), "text": cell.text, "share": cell.share}
                for cell in row
            ]
            for key, cell in zip(keys[number], rows[number], strict=True):
                state.pictures.put(key, cell)
    return rows


def _answers(state: AppState, view: View, watch: Watch) -> dict[str, Any]:
    part, others = looked(state, view)
    question = view.words.strip() or first_words(state, view)
    task, edits = state.task(view, watch), state.applied(view, watch)
    return {**others, "question": question, **ladder.answers(task, part, question, edits)}


SHOWS = {"zero-shot": _bars, "diffusion": _wipe, "vlm": _answers}


def first_words(state: AppState, view: View) -> str:
    """What is asked when the visitor has asked nothing yet."""
    return ladder.asked(state.kind(view.model), state.concept(view.concept))


def asking(state: AppState, view: View) -> dict[str, Any]:
    """The text field beside the pictures: how it is called, and what stands in it."""
    kind = state.kind(view.model)
    title = {"zero-shot": "", "diffusion": "Prompt", "vlm": "Question"}[kind]
    seed = view.seed if kind == "diffusion" else None
    return {"label": title, "text": view.words or first_words(state, view), "seed": seed}


def collateral(state: AppState, view: View, watch: Watch) -> dict[str, Any]:
    """How much of every concept CLIP still recognises, zero-shot on held-out pictures.

    {"forget": [before, after, n], "retain": [...], "rows": the others that changed most,
    "blind": why CLIP cannot see some of the edits}.
    """
    watch.check()
    base = zero_shot(state, view, state.task(view, watch))
    edits = state.applied(view, watch)
    erased = {label(kept.concept) for kept in view.tray if kept.on} | {label(view.concept)}
    found = ladder.collateral(base, edits, erased)
    return counted(found, sorted(erased & {*base.classes}), blind(edits))


def counted(found: dict[str, Any], erased: Sequence[str], unseen: str) -> dict[str, Any]:
    """What the engine found of everything else, with what the page says of it."""
    rows = found["rows"]
    return {
        **found,
        "erased": [*erased],
        "named": CHANGED,
        "unchanged": sum(row["before"] == row["after"] for row in rows),
        "others": len(rows),
        "blind": unseen,
    }


def blind(edits: Sequence[Edit]) -> str:
    """Why CLIP does not see some edits, in a sentence; "" when it sees them all."""
    outside = [edit.method for edit in edits if not {*edit.parts} & CLIP_PARTS]
    if not outside:
        return ""
    names = " and ".join(dict.fromkeys(outside))
    return f"{names} does not change CLIP, whose answers these are: look at the pictures instead."


# ---- the ladder


def show_ladder(state: AppState, view: View, watch: Watch) -> dict[str, Any]:
    """Three rows (target, neighbour, unrelated) over the rungs: pictures, classes or answers.

    Everything that is on in the tray is on in every rung but the first.
    """
    kind, steps = (
        state.kind(view.model),
        ladder.RUNGS[step.unit(step.unstepped(state, view, watch))],
    )
    views, roles = _rungs(view, steps), cast(state, view)
    name = _ladder_key(view, roles, views)
    cells = state.shown.get(name, lambda: LADDERS[kind](state, view, roles, views, watch))
    return rungs(kind, view, steps, roles, cells)


def _rungs(view: View, steps: Sequence[float]) -> list[View]:
    return [replace(view, strength=far) if far else view.unedited() for far in steps]


def _ladder_key(view: View, roles: Sequence[Part], views: Sequence[View]) -> tuple[object, ...]:
    acting = tuple(rung.applied() for rung in views)
    return ("ladder", view.model, view.concept, view.seed, tuple(map(str, roles)), acting)


def remember_ladder(
    state: AppState, view: View, steps: Sequence[float], cells: list[list[Cell]]
) -> None:
    """Keeps a ladder that was made beforehand, so that it is not made again."""
    state.shown.put(_ladder_key(view, cast(state, view), _rungs(view, steps)), cells)


def rungs(
    kind: str,
    view: View,
    steps: Sequence[float],
    roles: Sequence[Part],
    cells: Sequence[Sequence[Cell]],
) -> dict[str, Any]:
    """A ladder as the page draws it."""
    rows = [
        {"role": part.role, "name": part.name, "cells": row}
        | ({} if kind == "diffusion" else {"src": part.src})
        for part, row in zip(roles, cells, strict=True)
    ]
    return {"steps": steps, "step": view.strength or 0.0, "rows": rows, "kind": kind}


def _drawn(
    state: AppState, view: View, roles: Sequence[Part], rungs: Sequence[View], watch: Watch
) -> list[list[Cell]]:
    del view  # the rungs are views of the same concept
    prompts = [part.prompt for part in roles]
    rows = drawn(state, rungs, prompts, watch, "Drawing the ladder: denoising step")
    return [
        [{**cell, "ok": cell["text"] == part.name} for cell in column]
        for part, column in zip(roles, zip(*rows, strict=True), strict=True)
    ]


def _classified(
    state: AppState, view: View, roles: Sequence[Part], rungs: Sequence[View], watch: Watch
) -> list[list[Cell]]:
    task = state.task(view, watch)
    host = zero_shot(state, view, task)
    return ladder.classified(task, host, roles, [state.applied(rung, watch) for rung in rungs])


def _answered(
    state: AppState, view: View, roles: Sequence[Part], rungs: Sequence[View], watch: Watch
) -> list[list[Cell]]:
    task = state.task(view, watch)
    return ladder.answered(task, roles, [state.applied(rung, watch) for rung in rungs])


LADDERS = {"zero-shot": _classified, "diffusion": _drawn, "vlm": _answered}
