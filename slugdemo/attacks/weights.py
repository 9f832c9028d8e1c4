"""Attacks on the weights: training them again, rounding them, going back along the edit.

Knows tensors and how they are trained; everything is done to twins.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from slugdemo.attacks.attack import Attacked, Pictures, Target, Trials, matrices
from slugdemo.concept import Example
from slugdemo.edit import clip_name
from slugdemo.gradients import retain_loss
from slugdemo.training import TowerPairs, adamw, trained
from slugdemo.unet_training import text_readers
from slugdemo.weights import Weights

HELD, RELEARNING = 4, (0, 2, 5, 10, 20, 50)  # pictures, and the steps at which it is judged
RATE = {"zero-shot": 1e-4, "diffusion": 3e-4, "vlm": 1e-4}
OTHERS = 12  # pictures of other things beside them on CLIP, for contrast
UNDONE = (0.0, 0.25, 0.5, 0.75, 1.0)


def relearning(target: Target) -> Attacked:
    """Fine-tuning on 4 pictures of the concept with its prompt: is it back sooner than it came?

    After MemoRa (500 steps of LoRA on a few pictures). On Stable Diffusion the denoising loss moves
    the text tower's matrices and what reads text in the U-Net; on CLIP's towers the contrastive
    loss of the pictures among 12 of other things. AdamW, success after 50 steps, and the curve on
    the way: the model that never saw the concept says how fast it is simply learnt.
    """
    return _fine_tuned(target, target.held(HELD))


def harmless(target: Target) -> Attacked:
    """The same fine-tuning on pictures of other things: does the concept come back by itself?

    A concept that was only renamed does not: it is still there, under another name.
    """
    return _fine_tuned(target, _others(target, HELD))


def _others(target: Target, count: int) -> list[Example]:
    kept = target.task.concept.retain
    return [kept[at * len(kept) // count] for at in range(count)] if kept else []


def _fine_tuned(target: Target, shown: Sequence[Example]) -> Attacked:
    make = _diffusion_loss if target.task.kind == "diffusion" else _clip_loss
    weights, loss = make(target, shown)
    kept: dict[int, Weights] = {}
    losses: list[float] = []

    def watched(now: Weights, step: int) -> Tensor:
        if step in RELEARNING:
            kept[step] = {name: now[name].detach() - weights[name] for name in now}
        value = loss(now)
        losses.append(value.item())
        target.follow(losses[-1])
        return value

    rate, last = RATE[target.task.kind], RELEARNING[-1]
    kept[last] = trained(target.task, weights, watched, steps=last, optimiser=adamw(rate, 0.0))
    curve = {}
    for step in RELEARNING:
        target.task.step("Judging what was learnt", step, last)
        trials = target.trials(target.moved(kept[step]))
        curve[f"{step} steps"] = float(trials.hits.mean())
    return target.ended(trials, losses=losses, curve=curve)


def _diffusion_loss(
    target: Target, shown: Sequence[Example]
) -> tuple[Weights, Callable[[Weights], Tensor]]:
    model, noise = target.model, target.task.generator(6)
    named, readers = model.named(), text_readers(target.task)
    weights = {n: named[n].detach() for n in (*matrices(model, ("text",)), *readers)}
    pictures = Pictures.of(model, shown)
    ids = model.tokens([example.caption for example in shown])[0]

    def loss(now: Weights) -> Tensor:
        rows = torch.arange(len(shown)).repeat(2)
        states = model.states_of(ids, now)[rows]
        unet = {name: now[name] for name in readers}
        return pictures.loss(states, noise, rows=rows, weights=unet)

    return weights, loss


def _clip_loss(
    target: Target, shown: Sequence[Example]
) -> tuple[Weights, Callable[[Weights], Tensor]]:
    clip = target.clip
    parts = ("text", "vision") if target.task.kind == "zero-shot" else ("vision",)
    weights = matrices(clip, parts)
    names = [clip_name(name) for name in weights]
    company = [e for e in _others(target, OTHERS) if e not in shown]
    pairs = TowerPairs(clip, [*shown, *company], names)
    rows = torch.arange(len(pairs))

    def loss(now: Weights) -> Tensor:
        named = {clip_name(name): tensor for name, tensor in now.items()}
        return retain_loss(*pairs.features(rows, named), scale=clip.logit_scale)

    return weights, loss


# ---- rounding


def quantised(target: Target, *, bits: int) -> Attacked:
    """The edited matrices rounded to int8 or int4, one scale an output channel, and judged.

    Small edits may vanish in rounding (arXiv 2410.16454); `note` tells the share of codes that
    differ from those of the original's rounded weights. Without an edit all matrices are rounded.
    Deviations: symmetric round-to-nearest of the edited layers alone, so that what comes back is
    not hidden by what rounding does to everything else. A concept that was only renamed stays so.
    """
    target.task.step("Rounding weights", 0, 1)
    parts = {"zero-shot": ("text", "vision"), "diffusion": ("text", "unet"), "vlm": ("vision",)}
    own = matrices(
        target.clip if target.task.kind == "vlm" else target.model, parts[target.task.kind]
    )
    edited = {part for edit in target.given for part in edit.delta}
    chosen = {n: w for n, w in own.items() if n in edited} or own
    delta = {name: rounded(weight, bits)[1] - weight for name, weight in chosen.items()}
    trials = target.trials(target.moved(delta))
    before = target.task.clip if target.task.kind == "vlm" else target.task.model
    share = changed_codes(matrices(before, parts[target.task.kind]), chosen, bits)
    return target.ended(trials, note=f"{100 * share:.1f} % of the int{bits} codes differ")


def rounded(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """The codes of a weight (out, ...) and what they stand for; a zero channel stays zero."""
    most = 2 ** (bits - 1) - 1
    flat = weight.float().flatten(1)
    scale = flat.abs().amax(1, keepdim=True) / most
    codes = torch.where(scale > 0, flat / scale, 0.0).round()
    return codes.to(torch.int8).view_as(weight), (codes * scale).view_as(weight)


def changed_codes(before: Weights, after: Weights, bits: int) -> float:
    """The share of entries of `after` whose code differs from that in `before`."""
    pairs = [(rounded(before[name], bits)[0], rounded(after[name], bits)[0]) for name in after]
    return sum(int((a != b).sum()) for a, b in pairs) / sum(a.numel() for a, _ in pairs)


# ---- undoing


def undo(target: Target) -> Attacked:
    """W' - a (W' - W): how much of an edit must be taken back until the concept is there again.

    Success at a = 1/2, and the curve from 0 (edited) to 1 (original). On a model without the edit
    there is nothing to undo, and every point is its own rate.
    """
    curve: dict[str, float] = {}
    ends: dict[float, Trials] = {}
    for step in target.steps("Undoing", len(UNDONE)):
        back = UNDONE[step]
        model = target.undone(back)
        ends[back] = target.trials(model)
        curve[f"{100 * back:.0f} % undone"] = float(ends[back].hits.mean())
    return target.ended(ends[0.5], curve=curve)


int8: Callable[[Target], Attacked] = partial(quantised, bits=8)
int4: Callable[[Target], Attacked] = partial(quantised, bits=4)
