"""Stable Diffusion evaluation: pictures made by the edited model, judged by someone else.

Prompts name the concept in every style, its neighbours and unrelated things; the search and the
test have their own noise.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
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
    EvalSet,
    EvalSize,
    Measurement,
    PromptSpec,
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


@dataclass(frozen=True, eq=False)
class PictureJudge:
    """Who looks at generated pictures, and the names that one knows in each domain."""

    who: str
    names: dict[str, list[str]]
    look: Callable[[Sequence[Image]], Scores]


def picture_judge(
    judge: Judge | None, clip: Callable[[], Clip], *, concept: Concept, eval_set: EvalSet
) -> PictureJudge:
    """The judge when it knows the concept; else the unedited CLIP, on the names of the evaluation set."""
    known = {"concept": judge.concepts, "style": judge.styles} if judge else {}
    if judge and concept.name in known[concept.domain]:
        return PictureJudge("judge", known, partial(_judged, judge))
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
        """An edit -> its score on the concept alone at each strength."""
        return evaluator(
            partial(self._score, [spec for spec in self.searched if self._shows(spec)])
        )

    def report(self, edits: Sequence[Edit]) -> list[Measurement]:
        """UA, IRA and CRA (UnlearnCanvas, arXiv 2402.11846) on held-out noise.

        `before` of UA is what the unedited model fails to show anyway.
        """
        *_, whole = self.reporting(edits)
        return whole

    def reporting(self, edits: Sequence[Edit]) -> Iterator[list[Measurement]]:
        """First on a few pictures of the concept and of the rest, then on all of them."""
        few, rest = self._halves
        some = self._looked(edits, few)
        if rest:
            yield _rows(None, self._canvas(few, some))
            more = self._looked(edits, rest)
            some = {domain: np.concatenate([some[domain], more[domain]]) for domain in some}
        before = self._canvas(self.tested, self._looked([], self.tested))
        yield _rows(before, self._canvas([*few, *rest], some))

    @cached_property
    def _halves(self) -> tuple[list[PromptSpec], list[PromptSpec]]:
        """What the first answer is on, spread over the report split, and what is left of that."""
        own = [spec for spec in self.tested if self._shows(spec)]
        other = [spec for spec in self.tested if not self._shows(spec)]
        few = [spec for some in (own, other) for spec in spread(some, min(FIRST, len(some)))]
        return few, [spec for spec in self.tested if spec not in few]

    def _looked(self, edits: Sequence[Edit], asked: Sequence[PromptSpec]) -> Scores:
        return self.judged_by.look(self.pictures(edits, asked))

    def pictures(self, edits: Sequence[Edit], asked: Sequence[PromptSpec]) -> list[Image]:
        """What the edited model makes of the prompt_set."""
        return self.host.edited(edits).generate(
            [spec.prompt for spec in asked],
            seeds=[spec.seed for spec in asked],
            steps=self.size.denoising,
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
        scores = self.judged_by.look(self.pictures(edits, asked))
        domain, other = self.concept.domain, OTHER[self.concept.domain]
        target = np.array([self._shows(spec) for spec in asked])
        cross = self._right(asked, scores, other, top=1)
        top = self.size.best(len(self.judged_by.names[domain]))
        there = self._right(asked, scores, domain, top=top)[target]
        if target.all():
            return Score(strength, metrics.share(there), float("nan"), len(there), 0)
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

    def _canvas(self, specs: Sequence[PromptSpec], scores: Scores) -> metrics.Canvas:
        domain, other = self.concept.domain, OTHER[self.concept.domain]
        asked = {spec: [getattr(order, spec) for order in specs] for spec in (domain, other)}
        seen = {
            spec: [self.judged_by.names[spec][best] for best in scores[spec].argmax(1)]
            for spec in (domain, other)
        }
        return metrics.canvas(
            asked[domain],
            seen[domain],
            other_asked=asked[other],
            other_seen=seen[other],
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
