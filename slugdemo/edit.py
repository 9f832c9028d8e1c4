"""Edit: one layer moved along one direction, w <- w + step * direction.

Edits are arithmetic on named tensors: they add up, scale and undo exactly, and `apply` is the one
function that applies them, whoever made them. Knows nothing of models, hosts or methods.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from slugdemo import weights as tensors
from slugdemo.errors import SlugError
from slugdemo.weights import Weights

FORMAT = "slugdemo edit 1"
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True, eq=False)
class Edit:
    """One layer, a direction as long as the layer itself, and how far to go along it.

    `direction` holds canonical tensor names and ||direction|| = ||w|| over the layer (a tensor or
    a group of tensors), so `step` is a fraction of the layer's norm and step > 0 forgets.
    `ratio` = ||w|| / ||g|| turns a step into the paper's lambda. `about` holds what a reader of
    the file wants to know: model, weights (its hash), sizes of sets, seeds, versions, figures.
    """

    concept: str
    layer: str
    direction: Weights
    step: float
    ratio: float = float("nan")
    about: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def along(cls, gradient: Weights, layer: Weights, *, concept: str, name: str) -> "Edit":
        """The unedited layer (step 0) with its direction along `gradient`, in float32.

        `gradient` is that of the forget loss L_f = mean(1 - cos) (SLUG, sec. 3; the paper prints
        the update with a minus sign, its open_clip code adds along +grad L_f as we do).
        Raises SlugError when either is zero or not finite: there is no direction to go.
        """
        length, size = tensors.norm(gradient), tensors.norm(layer)
        if not 0 < length < float("inf") or not 0 < size < float("inf"):
            raise SlugError(
                f"{name} gives no direction in which to forget {concept!r}: "
                f"its gradient has norm {length:g} and its weights have norm {size:g}."
            )
        ratio = size / length
        unit = {one: tensor.detach().float() * ratio for one, tensor in gradient.items()}
        return cls(concept, name, unit, 0.0, ratio)

    @property
    def lam(self) -> float:
        """The paper's lambda: step * ||w|| / ||g||."""
        return self.step * self.ratio

    def at(self, step: float) -> "Edit":
        """The same edit, `step` of the layer's norm far."""
        return replace(self, step=step)

    def noted(self, **about: str) -> "Edit":
        """The same edit with more in `about`."""
        return replace(self, about={**self.about, **about})

    def delta(self) -> Weights:
        """What is added to the weights: step * direction."""
        return tensors.scaled(self.direction, self.step)


def apply(weights: Weights, edits: Iterable[Edit]) -> Weights:
    """The edited tensors, and only those: w + sum of step * direction, in the type of `weights`.

    The sum is taken in float32, in an order that callers cannot change; a step of 0 adds nothing
    at all, so it is the identity bit for bit. Nothing but the result is allocated for one edit:
    many visitors' tensors then lie without gaps between them. Raises ValueError for a name or a
    shape that is not in `weights`.
    """
    moved = [edit for edit in edits if edit.step]
    moved.sort(key=lambda edit: (edit.concept, edit.layer, edit.step))
    names = dict.fromkeys(name for edit in moved for name in edit.direction)
    return {name: _moved(name, weights, moved) for name in names}


def _moved(name: str, weights: Weights, edits: Sequence[Edit]) -> Tensor:
    first, *more = (edit for edit in edits if name in edit.direction)
    total = first.direction[name].float() * first.step
    for edit in more:
        total += edit.direction[name].float() * edit.step
    if name not in weights:
        raise ValueError(f"the edit changes {name!r}, which is not among the weights")
    weight = weights[name].detach()
    if weight.shape != total.shape:
        old, new = tuple(weight.shape), tuple(total.shape)
        raise ValueError(f"the edit of {name!r} has shape {new}, the weights have {old}")
    return total.to(weight.device).add_(weight.float()).to(weight.dtype)


def save(path: Path, edit: Edit, *, dtype: torch.dtype = torch.float16) -> float:
    """Writes the edit as one safetensors file and returns the error of rounding to `dtype`.

    The error is ||rounded - direction|| / ||direction||, also in the file as `rounding_error`;
    beside it stand format, concept, layer, step, lambda, ratio and all of `about`.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype} is none of {DTYPES}")
    exact = {name: tensor.detach().float() for name, tensor in edit.direction.items()}
    rounded = {name: tensor.to(dtype) for name, tensor in exact.items()}
    away = {name: rounded[name].float() - exact[name] for name in exact}
    error = tensors.norm(away) / (tensors.norm(exact) or 1.0)
    facts = {
        "format": FORMAT,
        "concept": edit.concept,
        "layer": edit.layer,
        "step": repr(edit.step),
        "lambda": repr(edit.lam),
        "ratio": repr(edit.ratio),
        "rounding_error": repr(error),
    }
    tensors.save(path, rounded, {**edit.about, **facts})
    return error


def load(path: Path, *, weights: str | None) -> Edit:
    """The edit in a file that `save` wrote, in float32, with every other fact in `about`.

    `weights` is the digest of the model it is meant for; None reads the file for looking only.
    Raises SlugError when the file is no edit, is damaged, or was made for other weights.
    """
    direction, facts = tensors.load(path)
    if facts.pop("format", None) != FORMAT:
        raise SlugError(f"{path.name} is a safetensors file but not an edit of slugdemo.")
    exact = {name: tensor.float() for name, tensor in direction.items()}
    try:
        step, ratio = (float(facts.pop(key)) for key in ("step", "ratio"))
        facts.pop("lambda")
        edit = Edit(facts.pop("concept"), facts.pop("layer"), exact, step, ratio, facts)
    except (KeyError, ValueError) as error:
        raise SlugError(
            f"{path.name} is an edit with a missing or strange entry: {error}."
        ) from error
    if not math.isfinite(step) or not all(one.isfinite().all() for one in exact.values()):
        raise SlugError(f"{path.name} is an edit with numbers that are not finite.")
    if weights is not None:
        check(edit, weights)
    return edit


def check(edit: Edit, weights: str) -> None:
    """Raises SlugError unless `edit` was made for the model whose weights have this digest."""
    own = edit.about.get("weights", "")
    if own != weights:
        raise SlugError(
            f"This edit forgets {edit.concept!r} in {edit.about.get('model', 'an unnamed model')} "
            f"(weights {own[:12] or 'unknown'}), and the model here has other weights "
            f"({weights[:12]}): applied to it, the edit would only add noise. Open the model "
            "it was made for, or make a new edit here."
        )
