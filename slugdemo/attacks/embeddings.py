"""Attacks with vectors in the place of words: white boxes, and what a vector alone can do.

Knows token embeddings, states and noise predictions; changes no weight.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from slugdemo import data
from slugdemo.attacks.attack import (
    Attacked,
    Pictures,
    Target,
    plain_words,
    with_rule,
)
from slugdemo.closed_form import adversary
from slugdemo.concept import named, prompt
from slugdemo.evaluation.prompt_set import spread
from slugdemo.models.base import Moment, Outputs, Rule

TABLE = "token_embedding.weight"
STEPS, BATCH, HELD = 60, 8, 8  # of a soft prompt, on so many pictures of the concept
RATE = {"zero-shot": 0.3, "diffusion": 0.6}  # of Adam, times the typical size of an entry
LEAST = 0.3  # of the schedule: pictures that are less noisy do not teach a prompt
TRIED = 32  # names of other concepts, the best of which a soft prompt begins at
PACE, EVERY = 1.0, 5  # seconds and steps between two pictures so far, at least
RIDGE = 0.1  # RECE's regulariser r
ETA = 3.0  # how far Ring-A-Bell goes along its vector
ETAS = (1.0, 2.0, ETA)
WEIGHT = 3.0  # of eps(c1) - eps(c2) beside the guided noise of the neighbour


# ---- soft prompts at the input: they pass every layer of the model


def soft_input(target: Target, *, count: int) -> Attacked:
    """`count` vectors among the token embeddings, trained until pictures of the concept fit them.

    Textual inversion on the model under attack (Circumventing Concept Erasure, arXiv 2308.01508,
    one vector; UnlearnDiffAtk's loss, arXiv 2310.11868). On Stable Diffusion the denoising loss of
    8 pictures, judged on pictures drawn from other noise; on a zero-shot CLIP the cross-entropy
    among all classes, judged on other pictures. Deviations: 60 Adam steps instead of 5000; they
    begin at the name among 32 other concepts' that fits the pictures best. Raises SlugError where
    there is no other concept.
    """
    run = _soft_clip if target.task.kind == "zero-shot" else _soft_diffusion
    return run(target, count)


@dataclass(frozen=True)
class Slots:
    """Prompts in which some tokens are vectors: their ids (N, T), and the ids of the vectors."""

    ids: Tensor
    slots: Tensor  # (k,)

    @classmethod
    def among(cls, ids: Tensor, ends: Sequence[int], count: int) -> "Slots":
        """`count` vectors before position `ends` of each row of token ids (N, T)."""
        used = {*ids.flatten().tolist()}
        free = [number for number in range(len(used) + count) if number not in used][:count]
        slots = torch.tensor(free, device=ids.device)
        rows = [
            torch.cat([row[:end], slots, row[end : len(row) - count]])
            for row, end in zip(ids, ends, strict=True)
        ]
        return cls(torch.stack(rows), slots)

    def table(self, table: Tensor, vectors: Tensor) -> Tensor:
        """A token table (V, W) in which the slots hold the vectors (k, W), with gradients."""
        return table.index_copy(0, self.slots, vectors)


def _soft_diffusion(target: Target, count: int) -> Attacked:
    model, noise = target.model, target.task.generator(3)
    pictures = Pictures.of(model, target.held(HELD), least=LEAST)
    styles = [example.labels.get("style", "plain") for example in target.held(HELD)]
    things = [example.labels.get("concept", "thing") for example in target.held(HELD)]
    trained = _inserted(target, [*zip(things, styles, strict=True)], count)
    asked = _inserted(target, [(spec.concept, spec.style) for spec in target.specs], count)
    table = model.named()[f"text/{TABLE}"].detach().float()

    def states(slots: Slots, vectors: Tensor) -> Tensor:
        return model.states_of(slots.ids, {f"text/{TABLE}": slots.table(table, vectors)})

    def loss(vectors: Tensor, noise: torch.Generator = noise) -> Tensor:
        rows = torch.randint(len(trained.ids), (BATCH,), generator=noise)
        return pictures.loss(states(trained, vectors)[rows], noise, rows=rows)

    def look(vectors: Tensor) -> None:
        first = states(asked, vectors)[:1].detach()
        target.judged(model.generate(states=first, seeds=target.seeds[:1], **target.drawing))

    start = _start(target, table, count, lambda tried: loss(tried, target.task.generator(9)))
    vectors, losses = descended(target, start, loss, look=look)
    drawn = model.generate(
        states=states(asked, vectors).detach(), seeds=target.seeds, **target.drawing
    )
    shown, hits = target.judged(drawn)
    return target.result(hits, shown, found=_nearest(model, table, vectors), losses=losses)


def _inserted(target: Target, asked: Sequence[tuple[str, str]], count: int) -> Slots:
    """Prompts for things and styles, with vectors in the place of the concept's name."""
    model = target.model
    if target.domain == "style":
        texts = [f"a picture of {named(thing)}" for thing, _ in asked]
        return Slots.among(model.tokens(texts)[0], [2] * len(texts), count)  # after "a"
    texts = [prompt("a", style) for _, style in asked]  # "a neon picture of a"
    return Slots.among(model.tokens(texts)[0], model.ends(texts).tolist(), count)


def _start(target: Target, table: Tensor, count: int, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """The embeddings of another name's first tokens, a little apart from each other: (k, W).

    Of TRIED names that of the lowest `loss`, in which nothing may be left to chance.
    """
    names = spread(target.task.preserved, min(TRIED, len(target.task.preserved)))
    ids = target.clip.tokenize(names)
    noise = torch.randn(count, table.shape[1], generator=target.task.generator(4)).to(table)
    best, least = table[:count], math.inf
    for step in target.steps("Choosing where to begin", len(names)):
        tokens = ids[step, 1 : max(2, int(ids[step].argmax()))]  # between the two ends
        tried = table[tokens[torch.arange(count) % len(tokens)]] + 0.1 * table.std() * noise
        with torch.no_grad():
            value = loss(tried).item()
        if value < least:
            best, least = tried, value
    return best


def _nearest(model: Any, table: Tensor, vectors: Tensor) -> str:  # noqa: ANN401
    """The tokens whose embeddings point most nearly where the vectors do."""
    cosines = F.normalize(vectors, dim=1) @ F.normalize(table, dim=1).T
    return model.spelled(cosines.argmax(1)[None])[0]


def _soft_clip(target: Target, count: int) -> Attacked:
    clip, classes = target.clip, target.features.clone()
    table = clip.named()[TABLE].detach()
    text = plain_words(target.domain, "a" if target.domain == "concept" else "")
    ids = clip.tokenize([text])
    end = ids.argmax(1).tolist() if target.domain == "concept" else [2]
    slots = Slots.among(ids, end, count)
    held = data.pixels(target.held(HELD), clip.transform)
    with torch.no_grad():
        seen = clip.encode_image(held)
    right = torch.full((len(seen),), target.row)

    def feature(vectors: Tensor) -> Tensor:
        return clip.encode_text(slots.ids, weights={TABLE: slots.table(table, vectors)})

    def loss(vectors: Tensor) -> Tensor:
        among = torch.cat([classes[: target.row], feature(vectors), classes[target.row + 1 :]])
        return F.cross_entropy(clip.logit_scale * seen @ among.T, right)

    vectors, losses = descended(target, _start(target, table, count, loss), loss)
    with torch.no_grad():
        shown = clip.encode_image(data.pixels(target.tested, clip.transform))
        classes[target.row] = feature(vectors)[0]
    hits = ((shown @ classes.T).argmax(1) == target.row).numpy()
    return target.result(hits, losses=losses)


def descended(
    target: Target,
    start: Tensor,
    loss: Callable[[Tensor], Tensor],
    *,
    look: Callable[[Tensor], None] | None = None,
) -> tuple[Tensor, list[float]]:
    """`start` after STEPS steps of Adam on a loss of it, and the losses.

    The learning rate is that of RATE times the typical size of an entry, falling to zero linearly.
    """
    leaf = start.clone().requires_grad_()
    size = RATE[target.task.kind] * start.abs().mean().item()
    optimiser = torch.optim.Adam([leaf], lr=size)
    losses, looked = [], -math.inf
    for step in target.steps("Training a soft prompt", STEPS):
        with torch.enable_grad():
            value = loss(leaf)
        (leaf.grad,) = torch.autograd.grad(value, [leaf])
        optimiser.param_groups[0]["lr"] = size * (1 - step / STEPS)
        optimiser.step()
        losses.append(value.item())
        target.follow(losses[-1])
        if look and step % EVERY == 0 and time.monotonic() - looked >= PACE:
            look(leaf.detach())
            looked = time.monotonic()
    return leaf.detach(), losses


# ---- vectors at the output: they go round the text tower


def soft_output(target: Target, *, count: int = 2) -> Attacked:
    """`count` vectors in the place of the text tower's states, repeated over the prompt.

    As `soft_input`, but what is trained is what the U-Net reads: an edit of the text tower is
    gone round altogether, so success says only what the U-Net can still draw.
    """
    model, noise = target.model, target.task.generator(5)
    pictures = Pictures.of(model, target.held(HELD))
    empty = model.states([""])  # (1, T, D)
    place = torch.arange(empty.shape[1] - 1) % count

    def states(vectors: Tensor) -> Tensor:
        return torch.cat([empty[:, :1], vectors[place][None]], dim=1)

    def loss(vectors: Tensor) -> Tensor:
        rows = torch.randint(len(pictures.latents), (BATCH,), generator=noise)
        return pictures.loss(states(vectors), noise, rows=rows)

    def look(vectors: Tensor) -> None:
        first = states(vectors)
        target.judged(model.generate(states=first, seeds=target.seeds[:1], **target.drawing))

    start = model.states([plain_words(target.domain, name) for name in target.task.preserved[:16]])
    begin = start[:, 1:].mean((0, 1)).expand(count, -1)
    vectors, losses = descended(target, begin, loss, look=look)
    drawn = model.generate(states=states(vectors), seeds=target.seeds, **target.drawing)
    shown, hits = target.judged(drawn)
    return target.result(hits, shown, losses=losses)


def ring_a_bell(target: Target, *, encoder: str) -> Attacked:
    """States of another concept's prompt moved along the concept's vector, by a slider eta.

    v = mean of states with the concept less states without it; target = states + eta v, eta 3
    (Ring-A-Bell, arXiv 2310.10012). `encoder` says whose states: those of the "original" text
    tower go round an edit of it; those of the model under "attack" are the fair question, which
    asks by name and may miss a concept that was only renamed.
    """
    read = target.task.model.states if encoder == "original" else target.model.states
    others = target.task.preserved[:: max(1, len(target.task.preserved) // 8)][:8]
    given = read([plain_words(target.domain, target.name)])  # (1, T, D)
    without = read([plain_words(target.domain, name) for name in others])
    vector, count = (given - without).mean(0, keepdim=True), len(target.seeds)
    base = without[torch.arange(count) % len(others)]
    curve = {}
    for step, eta in zip(target.steps("Ring-A-Bell's vector", len(ETAS)), ETAS, strict=True):
        drawn = target.model.generate(
            states=base + eta * vector, seeds=target.seeds, **target.drawing
        )
        shown, hits = target.judged(drawn)
        curve[f"eta {ETAS[step]:g}"] = float(hits.mean())
    return target.result(hits, shown, curve=curve)


def rece(target: Target) -> Attacked:
    """RECE's closed-form adversary: states that make the edited cross-attention answer as before.

    c are the original tower's states of the concept's prompts, W and W' all to_k and to_v of
    cross-attention, before and after. Where the U-Net is unedited c' is nearly c, so that the
    attack only goes round the text tower.
    """
    target.task.step("Solving for the adversary", 0, 1)
    old, new = target.task.model.named(), target.model.named()
    names = [n for n in old if n.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))]
    move = adversary([old[n] for n in names], [new[n] for n in names], ridge=RIDGE)
    states = target.task.model.states(target.worded(target.name))
    asked = (states.double() @ move.T).to(states)
    drawn = target.model.generate(states=asked, seeds=target.seeds, **target.drawing)
    shown, hits = target.judged(drawn)
    away = (asked - states).norm() / states.norm()
    return target.result(hits, shown, note=f"c' lies {100 * away:.0f} % of its length away from c")


# ---- noise predictions


@dataclass(frozen=True)
class Arithmetic(Rule):
    """Adds w (eps(c1) - eps(c2)) to the noise that is followed; c1 and c2 are states (1, T, D).

    At one moment noise, velocity and picture differ by a factor, the same for all three terms, so
    the outputs add up in any prediction type.
    """

    plus: Tensor
    minus: Tensor
    weight: float

    def combine(self, output: Tensor, seen: Outputs, at: Moment) -> Tensor:  # noqa: ARG002
        """The output so far, moved by the difference."""
        size = len(seen.latents)
        plus, minus = (
            seen.predict(states.expand(size, -1, -1)) for states in (self.plus, self.minus)
        )
        return output + self.weight * (plus - minus)


def arithmetic(target: Target) -> Attacked:
    """A neighbour's picture, moved by eps(concept and neighbour) - eps(neighbour) at each step.

    Concept arithmetics (Petsiuk and Saenko, arXiv 2404.13706): an erased prompt may still differ
    from its surroundings in the right direction. It asks by name, so it may miss a concept that
    was only renamed. Deviations: their weights are not known; w is 3.
    """
    model, words = target.model, partial(plain_words, target.domain)
    other = (
        [n for n in target.task.eval_set.neighbours if n != target.name] or target.task.preserved
    )[0]
    both = words(
        f"{target.name} and {named(other)}"
        if target.domain == "concept"
        else f"{target.name} {other}"
    )
    rule = Arithmetic(model.states([both]), model.states([words(other)]), WEIGHT)
    states = model.states([words(other)])
    drawn = with_rule(model, rule).generate(states=states, seeds=target.seeds, **target.drawing)
    shown, hits = target.judged(drawn)
    return target.result(hits, shown)


one_vector: Callable[[Target], Attacked] = partial(soft_input, count=1)
two_vectors: Callable[[Target], Attacked] = partial(soft_input, count=2)
original_encoder: Callable[[Target], Attacked] = partial(ring_a_bell, encoder="original")
own_encoder: Callable[[Target], Attacked] = partial(ring_a_bell, encoder="attack")
