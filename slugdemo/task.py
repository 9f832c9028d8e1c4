"""Task: one concept in one model, and all that a method or an attack may ask of it.

What it needs is made when it is first asked for, and kept. Knows gradients, layers, evaluators
and the search; knows no method, no attack, no options and no tables.
"""

import copy
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from slugdemo import catalog, images, layers, search
from slugdemo.concept import Concept, Example
from slugdemo.config import Config
from slugdemo.cost import Clock
from slugdemo.data import Pairs
from slugdemo.edit import Edit, qualified, within
from slugdemo.errors import SlugError
from slugdemo.evaluation.answer import AnswerEvaluation
from slugdemo.evaluation.classify import ClassifyEvaluation, remembered
from slugdemo.evaluation.eval_set import around, judge
from slugdemo.evaluation.generate import GenerateEvaluation, PictureJudge, picture_judge
from slugdemo.evaluation.neighbours import Neighbours, neighbours
from slugdemo.evaluation.prompt_set import EvalSet, Evaluation, label, spread
from slugdemo.gradients import Gradients, forget_gradient, retain_gradient
from slugdemo.layers import LayerScore
from slugdemo.models.base import Cancelled, Question, Watch
from slugdemo.models.clip import Clip
from slugdemo.models.loading import Opened
from slugdemo.models.zero_shot import Memory, readable
from slugdemo.search import Evaluators, Score, Search, told
from slugdemo.weights import Weights

REAL = 240  # held-out pictures behind distances of pictures
MOST = 384  # pictures behind the retain gradient, at most
FEW = 16  # retain pictures below which the gradient and the search share them

Progress = Callable[[str, int, int], None]  # (what is being done, steps done, steps in all)


def unwatched(text: str, done: int, total: int) -> None:
    """The progress of those who do not look."""


def never() -> bool:
    """The answer of those who do not stop."""
    return False


def _both(own: Weights, more: Weights) -> Weights:
    """The tensors of a model's CLIP and, as "text_2/...", those of its second one."""
    return {**own, **{f"text_2/{name}": tensor for name, tensor in more.items()}}


@dataclass(frozen=True)
class Located:
    """What was found of a concept's layers before: their scores, and the tensors the model reads.

    `scores` are those of every layer of CLIP, in the order in which `layers.scores` gives them.
    """

    scores: tuple[LayerScore, ...]
    editable: frozenset[str]


def _near(opened: Opened, concept: Concept, eval_set: EvalSet) -> Neighbours:
    pictures = tuple(str(example.image) for example in concept.forget)
    key = ("neighbours", concept.name, pictures)
    if key not in opened.kept:
        names = eval_set.names(concept)[concept.domain]
        opened.kept[key] = neighbours(concept, names, opened.clip)
    return opened.kept[key]


def _real(
    opened: Opened, concept: Concept, eval_set: EvalSet, judged: PictureJudge
) -> np.ndarray | None:
    """The judge's features of held-out pictures of anything but the concept, (M, D)."""
    shown = [e for e in eval_set.test if label(e, concept.domain)]
    if judged.features is None or not shown:
        return None
    some = spread(shown, min(REAL, len(shown)))
    key = ("real", judged.who, tuple(str(e.image) for e in some))
    if key not in opened.kept:
        opened.kept[key] = judged.features([images.read(example.image) for example in some])
    rest = [label(example, concept.domain) != concept.name for example in some]
    return opened.kept[key][np.array(rest)]


def _remembered(opened: Opened, shown: Sequence[Example]) -> Memory:
    """What the unedited CLIP makes of held-out pictures, for this concept and the next."""
    key = tuple(str(example.image) for example in shown)
    if key not in opened.kept:
        opened.kept[key] = remembered(opened.clip, shown)
    return opened.kept[key]


@dataclass(eq=False)
class Task:
    """One concept to forget in one model.

    `anchor` is the name of what the concept should become for methods that can replace; "" lets
    the method choose. `gone` are names that shall go too, so that nobody is told to keep them.
    `located` spares locating what was located before for exactly this model, concept, config and
    code. `progress` is told what is being done, `cancelled` asked between steps.
    `searches` collects what `tune` found, for whoever wants to show it.
    """

    opened: Opened
    concept: Concept
    config: Config = field(default_factory=Config)
    given_eval_set: EvalSet | None = None
    anchor: str = ""
    gone: frozenset[str] = frozenset()
    located: Located | None = None
    clock: Clock = field(default_factory=Clock)
    progress: Progress = unwatched
    cancelled: Question = never
    searches: list[Search] = field(default_factory=list)

    # ---- the model

    @property
    def kind(self) -> str:
        """The kind of model: "zero-shot", "diffusion" or "vlm"."""
        return self.opened.kind

    @cached_property
    def clip(self) -> Clip:
        """The CLIP whose towers the model carries: gradients are taken of it."""
        with self.clock("open"):
            return self.opened.clip

    @cached_property
    def clip_2(self) -> Clip | None:
        """The CLIP of a second text tower (Stable Diffusion XL); None for models with one."""
        with self.clock("open"):
            return self.opened.clip_2

    @cached_property
    def weights(self) -> Weights:
        """The tensors that gradients are taken of: open_clip's names, "text_2/..." for a second CLIP."""
        own = self.clip.named()
        return own if self.clip_2 is None else _both(own, self.clip_2.named())

    @cached_property
    def model(self) -> Any:  # noqa: ANN401
        """The model itself: a Clip, a Diffusion or a Llava."""
        return self.clip if self.kind == "zero-shot" else self.opened.host

    @cached_property
    def digest(self) -> str:
        """The identity of the model's weights in results: that of its CLIP, and of its U-Net."""
        return self.opened.digest

    def generator(self, salt: int = 0) -> torch.Generator:
        """A fresh source of noise that depends on the seed alone."""
        return torch.Generator().manual_seed(self.config.seed + salt)

    # ---- the concept and what is beside it

    @cached_property
    def eval_set(self) -> EvalSet:
        """The names and held-out pictures around the concept."""
        return self.given_eval_set or around(self.concept)

    @property
    def preserved(self) -> list[str]:
        """The other names of the concept's domain: what a method may be told to keep."""
        names = self.eval_set.names(self.concept)[self.concept.domain]
        return [name for name in names if name != self.concept.name and name not in self.gone]

    @cached_property
    def retain_split(self) -> tuple[Sequence[Example], Sequence[Example]]:
        """Retain pictures for gradients and training, and others for the search."""
        domain = self.concept.domain
        retain = [e for e in self.concept.retain if e.labels.get(domain) not in self.gone]
        if len(retain) < FEW:
            return retain, retain
        return retain[::2][:MOST], retain[1::2]

    # ---- the paper's quantities

    @property
    def gradients(self) -> Gradients:
        """grad L_f and grad L_r at the original weights, from the cache when taken before."""
        return Gradients(self.forget_gradient, self.retain_gradient)

    @cached_property
    def forget_gradient(self) -> Weights:
        """grad L_f alone, which is all that an edit's direction needs: no pass over what is kept."""
        return self._of_every_clip(self._forget_gradient)

    @cached_property
    def retain_gradient(self) -> Weights:
        """grad L_r alone: concepts that keep the same pictures share it, whatever they forget."""
        return self._of_every_clip(self._retain_gradient)

    def _of_every_clip(self, take: Callable[[Clip], Weights]) -> Weights:
        own = take(self.clip)
        return own if self.clip_2 is None else _both(own, take(self.clip_2))

    def _forget_gradient(self, clip: Clip) -> Weights:
        pairs = Pairs(self.concept.forget, clip, size=self.config.batch)
        tick = self._ticking("Gradient of what to forget", len(pairs))
        return self._taken(partial(forget_gradient, clip, pairs, tick=tick), clip)

    def _retain_gradient(self, clip: Clip) -> Weights:
        kept = self.retain_split[0]
        size = min(self.config.batch, len(kept))
        pairs = Pairs(kept, clip, size=size, seed=self.config.seed)
        whole = len(kept) // max(1, size)  # a smaller last one is left out
        tick = self._ticking("Gradient of what to keep", whole)
        return self._taken(partial(retain_gradient, clip, pairs, tick=tick), clip)

    def _ticking(self, text: str, total: int) -> Callable[[], None]:
        done = 0

        def tick() -> None:
            nonlocal done
            done += 1
            self.step(text, done, total)

        return tick

    def _taken(self, take: Callable[..., Weights], clip: Clip) -> Weights:
        with self.clock("gradients"):
            return take(names=layers.candidates(clip), cache=catalog.cache() / "gradients")

    @cached_property
    def editable(self) -> frozenset[str]:
        """The CLIP tensors that the model reads and the reference code would edit there."""
        if self.located is not None:
            return self.located.editable
        rule = "clip" if self.kind == "zero-shot" else "no norms"
        reads = (
            partial(readable, self.clip) if self.kind == "zero-shot" else self.evaluation.editable
        )
        with self.clock("editable"):
            may = {*layers.candidates(self.clip, rule=rule)}
            if self.clip_2 is not None:
                may |= {f"text_2/{name}" for name in layers.candidates(self.clip_2, rule=rule)}
            return frozenset(reads()) & may

    @cached_property
    def every_score(self) -> list[LayerScore]:
        """Importance and alignment of every layer of CLIP, those that the model does not read too."""
        if self.located is not None:
            return [*self.located.scores]
        both = self.gradients
        with self.clock("scores"):
            return layers.scores(self.weights, both, granularity=self.config.granularity)

    @property
    def shapes(self) -> dict[str, str]:
        """The shapes of each layer's tensors as people write them: "512 x 192"."""
        weights = self.weights
        return {
            score.layer: ", ".join(
                " x ".join(map(str, weights[name].shape)) for name in score.tensors
            )
            for score in self.every_score
        }

    @cached_property
    def scores(self) -> list[LayerScore]:
        """Importance and alignment of every layer that the model reads."""
        readable = self.editable
        return [score for score in self.every_score if {*score.tensors} <= readable]

    @cached_property
    def front(self) -> list[LayerScore]:
        """The layers on the Pareto fronts, one front a tower, in the order of a forward pass."""
        moving = [score for score in self.scores if score.importance > 0]
        front = layers.pareto_front(moving, alignment=self.config.alignment)
        return layers.in_order(front, self.clip)

    @cached_property
    def next_front(self) -> list[LayerScore]:
        """The fronts of the layers that the first fronts leave behind."""
        left = layers.behind(self.scores, self.front)
        return layers.in_order(
            layers.pareto_front(left, alignment=self.config.alignment), self.clip
        )

    # ---- evaluators and the search

    @cached_property
    def evaluation(self) -> Evaluation:
        """What the search and the report ask of the model."""
        rest = replace(self.concept, retain=tuple(self.retain_split[1]))
        size, names = self.config.evaluation_size, self.eval_set
        near = partial(_near, self.opened, self.concept, names)
        with self.clock("evaluators"):
            if self.kind == "zero-shot":
                return ClassifyEvaluation.of(
                    self.clip,
                    rest,
                    eval_set=names,
                    size=size,
                    remember=partial(_remembered, self.opened),
                    near=near,
                )
            allowed = self.config.tuning.effective.max_forget_acc
            if self.kind == "vlm":
                return AnswerEvaluation(rest, self.model, names, size, self._watch, near, allowed)
            clip = partial(getattr, self.opened, "clip")
            judged = picture_judge(judge(), clip, concept=rest, eval_set=names)
            real = partial(_real, self.opened, self.concept, names, judged)
            return GenerateEvaluation(
                rest, self.model, judged, names, size, self._watch, near, real, allowed
            )

    def near(self) -> Neighbours:
        """The neighbours of the concept, found once for all who forget it in this model."""
        return _near(self.opened, self.concept, self.eval_set)

    @property
    def _watch(self) -> Watch:
        """The task's own watcher, whoever that is by then; the evaluation does not keep the task."""
        me = weakref.ref(self)

        def progress(done: int, total: int) -> None:
            if task := me():
                task.progress("Evaluating", done, total)

        def cancelled() -> bool:
            task = me()
            return task is not None and task.cancelled()

        return Watch(progress, cancelled)

    @cached_property
    def evaluators(self) -> Evaluators:
        """What the step search asks; a quick stand-in where the model takes long."""
        found = self.evaluation
        me = weakref.proxy(self)  # a search lasts no longer than its task

        def whole(edit: Edit) -> search.Evaluate:
            judged, own = me._in_clip(edit)
            return judged.evaluator()(own)

        def alone(edit: Edit) -> search.Evaluate:
            judged, own = me._in_clip(edit)
            return judged.forget_only()(own)

        quick = None if self.kind == "zero-shot" else Evaluators(whole, alone)
        return Evaluators(found.evaluator(), found.forget_only(), found.while_kept, quick)

    def _in_clip(self, edit: Edit) -> tuple[ClassifyEvaluation, Edit]:
        """The CLIP whose tower an edit changes, and the edit in the names of that CLIP."""
        if self.clip_2 is None or edit.parts != ("text_2",):
            return self.classified, edit
        own = {f"text/{within(name)}": tensor for name, tensor in edit.delta.items()}
        return self._classified_2, replace(edit, delta=own)

    @cached_property
    def classified(self) -> ClassifyEvaluation:
        """The model's CLIP on the search split, whatever the kind of model."""
        return self._classified_by(self.clip)

    @cached_property
    def _classified_2(self) -> ClassifyEvaluation:
        return self._classified_by(self.clip_2 or self.clip)

    def _classified_by(self, clip: Clip) -> ClassifyEvaluation:
        kept = self.retain_split[1]
        size = self.config.evaluation_size
        rest = replace(self.concept, retain=tuple(spread(kept, min(size.quick, len(kept)))))
        return ClassifyEvaluation.of(clip, rest, eval_set=EvalSet(), size=size)

    def tune(
        self, candidates: Sequence[Edit], further: Callable[[], Sequence[Edit]] = tuple
    ) -> Edit:
        """The best of the candidates at its best strength; what was tried goes to `searches`.

        Raises SlugError when there is no candidate or the model does not know the concept.
        """
        evaluators, done = self.evaluators, 0

        def watch(edit: Edit, score: Score) -> None:
            nonlocal done
            done += 1
            self.step(f"Search, step {done}: {told(edit, score)}", done, 0)

        with self.clock("search"):
            found = search.tune(
                candidates, evaluators, self.config.tuning, further=further, watch=watch
            )
        self.searches.append(found)
        return found.edit

    def watched(self, progress: Progress, cancelled: Question) -> "Task":
        """The same task for somebody else to watch and to stop; it shares what is computed so far."""
        twin = copy.copy(self)
        twin.progress, twin.cancelled = progress, cancelled
        twin.searches, twin.clock = [], Clock()
        for kept in ("evaluators", "evaluation")[: 1 if self.kind == "zero-shot" else 2]:
            twin.__dict__.pop(kept, None)  # they report to whoever made them
        return twin

    def by(self, method: str) -> "Task":
        """The same task for another method; what was made for this one serves it too."""
        twin = copy.copy(self)
        twin.config, twin.searches, twin.clock = replace(self.config, method=method), [], Clock()
        return twin

    def becoming(self, anchor: str) -> "Task":
        """The same task with the concept to become `anchor`, or to go where that is ""."""
        twin = copy.copy(self)
        twin.anchor = anchor
        return twin

    # ---- the visitor

    def step(self, text: str, done: int, total: int) -> None:
        """Reports step `done` of `total` (0: unknown); raises Cancelled when asked to stop."""
        if self.cancelled():
            raise Cancelled("Stopped: nothing was changed, and nothing was kept.")
        self.progress(text, done, total)

    def edit(
        self,
        delta: Mapping[str, torch.Tensor],
        *,
        rule: str = "",
        params: Mapping[str, str | float] | None = None,
    ) -> Edit:
        """An edit of this concept by the config's method, with the model's identity on record.

        `delta` holds part-qualified names; an inference rule has an empty one.
        """
        made = Edit(self.concept.name, self.config.method, delta, rule=rule, params=params or {})
        return self.identified(made)

    def identified(self, edit: Edit) -> Edit:
        """The edit with the hashes of the weights that it was made for."""
        about = {"model": self.opened.model.name, "weights": self.clip.digest}
        if self.anchor:
            about["replace_by"] = self.anchor
        beyond_clip = edit.rule or not {*edit.parts} <= {"text", "vision"}
        if self.kind == "diffusion" and beyond_clip:
            about["unet"] = self.model.unet_digest
        return edit.noted(**about)

    def layer(self, name: str) -> LayerScore:
        """The score of one layer. Raises SlugError when there is none of this name to edit."""
        for score in self.scores:
            if name in (score.layer, qualified(score.layer)):
                return score
        some = ", ".join(score.layer for score in self.front)
        raise SlugError(
            f"{self.opened.model.name} has no layer {name!r} that can be edited. "
            f"On the front are: {some}."
        )
