"""VLM evaluation: questions about pictures, and whether the answers name what is there.

Knows questions, answers and a host that turns the one into the other.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from slugdemo import images as pictures
from slugdemo.concept import Concept, Example
from slugdemo.edit import Edit
from slugdemo.evaluation import metrics
from slugdemo.evaluation.fading import Fading
from slugdemo.evaluation.neighbours import Neighbours
from slugdemo.evaluation.prompt_set import (
    OTHER,
    EvalSet,
    EvalSize,
    Measurement,
    Seen,
    apart,
    evaluator,
    label,
    spread,
)
from slugdemo.models.base import UNWATCHED, Watch
from slugdemo.models.llava import Llava
from slugdemo.search import Evaluate, Evaluator, Score

ASK = {"concept": "What is in this picture?", "style": "In what style is it drawn?"}
BACKGROUND = "Which colour is the background?"
Asked = tuple[Sequence[Example], str]  # pictures, and the question about each of them
Question = tuple[Path | str, str]  # a picture's place, and a question about it
RUNS = 4  # in which a search asks what is kept


class Check(NamedTuple):
    """One question whose answer shall stay: it names `right`, or is just that (`whole`)."""

    example: Example
    question: str
    right: str
    whole: bool = False

    def holds(self, answer: str) -> bool:
        """Whether an answer is right."""
        return answer == self.right if self.whole else says(answer, self.right)


def says(answer: str, name: str) -> bool:
    """Whether an answer holds a name as whole words, in any case."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", answer, re.IGNORECASE) is not None


@dataclass(frozen=True, eq=False)
class AnswerEvaluation:
    """What the model says of pictures of the concept and of the rest."""

    concept: Concept
    host: Llava
    eval_set: EvalSet
    size: EvalSize
    watch: Watch = UNWATCHED
    near: Callable[[], Neighbours] = Neighbours
    max_forget_acc: float = 0.0

    @cached_property
    def searched(self) -> list[Example]:
        """What is asked about at each step of a search: the concept first."""
        return self._some(self.concept.forget, self.concept.retain, self.size.own, self.size.others)

    @cached_property
    def tested(self) -> list[Example]:
        """What is asked about to judge an edit; nothing without held-out pictures."""
        own = [example for example in self.eval_set.test if self._shows(example)]
        rest = [example for example in self.eval_set.test if not self._shows(example)]
        if not own or not rest:
            return []
        return self._some(own, rest, self.size.report_own, self.size.report_others)

    def editable(self) -> Collection[str]:
        """The canonical names of the tensors that the host reads."""
        return self.host.editable()

    def evaluator(self) -> Evaluator:
        """An edit -> its score on the search split at each strength."""
        return evaluator(self._score)

    def while_kept(self, edit: Edit, least: float) -> Evaluate:
        """The same for one edit, which asks no more once less than `least` is sure to be kept.

        A score that ends so counts fewer items.
        """
        runs = [self._checks[first::RUNS] for first in range(RUNS)]
        return lambda strength: self._kept([edit.at(strength)], strength, runs, least)

    def forget_only(self) -> Evaluator:
        """An edit -> its score on the concept alone, on as many pictures as it takes to decide.

        No more are asked about once more than `max_forget_acc` of them are named (see `Fading`).
        """
        own = [example for example in self.searched if self._shows(example)]
        allowed = int(self.max_forget_acc * len(own))
        return lambda edit: Fading(len(own), allowed, partial(self._named, own, edit)).score

    def _named(
        self, own: Sequence[Example], edit: Edit, which: Sequence[int], strength: float
    ) -> np.ndarray:
        """Whether the concept is still named in these pictures of it: booleans (N,)."""
        shown, domain = [own[number] for number in which], self.concept.domain
        return _hits(self._asked([(shown, ASK[domain])], [edit.at(strength)])[0], shown, domain)

    def reporting(self, edits: Sequence[Edit]) -> Iterator[list[Measurement]]:
        """The report, which is soon there."""
        yield self.report(edits)

    def report(self, edits: Sequence[Edit]) -> list[Measurement]:
        """How often it names the concept and other things, and tells the other domain right.

        "background" is the share of answers that stay as they were, since no picture's
        background is on record.
        """
        if not self.tested:
            return []
        own, other = self.concept.domain, OTHER[self.concept.domain]
        target = np.array([self._shows(example) for example in self.tested])
        rows = []
        parts = [(self.tested, question) for question in (ASK[own], ASK[other], BACKGROUND)]
        plain, changed = (self._asked(parts, some) for some in ([], edits))
        before, after = (_hits(answers[0], self.tested, own) for answers in (plain, changed))
        for metric, part in (("forget_acc", target), ("retain_acc", ~target)):
            rows.append(_row(metric, before[part], after[part]))
        shown = np.array(self.shown())
        others = self.near().among(shown[~target].tolist())
        rows += apart(others, shown, (before, after), self.concept.name)
        before, after = (_hits(answers[1], self.tested, other) for answers in (plain, changed))
        rows.append(_row(other, before, after))
        same = np.array([a == b for a, b in zip(plain[2], changed[2], strict=True)])
        return [*rows, _row("background", np.ones_like(same), same)]

    def seen(self, edits: Sequence[Edit]) -> Seen:
        """What the model says of each held-out picture, in both domains; it gives no features."""
        answers = self._asked([(self.tested, ASK[domain]) for domain in OTHER], edits)
        said = {domain: np.array(texts) for domain, texts in zip(OTHER, answers, strict=True)}
        return Seen(said, np.zeros((len(self.tested), 0)))

    def shown(self) -> list[str]:
        """What each held-out picture shows, in the concept's domain."""
        return [label(example, self.concept.domain) for example in self.tested]

    def _shows(self, example: Example) -> bool:
        return example.labels.get(self.concept.domain) == self.concept.name

    def _some(
        self, own: Sequence[Example], rest: Sequence[Example], few: int, many: int
    ) -> list[Example]:
        rows = [*own[:few]]
        return [*rows, *spread(rest, min(many, len(rest)))]

    def _asked(self, parts: Sequence[Asked], edits: Sequence[Edit]) -> list[list[str]]:
        """The answers part by part."""
        asked = [(example.image, question) for shown, question in parts for example in shown]
        texts = iter(self._answers(asked, edits))
        return [list(islice(texts, len(shown))) for shown, _ in parts]

    def _answers(self, asked: Sequence[Question], edits: Sequence[Edit]) -> list[str]:
        """The answers; a picture that is asked about several times is looked at once.

        What the unedited model says is remembered.
        """
        host = self.host.edited(edits)
        known: dict[Question, str] = self._said if host is self.host else {}
        left = [each for each in dict.fromkeys(asked) if each not in known]
        looked = {image: pictures.read(image) for image, _ in left}
        answers = host.answer(
            [looked[image] for image, _ in left],
            [question for _, question in left],
            progress=self.watch.progress,
            cancelled=self.watch.cancelled,
        )
        known.update(zip(left, answers, strict=True))
        return [known[each] for each in asked]

    @cached_property
    def _said(self) -> dict[Question, str]:
        return {}

    def _score(self, edits: Sequence[Edit], strength: float) -> Score:
        return self._kept(edits, strength, [self._checks])

    def _kept(
        self,
        edits: Sequence[Edit],
        strength: float,
        runs: Sequence[Sequence[Check]],
        least: float = 0.0,
    ) -> Score:
        """`retain` counts the checks that hold, run after run while `least` may still be reached."""
        own, kept = [example for example in self.searched if self._shows(example)], []
        there = self._asked([(own, ASK[self.concept.domain])], edits)[0]
        forgotten = _hits(there, own, self.concept.domain)
        for checks in runs:
            said = self._answers([(each.example.image, each.question) for each in checks], edits)
            kept += [check.holds(answer) for check, answer in zip(checks, said, strict=True)]
            share = metrics.share(np.array(kept))
            if metrics.wilson(share, len(kept))[1] < least:
                break
        return Score(strength, metrics.share(forgotten), share, len(own), len(kept))

    @cached_property
    def _checks(self) -> list[Check]:
        """What shall stay: the names of the rest, the other domain, and what backgrounds there are.

        The other domain counts where it is known, and backgrounds are told as before the edit;
        both are asked of the pictures `_besides` alone.
        """
        own, other = self.concept.domain, OTHER[self.concept.domain]
        rest = [example for example in self.searched if not self._shows(example)]
        known = [example for example in self._besides if example.labels.get(other)]
        grounds = self._asked([(self._besides, BACKGROUND)], [])[0]
        return [
            *(Check(example, ASK[own], label(example, own)) for example in rest),
            *(Check(example, ASK[other], label(example, other)) for example in known),
            *(
                Check(example, BACKGROUND, answer, whole=True)
                for example, answer in zip(self._besides, grounds, strict=True)
            ),
        ]

    @cached_property
    def _besides(self) -> list[Example]:
        """What a search asks two questions more about: the concept, and every fourth of the rest."""
        rest = [example for example in self.searched if not self._shows(example)]
        return [*(example for example in self.searched if self._shows(example)), *rest[::4]]


def _hits(answers: Sequence[str], shown: Sequence[Example], domain: str) -> np.ndarray:
    """Whether each answer names what its picture shows: booleans (N,)."""
    pairs = zip(answers, shown, strict=True)
    return np.array([says(text, label(example, domain)) for text, example in pairs], dtype=bool)


def _row(metric: str, before: np.ndarray, after: np.ndarray) -> Measurement:
    return Measurement(metric, metrics.share(before), metrics.share(after), len(after))
