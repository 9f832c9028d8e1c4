"""Zero-shot evaluation: pictures among the classes of the concept's domain.

Knows CLIP as its own host only.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from slugdemo import data
from slugdemo.concept import Concept, Example, prompt, style_prompt
from slugdemo.edit import Edit
from slugdemo.evaluation.prompt_set import EvalSet, EvalSize, Measurement, evaluator, label
from slugdemo.models.clip import Clip
from slugdemo.models.zero_shot import Memory, ZeroShot
from slugdemo.search import Evaluate, Evaluator, Score

Remember = Callable[[Sequence[Example]], Memory]


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

    @classmethod
    def of(
        cls,
        clip: Clip,
        concept: Concept,
        *,
        eval_set: EvalSet,
        size: EvalSize,
        remember: Remember | None = None,
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
        return cls(concept, host, test, prompts, top)

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
        quick = self.host.forget_only(self.concept.name, top=self.top)
        whole = self.evaluator()

        def evaluate(edit: Edit) -> Evaluate:
            return (whole if edit.parts == ("text",) else quick)(edit)  # pictures cost nothing then

        return evaluate

    def reporting(self, edits: Sequence[Edit]) -> Iterator[list[Measurement]]:
        """The report, which is soon there."""
        yield self.report(edits)

    def report(self, edits: Sequence[Edit]) -> list[Measurement]:
        """Top-1 accuracy on held-out pictures of the concept and on those of all others."""
        if self.held_out is None:
            return []
        before = self.held_out.score(self.concept.name, strength=0.0)
        after = self.held_out.edited(edits).score(self.concept.name, strength=1.0)
        return [
            Measurement("forget_acc", before.forget_acc, after.forget_acc, after.n_forget),
            Measurement("retain_acc", before.retain_acc, after.retain_acc, after.n_retain),
        ]


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
