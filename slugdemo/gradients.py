"""The two losses, and one gradient of each at the original weights.

Knows how to differentiate and how to remember; knows nothing of files with pictures, of layers
worth editing or of steps. Never `.backward()`: the model is shared, so nothing is left on it.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from slugdemo import weights as tensors
from slugdemo.errors import SlugError
from slugdemo.models.clip import Clip
from slugdemo.weights import Stored, Weights

Batch = tuple[Tensor, Tensor]  # pixels (N, 3, H, W) and tokens (N, T)
Batches = Iterable[Batch]  # with a cache those that know their `digest` are read once, others twice
Loss = Callable[[Tensor, Tensor], Tensor]
ACTIVATIONS = 2 * 2**30  # bytes that one backward pass may keep
Tick = Callable[[], None]  # called after each batch; what it raises ends the pass


@dataclass(frozen=True, eq=False)
class Gradients:
    """The gradients of the forget loss and of the retain loss, by tensor name, in float32."""

    forget: Weights
    retain: Weights


def forget_loss(image: Tensor, text: Tensor) -> Tensor:
    """L_f = mean(1 - cos) over matching pairs of unit features (N, D) (SLUG, sec. 3).

    It grows as pairs drift apart, so forgetting steps *along* its gradient. The paper prints the
    update as theta - lambda * grad; read with this loss that would pull the pairs together.
    """
    return (1 - (image * text).sum(-1)).mean()


def retain_loss(image: Tensor, text: Tensor, *, scale: float) -> Tensor:
    """CLIP's symmetric contrastive loss of N pairs of unit features (N, D), negatives in batch."""
    logits = scale * image @ text.T  # (N, N)
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def sigmoid_loss(image: Tensor, text: Tensor, *, scale: float, bias: float) -> Tensor:
    """SigLIP's loss of N pairs of unit features (N, D): each cell of the N x N table by itself.

    -1/N * sum_ij log sigmoid(z_ij * (scale * cos_ij + bias)), z = 1 for matching pairs and -1 for
    all others (Zhai et al. 2023, eq. 1).
    """
    logits = scale * image @ text.T + bias  # (N, N)
    signs = 2 * torch.eye(len(logits), device=logits.device) - 1
    return -F.logsigmoid(signs * logits).sum() / len(logits)


def retain_loss_of(clip: Clip) -> Loss:
    """The contrastive loss that this CLIP was trained with: softmax, or sigmoid for a SigLIP."""
    if clip.logit_bias is None:
        return partial(retain_loss, scale=clip.logit_scale)
    return partial(sigmoid_loss, scale=clip.logit_scale, bias=clip.logit_bias)


def batches(pixels: Tensor, tokens: Tensor, *, size: int, seed: int | None = None) -> list[Batch]:
    """The pairs in batches of `size`, the last one perhaps smaller; shuffled when given a seed.

    Raises SlugError when there are none, ValueError when pictures and texts differ in number.
    """
    if len(pixels) != len(tokens):
        raise ValueError(f"{len(pixels)} pictures but {len(tokens)} texts")
    if len(pixels) == 0:
        raise SlugError("There are no example pictures: choose or upload at least one.")
    order = torch.arange(len(pixels))
    if seed is not None:
        order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))
    return [(pixels[part], tokens[part]) for part in order.split(size)]


def nothing() -> None:
    """The tick of those who do not watch."""


def gradients(
    clip: Clip,
    forget: Batches,
    *,
    retain: Batches,
    names: Sequence[str],
    cache: Path | None = None,
    tick: Tick = nothing,
) -> Gradients:
    """The gradients of both losses at the clip's own weights, for the tensors in `names`.

    One forward and backward pass over each set and nothing else; none at all when `cache` (a
    folder) holds the answer for exactly these weights, names and pictures, so that many concepts
    may share one retain gradient. With a cache the result stays on disk and is read one tensor
    at a time. Retain batches smaller than the first are left out, since the contrastive loss
    depends on the batch size. Raises SlugError when a set is empty, when fewer than two pairs
    are to be retained, or when a loss is not a number.
    """
    return Gradients(
        forget_gradient(clip, forget, names=names, cache=cache, tick=tick),
        retain_gradient(clip, retain, names=names, cache=cache, tick=tick),
    )


def forget_gradient(
    clip: Clip,
    forget: Batches,
    *,
    names: Sequence[str],
    cache: Path | None = None,
    tick: Tick = nothing,
) -> Weights:
    """The gradient of the forget loss alone: all that the direction of an edit needs.

    Raises SlugError as `gradients` does.
    """
    return _remembered(
        clip, forget, "forget", loss=forget_loss, names=names, cache=cache, tick=tick
    )


def retain_gradient(
    clip: Clip,
    retain: Batches,
    *,
    names: Sequence[str],
    cache: Path | None = None,
    tick: Tick = nothing,
) -> Weights:
    """The gradient of the retain loss alone, which concepts with the same pictures to keep share.

    Raises SlugError as `gradients` does.
    """
    contrast, full = retain_loss_of(clip), _Even(retain)
    return _remembered(clip, full, "retain", loss=contrast, names=names, cache=cache, tick=tick)


def gradient(
    clip: Clip, pairs: Batches, *, loss: Loss, names: Sequence[str], tick: Tick = nothing
) -> Weights:
    """The mean over batches of the gradient of the batch's mean loss, in float32.

    Each tensor's gradient joins the running sum the moment the backward pass yields it, so there
    is never a second copy of the whole. Batches are read one at a time, and one whose activations
    would take more than `ACTIVATIONS` bytes goes through the towers a few pairs at a time: the
    loss of the whole batch is differentiated by the features first, then the features by the
    weights (Gao et al. 2021, "GradCache"), which is the same gradient for one more forward pass.
    """
    weights = clip.named()
    leaves = {name: weights[name].detach().requires_grad_() for name in names}
    sums = {name: torch.zeros_like(leaf, dtype=torch.float32) for name, leaf in leaves.items()}
    for name, leaf in leaves.items():
        leaf.register_hook(partial(_gather, sums[name]))
    twin, count, at_once = clip.edited(leaves), 0, 0
    for pixels, tokens in pairs:
        at_once = at_once or max(1, int(ACTIVATIONS // _activations(twin, pixels, tokens)))
        if len(pixels) > at_once:
            _in_parts(twin, pixels, tokens, loss=loss, leaves=list(leaves.values()), size=at_once)
        else:
            with torch.enable_grad():
                value = loss(twin.encode_image(pixels), twin.encode_text(tokens))
            _differentiate(value, list(leaves.values()))
        count += 1
        tick()
    if not count:
        raise SlugError("There are no example pictures: choose or upload at least one.")
    return {name: total.detach().div_(count) for name, total in sums.items()}


def _activations(clip: Clip, pixels: Tensor, tokens: Tensor) -> float:
    """The bytes that one pair's forward pass keeps for the backward pass, weights aside."""
    kept = 0
    weights = {_storage(tensor) for tensor in clip.model.state_dict().values()}

    def counted(tensor: Tensor) -> Tensor:
        nonlocal kept
        if _storage(tensor) not in weights:
            kept += tensor.nbytes
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(counted, lambda t: t):
        clip.encode_image(pixels[:1])
        clip.encode_text(tokens[:1])
    return max(1, kept)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _in_parts(
    clip: Clip, pixels: Tensor, tokens: Tensor, *, loss: Loss, leaves: list[Tensor], size: int
) -> None:
    """As one backward pass of the whole batch, `size` pairs at a time."""
    sides = ((clip.encode_image, pixels), (clip.encode_text, tokens))
    with torch.no_grad():
        features = [torch.cat([encode(x) for x in inputs.split(size)]) for encode, inputs in sides]
    found = [side.requires_grad_() for side in features]
    with torch.enable_grad():
        value = loss(*found)
    _check_finite(value)
    slopes = torch.autograd.grad(value, found)
    for (encode, inputs), slope in zip(sides, slopes, strict=True):
        for part, own in zip(inputs.split(size), slope.split(size), strict=True):
            with torch.enable_grad():
                side = encode(part)
            if side.requires_grad:
                torch.autograd.grad(side, leaves, own, allow_unused=True)


def _gather(total: Tensor, grad: Tensor) -> Tensor:
    total += grad
    return grad.new_zeros(()).expand_as(grad)  # autograd keeps this in place of a full tensor


def _check_finite(value: Tensor) -> None:
    if not value.isfinite():
        raise SlugError(
            f"The loss is {value.item()}: a picture or the model holds values that are not numbers."
        )


def _differentiate(value: Tensor, leaves: list[Tensor]) -> None:
    _check_finite(value)
    if value.requires_grad:
        torch.autograd.grad(value, leaves, allow_unused=True)


class _Even:
    """The batches that are as large as the first, as often as they are asked for."""

    def __init__(self, pairs: Batches) -> None:
        self.pairs = pairs
        self.digest = getattr(pairs, "digest", "")

    def __iter__(self) -> Iterator[Batch]:
        size = None
        for pixels, tokens in self.pairs:
            size = size or len(pixels)
            if size < 2:
                raise SlugError("Give at least two pictures to keep: one alone has no contrast.")
            if len(pixels) == size:
                yield pixels, tokens


def _remembered(
    clip: Clip,
    pairs: Batches,
    kind: str,
    *,
    loss: Loss,
    names: Sequence[str],
    cache: Path | None,
    tick: Tick,
) -> Weights:
    if cache is None:
        return gradient(clip, pairs, loss=loss, names=names, tick=tick)
    path = cache / f"{kind}-{_key(clip, pairs, names)}.safetensors"
    with suppress(SlugError):  # missing or damaged: it is computed anew
        return Stored(path)
    fresh = gradient(clip, pairs, loss=loss, names=names, tick=tick)
    try:
        tensors.save(path, fresh, {"kind": kind, "weights": clip.digest})
    except OSError:  # a full disk costs the next visitor time, and this one nothing
        return fresh
    return Stored(path)


def _key(clip: Clip, pairs: Batches, names: Sequence[str]) -> str:
    if isinstance(pairs, Iterator):
        raise ValueError(f"a cached gradient reads its batches twice, and {type(pairs)} runs once")
    total = hashlib.sha256(f"{clip.digest} {sorted(names)}".encode())
    if known := getattr(pairs, "digest", ""):
        total.update(known.encode())
        return total.hexdigest()[:40]
    for pixels, tokens in pairs:
        total.update(tensors.digest({"pixels": pixels, "tokens": tokens}).encode())
    return total.hexdigest()[:40]
