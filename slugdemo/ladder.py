"""What an edit shows: the target, a neighbour and a stranger along its strength, and what else changed.

Knows tasks, held-out pictures and edits; knows no page and keeps nothing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import torch
from PIL.Image import Image

from slugdemo import images as pictures
from slugdemo.concept import PLAIN, Concept, Example, prompt
from slugdemo.edit import Edit
from slugdemo.evaluation import metrics
from slugdemo.evaluation.answer import ASK, says
from slugdemo.evaluation.classify import ClassifyEvaluation
from slugdemo.evaluation.prompt_set import EvalSet
from slugdemo.models.zero_shot import ZeroShot
from slugdemo.task import Task

# the strengths of a ladder and of a curve, for edits of a layer and in a method's own unit
RUNGS = {"layer": (0.0, 0.05, 0.1, 0.2, 0.4, 0.8), "own": (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)}
GRID = {
    "layer": (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0),
    "own": (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0),
}
BARS = 6  # classes beside each other
CHOICES = {"target": 4, "neighbour": 2, "unrelated": 2}  # pictures to look at
EACH = {"concept": 2, "style": 20}  # held-out pictures of every name but the target
ARTICLE = re.compile(r"^(an?|the) ")
Cell = dict[str, Any]


def strengths(kind: str, unit: str) -> tuple[float, ...]:
    """The strengths of a curve, fewer where a score takes long; `unit` is "layer" or "own"."""
    return GRID[unit] if kind == "zero-shot" else RUNGS[unit]


# ---- who is looked at


@dataclass(frozen=True)
class Part:
    """One row of the ladder or one picture to look at: whose it is, and what it shows."""

    role: str
    name: str
    prompt: str
    picture: Image = field(compare=False, repr=False)
    place: Path | str | None = field(default=None, compare=False, repr=False)  # where it was read

    @cached_property
    def src(self) -> str:
        """The picture as an address, to be looked at, packed once."""
        return pictures.display(self.picture) if self.place is None else pictures.shown(self.place)


def looks(concept: Concept, eval_set: EvalSet, shown: Sequence[Example]) -> list[Part]:
    """The held-out pictures that can be looked at: some of the target, a neighbour, others."""
    there = by_name(shown, concept.domain)
    others = [name for name in eval_set.names(concept)[concept.domain] if name in there]
    others = [name for name in others if name != concept.name]
    near = _turned([name for name in others if name in eval_set.neighbours], concept.name)
    far = _turned([name for name in others if name not in eval_set.neighbours], concept.name)
    near, far = (near or far[:1], far) if concept.domain == "concept" else (near[:1], near[1:])
    own = there.get(concept.name, concept.forget)  # those that were given, where no test shows it
    parts = [_part("target", concept, example) for example in own[: CHOICES["target"]]]
    strangers = [name for name in far if name not in near]
    for role, who in (("neighbour", near), ("unrelated", strangers)):
        for name in who[: CHOICES[role]]:
            parts.append(_part(role, concept, there[name][0], name))
    return parts


def cast(parts: Sequence[Part]) -> list[Part]:
    """The three that the ladder compares: the target, a neighbour, something unrelated."""
    roles = {part.role: part for part in reversed(parts)}
    return [roles[role] for role in CHOICES if role in roles]


def by_name(shown: Sequence[Example], domain: str) -> dict[str, list[Example]]:
    """Pictures by what they show, those without a style first."""
    found: dict[str, list[Example]] = {}
    for example in sorted(shown, key=lambda each: each.labels["style"] != PLAIN):
        found.setdefault(example.labels[domain], []).append(example)
    return found


def _part(role: str, concept: Concept, example: Example, name: str = "") -> Part:
    picture = pictures.read(example.image)
    return Part(role, name or concept.name, example.caption, picture, example.image)


def _turned(names: list[str], concept: str) -> list[str]:
    """The same names from a place on that belongs to the concept, so that each has its own."""
    at = crc32(concept.encode()) % len(names) if names else 0
    return names[at:] + names[:at]


def asked(kind: str, concept: Concept) -> str:
    """What a model is asked when nobody has asked anything else; "" where nothing is asked."""
    if kind == "diffusion":
        style = concept.domain == "style"
        return prompt("cat", concept.name) if style else prompt(concept.name)
    return ASK[concept.domain] if kind == "vlm" else ""


# ---- what is seen


class Drawn(NamedTuple):
    """A picture that was drawn, what is seen in it, and how surely."""

    picture: Image
    text: str
    share: float


def drawn(
    task: Task, prompts: Sequence[str], rungs: Sequence[Sequence[Edit]], *, seed: int, saying: str
) -> list[list[Drawn]]:
    """A row of judged pictures for each rung's edits, one for each prompt, all from one seed."""

    def progress(done: int, total: int) -> None:
        task.step(saying, done, total)

    made = task.model.ladder(
        prompts,
        rungs,
        seeds=[seed] * len(prompts),
        steps=task.config.size.denoising,
        guidance=task.config.size.guidance,
        progress=progress,
        cancelled=task.cancelled,
    )
    return [
        [Drawn(picture, *told) for picture, told in zip(row, judged(task, row), strict=True)]
        for row in made
    ]


def judged(task: Task, shown: Sequence[Image]) -> list[tuple[str, float]]:
    """What is seen in each picture, in the domain of the concept, and how surely."""
    judge, domain = task.evaluation.judged_by, task.concept.domain  # type: ignore[attr-defined]
    scores = torch.as_tensor(judge.look(shown)[domain])  # (N, C)
    if judge.who != "judge":
        scores = (task.clip.logit_scale * scores).softmax(-1)
    sure, best = scores.max(-1)
    names = judge.names[domain]
    return [(names[i], p) for i, p in zip(best.tolist(), sure.tolist(), strict=True)]


def classified(
    task: Task, host: ZeroShot, parts: Sequence[Part], rungs: Sequence[Sequence[Edit]]
) -> list[list[Cell]]:
    """For each part its class at every rung and how surely it is its own, before `host`'s classes."""
    pixels = torch.stack([task.clip.transform(part.picture) for part in parts])
    showing, columns = host.showing(pixels), []
    for number, edits in enumerate(rungs):
        task.step("Classifying the ladder's pictures", number, len(rungs))
        columns.append(showing.edited(edits).probabilities())
    owns = [host.classes.index(part.name) for part in parts]
    return [
        [_belief(host.classes, column[row], own) for column in columns]
        for row, own in enumerate(owns)
    ]


def _belief(classes: Sequence[str], beliefs: torch.Tensor, own: int) -> Cell:
    best = int(beliefs.argmax())
    return {"text": classes[best], "share": beliefs[own].item(), "ok": best == own, "bar": True}


def answered(
    task: Task, parts: Sequence[Part], rungs: Sequence[Sequence[Edit]]
) -> list[list[Cell]]:
    """For each part the answer at every rung to what it shows."""
    question, shown = ASK[task.concept.domain], [part.picture for part in parts]
    cells: list[list[Cell]] = [[] for _ in parts]
    for number, edits in enumerate(rungs):
        task.step("Asking the ladder's questions", number, len(rungs))
        answers = task.model.edited(edits).answer(
            shown, [question] * len(parts), cancelled=task.cancelled
        )
        for row, (part, answer) in enumerate(zip(parts, answers, strict=True)):
            cells[row].append({"text": answer, "ok": says(answer, part.name)})
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


def bars(base: ZeroShot, edits: Sequence[Edit], concept: str) -> list[Cell]:
    """The classes that count most before or after the edits, of the one picture before `base`."""
    before, after = base.probabilities()[0], base.edited(edits).probabilities()[0]
    best = [*before.topk(min(3, len(before))).indices.tolist()]
    best += after.topk(min(BARS, len(after))).indices.tolist()
    return [
        {
            "name": base.classes[i],
            "before": before[i].item(),
            "after": after[i].item(),
            "role": "forget" if base.classes[i] == concept else "retain",
        }
        for i in list(dict.fromkeys(best))[:BARS]
    ]


def answers(task: Task, part: Part, question: str, edits: Sequence[Edit]) -> Cell:
    """What the model says of one picture before and after the edits."""
    said = [
        model.answer([part.picture], [question], cancelled=task.cancelled)[0]
        for model in (task.model, task.model.edited(edits))
    ]
    return {"answers": said, "ok": [says(text, part.name) for text in said]}


# ---- what else has changed


def surroundings(task: Task, shown: Sequence[Example]) -> ZeroShot:
    """The task's CLIP before some held-out pictures of every name of the concept's domain."""
    concept = task.concept
    there = by_name(shown, concept.domain)
    own = there.pop(concept.name, [*concept.forget])
    some = [example for each in there.values() for example in each[: EACH[concept.domain]]]
    small = Concept(concept.name, concept.kind, tuple(own), tuple(some))
    names = replace(task.eval_set, test=())
    return ClassifyEvaluation.of(task.clip, small, eval_set=names, size=task.config.size).host


def collateral(base: ZeroShot, edits: Sequence[Edit], erased: set[str]) -> dict[str, Any]:
    """How much of every concept is still recognised: {"forget": [before, after, n], "retain", "rows"}.

    `rows` are the names that were not erased, those that lost most first.
    """
    before, after = _hits(base), _hits(base.edited(edits))
    own = torch.tensor([base.classes[i] in erased for i in base.labels.tolist()])
    return {
        "forget": [_share(before[own]), _share(after[own]), int(own.sum())],
        "retain": [_share(before[~own]), _share(after[~own]), int((~own).sum())],
        "rows": _changes(base, before, after, ~own),
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
    return [{**row, "change": change(row["before"], row["after"])} for row in rows]


def change(before: float, after: float) -> str:
    """A difference of shares in points, with a true minus sign: "+3", "0"."""
    points = round(100 * (after - before))
    return f"{points:+d}".replace("-", "\u2212") if points else "0"


def _share(hits: torch.Tensor) -> float:
    return metrics.share(hits.numpy())
