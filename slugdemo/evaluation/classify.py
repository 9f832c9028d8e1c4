"""The zero-shot board: pictures among the classes of the concept's domain.

Knows CLIP as its own host only.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from slugdemo import data as examples
from slugdemo.concept import Concept, Example, prompt, style_prompt
from slugdemo.edit import Edit
from slugdemo.evaluation.prompt_set import Row, Size, World, exam, label
from slugdemo.models.clip import Clip, tower
from slugdemo.models.zero_shot import Memory, ZeroShot
from slugdemo.search import Evaluate, Exam, Point

Remember = Callable[[Sequence[Example]], Memory]


@dataclass(frozen=True, eq=False)
class Classes:
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
        world: World,
        size: Size,
        remember: Remember | None = None,
    ) -> "Classes":
        """The board whose search looks at the concept's forget and retain pictures.

        `remember` gives what the unedited CLIP makes of examples, perhaps from an earlier time.
        """
        shown = [*concept.forget, *concept.retain]
        tested = [one for one in world.test if one.labels.get(concept.domain)]
        prompts = _prompts(concept, world, [*shown, *tested])
        labels = [label(one, concept.domain) for one in shown]
        pixels = examples.pixels(shown, clip.transform)
        host = ZeroShot.of(clip, prompts, pixels=pixels, labels=labels)
        top = size.best(len(host.classes))
        test = _held_out(host, tested, concept, remember or partial(remembered, clip))
        return cls(concept, host, test, prompts, top)

    def editable(self) -> Collection[str]:
        """The canonical names of the tensors that the host reads."""
        return self.host.editable()

    def exam(self) -> Exam:
        """An edit -> what each step of it does to the concept (top k) and to the rest (top 1)."""
        return exam(self._point)

    def _point(self, edits: Sequence[Edit], step: float) -> Point:
        host = self.host.edited(edits)
        plain = host.point(self.concept.name, step=step)
        strict = host.point(self.concept.name, step=step, top=self.top)
        return replace(plain, forget=strict.forget, parts={"top 1": plain.forget})

    def glance(self) -> Exam:
        """An edit -> what each step of it does to the concept alone."""
        quick = self.host.glance(self.concept.name, top=self.top)
        whole = self.exam()

        def examine(edit: Edit) -> Evaluate:
            text = all(tower(name) == "text" for name in edit.direction)
            return (whole if text else quick)(edit)  # then the pictures cost nothing

        return examine

    def rows(self, edits: Sequence[Edit]) -> list[Row]:
        """Top-1 accuracy on held-out pictures of the concept and on those of all others."""
        if self.held_out is None:
            return []
        before = self.held_out.point(self.concept.name, step=0.0)
        after = self.held_out.edited(edits).point(self.concept.name, step=1.0)
        return [
            Row("forget", before.forget, after.forget, after.n_forget),
            Row("retain", before.retain, after.retain, after.n_retain),
        ]


def _prompts(concept: Concept, world: World, shown: Sequence[Example]) -> dict[str, list[str]]:
    """One prompt for each class: the known names, then captions of pictures without a label."""
    write = style_prompt if concept.domain == "style" else prompt
    known = world.names(concept)[concept.domain]
    known += [one.labels[concept.domain] for one in shown if one.labels.get(concept.domain)]
    prompts = {name: [write(name)] for name in known}
    return prompts | {
        one.caption: [one.caption] for one in shown if not one.labels.get(concept.domain)
    }


def remembered(clip: Clip, shown: Sequence[Example]) -> Memory:
    """What the unedited CLIP makes of the examples' pictures."""
    return Memory(clip, "vision", examples.pixels(shown, clip.transform))


def _held_out(
    host: ZeroShot, tested: Sequence[Example], concept: Concept, remember: Remember
) -> ZeroShot | None:
    labels = [label(one, concept.domain) for one in tested]
    if concept.name not in labels or len({*labels}) < 2:
        return None
    numbers = torch.tensor([host.classes.index(name) for name in labels])
    return replace(host, pictures=remember(tested), labels=numbers)
