"""SEE: what the edited model does now, beside what it did, and what else has changed."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from PIL.Image import Image

from slugdemo import images as pictures
from slugdemo.concept import PLAIN, Concept, Example, prompt
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.evaluation import metrics
from slugdemo.evaluation.answer import ASK, says
from slugdemo.evaluation.classify import ClassifyEvaluation
from slugdemo.models.zero_shot import ZeroShot
from slugdemo.task import Task
from slugdemo.ui.forget import source
from slugdemo.ui.state import AppState
from slugdemo.ui.tasks import Watch
from slugdemo.ui.view import View, label

BARS = 6  # classes beside each other
CHANGED = 4  # other concepts named
CHOICES = {"target": 4, "neighbour": 2, "unrelated": 2}  # pictures to look at
EACH = {"concept": 2, "style": 20}  # held-out pictures of every name but the target
SIDE = 512  # pixels that are kept of a picture that a visitor gives
CLIP_PARTS = {"text", "vision"}


@dataclass(frozen=True)
class Part:
    """One row of the ladder or one picture to look at: whose it is, and what it shows."""

    role: str
    name: str
    prompt: str
    picture: Image = field(compare=False, repr=False)

    @cached_property
    def src(self) -> str:
        """The picture as an address, packed once."""
        return source(self.picture)


def cast(state: AppState, view: View) -> list[Part]:
    """The three that the ladder compares: the target, a neighbour, something unrelated."""
    roles = {part.role: part for part in reversed(looks(state, view))}
    return [roles[role] for role in CHOICES if role in roles]


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
    shown = _by_name(state.test_pictures, concept.domain)
    others = [name for name in names.names(concept)[concept.domain] if name in shown]
    others = [name for name in others if name != concept.name]
    near = _turned([name for name in others if name in names.neighbours], concept.name)
    far = _turned([name for name in others if name not in names.neighbours], concept.name)
    near, far = (near or far[:1], far) if concept.domain == "concept" else (near[:1], near[1:])
    own = shown.get(concept.name, concept.forget)  # those that were given, where no test shows it
    parts = [_part("target", concept, example) for example in own[: CHOICES["target"]]]
    for role, who in (
        ("neighbour", near),
        ("unrelated", [name for name in far if name not in near]),
    ):
        for name in who[: CHOICES[role]]:
            parts.append(_part(role, concept, shown[name][0], name))
    return parts


def _by_name(shown: Sequence[Example], domain: str) -> dict[str, list[Example]]:
    """Pictures by what they show, those without a style first."""
    found: dict[str, list[Example]] = {}
    for example in sorted(shown, key=lambda each: each.labels["style"] != PLAIN):
        found.setdefault(example.labels[domain], []).append(example)
    return found


def _part(role: str, concept: Concept, example: Example, name: str = "") -> Part:
    return Part(role, name or concept.name, example.caption, pictures.read(example.image))


def _turned(names: list[str], concept: str) -> list[str]:
    """The same names from a place on that belongs to the concept, so that each has its own."""
    at = crc32(concept.encode()) % len(names) if names else 0
    return names[at:] + names[:at]


def zero_shot(state: AppState, view: View, task: Task) -> ZeroShot:
    """The CLIP behind a model before some held-out pictures of every name of the domain."""
    key = (task.clip.digest, view.concept)
    return state.features.get(key, lambda: _zero_shot(state, task))


def _zero_shot(state: AppState, task: Task) -> ZeroShot:
    concept = task.concept
    by_name = _by_name(state.test_pictures, concept.domain)
    own = by_name.pop(concept.name, [*concept.forget])
    some = [example for each in by_name.values() for example in each[: EACH[concept.domain]]]
    small = Concept(concept.name, concept.kind, tuple(own), tuple(some))
    size = task.config.size
    names = replace(task.eval_set, test=())
    return ClassifyEvaluation.of(task.clip, small, eval_set=names, size=size).host


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


def _looked(state: AppState, view: View) -> tuple[Part, dict[str, Any]]:
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
    part, looked = _looked(state, view)
    task = state.task(view, watch)
    base = zero_shot(state, view, task).showing(task.clip.transform(part.picture)[None])
    before, after = (
        base.probabilities()[0],
        base.edited(state.applied(view, watch)).probabilities()[0],
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
        made = task.model.ladder(
            prompts,
            [state.applied(views[number], watch) for number in lacking],
            seeds=[views[0].seed] * len(prompts),
            steps=task.config.size.denoising,
            guidance=task.config.size.guidance,
            progress=watch.bar(saying),
            cancelled=watch.stop.is_set,
        )
        for number, row in zip(lacking, made, strict=True):
            rows[number] = [
                {"src": source(picture), "text": name, "share": sure}
                for picture, (name, sure) in zip(row, judged(task, row), strict=True)
            ]
            for key, cell in zip(keys[number], rows[number], strict=True):
                state.pictures.put(key, cell)
    return rows


def judged(task: Task, shown: Sequence[Image]) -> list[tuple[str, float]]:
    """What is seen in each picture, in the domain of the concept, and how surely."""
    judge, domain = task.evaluation.judged_by, task.concept.domain  # type: ignore[attr-defined]
    scores = torch.as_tensor(judge.look(shown)[domain])  # (N, C)
    if judge.who != "judge":
        scores = (task.clip.logit_scale * scores).softmax(-1)
    sure, best = scores.max(-1)
    names = judge.names[domain]
    return [(names[i], p) for i, p in zip(best.tolist(), sure.tolist(), strict=True)]


def _answers(state: AppState, view: View, watch: Watch) -> dict[str, Any]:
    part, looked = _looked(state, view)
    model = state.task(view, watch).model
    question = view.words.strip() or first_words(state, view)
    said = [
        each.answer([part.picture], [question], cancelled=watch.stop.is_set)[0]
        for each in (model, model.edited(state.applied(view, watch)))
    ]
    ok = [says(text, part.name) for text in said]
    return {**looked, "question": question, "answers": said, "ok": ok}


SHOWS = {"zero-shot": _bars, "diffusion": _wipe, "vlm": _answers}


def first_words(state: AppState, view: View) -> str:
    """What is asked when the visitor has asked nothing yet."""
    kind, concept = state.kind(view.model), state.concept(view.concept)
    if kind == "diffusion":
        style = concept.domain == "style"
        return prompt("cat", concept.name) if style else prompt(concept.name)
    return ASK[concept.domain] if kind == "vlm" else ""


def collateral(state: AppState, view: View, watch: Watch) -> dict[str, Any]:
    """How much of every concept CLIP still recognises, zero-shot on held-out pictures.

    {"forget": [before, after, n], "retain": [...], "rows": the others that changed most,
    "blind": why CLIP cannot see some of the edits}.
    """
    watch.check()
    base = zero_shot(state, view, state.task(view, watch))
    edits = state.applied(view, watch)
    edited = base.edited(edits)
    erased = {label(kept.concept) for kept in view.tray if kept.on} | {label(view.concept)}
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
        "blind": blind(edits),
    }


def blind(edits: Sequence[Edit]) -> str:
    """Why CLIP does not see some edits, in a sentence; "" when it sees them all."""
    outside = [edit.method for edit in edits if not {*edit.parts} & CLIP_PARTS]
    if not outside:
        return ""
    names = " and ".join(dict.fromkeys(outside))
    return f"{names} does not change CLIP, which is asked here: look at the pictures instead."


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
    return [{**row, "change": change(row["before"], row["after"])} for row in rows]


def change(before: float, after: float) -> str:
    """A difference of shares in points, with a true minus sign: "+3", "0"."""
    points = round(100 * (after - before))
    return f"{points:+d}".replace("-", "\u2212") if points else "0"


def _share(hits: torch.Tensor) -> float:
    return metrics.share(hits.numpy())
