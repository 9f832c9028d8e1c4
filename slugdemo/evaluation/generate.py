"""The Stable Diffusion board: pictures made by the edited model, judged by someone else.

Prompts name the concept in every style, its neighbours and unrelated things; the search and the
test have their own noise.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from PIL.Image import Image

from slugdemo.concept import Concept, prompt, style_prompt
from slugdemo.edit import Edit
from slugdemo.evaluation import metrics
from slugdemo.evaluation.judge import Judge
from slugdemo.evaluation.prompt_set import (
    OTHER,
    SEARCH_SEED,
    Order,
    Row,
    Size,
    World,
    exam,
    orders,
)
from slugdemo.models.base import Progress, Question
from slugdemo.models.clip import Clip
from slugdemo.models.diffusion import Diffusion
from slugdemo.search import Exam, Point

DENOISING, GUIDANCE = 15, 3.0  # what the shipped pictures were made with
Scores = dict[str, np.ndarray]  # domain -> (N, C)


@dataclass(frozen=True, eq=False)
class Eyes:
    """Who looks at generated pictures, and the names that one knows in each domain."""

    who: str
    names: dict[str, list[str]]
    look: Callable[[Sequence[Image]], Scores]


def eyes(judge: Judge | None, clip: Callable[[], Clip], *, concept: Concept, world: World) -> Eyes:
    """The judge when it knows the concept; else the unedited CLIP, on the world's names."""
    known = {"concept": judge.concepts, "style": judge.styles} if judge else {}
    if judge and concept.name in known[concept.domain]:
        return Eyes("judge", known, partial(_judged, judge))
    names = world.names(concept)
    return Eyes("unedited CLIP", names, partial(_matched, clip(), names))


def _judged(judge: Judge, shown: Sequence[Image]) -> Scores:
    verdict = judge(shown)
    return {"concept": verdict.concept.numpy(), "style": verdict.style.numpy()}


def _matched(clip: Clip, names: dict[str, list[str]], shown: Sequence[Image]) -> Scores:
    write: dict[str, Callable[[str], str]] = {"concept": prompt, "style": style_prompt}
    with torch.no_grad():
        images = clip.encode_image(torch.stack([clip.transform(one) for one in shown]))
        texts = {
            domain: clip.encode_text(clip.tokenize([write[domain](name) for name in names[domain]]))
            for domain in names
        }
    return {domain: (images @ text.T).cpu().numpy() for domain, text in texts.items()}


@dataclass(frozen=True, eq=False)
class Drawings:
    """What the model draws of the concept and of the rest, as `eyes` see it."""

    concept: Concept
    host: Diffusion
    eyes: Eyes
    world: World
    size: Size
    progress: Progress | None = None
    cancelled: Question | None = None
    denoising: int = DENOISING
    guidance: float = GUIDANCE

    @cached_property
    def searched(self) -> list[Order]:
        """What is drawn at each step of a search."""
        size = self.size
        return orders(self.concept, self.world, own=size.own, others=size.others, seed=SEARCH_SEED)

    @cached_property
    def tested(self) -> list[Order]:
        """What is drawn to judge an edit: more, and from other noise."""
        size = self.size
        return orders(
            self.concept,
            self.world,
            own=size.test_own,
            others=size.test_others,
            seed=self.world.noise,
        )

    def editable(self) -> Collection[str]:
        """The canonical names of the tensors that the host reads."""
        return self.host.editable()

    def exam(self) -> Exam:
        """An edit -> what each step of it does to the concept and to the rest."""
        return exam(partial(self._point, self.searched))

    def glance(self) -> Exam:
        """An edit -> what each step of it does to the concept alone."""
        return exam(partial(self._point, [one for one in self.searched if self._shows(one)]))

    def rows(self, edits: Sequence[Edit]) -> list[Row]:
        """UA, IRA and CRA (UnlearnCanvas, arXiv 2402.11846) on held-out noise.

        `before` of UA is what the unedited model fails to show anyway.
        """
        before, after = (self._canvas(some) for some in ([], edits))
        return [
            Row("ua", before.ua, after.ua, after.n_ua),
            Row("ira", before.ira, after.ira, after.n_ira),
            Row("cra", before.cra, after.cra, after.n_cra),
        ]

    def pictures(self, edits: Sequence[Edit], asked: Sequence[Order]) -> list[Image]:
        """What the edited model makes of the orders."""
        return self.host.edited(edits).generate(
            [one.prompt for one in asked],
            seeds=[one.seed for one in asked],
            steps=self.denoising,
            guidance=self.guidance,
            progress=self.progress,
            cancelled=self.cancelled,
        )

    def _shows(self, order: Order) -> bool:
        return getattr(order, self.concept.domain) == self.concept.name

    def _point(self, asked: Sequence[Order], edits: Sequence[Edit], step: float) -> Point:
        """`retain` is the share of pictures in which all else is right: name and style.

        Of a picture that was to show the concept, only the other domain can be right.
        """
        scores = self.eyes.look(self.pictures(edits, asked))
        domain, other = self.concept.domain, OTHER[self.concept.domain]
        target = np.array([self._shows(one) for one in asked])
        cross = self._right(asked, scores, other, top=1)
        top = self.size.best(len(self.eyes.names[domain]))
        there = self._right(asked, scores, domain, top=top)[target]
        if target.all():
            return Point(step, metrics.share(there), float("nan"), len(there), 0)
        own = self._right(asked, scores, domain, top=1)
        kept = np.where(target, cross, own & cross)
        parts = {"ira": metrics.share(own[~target]), "cra": metrics.share(cross)}
        return Point(step, metrics.share(there), metrics.share(kept), len(there), len(kept), parts)

    def _right(
        self, asked: Sequence[Order], scores: Scores, domain: str, *, top: int
    ) -> np.ndarray:
        names = self.eyes.names[domain]
        wanted = np.array([names.index(getattr(one, domain)) for one in asked])
        return metrics.top_k(scores[domain], wanted, k=top)

    def _canvas(self, edits: Sequence[Edit]) -> metrics.Canvas:
        scores = self.eyes.look(self.pictures(edits, self.tested))
        domain, other = self.concept.domain, OTHER[self.concept.domain]
        asked = {one: [getattr(order, one) for order in self.tested] for one in (domain, other)}
        seen = {
            one: [self.eyes.names[one][best] for best in scores[one].argmax(1)]
            for one in (domain, other)
        }
        return metrics.canvas(
            asked[domain],
            seen[domain],
            other_asked=asked[other],
            other_seen=seen[other],
            erased=self.concept.name,
        )
