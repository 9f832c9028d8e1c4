"""Probes: what is inside a model that no longer shows the concept, and in which layers.

Knows activations, hybrids of two models and what a model makes of matching pairs; changes no
weight. The success of a probe means little without the same probe on a model that never saw the
concept.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from slugdemo import data, images
from slugdemo.attacks.attack import Attacked, Target, plain_words
from slugdemo.concept import Example, prompt
from slugdemo.edit import part_of, qualified, within
from slugdemo.errors import SlugError
from slugdemo.evaluation.prompt_set import label, spread
from slugdemo.layer_names import depth
from slugdemo.models import towers
from slugdemo.models.zero_shot import Memory
from slugdemo.weights import Weights

MANY = 96  # pictures or prompts of other things that a probe learns from, and is judged on
RIDGE, FALSE_ALARMS = 1.0, 0.05
MOMENTS, PAIRS = (0.2, 0.4, 0.6, 0.8), 16  # of the schedule; matching pairs to set the threshold by
ALONE = ("a picture of {}", "an image of {}", "a photo of {}", "this is {}")


# ---- a linear probe on every layer


def linear_probe(target: Target) -> Attacked:
    """How well a linear probe on each layer's features tells the concept from everything else.

    Ridge regression on mean activations after each block; success is the share of held-out items
    of the concept above the threshold at which 5 % of the held-out others are, in the best layer
    (`curve` has all). On CLIP's vision tower the items are pictures; on Stable Diffusion's text
    tower they are prompts, in two templates to learn from and two others to be judged by, which name the
    concept: there it may miss a concept that was only renamed.
    """
    tower = "text" if target.task.kind == "diffusion" else "vision"
    learnt, judged = (_prompts if tower == "text" else _shown)(target)
    curve, best = {}, np.zeros(len(judged[0]), bool)
    first, second = (_memory(target, tower, own, rest) for own, rest in (learnt, judged))
    layers = _layers(target, tower)
    for step, (name, stage) in zip(
        target.steps("Probing layers", len(layers)), layers.items(), strict=True
    ):
        train, test = _features(first, stage), _features(second, stage)
        hits = told_apart(train, len(learnt[0]), test, len(judged[0]))
        curve[name] = float(hits.mean())
        best = hits if step == 0 or hits.mean() > best.mean() else best
    return target.result(best, curve=curve)


Items = tuple[list, list]  # the concept's, and others'


def _prompts(target: Target) -> tuple[Items, Items]:
    others = spread(target.task.preserved, min(MANY // 2, len(target.task.preserved)))

    def written(name: str, at: slice) -> list[str]:
        if target.domain == "style":
            things = spread(target.task.eval_set.concepts, 8)
            return [prompt(thing, name) for thing in things[::2] if at.start == 0] + [
                prompt(thing, name) for thing in things[1::2] if at.start
            ]
        it = prompt(name).removeprefix("a picture of ")
        return [text.format(it) for text in ALONE[at]]

    def items(at: slice) -> Items:
        return written(target.name, at), [text for name in others for text in written(name, at)]

    return items(slice(0, 2)), items(slice(2, 4))


def _shown(target: Target) -> tuple[Items, Items]:
    held, domain = target.task.eval_set.test, target.domain
    others = [e for e in held if e.labels.get(domain) != target.name]
    kept = target.task.concept.retain
    own = target.held(16)
    learnt = spread(kept, min(MANY, len(kept)))
    return (own, list(learnt)), (target.tested, spread(others or kept[1::2], MANY))


def _memory(target: Target, tower: str, own: Sequence, rest: Sequence) -> Memory:
    clip, items = target.clip, [*own, *rest]
    if tower == "text":
        return Memory(clip, tower, clip.tokenize(items))
    return Memory(clip, tower, data.pixels(items, clip.transform))


def _layers(target: Target, tower: str) -> dict[str, int]:
    """The stage after each block of a tower, by the block's name."""
    count = len(towers.chain(target.clip.model, tower))
    return {f"after stage {stage}": stage for stage in range(2, count, 2)} | {"output": count}


def _features(memory: Memory, stage: int) -> Tensor:
    """Mean activations (N, W) before a stage, over the tokens that count."""
    x = memory.before(stage)
    if x.dim() == 2:
        return x
    if memory.tower == "vision":
        return x.mean(1)
    counted = torch.arange(x.shape[1]) <= memory.rows[:, None]  # (N, T)
    return (x * counted[..., None]).sum(1) / counted.sum(1, keepdim=True)


def told_apart(train: Tensor, own: int, test: Tensor, mine: int) -> np.ndarray:
    """Which of the first `mine` rows of `test` a probe learnt on `train` tells from the others.

    The first `own` rows of `train` (N, W) are the concept's. Ridge regression to +-1, both sides
    weighted alike, on features of unit spread; the threshold lets FALSE_ALARMS of the others pass.
    """
    middle, size = train.mean(0), train.std(0) + 1e-6
    x, y = (train - middle) / size, -torch.ones(len(train))
    y[:own] = 1
    weight = torch.where(y > 0, 0.5 / own, 0.5 / (len(train) - own))
    ones = torch.cat([x, torch.ones(len(x), 1)], dim=1).double()
    gram = ones.T @ (weight.double()[:, None] * ones)
    gram += RIDGE / len(train) * torch.eye(gram.shape[0], dtype=gram.dtype)
    solution = torch.linalg.solve(gram, ones.T @ (weight * y).double())
    held = torch.cat([(test - middle) / size, torch.ones(len(test), 1)], dim=1).double() @ solution
    threshold = held[mine:].quantile(1 - FALSE_ALARMS)
    return (held[:mine] > threshold).numpy()


# ---- which layers still hold it


def patching(target: Target) -> Attacked:
    """How long the concept survives in hybrids: the model under attack up to a block, then the original.

    Handing the original's later blocks the activations of the model under attack asks what these
    still hold (activation patching; the idea of the unlearning depth score). Success is the mean
    rate over all blocks: 1 when every layer still hands the concept on, 0 when even the first one
    loses it. Towers are patched together; a U-Net counts as the last block. A concept that was only
    renamed is lost from the tensor on that renames it, whatever the later ones hold.

    Raises SlugError for a reference whose tensors have other shapes than the original's.
    """
    before, after = _tensors(target, original=True), _tensors(target, original=False)
    if any(after[name].shape != before[name].shape for name in after):
        raise SlugError(
            "This model cannot be patched into the original: it was trained with another "
            "vocabulary, so their tensors differ in shape. Try another attack on it."
        )
    moved = {n: after[n] - before[n] for n in after if not torch.equal(after[n], before[n])}
    original = Target(target.task)
    curve: dict[str, float] = {}
    rates: dict[frozenset[str], np.ndarray] = {}
    hits: list[np.ndarray] = []
    levels = sorted({_level(name) for name in after})
    for step, level in zip(target.steps("Patching", len(levels)), levels, strict=True):
        delta = {name: moved[name] for name in moved if _level(name) <= level}
        key = frozenset(delta)
        if key not in rates:
            rates[key] = original.trials(original.moved(delta)).hits
        hits.append(rates[key])
        curve[f"up to block {step}"] = float(rates[key].mean())
    note = "" if moved or not target.edits else "this edit changes no weight"
    return target.result(np.concatenate(hits), curve=curve, note=note)


def _tensors(target: Target, *, original: bool) -> Weights:
    if target.task.kind == "diffusion":
        return (target.task.model if original else target.model).named()
    clip = target.task.clip if original else target.clip
    return {qualified(name): tensor.detach() for name, tensor in clip.named().items()}


def _level(name: str) -> int:
    """Where in the model a tensor is: before the blocks, in block 0, 1, ..., behind, the U-Net."""
    if part_of(name) == "unet":
        return 2000
    stem = within(name).removesuffix(".bias").removesuffix(".weight")
    if stem.startswith("transformer.resblocks."):
        return int(stem.split(".")[2])
    return 1000 if depth(name)[0] == 2 and "embedding" not in name else -1


# ---- membership


def membership(target: Target) -> Attacked:
    """Whether pictures of the concept and its prompt still look like a pair that was learnt.

    The model's own score of a pair is compared with a threshold that best separates matching from
    mismatched pairs of other things. On CLIP's towers the score is the cosine; on Stable Diffusion
    it is how much the prompt lowers the denoising loss (conditional likelihood discrepancy,
    arXiv 2405.14800). Membership of the concept, not of single pictures; it
    asks by name, so it may miss a concept that was only renamed.
    """
    target.task.step("Comparing pairs", 0, 1)
    score = _discrepancy if target.task.kind == "diffusion" else _cosines
    kept = [e for e in target.task.concept.retain if e.labels.get(target.domain)]
    others = spread(kept or target.task.concept.retain, PAIRS)
    texts = [plain_words(target.domain, label(e, target.domain)) for e in others]
    right = score(target, others, texts)
    wrong = score(target, others, [*texts[PAIRS // 2 :], *texts[: PAIRS // 2]])
    own = score(target, target.tested, [target.task.concept.words] * len(target.tested))
    line = threshold(right, wrong)
    return target.result((own > line).numpy(), note=f"threshold {line:.3g}")


def threshold(right: Tensor, wrong: Tensor) -> float:
    """The value that best separates two samples: most of `right` above, most of `wrong` below."""
    values = torch.cat([right, wrong]).sort().values
    cuts = (values[1:] + values[:-1]) / 2
    good = (right[None] > cuts[:, None]).float().mean(1) + (
        wrong[None] <= cuts[:, None]
    ).float().mean(1)
    return cuts[int(good.argmax())].item()


@torch.no_grad()
def _cosines(target: Target, examples: Sequence[Example], texts: Sequence[str]) -> Tensor:
    clip = target.clip
    image = clip.encode_image(data.pixels(examples, clip.transform))
    return (image * clip.encode_text(clip.tokenize(list(texts)))).sum(1)


@torch.no_grad()
def _discrepancy(target: Target, examples: Sequence[Example], texts: Sequence[str]) -> Tensor:
    model = target.model
    latents = model.encode([images.read(example.image) for example in examples])
    noise = torch.randn(latents.shape, generator=target.task.generator(7)).to(latents)
    states, blank = model.states(list(texts)), model.states([""]).expand(len(texts), -1, -1)
    total = torch.zeros(len(latents))
    for step in target.steps("Comparing losses", len(MOMENTS)):
        t = torch.full((len(latents),), int(MOMENTS[step] * len(model.schedule)))
        seen, wanted = (
            model.schedule.noised(latents, t, noise),
            model.schedule.target(latents, noise, t),
        )
        losses = [
            ((model.predict(seen, t, read) - wanted) ** 2).flatten(1).mean(1)
            for read in (blank, states)
        ]
        total += (losses[0] - losses[1]).cpu()
    return total / len(MOMENTS)
