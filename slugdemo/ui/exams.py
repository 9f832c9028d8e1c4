"""What each host is asked while a step is looked for: an edit -> what each step of it does.

One exam for each kind of host, on pictures and prompts that no figure of "see" uses.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from PIL import Image

from slugdemo import metrics
from slugdemo.concept import PLAIN, prompt
from slugdemo.edit import Edit
from slugdemo.hosts.zero_shot import ZeroShot
from slugdemo.search import Evaluate, Exam, Point
from slugdemo.ui import shelf
from slugdemo.ui.jobs import Watch
from slugdemo.ui.session import View, World, lot
from slugdemo.ui.shelf import Entry

STEPS, GUIDANCE = 15, 3.0  # pocket-sd's own defaults
SHOTS, OTHERS = 6, 10  # generated pictures of the target and of everything else
ASKED = 16  # pictures that a VLM is asked about besides the target's
SEEN, TESTED = 160, 2  # exam pictures of others; test pictures of each other class
FIRST_SEED = 7_000  # of the exam; the ladder and the visitor's own pictures have others


def zero_shot(world: World, view: View, *, split: str) -> ZeroShot:
    """The zero-shot host before the pictures of a split: "exam" (searched on) or "test"."""
    entry, clip = world.shelf.entry(view.concept), world.clip(view.model)
    key = ("zero-shot", clip.name, entry.name, split)

    def make() -> ZeroShot:
        rows = exam_rows(world, entry) if split == "exam" else test_rows(world, entry)
        pixels, _ = world.pairs(clip, rows)
        classes = shelf.prompts(world.shelf.names(entry.domain), entry.domain)
        return ZeroShot.of(clip, classes, pixels=pixels, labels=list(rows[entry.domain]))

    return world.sets.get(key, make)


def exam_rows(world: World, entry: Entry) -> pd.DataFrame:
    """The forget pictures, and pictures of others that no gradient was taken of."""
    forget, used = world.examples(entry)
    table = world.shelf.tables["retain"]
    others = table[(table[entry.domain] != entry.name) & ~table.index.isin(used.index)]
    if others.empty:
        others = used  # a small shelf: better the same pictures than none
    return pd.concat([forget, shelf.spread(others, SEEN, seed=1)], ignore_index=True)


def test_rows(world: World, entry: Entry) -> pd.DataFrame:
    """Every test picture of the target and a few of each other class."""
    table = world.shelf.tables["test"]
    own = table[entry.domain] == entry.name
    few = 20 if entry.domain == "style" else TESTED
    others = table[~own].groupby(entry.domain, group_keys=False)
    some = others.sample(frac=1, random_state=2).groupby(table[entry.domain]).head(few)
    rows = pd.concat([shelf.spread(table[own], 80, seed=3), some.sort_index()])
    return rows.reset_index(drop=True)


@dataclass(frozen=True)
class Order:
    """One thing to show: who it is to the target ("target", "neighbour", "unrelated")."""

    role: str
    name: str  # of the concept or style that is counted
    prompt: str
    seed: int


def orders(world: World, entry: Entry) -> list[Order]:
    """What Stable Diffusion is asked to draw while a step is looked for."""
    near = world.shelf.like(entry)
    close = [one.name for one in near if one.group == entry.group][: OTHERS // 2]
    far = [one.name for one in near if one.group != entry.group and one.name != PLAIN]
    dice = torch.Generator().manual_seed(lot(entry.name))
    far = [far[i] for i in torch.randperm(len(far), generator=dice).tolist()]
    far = far[: OTHERS - len(close)]
    things, looks = world.shelf.names("concept"), [PLAIN, *_styles(world)]
    made = []
    for role, names in (
        ("target", [entry.name] * SHOTS),
        ("neighbour", close),
        ("unrelated", far),
    ):
        for name in names:
            at = len(made)
            if entry.domain == "style":
                text = prompt(things[(7 * at + dice.initial_seed()) % len(things)], name)
            else:
                text = prompt(name, looks[at % len(looks)])
            made.append(Order(role, name, text, FIRST_SEED + at))
    return made


def _styles(world: World) -> list[str]:
    return [name for name in world.shelf.names("style") if name != PLAIN]


def judged(world: World, entry: Entry, pictures: Sequence[Image.Image]) -> list[tuple[str, float]]:
    """What the judge sees in each picture, in the domain of `entry`, and how surely."""
    if world.judge is None:
        return [("", 0.0) for _ in pictures]
    verdict, style = world.judge(pictures), entry.domain == "style"
    names = world.judge.styles if style else world.judge.concepts
    sure, best = (verdict.style if style else verdict.concept).max(-1)
    return [(names[i], p) for i, p in zip(best.tolist(), sure.tolist(), strict=True)]


def diffusion(world: World, view: View, watch: Watch) -> Exam:
    """The exam on generated pictures, as the judge sees them."""
    entry, host = world.shelf.entry(view.concept), world.diffusion(view.model)
    asked = orders(world, entry)

    def measure(edit: Edit, step: float) -> Point:
        pictures = host.edited([edit.at(step)]).generate(
            [one.prompt for one in asked],
            seeds=[one.seed for one in asked],
            steps=STEPS,
            guidance=GUIDANCE,
            progress=watch.bar(f"Drawing {len(asked)} pictures at {step:.0%}: denoising step"),
            cancelled=watch.stop.is_set,
        )
        seen = [name for name, _ in judged(world, entry, pictures)]
        return counted([one.name for one in asked], seen, target=entry.name, step=step)

    return partial(_remembered, world, view, measure)


def vlm(world: World, view: View, watch: Watch) -> Exam:
    """The exam on answers: whether the model names what its picture shows."""
    entry, host = world.shelf.entry(view.concept), world.vlm(view.model)
    rows = exam_rows(world, entry)
    own = rows[entry.domain] == entry.name
    others = shelf.spread(rows[~own], ASKED, seed=4)
    rows = pd.concat([shelf.spread(rows[own], ASKED, seed=5), others])
    pictures, names = shelf.decoded(rows), list(rows[entry.domain])

    def measure(edit: Edit, step: float) -> Point:
        answers = host.edited([edit.at(step)]).answer(
            pictures,
            [question(entry)] * len(pictures),
            progress=watch.bar(f"Asking about {len(pictures)} pictures at {step:.0%}: word"),
            cancelled=watch.stop.is_set,
        )
        seen = [name if says(text, name) else "" for text, name in zip(answers, names, strict=True)]
        return counted(names, seen, target=entry.name, step=step)

    return partial(_remembered, world, view, measure)


def question(entry: Entry) -> str:
    """What a VLM is asked about a picture when nobody asks anything else."""
    return "In what style is it drawn?" if entry.domain == "style" else "What is in this picture?"


def says(answer: str, name: str) -> bool:
    """Whether an answer holds a name as whole words."""
    return re.search(rf"\b{re.escape(name)}\b", answer, re.IGNORECASE) is not None


def counted(asked: Sequence[str], seen: Sequence[str], *, target: str, step: float) -> Point:
    """The shares that are still there, of the target and of everything else."""
    own = [a == s for a, s in zip(asked, seen, strict=True) if a == target]
    rest = [a == s for a, s in zip(asked, seen, strict=True) if a != target]
    return Point(step, metrics.share(own), metrics.share(rest), len(own), len(rest))


def classes(world: World, view: View, watch: Watch) -> Exam:
    """The zero-shot exam, with every answer remembered."""
    host = zero_shot(world, view, split="exam")

    def measure(edit: Edit, step: float) -> Point:
        watch.say(f"Sorting {len(host.labels)} pictures at {step:.0%}")
        return host.exam(view.concept)(edit)(step)

    return partial(_remembered, world, view, measure)


def _remembered(world: World, view: View, measure: partial, edit: Edit) -> Evaluate:
    def evaluate(step: float) -> Point:
        step = round(step, 6)
        key = ("point", view.model, view.concept, edit.layer, step)
        return world.results.get(key, lambda: measure(edit, step))

    return evaluate


EXAMS = {"zero-shot": classes, "diffusion": diffusion, "vlm": vlm}


def exam(world: World, view: View, watch: Watch) -> Exam:
    """The exam of the host that the visitor looks at."""
    return EXAMS[world.shelf.offer(view.model).kind](world, view, watch)
