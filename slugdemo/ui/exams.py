"""What each host is asked while a step is looked for: the engine's boards, every answer remembered.

On pictures and prompts that no figure of "see" uses.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from PIL import Image

from slugdemo.concept import Concept
from slugdemo.config import SETTINGS, Setting
from slugdemo.edit import Edit
from slugdemo.evaluation import Answers, Classes, Drawings, Size
from slugdemo.evaluation.answer import ASK, says
from slugdemo.evaluation.generate import DENOISING as STEPS
from slugdemo.evaluation.generate import GUIDANCE, Eyes, eyes
from slugdemo.models.zero_shot import ZeroShot
from slugdemo.search import Evaluate, Exam, Point
from slugdemo.ui.jobs import Watch
from slugdemo.ui.session import World
from slugdemo.ui.view import View

__all__ = ["GUIDANCE", "STEPS", "says"]
SEEN = 160  # pictures of others in a zero-shot exam
SIZES = {"diffusion": Size(own=6, others=12), "vlm": Size(own=8, others=20)}  # a visitor waits
Board = Classes | Drawings | Answers


def setting(world: World, view: View) -> Setting:
    """The engine's numbers for the host that is looked at, with less to look at in a search."""
    kind = world.kind(view.model)
    own = SETTINGS[kind]
    few = SIZES.get(kind, own.size)
    return replace(own, by=view.by, size=replace(few, top=own.size.top))


def searched(world: World, view: View) -> Concept:
    """The concept as a search sees it: with retain pictures that no gradient was taken of."""
    concept = world.concept(view.concept)
    return replace(concept, retain=tuple(world.divided(concept)[1])[:SEEN])


def classes(world: World, view: View) -> Classes:
    """The zero-shot board of the CLIP behind the model."""
    clip = world.clip(view.model)

    def make() -> Classes:
        size = SETTINGS["zero-shot"].size
        around = world.around(view.concept)
        return Classes.of(clip, searched(world, view), world=around, size=size)

    return world.sets.get(("classes", clip.name, view.concept), make)


def zero_shot(world: World, view: View, *, split: str) -> ZeroShot:
    """The zero-shot host before the pictures of a split: "exam" (searched on) or "test"."""
    board = classes(world, view)
    return board.host if split == "exam" or board.held_out is None else board.held_out


def board(world: World, view: View, watch: Watch, *, said: Callable[[], str]) -> Board:
    """The board of the host that the visitor looks at; `said` is what progress speaks of."""
    kind = world.kind(view.model)
    if kind == "zero-shot":
        return classes(world, view)
    calls = {
        "progress": lambda done, total: watch.say(f"{said()}, {done} of {total}", done, total),
        "cancelled": watch.stop.is_set,
    }
    concept, around = searched(world, view), world.around(view.concept)
    size = setting(world, view).size
    if kind == "vlm":
        return Answers(concept, world.vlm(view.model), around, size, **calls)
    look = eyes_of(world, view)
    host = world.diffusion(view.model)
    return Drawings(concept, host, look, around, size, **calls, denoising=STEPS)


def eyes_of(world: World, view: View) -> Eyes:
    """Who looks at generated pictures: the judge, or CLIP for what the judge does not know."""
    concept, clip = world.concept(view.concept), world.clip(view.model)
    around = replace(world.around(view.concept), test=())
    key = ("eyes", clip.name, view.concept)
    return world.results.get(
        key, lambda: eyes(world.judge, lambda: clip, concept=concept, world=around)
    )


def judged(world: World, view: View, pictures: Sequence[Image.Image]) -> list[tuple[str, float]]:
    """What is seen in each picture, in the domain of the concept, and how surely."""
    if world.judge is None:
        return [("", 0.0) for _ in pictures]
    look, domain = eyes_of(world, view), world.concept(view.concept).domain
    scores = torch.as_tensor(look.look(pictures)[domain])  # (N, C)
    if look.who != "judge":
        scores = (100 * scores).softmax(-1)
    sure, best = scores.max(-1)
    names = look.names[domain]
    return [(names[i], p) for i, p in zip(best.tolist(), sure.tolist(), strict=True)]


def question(concept: Concept) -> str:
    """What a VLM is asked about a picture when nobody asks anything else."""
    return ASK[concept.domain]


DOING = {
    "zero-shot": "Sorting pictures at {:.1%}",
    "diffusion": "Drawing at {:.1%}: denoising step",
    "vlm": "Asking at {:.1%}: word",
}


def exams(world: World, view: View, watch: Watch) -> tuple[Exam, Exam]:
    """The exam of the host that the visitor looks at, remembered, and its glance, which is not."""
    kind, now = world.kind(view.model), [""]
    asked = board(world, view, watch, said=lambda: now[0])

    def measured(exam: Exam, edit: Edit, step: float) -> Point:
        now[0] = DOING[kind].format(step)
        watch.say(now[0])
        return exam(edit)(step)

    whole: Any = partial(measured, asked.exam())
    glimpse: Any = partial(measured, asked.glance())
    return (
        partial(_remembered, world, view, whole),
        lambda edit: partial(glimpse, edit),
    )


def exam(world: World, view: View, watch: Watch) -> Exam:
    """The exam of the host that the visitor looks at."""
    return exams(world, view, watch)[0]


def key(view: View, layer: str, step: float) -> tuple:
    """Under what a measured point is remembered."""
    return ("point", view.model, view.concept, layer, round(step, 6))


def _remembered(
    world: World, view: View, measure: Callable[[Edit, float], Point], edit: Edit
) -> Evaluate:
    def evaluate(step: float) -> Point:
        step = round(step, 6)
        name = key(view, edit.layer, step)
        return world.results.get(name, lambda: measure(edit, step))

    return evaluate
