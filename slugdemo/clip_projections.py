"""CLIP's two last projections: the features behind them, and moves folded into them.

Knows a task's pictures and names and its CLIP; knows no formula. Features are rows (N, D) as the
projections give them, before they are brought to unit norm.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from slugdemo import data
from slugdemo.concept import PLAIN, Example, prompt, style_prompt
from slugdemo.edit import qualified
from slugdemo.errors import SlugError
from slugdemo.task import Task
from slugdemo.weights import Weights

CHUNK = 64  # pictures at once
PROJECTIONS = {"vision": "visual.proj", "text": "text_projection"}


class Features(NamedTuple):
    """Features of the concept (F, D) and of everything else (R, D)."""

    forget: Tensor
    retain: Tensor

    @property
    def all(self) -> Tensor:
        """Both (F + R, D), the concept first."""
        return torch.cat(self)

    @property
    def labels(self) -> Tensor:
        """1 for the concept, 0 for the rest: (F + R,)."""
        return torch.cat([torch.ones(len(self.forget)), torch.zeros(len(self.retain))])


def pictures(task: Task) -> Features:
    """The features of the pictures to forget and of those to retain."""
    return Features(shown(task, task.concept.forget), shown(task, task.retain_split[0]))


def shown(task: Task, examples: Sequence[Example]) -> Tensor:
    """The features (N, D) of examples' pictures; each is looked at once, for all concepts."""
    kept: dict[str, Tensor] = task.opened.kept.setdefault("features of pictures", {})
    left = [example for example in examples if str(example.image) not in kept]
    for start in range(0, len(left), CHUNK):
        task.step("Reading pictures", start, len(left))
        some = left[start : start + CHUNK]
        pixels = data.pixels(some, task.clip.transform)
        with torch.no_grad():
            found = task.clip.model.encode_image(pixels.to(task.clip.device)).cpu()
        kept |= {str(example.image): one for example, one in zip(some, found, strict=True)}
    return torch.stack([kept[str(example.image)] for example in examples])


def texts(task: Task) -> Features:
    """The features of the concept's prompts and of those of the other names of its domain.

    A thing is asked for alone and in every style, a style alone.
    """
    style = task.concept.domain == "style"
    looks = [] if style else [look for look in task.eval_set.styles if look != PLAIN]

    def written(name: str) -> list[str]:
        return [style_prompt(name)] if style else [prompt(name, look) for look in (PLAIN, *looks)]

    own = written(task.concept.name)
    rest = [text for name in task.preserved for text in written(name)[:1]]
    return Features(read(task, own), read(task, rest))


def read(task: Task, prompts: Sequence[str]) -> Tensor:
    """The text features (N, D) of prompts."""
    tokens = task.clip.typed(list(prompts))
    with torch.no_grad():
        return task.clip.model.encode_text(tokens.to(task.clip.device)).cpu()


def folded(task: Task, projections: Mapping[str, Tensor]) -> Weights:
    """The change of CLIP's projections (W, D) that turns features x into P x.

    `projections` holds a P (D, D) for "vision", "text" or both. Raises SlugError for a CLIP
    without such a projection.
    """
    weights, delta = task.clip.named(), {}
    for part, wanted in projections.items():
        name = PROJECTIONS[part]
        if name not in weights:
            raise SlugError(f"{task.opened.model.name} has no projection behind its {part} tower.")
        unit = torch.eye(len(wanted), dtype=wanted.dtype)
        weight = weights[name].detach().to(wanted)
        delta[qualified(name)] = (weight @ (wanted - unit).T).float()
    return delta
