"""The zero-shot host: pictures sorted into classes that are prompts, in CLIP itself.

Computes only what an edit can have changed: an edit of the text tower re-encodes the prompts, one
of the vision tower the pictures, and both start at the edited stage, from activations that are
computed once and shared by all edited versions. Knows nothing of how an edit was found.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from PIL.Image import fromarray
from torch import Tensor, nn

from slugdemo import layers
from slugdemo.edit import Edit, apply, clip_name, qualified
from slugdemo.errors import SlugError
from slugdemo.evaluation import metrics
from slugdemo.models import towers
from slugdemo.models.clip import Clip, tower
from slugdemo.models.tower import moving
from slugdemo.search import Evaluate, Evaluator, Score

CHUNK = 64  # items at once: activations that stay near the processor
BUDGET = 512 * 2**20  # bytes of activations kept for one set of pictures or prompts


class Memory:
    """What the unedited tower makes of some inputs, kept for all edited versions of it.

    Holds the input of every stage that was reached, up to `BUDGET` bytes; beyond that only the
    last one and the features, so that going from early layers to late ones still takes a single
    pass. Threads may share it: at worst one computes what another just forgot.
    """

    def __init__(self, clip: Clip, tower: str, inputs: Tensor) -> None:
        self.clip, self.tower = clip, tower
        self.inputs, self.rows = towers.prepare(clip.model, tower, inputs.to(clip.device))
        self._end = len(towers.chain(clip.model, tower))
        self._kept = {0: self.inputs}

    def before(self, stage: int) -> Tensor:
        """The input of a stage: pixels or tokens for 0, then activations (N, T, W)."""
        kept = self._kept
        at = max(index for index in kept if index <= stage)
        x = kept[at]
        for index, step in enumerate(towers.chain(self.clip.model, self.tower)[at:stage], at + 1):
            x = through([step], x, self.rows)
            self._keep(index, x)
        return x

    @property
    def features(self) -> Tensor:
        """The unedited features of unit norm: (N, D)."""
        return F.normalize(self.before(self._end), dim=-1)

    @torch.no_grad()
    def features_of(self, edited: Clip, changed: Iterable[str]) -> Tensor:
        """The features of unit norm under an edit that changed these tensors: (N, D).

        Computed from the first stage on that reads one of them.
        """
        stages = towers.chain(edited.model, self.tower)
        start = towers.first_reader(stages, changed)
        if start == self._end or not len(self.inputs):
            return self.features
        x, found, order = self.before(start), [], []
        for which, tokens in towers.alike(edited.model, self.tower, self.rows, CHUNK):
            part, rows = x[which, tokens], self.rows[which]
            if x.shape[1] == self.inputs.shape[1] > 1 and tokens.stop:  # no token is void yet
                part = towers.begun(self.inputs[which, tokens], part, rows)
            found.append(towers.advance(stages[start:], part, rows))
            order.append(which)
        there = torch.cat(order).argsort()
        return F.normalize(torch.cat(found)[there], dim=-1)

    def _keep(self, index: int, x: Tensor) -> None:
        kept = {**self._kept, index: x}
        size = sum(tensor.nbytes for tensor in kept.values()) - self.inputs.nbytes
        needed = (0, index, self._end)
        self._kept = kept if size <= BUDGET else {i: kept[i] for i in needed if i in kept}


def through(stages: Sequence[towers.Stage], x: Tensor, rows: Tensor) -> Tensor:
    """`x` after the stages, a chunk of items at a time, without gradients."""
    if not stages or not len(x):
        return x
    with torch.no_grad():
        parts = zip(x.split(CHUNK), rows.split(CHUNK), strict=True)
        return torch.cat([towers.advance(stages, part, row) for part, row in parts])


def readable(clip: Clip) -> list[str]:
    """The canonical names of the tensors that change what a CLIP says, found by trying.

    No example picture is needed: noise and a prompt show it.
    """
    weights = clip.named()
    names = {name: weights[name] for name in layers.candidates(clip)}
    noise = torch.randint(256, (64, 64, 3), generator=torch.Generator().manual_seed(0))
    pixels = clip.transform(fromarray(noise.byte().numpy()))[None]
    tokens = clip.tokenize(["a picture of one thing"])

    def output(model: nn.Module) -> Tensor:
        twin = replace(clip, model=model)
        return torch.cat([twin.encode_image(pixels), twin.encode_text(tokens)])

    return moving(clip.model, names, output)


@dataclass(frozen=True, eq=False)
class ZeroShot:
    """Pictures and classes before one CLIP; `edited` gives the same with edits applied.

    Make one with `of`. `labels` says which class each picture is, -1 for unknown.
    """

    clip: Clip  # unedited
    classes: tuple[str, ...]  # C names
    owners: Tensor  # (P,) the class of each of the P prompts
    prompts: Memory
    pictures: Memory
    labels: Tensor  # (N,)
    edits: tuple[Edit, ...] = field(default=())

    @classmethod
    def of(
        cls,
        clip: Clip,
        prompts: Mapping[str, Sequence[str]],
        *,
        pixels: Tensor,
        labels: Sequence[str],
    ) -> "ZeroShot":
        """The host for classes with their prompts, and pictures (N, 3, H, W) with N class names.

        A class with several prompts is the mean of their features. Raises SlugError when there is
        no class, a prompt is too long, or a label is no class ("" is unknown).
        """
        texts = [text for several in prompts.values() for text in several]
        if not texts or len(pixels) != len(labels):
            raise SlugError(f"{len(texts)} prompts, {len(pixels)} pictures, {len(labels)} labels.")
        classes = tuple(prompts)
        if missing := sorted({*labels} - {*classes, ""}):
            raise SlugError(f"No prompt names the class of some pictures: {', '.join(missing)}.")
        counts = torch.tensor([len(several) for several in prompts.values()])
        owners = torch.arange(len(classes)).repeat_interleave(counts).to(clip.device)
        numbers = torch.tensor([classes.index(label) if label else -1 for label in labels])
        text = Memory(clip, "text", clip.typed(texts))
        return cls(clip, classes, owners, text, Memory(clip, "vision", pixels), numbers)

    def edited(self, edits: Iterable[Edit]) -> "ZeroShot":
        """The same with these edits added to those it has; the base stays as it is."""
        return replace(self, edits=(*self.edits, *edits))

    def showing(self, pixels: Tensor) -> "ZeroShot":
        """The same classes before other pictures (N, 3, H, W), whose classes are unknown."""
        unknown = torch.full((len(pixels),), -1)
        return replace(self, pictures=Memory(self.clip, "vision", pixels), labels=unknown)

    def editable(self) -> list[str]:
        """The canonical names of the tensors that change what this host says, found by trying."""
        return readable(self.clip)

    @cached_property
    def scores(self) -> Tensor:
        """The cosines of N pictures with C classes: (N, C)."""
        return self.shown @ self.named.T

    @property
    def shown(self) -> Tensor:
        """The features of unit norm of the N pictures: (N, D)."""
        return self._features(self.pictures)

    @property
    def named(self) -> Tensor:
        """The features of unit norm of the C classes: (C, D)."""
        return self._class_features()

    def cosines(self, texts: Memory) -> Tensor:
        """The cosines of the N pictures with P other prompts: (N, P)."""
        return self.shown @ self._features(texts).T

    def probabilities(self) -> Tensor:
        """What CLIP believes of each picture, a softmax over the classes: (N, C)."""
        return (self.scores * self.clip.logit_scale).softmax(-1)

    def score(self, target: str, *, strength: float, top: int = 1) -> Score:
        """The accuracies on class `target` and on all others, as a Score.

        Accuracies say that the right class is among the `top` best of all C classes, the erased
        one included. Raises SlugError when one of the two has no pictures.
        """
        own = (self.labels == self._index(target)).numpy()
        known = (self.labels >= 0).numpy()
        if not own.any() or (own == known).all():
            raise SlugError(f"Judging needs pictures of {target!r} and of something else.")
        hits = metrics.top_k(self.scores.cpu().numpy()[known], self.labels.numpy()[known], k=top)
        own = own[known]
        forget, retain = metrics.share(hits[own]), metrics.share(hits[~own])
        return Score(strength, forget, retain, int(own.sum()), int((~own).sum()))

    def evaluator(self, target: str, *, top: int = 1) -> Evaluator:
        """For a step search: an edit -> its score on `target` and the rest at each strength."""

        def evaluate(edit: Edit) -> Evaluate:
            return lambda at: self.edited([edit.at(at)]).score(target, strength=at, top=top)

        return evaluate

    def forget_only(self, target: str, *, top: int = 1) -> Evaluator:
        """As `evaluator`, but an edit of the vision tower is judged on pictures of `target` alone.

        An edit of the text tower alone is judged in full, because the pictures cost nothing then.
        """
        own = self.only(target)
        whole = self.evaluator(target, top=top)

        def evaluate(edit: Edit) -> Evaluate:
            if edit.parts == ("text",):
                return whole(edit)
            return lambda at: own.edited([edit.at(at)])._forget_score(at, top)

        return evaluate

    def only(self, target: str) -> "ZeroShot":
        """The same classes before the pictures of one class alone."""
        chosen = self.labels == self._index(target)
        pixels = self.pictures.inputs[chosen]
        return replace(self.showing(pixels), labels=self.labels[chosen])

    def _forget_score(self, strength: float, top: int) -> Score:
        hits = metrics.top_k(self.scores.cpu().numpy(), self.labels.numpy(), k=top)
        return Score(strength, metrics.share(hits), float("nan"), len(hits), 0)

    def _index(self, target: str) -> int:
        if target not in self.classes:
            raise SlugError(f"{target!r} is none of the {len(self.classes)} classes here.")
        return self.classes.index(target)

    def _features(self, memory: Memory) -> Tensor:
        """The features of unit norm of the pictures or of the prompts, from the edited stage on."""
        weights = self.clip.named().items()
        own = {qualified(n): t for n, t in weights if tower(n) == memory.tower}
        changed = {clip_name(n): t for n, t in apply(own, self.edits).items()}
        if not changed:
            return memory.features
        return memory.features_of(self.clip.edited(changed), changed)

    def _class_features(self) -> Tensor:
        features = self._features(self.prompts)  # (P, D)
        sums = features.new_zeros(len(self.classes), features.shape[1])
        return F.normalize(sums.index_add(0, self.owners, features), dim=-1)  # (C, D)
