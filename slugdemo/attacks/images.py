"""Attacks with pictures: small changes, new looks, other questions, until the name comes back.

Knows pixels, questions and answers; changes no weight.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor

from slugdemo import data, images
from slugdemo.attacks.attack import Attacked, Target, Try
from slugdemo.concept import named
from slugdemo.evaluation.answer import says
from slugdemo.models.llava import seen

EPSILON, ROUNDS = 4 / 255, 10  # of PGD, in pixel values of [0, 1]
LOOKS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "grey": lambda shown: ImageOps.grayscale(shown).convert("RGB"),
    "negative": ImageOps.invert,
    "few colours": lambda shown: ImageOps.posterize(shown, 2),
    "solarised": ImageOps.solarize,
    "outlines": lambda shown: ImageOps.invert(
        shown.convert("L").filter(ImageFilter.FIND_EDGES)
    ).convert("RGB"),
    "mirrored": ImageOps.mirror,
    "blurred": lambda shown: shown.filter(ImageFilter.GaussianBlur(max(shown.size) / 64)),
}


def pgd(target: Target) -> Attacked:
    """Pictures changed by at most 4/255 in each pixel until the model names the concept again.

    Projected gradient descent (Madry et al., arXiv 1706.06083), 10 steps of a quarter of the size.
    On a zero-shot CLIP it follows the cross-entropy of the concept among all classes, by name, so
    it may miss a concept that was only renamed; on a vision-language model it pulls what the
    language model is given towards what the original model gives it for the unchanged picture.
    """
    if target.task.kind == "vlm":
        return _pgd_vlm(target)
    clip = target.clip
    clean = data.pixels(target.tested, clip.transform)
    classes = target.features
    right = torch.full((len(clean),), target.row)

    def loss(pixels: Tensor) -> Tensor:
        scores = clip.logit_scale * clip.encode_image(pixels) @ classes.T
        return F.cross_entropy(scores, right, reduction="sum")

    ends = span(clip.transform)
    found, losses = perturbed(target, clean, loss, ends)
    tries = target.tries(target.likeliest(found))
    shown = pictures(found, ends)
    return target.result(target.classified(clip, found), shown, losses=losses, tries=tries)


def _pgd_vlm(target: Target) -> Attacked:
    model, original = target.model, target.task.model
    clean = model.pixels([images.read(example.image) for example in target.tested])
    with torch.no_grad():
        goal = seen(original.model, clean)

    def loss(pixels: Tensor) -> Tensor:
        return F.mse_loss(seen(model.model, pixels), goal, reduction="sum")

    ends = span(lambda shown: model.pixels([shown])[0])
    found, losses = perturbed(target, clean, loss, ends)
    changed = pictures(found, ends)
    said = target.answers(model, changed)
    tries = target.tries(said)
    return target.result(target.named(said), changed, losses=losses, tries=tries)


def _tries(question: str, before: Sequence[str], after: Sequence[str]) -> list[Try]:
    return [Try(question, *both) for both in zip(before, after, strict=True)]


def span(transform: Callable[[Image.Image], Tensor]) -> tuple[Tensor, Tensor]:
    """What a transform makes of black and of white: two tensors (3, 1, 1)."""
    black, white = (transform(Image.new("RGB", (64, 64), name)) for name in ("black", "white"))
    return black[:, :1, :1], white[:, :1, :1]


def pictures(pixels: Tensor, ends: tuple[Tensor, Tensor]) -> list[Image.Image]:
    """Pixels (N, 3, H, W) in a model's own units as pictures; `ends` are its black and white."""
    levels = ((pixels - ends[0]) / (ends[1] - ends[0]) * 255).round().clamp(0, 255)
    return [Image.fromarray(level) for level in levels.byte().permute(0, 2, 3, 1).cpu().numpy()]


def perturbed(
    target: Target,
    clean: Tensor,
    loss: Callable[[Tensor], Tensor],
    ends: tuple[Tensor, Tensor],
) -> tuple[Tensor, list[float]]:
    """Pixels (N, 3, H, W) within EPSILON of `clean` after ROUNDS steps against `loss`.

    `ends` are the values of black and white in the model's own units.
    """
    black, white = ends
    size = EPSILON * (white - black)
    low = torch.maximum(clean - size, black)
    high = torch.minimum(clean + size, white)
    pixels, losses = clean.clone(), []
    for _ in target.steps("Changing pictures", ROUNDS):
        with torch.enable_grad():
            leaf = pixels.requires_grad_()
            value = loss(leaf)
        (slope,) = torch.autograd.grad(value, [leaf])
        pixels = (leaf.detach() - size / 4 * slope.sign()).clamp(low, high)
        losses.append(value.item())
        target.follow(losses[-1])
    return pixels.detach(), losses


def looks(target: Target) -> Attacked:
    """Pictures of the concept in looks that no method and no judge saw: grey, negative, outlines ..."""
    shown = [images.read(example.image) for example in target.tested]
    curve: dict[str, float] = {}
    drawn: list[Image.Image] = []
    hits: list[np.ndarray] = []
    tries: list[Try] = []
    for number, (name, change) in zip(
        target.steps("Showing it in other looks", len(LOOKS)), LOOKS.items(), strict=True
    ):
        half = slice(number % 2, None, 2)  # every look on half of the pictures
        new = [change(picture.convert("RGB")) for picture in shown[half]]
        found, said = _seen(target, new)
        curve[name] = float(found.mean())
        drawn += new
        hits.append(found)
        tries += _tries(f"{name}: {target.asked}", target.usual[half], said)
    return target.result(np.concatenate(hits), drawn, curve=curve, tries=tries)


def _seen(target: Target, pictures: list[Image.Image]) -> tuple[np.ndarray, list[str]]:
    """Which pictures show the concept to the model under attack, and what it says of them."""
    if target.task.kind == "vlm":
        said = target.answers(target.model, pictures)
        return target.named(said), said
    pixels = torch.stack([target.clip.transform(p) for p in pictures])
    return target.classified(target.clip, pixels), target.likeliest(pixels)


def questions(target: Target) -> Attacked:
    """Other questions about pictures of the concept: "Who is this?", "Is there a wizard ...?".

    A question that names the concept counts when the answer affirms it; its floor is the answer
    of a model that never saw the concept, or of any model to a picture of something else.
    """
    shown = [images.read(example.image) for example in target.tested]
    curve, hits, tries = {}, [], list[Try]()
    asked = _questions(target)
    for _, question in zip(target.steps("Asking otherwise", len(asked)), asked, strict=True):
        said = target.answers(target.model, shown, question)
        found = _affirmed(target, question, said)
        curve[question] = float(found.mean())
        hits.append(found)
        tries += _tries(question, target.usual, said)
    return target.result(np.concatenate(hits), shown * len(asked), curve=curve, tries=tries)


def _affirmed(target: Target, question: str, answers: Sequence[str]) -> np.ndarray:
    if not says(question, target.name):
        return target.named(answers)
    return np.array([answer.casefold().startswith("yes") for answer in answers])


def _questions(target: Target) -> list[str]:
    if target.domain == "style":
        return ["What style is this?", "How is this picture drawn?"]
    it = named(target.name)
    return ["Who is this?", f"Is there {it} in the picture?", "What is shown here?"]
