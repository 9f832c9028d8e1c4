"""Stable Diffusion evaluation: pictures made by the edited model, judged by someone else.

Prompts name the concept in every style, its neighbours and unrelated things; the search and the
test have their own noise.
"""

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import ClassVar

import numpy as np
import torch
from cachetools import LRUCache
from PIL.Image import Image

from slugdemo.concept import Concept, prompt, style_prompt
from slugdemo.edit import Edit
from slugdemo.evaluation import metrics
from slugdemo.evaluation.fading import Fading
from slugdemo.evaluation.judge import Judge
from slugdemo.evaluation.neighbours import Neighbours
from slugdemo.evaluation.prompt_set import (
    OTHER,
    SEARCH_SEED,
    EvalSet,
    EvalSize,
    Measurement,
    PromptSpec,
    Seen,
    apart,
    evaluator,
    prompt_set,
    spread,
)
from slugdemo.models.base import UNWATCHED, Watch
from slugdemo.models.clip import Clip
from slugdemo.models.diffusion import Diffusion
from slugdemo.search import Evaluator, Score

Scores = dict[str, np.ndarray]  # domain -> (N, C)
FIRST = 8  # pictures of the concept, and as many of other things, behind a first answer
SEEN_KEPT = 4  # edits whose pictures need not be judged again
FEWEST = 2  # pictures on either side of a distance
DISTANCES = {"judge-FID": metrics.frechet, "judge-KID": metrics.kernel_distance}


def _nothing() -> None:
    """The real pictures of those who have none."""


@dataclass(frozen=True, eq=False)
class PictureJudge:
    """Who looks at generated pictures, and the names that one knows in each domain."""

    who: str
    names: dict[str, list[str]]
    look: Callable[[Sequence[Image]], Scores]
    features: Callable[[Sequence[Image]], np.ndarray] | None = None  # (N, D), for distances


def picture_judge(
    judge: Judge | None, clip: Callable[[], Clip], *, concept: Concept, eval_set: EvalSet
) -> PictureJudge:
    """The judge when it knows the concept; else the unedited CLIP, on the names of the evaluation set."""
    known = {"concept": judge.concepts, "style": judge.styles} if judge else {}
    if judge and concept.name in known[concept.domain]:
        return PictureJudge(
            "judge", known, partial(_judged, judge), lambda shown: judge.features(shown).numpy()
        )
    names = eval_set.names(concept)
    return PictureJudge("unedited CLIP", names, partial(_matched, clip(), names))


def _judged(judge: Judge, shown: Sequence[Image]) -> Scores:
    verdict = judge(shown)
    return {"concept": verdict.concept.numpy(), "style": verdict.style.numpy()}


def _matched(clip: Clip, names: dict[str, list[str]], shown: Sequence[Image]) -> Scores:
    write: dict[str, Callable[[str], str]] = {"concept": prompt, "style": style_prompt}
    with torch.no_grad():
        images = clip.encode_image(torch.stack([clip.transform(spec) for spec in shown]))
        texts = {
            domain: clip.encode_text(clip.tokenize([write[domain](name) for name in names[domain]]))
            for domain in names
        }
    return {domain: (images @ text.T).cpu().numpy() for domain, text in texts.items()}


@dataclass(frozen=True, eq=False)
class GenerateEvaluation:
    """What the model draws of the concept and of the rest, as `judged_by` sees it."""

    concept: Concept
    host: Diffusion
    judged_by: PictureJudge
    eval_set: EvalSet
    size: EvalSize
    watch: Watch = UNWATCHED
    near: Callable[[], Neighbours] = Neighbours
    real: Callable[[], np.ndarray | None] = _nothing  # features of held-out pictures, (M, D)
    max_forget_acc: float = 0.0
    while_kept: ClassVar[None] = None  # all pictures are made in one run

    @cached_property
    def searched(self) -> list[PromptSpec]:
        """What is drawn at each step of a search."""
        size = self.size
        return prompt_set(
            self.concept, self.eval_set, own=size.own, others=size.others, seed=SEARCH_SEED
        )

    @cached_property
    def tested(self) -> list[PromptSpec]:
        """What is drawn to judge an edit: more, and from other noise."""
        size = self.size
        return prompt_set(
            self.concept,
            self.eval_set,
            own=size.report_own,
            others=size.report_others,
            seed=self.eval_set.noise,
        )

    def editable(self) -> Collection[str]:
        """The canonical names of the tensors that the host reads."""
        return self.host.editable()

    def evaluator(self) -> Evaluator:
        """An edit -> its score on the search split at each strength."""
        return evaluator(partial(self._score, self.searched))

    def forget_only(self) -> Evaluator:
        """An edit -> its score on the concept alone, on as many pictures as it takes to decide.

        No more are drawn once more than `max_forget_acc` of them show the concept (see `Fading`).
        """
        own = [spec for spec in self.searched if self._shows(spec)]
        allowed = int(self.max_forget_acc * len(own))
        return lambda edit: Fading(len(own), allowed, partial(self._there, own, edit)).score

    def _there(
        self, own: Sequence[PromptSpec], edit: Edit, which: Sequence[int], strength: float
    ) -> np.ndarray:
        """Whether the concept is still there in these pictures of it: booleans (N,)."""
        asked = [own[number] for number in which]
        scores = self.judged_by.look(self.pictures([edit.at(strength)], asked, self.size.searching))
        domain = self.concept.domain
        top = self.size.best(len(self.judged_by.names[domain]))
        return self._right(asked, scores, domain, top=top)

    def report(self, edits: Sequence[Edit]) -> list[Measurement]:
        """UA, IRA and CRA (UnlearnCanvas, arXiv 2402.11846) on held-out noise, and what lies near.

        `before` of UA is what the unedited model fails to show anyway. IRA is also given apart for
        the neighbours by look, by name and by meaning, and for the "rest" that is near in no way.
        "judge-FID" and "judge-KID" are distances of the pictures of everything else to real
        ones of it, in the judge's features: not comparable with Inception's.
        """
        *_, whole = self.reporting(edits)
        return whole

    def reporting(self, edits: Sequence[Edit]) -> Iterator[list[Measurement]]:
        """First on a few pictures of the concept and of the rest, then on all of them."""
        key = _key(edits)
        if key not in self._seen:
            few, rest = self._halves
            some = self._looked(edits, few)
            if len(rest):
                yield _rows(None, self._canvas(some, few))
                some = some.after(self._looked(edits, rest), np.concatenate([few, rest]))
            self._seen[key] = some
        before, after = self.seen([]), self._seen[key]
        yield [
            *_rows(self._canvas(before), self._canvas(after)),
            *self._beside(before, after),
            *self._distances(before, after),
        ]

    def seen(self, edits: Sequence[Edit]) -> Seen:
        """What the edited model draws of the report split, by the judge's names and features."""
        key = _key(edits)
        if key not in self._seen:
            self._seen[key] = self._looked(edits, np.arange(len(self.tested)))
        return self._seen[key]

    @cached_property
    def _seen(self) -> LRUCache[Hashable, Seen]:
        return LRUCache(SEEN_KEPT)

    @cached_property
    def _halves(self) -> tuple[np.ndarray, np.ndarray]:
        """What the first answer is on, spread over the report split, and what is left of that."""
        target = np.array([self._shows(spec) for spec in self.tested])
        both = [np.flatnonzero(some).tolist() for some in (target, ~target)]
        few = np.array([at for some in both for at in spread(some, min(FIRST, len(some)))])
        return few, np.setdiff1d(np.arange(len(target)), few)

    def _looked(self, edits: Sequence[Edit], which: np.ndarray) -> Seen:
        pictures = self.pictures(edits, [self.tested[at] for at in which])
        scores = self.judged_by.look(pictures)
        names = {
            domain: np.array(self.judged_by.names[domain])[scores[domain].argmax(1)]
            for domain in OTHER
        }
        of = self.judged_by.features
        return Seen(names, of(pictures) if of else np.zeros((len(pictures), 0)))

    def shown(self) -> list[str]:
        """What each picture of the report split is asked to show, in the concept's domain."""
        return [getattr(spec, self.concept.domain) for spec in self.tested]

    def _beside(self, before: Seen, after: Seen) -> list[Measurement]:
        """The accuracy on the concept's own domain, for its neighbours of each kind and the rest."""
        domain = self.concept.domain
        asked = np.array(self.shown())
        others = [name for name in asked.tolist() if name != self.concept.name]
        right = [seen.names[domain] == asked for seen in (before, after)]
        return apart(self.near().among(others), asked, (right[0], right[1]), self.concept.name)

    def _distances(self, before: Seen, after: Seen) -> list[Measurement]:
        real = self.real()
        rest = np.array([not self._shows(spec) for spec in self.tested])
        if real is None or not after.features.size or min(len(real), rest.sum()) < FEWEST:
            return []
        return [
            Measurement(
                metric,
                measure(before.features[rest], real),
                measure(after.features[rest], real),
                int(rest.sum()),
                amount=True,
            )
            for metric, measure in DISTANCES.items()
        ]

    def pictures(
        self, edits: Sequence[Edit], asked: Sequence[PromptSpec], steps: int | None = None
    ) -> list[Image]:
        """What the edited model makes of the prompt set, in as many steps as a report takes or in `steps`."""
        return self.host.edited(edits).generate(
            [spec.prompt for spec in asked],
            seeds=[spec.seed for spec in asked],
            steps=steps or self.size.denoising,
            guidance=self.size.guidance,
            progress=self.watch.progress,
            cancelled=self.watch.cancelled,
        )

    def _shows(self, order: PromptSpec) -> bool:
        return getattr(order, self.concept.domain) == self.concept.name

    def _score(self, asked: Sequence[PromptSpec], edits: Sequence[Edit], strength: float) -> Score:
        """`retain` is the share of pictures in which all else is right: name and style.

        Of a picture that was to show the concept, only the other domain can be right.
        """
        scores = self.judged_by.look(self.pictures(edits, asked, self.size.searching))
        domain, other = self.concept.domain, OTHER[self.concept.domain]
        target = np.array([self._shows(spec) for spec in asked])
        cross = self._right(asked, scores, other, top=1)
        top = self.size.best(len(self.judged_by.names[domain]))
        there = self._right(asked, scores, domain, top=top)[target]
        own = self._right(asked, scores, domain, top=1)
        kept = np.where(target, cross, own & cross)
        parts = {"ira": metrics.share(own[~target]), "cra": metrics.share(cross)}
        return Score(
            strength, metrics.share(there), metrics.share(kept), len(there), len(kept), parts
        )

    def _right(
        self, asked: Sequence[PromptSpec], scores: Scores, domain: str, *, top: int
    ) -> np.ndarray:
        names = self.judged_by.names[domain]
        wanted = np.array([names.index(getattr(spec, domain)) for spec in asked])
        return metrics.top_k(scores[domain], wanted, k=top)

    def _canvas(self, seen: Seen, which: np.ndarray | None = None) -> metrics.Canvas:
        """The shares of what was seen of the report split, or of these items of it."""
        domain, other = self.concept.domain, OTHER[self.concept.domain]
        specs = self.tested if which is None else [self.tested[at] for at in which]
        asked = {spec: [getattr(order, spec) for order in specs] for spec in (domain, other)}
        return metrics.canvas(
            asked[domain],
            seen.names[domain].tolist(),
            other_asked=asked[other],
            other_seen=seen.names[other].tolist(),
            erased=self.concept.name,
        )


def _rows(before: metrics.Canvas | None, after: metrics.Canvas) -> list[Measurement]:
    """The three rates; `before` is None while it has not been measured."""
    return [
        Measurement(
            name,
            getattr(before, name, float("nan")),
            getattr(after, name),
            getattr(after, f"n_{name}"),
        )
        for name in ("ua", "ira", "cra")
    ]


def _key(edits: Sequence[Edit]) -> Hashable:
    return tuple((edit.digest, edit.strength) for edit in edits)
