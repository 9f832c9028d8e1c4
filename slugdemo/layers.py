"""What may be edited, how much each layer matters, and the Pareto front.

Knows names and norms; knows nothing of steps, hosts or pictures.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slugdemo import layer_names
from slugdemo.errors import SlugError
from slugdemo.gradients import Gradients
from slugdemo.models import towers
from slugdemo.models.clip import Clip, tower
from slugdemo.weights import Weights

LEARNED_TOKENS = ("latent", "reg_token", "cls_")  # of other builds than CLIP's: like embeddings
NEVER = ("bias", "logit_scale", "position", "embedding", "pos_embed", *LEARNED_TOKENS)
EXCLUDED = {"clip": NEVER, "no norms": (*NEVER, "ln_")}
GRANULARITIES = ("tensor", "group")
ALIGNMENTS = ("absolute", "signed")
LONGEST = 1000  # more than the blocks of a tower and the places in a block
PAIR = re.compile(r"(.+\.mlp)\.(?:c_fc|c_proj|fc1|fc2)\.weight")


@dataclass(frozen=True)
class LayerScore:
    """One layer: its size, and the two numbers that say whether to edit it (SLUG, sec. 3.2).

    `importance` = ||grad L_f|| / ||w||: how much the layer matters to what shall be forgotten.
    `alignment` = cos(grad L_f, grad L_r), signed: +1 when erasing harms what is kept, 0 when it
    does not touch it, -1 when it even helps. `tensors` are the names that the layer consists of.
    """

    layer: str
    tower: str
    params: int
    importance: float
    alignment: float
    tensors: tuple[str, ...]


def candidates(clip: Clip, *, rule: str = "clip") -> list[str]:
    """The names of the tensors that may be edited, by the reference code's rule.

    "clip": all but biases, embeddings, positions and the logit scale; layer norm gains, the patch
    convolution and the projections stay. "no norms" also leaves out layer norms, as the reference
    does for Stable Diffusion and LLaVA. Raises ValueError for another rule.
    """
    if rule not in EXCLUDED:
        raise ValueError(f"rule {rule!r} is none of {tuple(EXCLUDED)}")
    return [name for name in clip.named() if not any(word in name for word in EXCLUDED[rule])]


def grouped(names: Iterable[str], *, granularity: str = "tensor") -> dict[str, tuple[str, ...]]:
    """The layers that `names` make up, each with its tensors.

    A layer is one "tensor" (the paper) or one "group": the two matrices of an MLP move together,
    named "....mlp", as the reference does for fc1 and fc2 in transformers' models. Its other
    group, q, k and v, is one tensor in open_clip anyway. Raises ValueError for another granularity.
    """
    if granularity not in GRANULARITIES:
        raise ValueError(f"granularity {granularity!r} is none of {GRANULARITIES}")
    layers: dict[str, tuple[str, ...]] = {}
    for name in names:
        pair = PAIR.fullmatch(name) if granularity == "group" else None
        layer = pair[1] if pair else name
        layers[layer] = (*layers.get(layer, ()), name)
    return layers


def scores(
    weights: Weights, gradients: Gradients, *, granularity: str = "tensor"
) -> list[LayerScore]:
    """The scores of all layers that the gradients speak of, from one reading of each tensor.

    A layer that is zero everywhere is left out: no fraction of its norm moves it. Raises
    SlugError when a number is not finite.
    """
    layers = grouped(gradients.forget, granularity=granularity)
    found = (_score(layer, names, weights, gradients) for layer, names in layers.items())
    return [score for score in found if score is not None]


def _score(
    layer: str, names: tuple[str, ...], weights: Weights, gradients: Gradients
) -> LayerScore | None:
    sums, params = torch.zeros(4, dtype=torch.float64), 0
    for name in names:
        sums += _squares(weights[name], gradients.forget[name], gradients.retain[name])
        params += weights[name].numel()
    if not sums.isfinite().all():
        raise SlugError(f"{layer} has a weight or a gradient that is not a number.")
    size, forget, retain = sums[:3].sqrt().tolist()
    if size == 0:
        return None
    together = forget * retain
    alignment = max(-1.0, min(1.0, sums[3].item() / together)) if together else 0.0
    part = "text_2" if layer.startswith("text_2/") else tower(layer)
    return LayerScore(layer, part, params, forget / size, alignment, names)


def _squares(weight: Tensor, forget: Tensor, retain: Tensor) -> Tensor:
    """w.w, f.f, r.r and f.r: (4,)"""
    w, f, r = (tensor.detach().float().cpu().flatten() for tensor in (weight, forget, retain))
    return torch.stack([w.dot(w), f.dot(f), r.dot(r), f.dot(r)]).double()


def harm(score: LayerScore, *, alignment: str = "absolute") -> float:
    """What the front minimises: |alignment| (the reference code) or alignment (the paper's text).

    "absolute" shuns a layer whose edit would help retention as much as one whose edit harms it.
    Raises ValueError for another name.
    """
    if alignment not in ALIGNMENTS:
        raise ValueError(f"alignment {alignment!r} is none of {ALIGNMENTS}")
    return abs(score.alignment) if alignment == "absolute" else score.alignment


def pareto_front(scores: Iterable[LayerScore], *, alignment: str = "absolute") -> list[LayerScore]:
    """The layers that no other layer of their tower beats, most important first, tower by tower.

    One layer beats another when it is at least as important and at most as harmful, and strictly
    so in one of the two; equals stay together. The reference drops a layer only when another is
    strictly better in both, which keeps layers that are plainly worse.
    """
    towers: dict[str, list[LayerScore]] = {}
    for score in scores:
        towers.setdefault(score.tower, []).append(score)
    return [score for part in towers.values() for score in reversed(_front(part, alignment))]


def behind(scores: Sequence[LayerScore], front: Sequence[LayerScore]) -> list[LayerScore]:
    """The layers that a front leaves behind and that could forget at all."""
    ahead = {score.layer for score in front}
    return [score for score in scores if score.importance > 0 and score.layer not in ahead]


def in_order(scores: Iterable[LayerScore], clip: Clip) -> list[LayerScore]:
    """The layers in the order of a forward pass, tower by tower.

    In this order zero-shot classification can go on from the activations that it has.
    """
    chains = {name: towers.chain(clip.model, name) for name in towers.TOWERS}

    def depth(score: LayerScore) -> tuple[str, int]:
        if score.tower not in chains:
            around, block, place = layer_names.depth(score.layer)
            return score.tower, around * LONGEST**2 + block * LONGEST + place
        return score.tower, towers.first_reader(chains[score.tower], score.tensors)

    return sorted(scores, key=depth)


def _front(scores: Sequence[LayerScore], alignment: str) -> list[LayerScore]:
    front: list[LayerScore] = []
    for score in sorted(
        scores, key=lambda score: (harm(score, alignment=alignment), -score.importance)
    ):
        last = front[-1] if front else None
        if last is None or score.importance > last.importance or _equal(score, last, alignment):
            front.append(score)
    return front


def _equal(a: LayerScore, b: LayerScore, alignment: str) -> bool:
    return (a.importance, harm(a, alignment=alignment)) == (
        b.importance,
        harm(b, alignment=alignment),
    )


def effective(
    names: Iterable[str], *, weights: Weights, output: Callable[[Weights], Tensor]
) -> list[str]:
    """Those of `names` whose tensor changes what a host puts out, found by trying each one.

    `output` gives the host's answer with some tensors replaced; every try adds noise a tenth as
    large as the tensor (seed 0).
    """
    with torch.no_grad():
        plain, noise = output({}), torch.Generator().manual_seed(0)
        return [name for name in names if not _same(plain, output(_shaken(name, weights, noise)))]


def _shaken(name: str, weights: Weights, noise: torch.Generator) -> Weights:
    weight = weights[name].detach()
    push = torch.randn(weight.shape, generator=noise).to(weight)
    return {name: weight + 0.1 * push * (weight.norm() + 1e-6) / push.norm()}


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b)
