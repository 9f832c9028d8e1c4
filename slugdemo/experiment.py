"""One study of one model: locate, sweep, erase and control as values, with what they cost.

What the command line, the benchmarks and a notebook share: from an opened model and a concept to
gradients, scores, points, edits and held-out rows. Prints nothing; knows no options or tables.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from slugdemo import catalog, layers, search
from slugdemo.concept import Concept, Example
from slugdemo.config import Setting
from slugdemo.cost import Clock
from slugdemo.data import Pairs
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.eval_set import around, judge
from slugdemo.evaluation import Answers, Board, Classes, Drawings, Row, World
from slugdemo.evaluation.classify import remembered
from slugdemo.evaluation.generate import eyes
from slugdemo.gradients import Gradients, gradients
from slugdemo.layers import LayerScore
from slugdemo.methods import METHODS
from slugdemo.methods.slug import Attempt, Outcome, Watch, direction, extended, joined, unwatched
from slugdemo.models.base import Progress, Question
from slugdemo.models.clip import Clip
from slugdemo.models.loading import Opened
from slugdemo.models.zero_shot import Memory
from slugdemo.search import Goal, Point, choose

MOST = 384  # pictures behind the retain gradient, at most
FEW = 16  # retain pictures below which the gradient and the search share them


@dataclass(eq=False)
class Study:
    """One concept in one model; what it needs is made when it is first asked for, and kept.

    `progress` and `cancelled` go to hosts that take long; `tick` is called after each batch of a
    gradient.
    """

    opened: Opened
    concept: Concept
    setting: Setting = field(default_factory=Setting)
    world: World | None = None
    clock: Clock = field(default_factory=Clock)
    progress: Progress | None = None
    cancelled: Question | None = None
    tick: Callable[[], None] = lambda: None

    @cached_property
    def clip(self) -> Clip:
        """The CLIP whose layers are edited."""
        with self.clock("open"):
            return self.opened.clip

    @cached_property
    def gradients(self) -> Gradients:
        """Both gradients, from the cache folder when they were taken before."""
        clip, setting = self.clip, self.setting
        with self.clock("gradients"):
            return gradients(
                clip,
                Pairs(self.concept.forget, clip, size=setting.batch),
                retain=Pairs(
                    self._parts[0],
                    clip,
                    size=min(setting.batch, len(self._parts[0])),
                    seed=setting.seed,
                ),
                names=layers.candidates(clip),
                cache=catalog.cache() / "gradients",
                tick=self.tick,
            )

    @cached_property
    def _parts(self) -> tuple[Sequence, Sequence]:
        """Retain pictures for the gradient, and others for the search."""
        retain = self.concept.retain
        if len(retain) < FEW:
            return retain, retain
        return retain[::2][:MOST], retain[1::2]

    @cached_property
    def board(self) -> Board:
        """What the search and the test ask of the host."""
        world = self.world or around(self.concept)
        rest = replace(self.concept, retain=tuple(self._parts[1]))
        size, clip = self.setting.size, self.clip
        with self.clock("board"):
            if self.opened.kind == "zero-shot":
                return Classes.of(clip, rest, world=world, size=size, remember=self._remembered)
            calls: dict[str, Any] = {"progress": self.progress, "cancelled": self.cancelled}
            if self.opened.kind == "vlm":
                return Answers(rest, self.opened.host, world, size, **calls)
            look = eyes(judge(), lambda: clip, concept=rest, world=world)
            return Drawings(rest, self.opened.host, look, world, size, **calls)

    def _remembered(self, shown: Sequence[Example]) -> Memory:
        """What the unedited CLIP makes of held-out pictures, for this concept and the next."""
        key, kept = tuple(str(one.image) for one in shown), self.opened.kept
        if key not in kept:
            kept[key] = remembered(self.clip, shown)
        return kept[key]

    @cached_property
    def editable(self) -> frozenset[str]:
        """The tensors that the host reads and the reference code would edit there."""
        board = self.board
        rule = "clip" if self.opened.kind == "zero-shot" else "no norms"
        with self.clock("editable"):
            return frozenset(board.editable()) & {*layers.candidates(self.clip, rule=rule)}

    @cached_property
    def scores(self) -> list[LayerScore]:
        """Importance and alignment of every layer that the host reads."""
        slopes, readable = self.gradients, self.editable
        with self.clock("scores"):
            every = layers.scores(self.clip.named(), slopes, unit=self.setting.unit)
            return [one for one in every if set(one.tensors) <= readable]

    @cached_property
    def front(self) -> list[LayerScore]:
        """The layers on the Pareto fronts."""
        moving = [one for one in self.scores if one.importance > 0]
        return layers.pareto_front(moving, by=self.setting.by)

    def score(self, layer: str) -> LayerScore:
        """The score of one layer. Raises SlugError when there is none of this name to edit."""
        for one in self.scores:
            if one.layer == layer:
                return one
        some = ", ".join(one.layer for one in self.front)
        raise SlugError(
            f"{self.opened.model.name} has no layer {layer!r} that can be edited. "
            f"On the front are: {some}."
        )

    def direction(self, layer: str) -> Edit:
        """The unstepped edit of a layer."""
        score = self.score(layer)
        return direction(self.clip, self.concept.name, score=score, gradients=self.gradients)

    def sweep(self, layer: str, steps: Sequence[float]) -> Iterator[Point]:
        """A point for each step along one layer, as it is measured."""
        return search.sweep(self.board.exam()(self.direction(layer)), steps)

    def erase(
        self, *, layer: str | None = None, step: float | None = None, watch: Watch = unwatched
    ) -> Outcome:
        """The method's answer: the best layer and step, or those that are given.

        Raises SlugError when a step comes without a layer, or as the method does.
        """
        if step is not None and not layer:
            raise SlugError("A step alone says too little: name the layer that it belongs to.")
        if step is not None and not math.isfinite(step):
            raise SlugError(f"A step is a fraction of the layer's norm, not {step}.")
        readable, _ = self.editable, (self.gradients, self.board)  # made before the clock runs
        with self.clock("search"):
            if step is not None and layer:
                return self._stepped(self.direction(layer), step, self.score(layer))
            if layer:
                outcome = self._searched(self.score(layer).tensors, watch)
            else:
                outcome = self._searched(readable & self.shortlist, watch)
                if not outcome.feasible and (rest := self._unlisted):
                    outcome = joined(outcome, self._searched(rest, watch))
                if not outcome.feasible and self.setting.rule != "paper" and (rest := self._behind):
                    outcome = extended(outcome, self._searched(rest, watch))
            return self._noted(self._farther(outcome))

    def _searched(self, editable: Collection[str], watch: Watch) -> Outcome:
        setting = self.setting
        return METHODS[setting.method](
            self.clip,
            self.concept.name,
            gradients=self.gradients,
            exam=self.board.exam(),
            glance=self.board.glance(),
            editable=editable,
            unit=setting.unit,
            by=setting.by,
            rule=setting.rule,
            loss=setting.loss,
            forget=setting.forget,
            evaluations=setting.evaluations,
            watch=watch,
        )

    @property
    def _unlisted(self) -> frozenset[str]:
        """The tensors of the front layers that the shortlist leaves out."""
        fronts = [one for one in self.front if not set(one.tensors) <= self.shortlist]
        return frozenset(name for one in fronts for name in one.tensors)

    @property
    def _behind(self) -> frozenset[str]:
        """The tensors of the layers that the fronts leave behind; their own fronts come next."""
        return layers.behind(self.scores, self.front)

    @cached_property
    def shortlist(self) -> frozenset[str]:
        """The tensors of the front layers that are worth a search in a host that takes long."""
        setting = self.setting
        if self.opened.kind == "zero-shot" or not 0 < setting.shortlist < len(self.front):
            return self.editable
        rest = replace(self.concept, retain=tuple(self._parts[1]))
        board = Classes.of(self.clip, rest, world=World(), size=setting.size)
        try:
            found = METHODS[setting.method](
                self.clip,
                self.concept.name,
                gradients=self.gradients,
                exam=board.exam(),
                glance=board.glance(),
                editable=self.editable,
                unit=setting.unit,
                by=setting.by,
            )
        except SlugError:  # the CLIP alone does not know it, while the host may
            return self.editable
        best = found.attempts[: setting.shortlist]
        return frozenset(name for one in best for name in one.score.tensors)

    def _stepped(self, edit: Edit, step: float, score: LayerScore) -> Outcome:
        evaluate = self.board.exam()(edit)
        before, point = evaluate(0.0), evaluate(step)
        goal = Goal(self.setting.forget, before.retain - self.setting.loss)
        choice = choose([point], goal)
        one = Attempt(score, edit.at(step), choice, (point,))
        return self._noted(Outcome((one,), before, goal, choice.reason))

    def _farther(self, outcome: Outcome) -> Outcome:
        """The outcome a little beyond its step, measured there."""
        if not self.setting.beyond:
            return outcome
        first = outcome.attempts[0]
        step = first.edit.step * (1 + self.setting.beyond)
        point = self.board.exam()(first.edit)(step)
        choice = choose([point], outcome.goal)
        figures = {"forget_after": repr(point.forget), "retain_after": repr(point.retain)}
        edit = first.edit.at(step).noted(**figures)
        moved = replace(first, edit=edit, choice=choice, trace=(*first.trace, point))
        reason = f"{outcome.reason} As a margin it goes {self.setting.beyond:.0%} farther."
        return replace(outcome, attempts=(moved, *outcome.attempts[1:]), reason=reason)

    def _noted(self, outcome: Outcome) -> Outcome:
        """The outcome whose best edit has all that was done on record."""
        first, setting = outcome.attempts[0], self.setting
        about = {
            "host": self.opened.model.name,
            "kind": self.concept.kind,
            "rule": setting.rule,
            "by": setting.by,
            "unit": setting.unit,
            "top": repr(setting.size.top),
            "beyond": repr(setting.beyond),
            "batch": repr(setting.batch),
            "seed": repr(setting.seed),
            "gradient_forget_pictures": repr(len(self.concept.forget)),
            "gradient_retain_pictures": repr(len(self._parts[0])),
            "torch": torch.__version__,
        }
        noted = replace(first, edit=first.edit.noted(**about))
        return replace(outcome, attempts=(noted, *outcome.attempts[1:]))

    def rows(self, edits: Sequence[Edit]) -> tuple[Row, ...]:
        """What edits do on held-out material."""
        board = self.board
        with self.clock("test"):
            return tuple(board.rows(edits))

    def controls(self, edit: Edit, *, seed: int = 0) -> Mapping[str, Edit]:
        """Edits that should not work as well: backwards, at random, and in a random layer.

        The first two go as far as `edit` in its layer; the last is searched for its own best
        step.
        """
        noise = torch.Generator().manual_seed(seed)
        lots = {
            name: torch.randn(one.shape, generator=noise) for name, one in edit.direction.items()
        }
        layer = {name: self.clip.named()[name] for name in edit.direction}
        lost = Edit.along(lots, layer, concept=edit.concept, name=edit.layer).at(edit.step)
        others = [
            one.layer for one in self.scores if one.layer != edit.layer and one.importance > 0
        ]
        found = {"-g": edit.at(-edit.step), "random direction": lost}
        if others:
            chosen = others[int(torch.randint(len(others), (1,), generator=noise))]
            found["random layer"] = self.erase(layer=chosen).edit
        return found
