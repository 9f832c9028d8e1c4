"""Zero-shot evaluation: pictures among the classes of the concept's domain.

Knows CLIP as its own host only.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import ClassVar, NamedTuple

import numpy as np
import torch

from slugdemo import data
from slugdemo.concept import Concept, Example, prompt, style_prompt
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.evaluation import metrics
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
)
from slugdemo.models.clip import Clip
from slugdemo.models.zero_shot import Memory, ZeroShot
from slugdemo.search import Evaluate, Evaluator, Score

Remember = Callable[[Sequence[Example]], Memory]
COLOURS = "white black grey red orange yellow green blue purple pink brown"


class Question(NamedTuple):
    """Another question about the held-out pictures: P answers as prompts, and the right ones.

    `right` (N,) are numbers of prompts; None asks whether the answer stays as it was.
    """

    texts: Memory
    right: np.ndarray | None


@dataclass(frozen=True, eq=False)
class ClassifyEvaluation:
    """Search pictures and held-out pictures before one CLIP; `held_out` is None without any.

    `prompts` are those of each class.
    """

    concept: Concept
    host: ZeroShot
    held_out: ZeroShot | None
    prompts: Mapping[str, Sequence[str]]
    top: int = 1
    near: Callable[[], Neighbours] = Neighbours
    beside: Mapping[str, Question] = field(default_factory=dict)
    while_kept: ClassVar[None] = None  # all pictures are looked at at once

    @classmethod
    def of(
        cls,
        clip: Clip,
        concept: Concept,
        *,
        eval_set: EvalSet,
        size: EvalSize,
        remember: Remember | None = None,
        near: Callable[[], Neighbours] = Neighbours,
    ) -> "ClassifyEvaluation":
        """The evaluation whose search looks at the concept's forget and retain pictures.

        `remember` gives what the unedited CLIP makes of examples, perhaps from an earlier time.
        """
        shown = [*concept.forget, *concept.retain]
        tested = [example for example in eval_set.test if example.labels.get(concept.domain)]
        prompts = _prompts(concept, eval_set, [*shown, *tested])
        labels = [label(example, concept.domain) for example in shown]
        pixels = data.pixels(shown, clip.transform)
        host = ZeroShot.of(clip, prompts, pixels=pixels, labels=labels)
        top = size.best(len(host.classes))
        test = _held_out(host, tested, concept, remember or partial(remembered, clip))
        beside = _questions(clip, concept, eval_set, tested) if test else {}
        return cls(concept, host, test, prompts, top, near, beside)

    def editable(self) -> Collection[str]:
        """The canonical names of the tensors that the host reads."""
        return self.host.editable()

    def evaluator(self) -> Evaluator:
        """An edit -> the accuracy on the concept (top k) and on the rest (top 1) at each strength."""
        return evaluator(self._score)

    def _score(self, edits: Sequence[Edit], strength: float) -> Score:
        host = self.host.edited(edits)
        plain = host.score(self.concept.name, strength=strength)
        strict = host.score(self.concept.name, strength=strength, top=self.top)
        return replace(plain, forget_acc=strict.forget_acc, parts={"top 1": plain.forget_acc})

    def forget_only(self) -> Evaluator:
        """An edit -> the accuracy on the concept alone at each strength."""
        quick, whole = self._own_alone, self.evaluator()

        def evaluate(edit: Edit) -> Evaluate:
            return (whole if edit.parts == ("text",) else quick)(edit)  # pictures cost nothing then

        return evaluate

    @cached_property
    def _own_alone(self) -> Evaluator:
        """Kept, since every edit starts from the same activations of the same pictures."""
        return self.host.forget_only(self.concept.name, top=self.top)

    def reporting(self, edits: Sequence[Edit]) -> Iterator[list[Measurement]]:
        """The report, which is soon there."""
        yield self.report(edits)

    def report(self, edits: Sequence[Edit]) -> list[Measurement]:
        """Top-1 accuracy on held-out pictures of the concept and of all others, and more of them.

        "forget_acc@5": the concept is among the five best. Then the neighbours of each kind apart;
        the other domain ("style" for a thing); "background": the nearest of some colours stays, as
        no picture's own is on record; "membership AUC": how well the cosine of picture and name
        tells the pictures to forget from held-out ones of the concept, .5 when not at all.
        """
        if self.held_out is None:
            return []
        hosts = self.held_out, self.held_out.edited(edits)
        before, after = (host.score(self.concept.name, strength=0.0) for host in hosts)
        rows = [
            Measurement("forget_acc", before.forget_acc, after.forget_acc, after.n_forget),
            Measurement("retain_acc", before.retain_acc, after.retain_acc, after.n_retain),
        ]
        first, second = (host.score(self.concept.name, strength=0.0, top=5) for host in hosts)
        rows.append(
            Measurement("forget_acc@5", first.forget_acc, second.forget_acc, first.n_forget)
        )
        return [*rows, *self._beside(*hosts), self._members(edits, *hosts)]

    def seen(self, edits: Sequence[Edit]) -> Seen:
        """The class that CLIP finds in each held-out picture, and its features of them.

        Raises SlugError when there are no held-out pictures.
        """
        if self.held_out is None:
            raise SlugError(f"There are no held-out pictures of {self.concept.name!r}.")
        host = self.held_out.edited(edits)
        names = np.array(host.classes)[host.scores.argmax(1).cpu().numpy()]
        return Seen({self.concept.domain: names}, host.shown.cpu().numpy())

    def shown(self) -> list[str]:
        """What each held-out picture shows, in the concept's domain."""
        plain = self.held_out
        return [] if plain is None else [plain.classes[at] for at in plain.labels.tolist()]

    def _beside(self, plain: ZeroShot, host: ZeroShot) -> list[Measurement]:
        """The accuracies on neighbours and on the other domain, and the backgrounds that stay."""
        labels = plain.labels.numpy()
        shown = np.array(self.shown())
        first, second = (some.scores.argmax(1).cpu().numpy() == labels for some in (plain, host))
        others = [name for name in shown.tolist() if name != self.concept.name]
        rows = apart(self.near().among(others), shown, (first, second), self.concept.name)
        for metric, question in self.beside.items():
            told = [some.cosines(question.texts).argmax(1).cpu().numpy() for some in (plain, host)]
            right = told[0] if question.right is None else question.right
            shares = [metrics.share(answers == right) for answers in told]
            rows.append(Measurement(metric, shares[0], shares[1], len(right)))
        return rows

    def _members(self, edits: Sequence[Edit], *hosts: ZeroShot) -> Measurement:
        """The membership inference of the pictures to forget against held-out ones."""
        at = hosts[0].classes.index(self.concept.name)
        own = hosts[0].labels == at
        known = self.members, self.members.edited(edits)
        found = [
            metrics.auc(member.scores[:, at].cpu().numpy(), host.scores[own, at].cpu().numpy())
            for member, host in zip(known, hosts, strict=True)
        ]
        return Measurement("membership AUC", found[0], found[1], len(known[0].labels), amount=True)

    @cached_property
    def members(self) -> ZeroShot:
        """The pictures to forget alone."""
        return self.host.only(self.concept.name)


def _prompts(concept: Concept, eval_set: EvalSet, shown: Sequence[Example]) -> dict[str, list[str]]:
    """One prompt for each class: the known names, then captions of pictures without a label."""
    write = style_prompt if concept.domain == "style" else prompt
    known = eval_set.names(concept)[concept.domain]
    known += [
        example.labels[concept.domain] for example in shown if example.labels.get(concept.domain)
    ]
    prompts = {name: [write(name)] for name in known}
    return prompts | {
        example.caption: [example.caption]
        for example in shown
        if not example.labels.get(concept.domain)
    }


def _questions(
    clip: Clip, concept: Concept, eval_set: EvalSet, tested: Sequence[Example]
) -> dict[str, Question]:
    """The other domain where it is known of all held-out pictures, and the background."""
    grounds = clip.typed([f"a {colour} background" for colour in COLOURS.split()])
    found = {"background": Question(Memory(clip, "text", grounds), None)}
    other = OTHER[concept.domain]
    shown = [example.labels.get(other, "") for example in tested]
    names = [*eval_set.names(concept)[other]]
    if len(names) < 2 or not {*shown} <= {*names}:
        return found
    write = style_prompt if other == "style" else prompt
    texts = Memory(clip, "text", clip.typed([write(name) for name in names]))
    right = np.array([names.index(name) for name in shown])
    return {other: Question(texts, right)} | found


def remembered(clip: Clip, shown: Sequence[Example]) -> Memory:
    """What the unedited CLIP makes of the examples' pictures."""
    return Memory(clip, "vision", data.pixels(shown, clip.transform))


def _held_out(
    host: ZeroShot, tested: Sequence[Example], concept: Concept, remember: Remember
) -> ZeroShot | None:
    labels = [label(example, concept.domain) for example in tested]
    if concept.name not in labels or len({*labels}) < 2:
        return None
    numbers = torch.tensor([host.classes.index(name) for name in labels])
    return replace(host, pictures=remember(tested), labels=numbers)
