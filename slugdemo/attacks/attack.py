"""Attack: what the registry says of an attack; Target: the model under it, and what counts as success.

Knows tasks, the three kinds of model and their judges; knows no attack. The model under attack is
a twin, so that nothing an attack does reaches what is shared.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor

from slugdemo import catalog, data, edit, images
from slugdemo.concept import PLAIN, Example, prompt, style_prompt
from slugdemo.edit import Edit, clip_name, part_of
from slugdemo.errors import SlugError
from slugdemo.evaluation.answer import ASK, says
from slugdemo.evaluation.classify import ClassifyEvaluation
from slugdemo.evaluation.generate import GenerateEvaluation, PictureJudge
from slugdemo.evaluation.prompt_set import PromptSpec, prompt_set, spread
from slugdemo.models.clip import Clip
from slugdemo.models.loading import Opened
from slugdemo.models.zero_shot import Memory
from slugdemo.task import Task
from slugdemo.weights import Weights

GROUPS = ("words", "embeddings", "noise", "weights", "images", "inside")
ACCESS = ("black box", "white box")
ON = ("edited", "original", "reference")
HOSTS = {
    "zero-shot": "zero-shot CLIP",
    "diffusion": "Stable Diffusion",
    "vlm": "vision-language model",
}
SEED = 13_000_000  # of the noise that attacks draw from: no search and no report uses it
DRAWN = 8  # pictures drawn to judge an attack on Stable Diffusion
SHOWN = 16  # pictures shown to judge an attack on the others
HELD = 4  # pictures of the concept that an attacker holds, where no other number is given

Show = Callable[[Image], None]
Follow = Callable[[float], None]


def unseen(picture: Image) -> None:
    """The `show` of those who do not look."""


def unfollowed(loss: float) -> None:
    """The `follow` of those who do not look."""


class Try(NamedTuple):
    """What a model said in one trial: asked as usual before the attack, and with it.

    Answers of a vision-language model, the names that a zero-shot CLIP finds likeliest.
    """

    question: str
    before: str
    after: str


class Trials(NamedTuple):
    """A model used as usual: its pictures (drawn or shown), and which show the concept.

    `said` is what it says of each, where models say something.
    """

    pictures: list[Image]
    hits: np.ndarray
    said: list[str]


@dataclass(frozen=True)
class Attacked:
    """What an attack achieved: the share of `n` trials in which the concept is there again.

    `before` is the same model's rate on `n_before` trials without the attack. `pictures` are the
    trials' pictures and `hits` says which of them count, `tries` what was said of each, where
    models say something; `found` is the prompt that was found, or
    what a vector is nearest to; `losses` are those of its training, `curve` rates along the way
    (steps, strengths, layers).
    """

    success: float
    n: int
    before: float = float("nan")
    n_before: int = 0
    pictures: tuple[Image, ...] = ()
    hits: tuple[bool, ...] = ()
    found: str = ""
    losses: tuple[float, ...] = ()
    curve: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    tries: tuple[Try, ...] = ()


@dataclass(eq=False)
class Target:
    """One model under attack for one concept, and its judge.

    `on` says which: the "edited" model, the "original" (the ceiling), or a "reference" that never
    saw the concept (the floor), which is then given. The attacker always holds the original:
    `task.model` and `task.clip`. `given` are the edits in question, also on the other two, for the
    attacks that ask which tensors they moved. `show` is given the best picture so far whenever
    there is a better one, `follow` each loss of a training or search.
    """

    task: Task
    given: Sequence[Edit] = ()
    on: str = "edited"
    reference: Opened | None = None
    show: Show = unseen
    follow: Follow = unfollowed
    best: float = -math.inf

    def __post_init__(self) -> None:
        if self.on not in ON:
            raise ValueError(f"on {self.on!r} is none of {ON}")
        if (self.on == "reference") != (self.reference is not None):
            raise ValueError("the reference is given exactly when it is attacked")

    @property
    def name(self) -> str:
        """The concept's name."""
        return self.task.concept.name

    @property
    def domain(self) -> str:
        """The concept's domain, "concept" or "style"."""
        return self.task.concept.domain

    @property
    def edits(self) -> list[Edit]:
        """The edits in the model under attack."""
        return list(self.given) if self.on == "edited" else []

    @cached_property
    def model(self) -> Any:  # noqa: ANN401
        """The model under attack: a Clip, a Diffusion or a Llava."""
        if self.task.kind == "zero-shot":
            return self.clip
        here = self.reference.host if self.reference else self.task.model
        return here.edited(self.edits)

    @cached_property
    def clip(self) -> Clip:
        """The CLIP whose towers the model under attack carries, edited like them."""
        here = self.reference.clip if self.reference else self.task.clip
        return changed_clip(here, self.edits)

    def moved(self, delta: Weights) -> Any:  # noqa: ANN401
        """A twin of the model under attack with `delta` (part-qualified names) added."""
        extra = Edit(self.name, "attack", delta)
        if self.task.kind == "zero-shot":
            return changed_clip(self.clip, [extra])
        return self.model.edited([extra])

    def undone(self, share: float) -> Any:  # noqa: ANN401
        """The model under attack with a share of its edit taken back."""
        if not self.edits:
            return self.model
        edits = [edit.at(edit.strength * (1 - share)) for edit in self.edits]
        if self.task.kind == "zero-shot":
            return changed_clip(self.task.clip, edits)
        return self.task.model.edited(edits)

    # ---- words

    @cached_property
    def listed(self) -> Mapping[str, Any]:
        """What the catalog knows of the concept: group, synonyms, descriptions; perhaps nothing."""
        found = [entry for entry in catalog.listing() if entry["name"] == self.name]
        return found[0] if found else {}

    def worded(self, word: str) -> list[str]:
        """The trials' prompts with another word in the place of the concept's name."""
        if self.domain == "style":
            return [prompt(spec.concept, word) for spec in self.specs]
        return [prompt(word, spec.style) for spec in self.specs]

    @cached_property
    def specs(self) -> list[PromptSpec]:
        """The trials on Stable Diffusion: the concept in every style, each from its own noise."""
        made = prompt_set(self.task.concept, self.task.eval_set, own=DRAWN, others=1, seed=SEED)
        return made[:DRAWN]

    @property
    def seeds(self) -> list[int]:
        """The seeds of the trials on Stable Diffusion, the same for every model under attack."""
        return [spec.seed for spec in self.specs]

    # ---- pictures

    @cached_property
    def tested(self) -> list[Example]:
        """Pictures of the concept that judge an attack: held out where there are any."""
        held = [e for e in self.task.eval_set.test if e.labels.get(self.domain) == self.name]
        return spread(held or self.task.concept.forget, min(SHOWN, len(held) or SHOWN))

    def held(self, count: int = HELD) -> list[Example]:
        """Pictures of the concept in the attacker's hands, none of them among `tested`."""
        used = {str(example.image) for example in self.tested}
        own = [e for e in self.task.concept.forget if str(e.image) not in used]
        return spread(own or self.task.concept.forget, count)

    # ---- judging

    @cached_property
    def before(self) -> tuple[float, int]:
        """The rate of the model under attack when it is used as usual, and the trials."""
        asked = self.task.kind == "vlm"
        calm = replace(self, show=unseen)
        hits = self.named(self.usual) if asked else calm.trials(self.model).hits
        return float(np.mean(hits)), len(hits)

    def trials(self, model: Any) -> Trials:  # noqa: ANN401
        """What a model used as usual draws or says."""
        if self.task.kind == "diffusion":
            return Trials(*self.drawn(model, self.worded(self.name)), [])
        shown = [images.read(example.image) for example in self.tested]
        if self.task.kind == "vlm":
            said = self.answers(model, shown)
            return Trials(shown, self.named(said), said)
        scores = self._scores(model, data.pixels(self.tested, model.transform))
        hits = (scores.argmax(1) == self.row).cpu().numpy()
        return Trials(shown, hits, self._best(model, scores))

    def drawn(self, model: Any, prompts: Sequence[str]) -> tuple[list[Image], np.ndarray]:  # noqa: ANN401
        """A picture of each prompt, from the trials' noise in turn, and which show the concept."""
        seeds = [self.seeds[at % len(self.seeds)] for at in range(len(prompts))]
        return self.judged(model.generate(list(prompts), seeds=seeds, **self.drawing))

    @property
    def drawing(self) -> dict[str, Any]:
        """How pictures are drawn: as in the task's evaluation, and by whom they are stopped."""
        size = self.task.config.evaluation_size
        watch = {"cancelled": self.task.cancelled}
        return {"steps": size.denoising, "guidance": size.guidance, **watch}

    def judged(self, pictures: Sequence[Image]) -> tuple[list[Image], np.ndarray]:
        """The pictures, and which of them show the concept to the judge; the best may be shown."""
        scores = np.asarray(self.judge.look(pictures)[self.domain])  # (N, C)
        row = self.judge.names[self.domain].index(self.name)
        ahead = scores[:, row] - np.delete(scores, row, axis=1).max(1)
        if ahead.max() > self.best:
            self.best = float(ahead.max())
            self.show(pictures[int(ahead.argmax())])
        return list(pictures), scores.argmax(1) == row

    def named(self, answers: Sequence[str]) -> np.ndarray:
        """Which answers hold the concept's name."""
        return np.array([says(answer, self.name) for answer in answers])

    def answers(self, model: Any, pictures: Sequence[Image], question: str = "") -> list[str]:  # noqa: ANN401
        """What a vision-language model says of pictures, asked as usual or another question."""
        asked = [question or ASK[self.domain]] * len(pictures)
        return list(model.answer(list(pictures), asked, cancelled=self.task.cancelled))

    @cached_property
    def usual(self) -> list[str]:
        """What the model under attack says of the pictures that judge it, without the attack.

        A vision-language model's answers, or the likeliest names of a zero-shot CLIP.
        """
        shown = [images.read(example.image) for example in self.tested]
        if self.task.kind == "vlm":
            return self.answers(self.model, shown)
        return self.likeliest(data.pixels(self.tested, self.clip.transform))

    def classified(self, clip: Clip, pixels: Tensor, word: str = "") -> np.ndarray:
        """Which pictures (N, 3, H, W) a CLIP calls the concept, which may go by another prompt."""
        return (self._scores(clip, pixels, word).argmax(1) == self.row).cpu().numpy()

    def likeliest(self, pixels: Tensor) -> list[str]:
        """The three names that the CLIP under attack finds likeliest in pictures (N, 3, H, W)."""
        return self._best(self.clip, self._scores(self.clip, pixels))

    def _best(self, clip: Clip, scores: Tensor) -> list[str]:
        shares = (clip.logit_scale * scores).softmax(1)
        best = shares.topk(min(3, shares.shape[1]))
        names = list(self.classes)
        return [
            ", ".join(f"{names[at]} {100 * p:.0f} %" for p, at in zip(*row, strict=True))
            for row in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def _scores(self, clip: Clip, pixels: Tensor, word: str = "") -> Tensor:
        """The cosines (N, C) of pictures (N, 3, H, W) with all classes."""
        text = (self.features if clip is self.clip else class_features(clip, self.classes)).clone()
        with torch.no_grad():
            if word:
                text[self.row] = clip.encode_text(clip.tokenize([word]))[0]
            return torch.cat([clip.encode_image(part) for part in pixels.split(64)]) @ text.T

    @cached_property
    def features(self) -> Tensor:
        """The features (C, D) of all classes by the CLIP under attack."""
        return class_features(self.clip, self.classes)

    @property
    def row(self) -> int:
        """The number of the concept among the classes of a zero-shot CLIP."""
        return list(self.classes).index(self.name)

    @cached_property
    def judge(self) -> PictureJudge:
        """Who says what pictures of Stable Diffusion show: the same for every model."""
        evaluation = self.task.evaluation
        if not isinstance(evaluation, GenerateEvaluation):
            raise ValueError(f"a {self.task.kind} model draws nothing to judge")
        return evaluation.judged_by

    @cached_property
    def classes(self) -> Mapping[str, Sequence[str]]:
        """The prompts of each class of a zero-shot CLIP."""
        evaluation = self.task.evaluation
        if not isinstance(evaluation, ClassifyEvaluation):
            raise ValueError(f"a {self.task.kind} model has no classes")
        return evaluation.prompts

    def steps(self, text: str, count: int) -> Iterator[int]:
        """0 .. count - 1, each reported as a step of the task, at which it may be stopped."""
        for number in range(count):
            self.task.step(text, number, count)
            yield number

    @property
    def asked(self) -> str:
        """What a model is asked of each picture as usual."""
        return ASK[self.domain] if self.task.kind == "vlm" else "which name fits best"

    def tries(self, said: Sequence[str]) -> list[Try]:
        """What was said of each of the pictures that judge an attack, asked as usual."""
        return [Try(self.asked, *both) for both in zip(self.usual, said, strict=True)]

    def ended(
        self,
        trials: Trials,
        *,
        losses: Sequence[float] = (),
        curve: Mapping[str, float] | None = None,
        note: str = "",
    ) -> Attacked:
        """What an attack achieved that ended with a model used as usual."""
        tries = self.tries(trials.said) if trials.said else []
        return self.result(
            trials.hits, trials.pictures, losses=losses, curve=curve, note=note, tries=tries
        )

    def result(
        self,
        hits: np.ndarray,
        pictures: Sequence[Image] = (),
        *,
        found: str = "",
        losses: Sequence[float] = (),
        curve: Mapping[str, float] | None = None,
        note: str = "",
        tries: Sequence[Try] = (),
    ) -> Attacked:
        """What an attack achieved whose trials ended with `hits`, beside the rate before it."""
        rate, trials = self.before
        return Attacked(
            float(np.mean(hits)),
            len(hits),
            rate,
            trials,
            tuple(pictures),
            tuple(bool(hit) for hit in hits),
            found,
            tuple(losses),
            curve or {},
            note,
            tuple(tries),
        )


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures in the attacker's hands, as a Diffusion is trained on them: latents (N, C, h, w).

    `least` is the share of the schedule below which nothing is noised: pictures that are nearly
    clean say little of what they show.
    """

    model: Any
    latents: Tensor
    least: float = 0.0

    @classmethod
    def of(cls, model: Any, examples: Sequence[Example], *, least: float = 0.0) -> "Pictures":  # noqa: ANN401
        """The latents of examples."""
        shown = [images.read(example.image) for example in examples]
        return cls(model, model.encode(shown), least)

    def loss(
        self,
        states: Tensor,
        noise: torch.Generator,
        *,
        rows: Tensor | None = None,
        weights: Weights | None = None,
    ) -> Tensor:
        """The squared error of the model's prediction at one random timestep of each picture.

        The timesteps of a batch are drawn from as many equal parts of the schedule, in any order.
        `states` (N or 1, T, D) are read, `weights` stand in for U-Net tensors ("unet/..."); both
        get gradients. `rows` chooses pictures, all of them if not given.
        """
        latents = self.latents if rows is None else self.latents[rows]
        last, count = len(self.model.schedule) - 1, len(latents)
        parts = torch.randperm(count, generator=noise) + torch.rand(count, generator=noise)
        share = self.least + (1 - self.least) * parts / count
        t = (share * last).long().clamp(1, last)
        fresh = torch.randn(latents.shape, generator=noise).to(latents)
        seen = self.model.schedule.noised(latents, t, fresh)
        output = self.model.predict(seen, t, states.expand(len(latents), -1, -1), weights)
        return F.mse_loss(output, self.model.schedule.target(latents, fresh, t))


@dataclass(frozen=True)
class Attack:
    """One attack, or one probe that looks inside.

    `hosts` are the kinds of model it works on, `parts` what of a model it works through, `access`
    what the attacker must know, `needs` "texts", "pictures" or "both"; `seconds` is a rough time
    on pocket-sized models. `of_edit`: which tensors the edit moved decides what is done, also to
    the original.
    """

    name: str
    run: Callable[[Target], Attacked]
    group: str
    hosts: tuple[str, ...]
    parts: tuple[str, ...]
    access: str
    needs: str
    cite: str
    deviations: str = ""
    seconds: float = 1.0
    of_edit: bool = False

    def unable(self, kind: str) -> str:
        """Why it cannot attack a kind of model, in a sentence; "" when it can."""
        if kind in self.hosts:
            return ""
        able = " and ".join(HOSTS[host] for host in self.hosts)
        return (
            f"{self.name} cannot attack {HOSTS[kind]}: it attacks the {' and '.join(self.parts)} of "
            f"{able}."
        )

    def check(self, task: Task) -> None:
        """Raises SlugError unless the attack can be tried on this task's kind of model."""
        if reason := self.unable(task.kind):
            raise SlugError(reason)


def changed_clip(clip: Clip, edits: Sequence[Edit]) -> Clip:
    """A twin of a CLIP with what the edits change of its towers."""
    named = {edit.qualified(name): tensor for name, tensor in clip.named().items()}
    moved = edit.apply(named, edits)
    return clip.edited({clip_name(name): tensor for name, tensor in moved.items()})


def class_features(clip: Clip, prompts: Mapping[str, Sequence[str]]) -> Tensor:
    """The features (C, D) of unit norm of classes with their prompts."""
    texts = [text for several in prompts.values() for text in several]
    features = Memory(clip, "text", clip.tokenize(texts)).features
    means = [part.mean(0) for part in features.split([len(p) for p in prompts.values()])]
    return F.normalize(torch.stack(means), dim=-1)


def matrices(model: Any, parts: Sequence[str]) -> dict[str, Tensor]:  # noqa: ANN401
    """The weights of two and more dimensions of some parts, by part-qualified name.

    Embeddings are left out. Takes a Clip or a model with `named()` in part-qualified names.
    """
    named = model.named()
    if isinstance(model, Clip):
        named = {edit.qualified(name): tensor for name, tensor in named.items()}
    return {
        name: tensor.detach()
        for name, tensor in named.items()
        if part_of(name) in parts and tensor.dim() > 1 and "embedding" not in name
    }


def with_rule(model: Any, rule: Any) -> Any:  # noqa: ANN401
    """A twin of a Diffusion that follows one rule more, after those it has."""
    twin = copy.copy(model)
    twin.rules = (*model.rules, rule)
    return twin


def plain_words(domain: str, word: str) -> str:
    """A prompt that holds a word of a domain and nothing else."""
    return style_prompt(word) if domain == "style" else prompt(word, PLAIN)
