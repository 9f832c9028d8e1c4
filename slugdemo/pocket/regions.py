"""What lies where: patches of a picture learn to find the anchors (anchors.py) of the thing they show."""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slugdemo.pocket.anchors import Anchors, Facts
from slugdemo.pocket.claims import facts
from slugdemo.pocket.names import Names
from slugdemo.pocket.world import Scene, Thing

SHARES = {"concept": 1.0, "style": 0.3, "ground": 0.1}


class Regions(nn.Module):
    """A projector and its anchors: a thing's concept in the mean of its patches, style and ground in that of all."""

    def __init__(self, projector: nn.Module, names: Names, width: int, *, seed: int) -> None:
        super().__init__()
        self.projector, self.anchors = projector, Anchors(names, width, seed=seed)

    def forward(self, states: Tensor, scenes: Sequence[Scene]) -> dict[str, Tensor]:
        """The terms of `Anchors` for the patch states (N, P, D) of pictures that show the scenes."""
        found = self.projector(states)  # (N, P, width)
        things = [(row, thing) for row, scene in enumerate(scenes) for thing in scene.things]
        over = torch.stack([covered(thing, states.shape[1]) for _, thing in things]).to(
            states.device
        )
        pooled = (found[[row for row, _ in things]] * over[..., None]).sum(1)
        said = [Facts(frozenset({thing.concept}), None, None) for _, thing in things]
        looks = [replace(facts(scene), concepts=frozenset()) for scene in scenes]
        return self.anchors(F.normalize(torch.cat((pooled, found.mean(1))), dim=-1), said + looks)


def covered(thing: Thing, patches: int) -> Tensor:
    """Which patches of a square grid lie in the inner part of a thing, as shares that sum to 1 (P,)."""
    side = int(patches**0.5)
    centres = (torch.arange(side) + 0.5) / side
    inside = ((centres[:, None] - thing.y).abs() < 0.4 * thing.size) & (
        (centres - thing.x).abs() < 0.4 * thing.size
    )
    return inside.flatten() / inside.sum()
