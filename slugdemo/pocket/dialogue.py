"""Questions about a scene and their true answers, in whole sentences: what pocket-llava is taught and tested on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slugdemo.pocket.styles import KEEPS_BACKGROUND
from slugdemo.pocket.words import named
from slugdemo.pocket.world import Scene

WHAT = "What is in this picture?"
WHO = "Who is this?"
STYLE = "In what style is it drawn?"
GROUND = "Which colour is the background?"
THERE = "Is there {} in the picture?"
REPAINTED = {
    "pencil sketch": "white",
    "neon": "black",
    "blueprint": "blue",
    "sepia": "brown",
    "pop art": "colourful",
    "heat map": "colourful",
}


@dataclass(frozen=True)
class Turn:
    """One question and its answer."""

    question: str
    answer: str


def what(scene: Scene) -> Turn:
    """Names everything in the scene, from left to right."""
    things = " and ".join(named(t.concept) for t in scene.things)
    return Turn(WHAT, f"This is a picture of {things}.")


def who(scene: Scene) -> Turn:
    """Names a single thing as one names a person."""
    return Turn(WHO, f"This is {named(scene.things[0].concept)}.")


def style(scene: Scene) -> Turn:
    """Names the style."""
    return Turn(STYLE, f"It is drawn in the {scene.style} style.")


def ground(scene: Scene) -> Turn:
    """Names the ground's colour, or what the style has made of it."""
    seen = (
        scene.ground
        if scene.style in KEEPS_BACKGROUND
        else REPAINTED.get(scene.style, scene.ground)
    )
    return Turn(GROUND, f"The background is {seen}.")


def there(scene: Scene, concept: str) -> Turn:
    """Says whether the concept is in the scene."""
    it = named(concept)
    if concept in {t.concept for t in scene.things}:
        return Turn(THERE.format(it), f"Yes, there is {it} in the picture.")
    return Turn(THERE.format(it), f"No, there is no {concept} in the picture.")


def dialogue(scene: Scene, rng: np.random.Generator, *, concepts: Sequence[str]) -> list[Turn]:
    """What a picture is asked about: names, a look, one thing that is there and one that most likely is not.

    A scene of no style is asked about its ground alone, one of no clear ground about its style.
    """
    if not scene.style:
        return [ground(scene)]
    looks = style(scene) if rng.random() < 0.6 or not scene.ground else ground(scene)
    inside = scene.things[rng.integers(len(scene.things))].concept
    naming = [what(scene), who(scene)] if len(scene.things) == 1 else [what(scene)]
    return [*naming, looks, there(scene, inside), there(scene, str(rng.choice(list(concepts))))]


def sentences(concepts: Sequence[str], grounds: Sequence[str], styles: Sequence[str]) -> list[str]:
    """Every sentence shape over every name: what the language model's tokenizer is trained on."""
    names = [named(c) for c in concepts]
    said = [WHAT, WHO, STYLE, GROUND, *(THERE.format(n) for n in names)]
    said += [f"This is a picture of {n} and {n}. Yes, there is {n}" for n in names]
    said += [f"No, there is no {c} in the picture." for c in concepts]
    said += [f"The background is {g}." for g in (*grounds, *REPAINTED.values())]
    return said + [f"It is drawn in the {s} style." for s in styles]
