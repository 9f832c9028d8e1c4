"""Neighbours: which other names lie nearest to a concept, by look, by name and by meaning.

EraseBench's three kinds (ICCV 2025). Knows an unedited CLIP, names and labelled pictures; knows
no edit and no evaluation.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

import torch
import torch.nn.functional as F
from torch import Tensor

from slugdemo import data
from slugdemo.concept import Concept, Example, prompt, style_prompt
from slugdemo.evaluation.prompt_set import label
from slugdemo.models.clip import Clip

MOST, PART = 8, 4  # neighbours of each kind: a quarter of the names asked about, 8 at most
CHUNK = 64  # pictures at once
LOOKED = 2  # pictures of each other name behind its look
WAYS = {
    "look": "nearest by CLIP's features of their pictures",
    "name": "nearest by spelling",
    "meaning": "nearest by CLIP's features of their names",
}


@dataclass(frozen=True, eq=False)
class Neighbours:
    """How near other names are to a concept in each way; more is nearer."""

    nearness: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def among(self, names: Collection[str]) -> dict[str, frozenset[str]]:
        """The nearest of some names in each way, a quarter of them and `MOST` at most."""
        count = min(MOST, max(1, len({*names}) // PART))
        found = {}
        for way, nearness in self.nearness.items():
            known = [name for name in dict.fromkeys(names) if name in nearness]
            found[way] = frozenset(sorted(known, key=lambda name: -nearness[name])[:count])
        return {way: near for way, near in found.items() if near}


def neighbours(concept: Concept, names: Sequence[str], clip: Clip) -> Neighbours:
    """How near each of `names` is to the concept in an unedited CLIP, and by spelling.

    Looks are means of unit features: of the concept's own pictures, and of two retain pictures of
    each other name that has some.
    """
    others = [name for name in names if name != concept.name]
    if not others:
        return Neighbours()
    spelling = {name: likeness(concept.name, name) for name in others}
    write = style_prompt if concept.domain == "style" else prompt
    with torch.no_grad():
        texts = clip.encode_text(clip.tokenize([concept.words, *map(write, others)]))
    meaning = dict(zip(others, (texts[1:] @ texts[0]).tolist(), strict=True))
    return Neighbours({"look": _looks(concept, others, clip), "name": spelling, "meaning": meaning})


def likeness(first: str, second: str) -> float:
    """How alike two names are spelt, in [0, 1]; a shared word counts as much as half of both."""
    shared = {*first.casefold().split()} & {*second.casefold().split()}
    ratio = SequenceMatcher(None, first.casefold(), second.casefold()).ratio()
    return (1 + ratio) / 2 if shared else ratio / 2


def _looks(concept: Concept, others: Sequence[str], clip: Clip) -> dict[str, float]:
    shown: dict[str, list[Example]] = {}
    for example in concept.retain:
        pictures = shown.setdefault(label(example, concept.domain), [])
        if len(pictures) < LOOKED:
            pictures.append(example)
    known = [name for name in others if name in shown]
    if not known or not concept.forget:
        return {}
    own, *looks = _means([concept.forget, *(shown[name] for name in known)], clip)
    return {name: float(look @ own) for name, look in zip(known, looks, strict=True)}


def _means(groups: Sequence[Sequence[Example]], clip: Clip) -> list[Tensor]:
    """The mean of unit features of each group's pictures, of unit norm: (D,) each."""
    every = [example for group in groups for example in group]
    pixels = data.pixels(every, clip.transform)
    with torch.no_grad():
        features = torch.cat([clip.encode_image(part).cpu() for part in pixels.split(CHUNK)])
    parts = features.split([len(group) for group in groups])
    return [F.normalize(part.mean(0), dim=-1) for part in parts]
