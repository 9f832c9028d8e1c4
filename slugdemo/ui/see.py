"""SEE: what the edited model does now, beside what it did, and what else has changed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from PIL import Image

from slugdemo import images as pictures
from slugdemo.concept import PLAIN, prompt
from slugdemo.errors import SlugError
from slugdemo.evaluation import metrics
from slugdemo.models.zero_shot import ZeroShot
from slugdemo.ui import exams, shelf, words
from slugdemo.ui.forget import source
from slugdemo.ui.jobs import Watch
from slugdemo.ui.session import World, lot
from slugdemo.ui.view import View, label

BARS = 6  # classes beside each other
CHANGED = 4  # other concepts named
CHOICES = {"target": 4, "neighbour": 2, "unrelated": 2}  # pictures to look at


@dataclass(frozen=True)
class Part:
    """One row of the ladder or one picture to look at: whose it is, and what it shows."""

    role: str
    name: str
    prompt: str
    picture: Image.Image | None = field(default=None, compare=False, repr=False)

    @cached_property
    def src(self) -> str:
        """The picture as an address, packed once."""
        return source(self.picture)


def cast(world: World, view: View) -> list[Part]:
    """The three that the ladder compares: the target, a neighbour, something unrelated."""
    found = gallery(world, view)
    if not found:
        raise SlugError(f"There are no pictures of “{label(view.concept)}” to look at.")
    roles = {part.role: part for part in reversed(found)}
    return [roles[role] for role in CHOICES if role in roles]


def gallery(world: World, view: View) -> list[Part]:
    """The held-out pictures that can be looked at: some of the target, a neighbour, others."""
    return world.results.get(("gallery", view.concept), lambda: _gallery(world, view))


def _gallery(world: World, view: View) -> list[Part]:
    concept, table = world.concept(view.concept), world.shelf.tables["test"]
    column, there = concept.domain, {*table[concept.domain]}
    kin = {*world.shelf.group(concept.name)}
    names = [one for one in world.shelf.names(column) if one in there and one != concept.name]
    near = _turned([one for one in names if one in kin], concept.name)
    far = _turned([one for one in names if one not in kin], concept.name)
    near, far = (near or far[:1], far) if column == "concept" else (near[:1], near[1:])
    own = table[table[column] == concept.name]
    parts = [Part("target", concept.name, *one) for one in _plainest(own, CHOICES["target"])]
    if not parts:  # no test picture shows it: then those that were given
        some = concept.forget[: CHOICES["target"]]
        asked = concept.words
        parts = [Part("target", concept.name, asked, pictures.read(e.image)) for e in some]
    for role, who in (("neighbour", near), ("unrelated", [one for one in far if one not in near])):
        for name in who[: CHOICES[role]]:
            shown = _plainest(table[table[column] == name], 1)
            parts += [Part(role, name, *one) for one in shown]
    return parts


def _plainest(rows: pd.DataFrame, count: int) -> list[tuple[str, Image.Image]]:
    """The first few pictures with their prompts, those without a style first."""
    rows = rows.sort_values("style", key=lambda one: one != PLAIN, kind="stable").head(count)
    return list(zip(rows["prompt"], shelf.decoded(rows), strict=True))


def _turned(names: list[str], concept: str) -> list[str]:
    """The same names from a place on that belongs to the concept, so that each has its own."""
    at = lot(concept) % len(names) if names else 0
    return names[at:] + names[:at]


def show(world: World, view: View, watch: Watch) -> dict[str, Any]:
    """Before and after, in the way of the host: bars, pictures or answers."""
    kind = world.kind(view.model)
    return {"kind": kind, **SHOWS[kind](world, view, watch)}


SIDE = 512  # pixels that are kept of a picture that a visitor gives


def keep_picture(world: World, visitor: str, path: Path) -> str:
    """The secret under which a visitor's picture can be looked at.

    Kept in memory only, and only while the page is open. Raises SlugError for a file that is no
    picture or is far too large.
    """
    small = pictures.read(path)
    small.thumbnail((SIDE, SIDE))
    return world.guests.bring(visitor, small)


def _looked(world: World, view: View) -> tuple[Part, dict[str, Any]]:
    parts = gallery(world, view)
    if not parts:
        raise SlugError(f"There are no pictures of “{label(view.concept)}” to look at.")
    if isinstance(own := world.guests.find(view.own), Image.Image):
        parts = [Part("own", "", "your own picture", own), *parts[:-1]]
    chosen = min(view.picture, len(parts) - 1)
    shown = [
        {"src": one.src, "alt": one.prompt, "role": one.role, "name": one.name} for one in parts
    ]
    return parts[chosen], {"pictures": shown, "chosen": chosen}


def _bars(world: World, view: View, watch: Watch) -> dict[str, Any]:
    watch.check()
    part, looked = _looked(world, view)
    pixels = world.clip(view.model).transform(part.picture)[None]
    base = exams.zero_shot(world, view, split="test").showing(pixels)
    before, after = (
        base.probabilities()[0],
        base.edited(world.edits(view, watch)).probabilities()[0],
    )
    best = [*before.topk(min(3, len(before))).indices.tolist()]
    best += after.topk(min(BARS, len(after))).indices.tolist()
    names = list(dict.fromkeys(best))[:BARS]
    rows = [
        {
            "name": base.classes[i],
            "before": before[i].item(),
            "after": after[i].item(),
            "role": "forget" if base.classes[i] == label(view.concept) else "retain",
        }
        for i in names
    ]
    return {**looked, "bars": rows}


def _wipe(world: World, view: View, watch: Watch) -> dict[str, Any]:
    asked = view.words.strip() or first_words(world, view)
    sides = drawn(world, [view.unedited(), view], [asked], watch, "Drawing: denoising step")
    return {"before": sides[0][0], "after": sides[1][0], "prompt": asked}


def drawn(
    world: World, views: Sequence[View], prompts: Sequence[str], watch: Watch, saying: str
) -> list[list[dict[str, Any]]]:
    """A row of judged pictures for each view's edits, one for each prompt; none kept is drawn again."""
    keys = [
        [(one.model, one.concept, one.applied(), one.seed, asked) for asked in prompts]
        for one in views
    ]
    rows = [[world.drawn.peek(key) for key in row] for row in keys]
    lacking = [number for number, row in enumerate(rows) if None in row]
    if lacking:
        made = world.diffusion(views[0].model).ladder(
            prompts,
            [world.edits(views[number], watch) for number in lacking],
            seeds=[views[0].seed] * len(prompts),
            steps=exams.STEPS,
            guidance=exams.GUIDANCE,
            progress=watch.bar(saying),
            cancelled=watch.stop.is_set,
        )
        for number, pictures in zip(lacking, made, strict=True):
            seen = exams.judged(world, views[number], pictures)
            rows[number] = [
                {"src": source(one), "text": name, "share": sure}
                for one, (name, sure) in zip(pictures, seen, strict=True)
            ]
            for key, cell in zip(keys[number], rows[number], strict=True):
                world.drawn.put(key, cell)
    return rows


def _answers(world: World, view: View, watch: Watch) -> dict[str, Any]:
    part, looked = _looked(world, view)
    host = world.vlm(view.model)
    question = view.words.strip() or first_words(world, view)
    said = [
        one.answer([part.picture], [question], cancelled=watch.stop.is_set)[0]
        for one in (host, host.edited(world.edits(view, watch)))
    ]
    ok = [exams.says(text, part.name) for text in said]
    return {**looked, "question": question, "answers": said, "ok": ok}


SHOWS = {"zero-shot": _bars, "diffusion": _wipe, "vlm": _answers}


def first_words(world: World, view: View) -> str:
    """What is asked when the visitor has asked nothing yet."""
    kind, concept = world.kind(view.model), world.concept(view.concept)
    if kind == "diffusion":
        style = concept.domain == "style"
        return prompt("cat", concept.name) if style else prompt(concept.name)
    return exams.question(concept) if kind == "vlm" else ""


def collateral(world: World, view: View, watch: Watch) -> dict[str, Any]:
    """How much of every concept is still recognised, zero-shot on held-out pictures.

    {"forget": [before, after, n], "retain": [...], "rows": the others that changed most}.
    """
    watch.check()
    base = exams.zero_shot(world, view, split="test")
    edited = base.edited(world.edits(view, watch))
    erased = {label(one) for one in (view.concept, *(k.concept for k in view.tray if k.on))}
    before, after = _hits(base), _hits(edited)
    own = torch.tensor([base.classes[i] in erased for i in base.labels.tolist()])
    rows = _changes(base, before, after, ~own)
    return {
        "forget": [_share(before[own]), _share(after[own]), int(own.sum())],
        "retain": [_share(before[~own]), _share(after[~own]), int((~own).sum())],
        "erased": sorted(erased & {*base.classes}),
        "rows": rows,
        "named": CHANGED,
        "unchanged": sum(row["before"] == row["after"] for row in rows),
        "others": len(rows),
    }


def _hits(host: ZeroShot) -> torch.Tensor:
    hits = metrics.top_k(host.scores.cpu().numpy(), host.labels.numpy())
    return torch.from_numpy(hits)


def _changes(
    host: ZeroShot, before: torch.Tensor, after: torch.Tensor, others: torch.Tensor
) -> list[dict[str, Any]]:
    rows = []
    for number in host.labels[others].unique().tolist():
        mine = host.labels == number
        name, n = host.classes[number], int(mine.sum())
        was, now = (hits[mine].double().mean().item() for hits in (before, after))
        rows.append({"name": name, "before": was, "after": now, "n": n})
    rows.sort(key=lambda row: (row["after"] - row["before"], row["name"]))
    return [{**row, "change": words.change(row["before"], row["after"])} for row in rows]


def _share(hits: torch.Tensor) -> float:
    return metrics.share(hits.numpy())
