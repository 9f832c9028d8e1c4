"""Claims: captions and prompts with what they say, and which pictures they are true of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from slugdemo.pocket.anchors import Facts
from slugdemo.pocket.names import Names
from slugdemo.pocket.styles import KEEPS_BACKGROUND
from slugdemo.pocket.words import caption, named, style_prompt, style_wording, wording
from slugdemo.pocket.world import Scene

CONTEXT = 32  # tokens of a text


@dataclass(frozen=True)
class Claim:
    """A caption and what it says: a picture matches when all of it is true."""

    text: str
    concepts: frozenset[str] = frozenset()
    style: str | None = None
    ground: str | None = None

    @property
    def facts(self) -> Facts:
        """What is said."""
        return Facts(self.concepts, self.style, self.ground)

    def fits(self, scene: Scene) -> bool:
        """Whether everything said is true of the scene."""
        return (
            self.concepts <= {t.concept for t in scene.things}
            and self.style in (None, scene.style)
            and self.ground in (None, scene.ground)
        )


def facts(scene: Scene) -> Facts:
    """What a picture of the scene shows; some styles leave nothing of the ground, and "" is not known."""
    shown = frozenset(t.concept for t in scene.things)
    ground = scene.ground if scene.style in KEEPS_BACKGROUND else ""
    return Facts(shown, scene.style or None, ground or None)


def claim(scene: Scene, rng: np.random.Generator) -> Claim:
    """A true caption of the scene; style and ground are mentioned now and then."""
    names = [t.concept for t in scene.things]
    style = scene.style if scene.style not in ("", "plain") and rng.random() < 0.6 else None
    seen = scene.style in KEEPS_BACKGROUND and rng.random() < 0.4
    ground = scene.ground if seen else None
    return Claim(caption(names, rng, style=style, ground=ground), frozenset(names), style, ground)


def bank(names: Names, rng: np.random.Generator | None) -> list[Claim]:
    """One claim a concept, then one a style; in fresh words, or by name alone without `rng`."""
    things = [
        Claim(f"a picture of {wording(c, rng) if rng else named(c)}", frozenset({c}))
        for c in names.concepts
    ]
    return things + [
        Claim(style_prompt(style_wording(s, rng) if rng else s), style=s) for s in names.styles
    ]


def matches(claims: Sequence[Claim], scenes: Sequence[Scene]) -> Tensor:
    """Which claims (M) are true of which scenes (N), bool (N, M)."""
    return torch.tensor([[c.fits(s) for c in claims] for s in scenes])


def tokens(tokenizer: CLIPTokenizer, claims: Sequence[Claim]) -> Tensor:
    """The claims' texts as token ids (N, 32)."""
    return tokenizer(
        [c.text for c in claims],
        padding="max_length",
        truncation=True,
        max_length=CONTEXT,
        return_tensors="pt",
    ).input_ids
