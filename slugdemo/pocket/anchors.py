"""Anchors: one direction a concept, a style and a ground, which pictures and captions learn to find.

Proxies (Movshovitz-Attias et al. 2017), shared by two towers that are taught one after the other, and then thrown
away.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slugdemo.pocket.names import Names
from slugdemo.pocket.world import GROUNDS


@dataclass(frozen=True)
class Facts:
    """What a picture shows or a caption says; None: nothing about it."""

    concepts: frozenset[str]
    style: str | None
    ground: str | None


class Anchors(nn.Module):
    """The anchors of all concepts, styles and grounds, and how sharply they are told apart."""

    def __init__(self, names: Names, width: int, *, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.names = {"concept": names.concepts, "style": names.styles, "ground": tuple(GROUNDS)}
        self.vectors = nn.ParameterDict(
            {n: torch.randn(len(some), width) for n, some in self.names.items()}
        )
        self.scale = nn.Parameter(torch.tensor(2.7))  # log of the inverse temperature

    def forward(self, found: Tensor, facts: Sequence[Facts]) -> dict[str, Tensor]:
        """How far unit features (N, D) are from the anchors of their facts, and the share of concepts found."""
        logits = {
            n: self.scale.exp() * found @ F.normalize(v, dim=-1).T for n, v in self.vectors.items()
        }
        match = {n: m.to(found.device) for n, m in self.matches(facts).items()}
        rows = match["concept"].any(1)
        hit = (
            match["concept"][rows]
            .gather(1, logits["concept"][rows].argmax(1, keepdim=True))
            .float()
            .mean()
        )
        return {
            **{n: contrast(logits[n], match[n]) for n in logits},
            "hit": hit,
            "scale": self.scale.exp().detach(),
        }

    def matches(self, facts: Sequence[Facts]) -> dict[str, Tensor]:
        """Which anchors each row of facts (N) names, bool (N, concepts), (N, styles) and (N, grounds)."""
        found = {
            n: torch.zeros(len(facts), len(some), dtype=torch.bool)
            for n, some in self.names.items()
        }
        for row, fact in enumerate(facts):
            told = {"concept": fact.concepts, "style": (fact.style,), "ground": (fact.ground,)}
            for kind, things in told.items():
                for thing in things:
                    if thing is not None:
                        found[kind][row, self.names[kind].index(thing)] = True
        return found


def contrast(logits: Tensor, match: Tensor) -> Tensor:
    """Mean over rows of the mean negative log-probability of their matches; rows without a match are left out."""
    rows = match.any(1)
    if not rows.any():
        return logits.sum() * 0
    share = match[rows].float()
    return -((logits[rows].log_softmax(1) * share).sum(1) / share.sum(1)).mean()


def both_ways(logits: Tensor, match: Tensor) -> Tensor:
    """The contrast of rows and of columns, averaged."""
    return (contrast(logits, match) + contrast(logits.T, match.T)) / 2
