"""Edit: what a method returns, w <- w + strength * delta over named tensors, or a rule at inference.

Edits are arithmetic on named tensors: they add up, scale and undo exactly, and `apply` is the one
function that applies them, whoever made them. Knows nothing of models, concepts' pictures or how
an edit was found.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from slugdemo import weights as tensors
from slugdemo.errors import SlugError
from slugdemo.weights import Weights

FORMAT, OLD_FORMAT = "slugdemo edit 2", "slugdemo edit 1"
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
LAYER_NORM = "of the layer's norm"  # strength 1 moves a layer as far as it is long
OWN_EDIT = "of the method's own edit"  # strength 1 is what the method itself would apply
HASH = 64  # letters of a sha256
LARGEST_PARAMS = 10_000  # letters of the JSON that a rule's numbers may take


@dataclass(frozen=True, eq=False)
class Edit:
    """What is added to a model's weights, or which rule is followed while it runs, and how far.

    `delta` holds part-qualified tensor names ("text/...", "vision/...", "unet/...") in float32;
    the edited weights are w + strength * delta, so strength 0 is the unedited model and strength
    1 is what `unit` says. A method that changes no weight has a `rule` (its name in
    `models.base.INFERENCE_RULES`) with `params`: plain numbers and texts, never code. `about`
    holds what a reader of the file wants to know: model, weights (its hash), layer, sizes of
    sets, seeds, versions, figures.
    """

    concept: str
    method: str
    delta: Weights
    strength: float = 1.0
    unit: str = OWN_EDIT
    rule: str = ""
    params: Mapping[str, str | float] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def along(
        cls, gradient: Weights, weights: Weights, *, concept: str, method: str, layer: str
    ) -> "Edit":
        """The edit of one layer along `gradient`, as long as the layer, at strength 0, in float32.

        `gradient` is that of the forget loss L_f = mean(1 - cos) (SLUG, sec. 3; the paper prints
        the update with a minus sign, its open_clip code adds along +grad L_f as we do). Both
        mappings hold part-qualified names. Raises SlugError when either is zero or not finite:
        there is no direction to go.
        """
        length, size = tensors.norm(gradient), tensors.norm(weights)
        if not 0 < length < math.inf or not 0 < size < math.inf:
            raise SlugError(
                f"{layer} gives no direction in which to forget {concept!r}: "
                f"its gradient has norm {length:g} and its weights have norm {size:g}."
            )
        ratio = size / length
        delta = {name: tensor.detach().float() * ratio for name, tensor in gradient.items()}
        about = {"layer": layer, "ratio": repr(ratio)}
        return cls(concept, method, delta, 0.0, LAYER_NORM, about=about)

    @property
    def layer(self) -> str:
        """The layer that a single-layer edit moves; "" for edits of several."""
        return self.about.get("layer", "")

    @property
    def lam(self) -> float:
        """The paper's lambda, strength * ||w|| / ||g||; NaN where no gradient was followed."""
        return self.strength * float(self.about.get("ratio", "nan"))

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of a model that it changes: "text", "vision", "unet", ..., in order."""
        return tuple(dict.fromkeys(part_of(name) for name in self.delta))

    @cached_property
    def digest(self) -> str:
        """The sha256 of all that decides what the edit does, its strength aside.

        An edit that cannot be recomputed in a moment is kept and found by it.
        """
        rule = json.dumps([self.rule, dict(self.params)], sort_keys=True)
        facts = f"{self.concept}\n{self.method}\n{self.unit}\n{rule}\n"
        return hashlib.sha256((facts + tensors.digest(self.delta)).encode()).hexdigest()

    def at(self, strength: float) -> "Edit":
        """The same edit at another strength."""
        twin = replace(self, strength=strength)
        if "digest" in self.__dict__:  # the same one: it does not depend on the strength
            twin.__dict__["digest"] = self.digest
        return twin

    def noted(self, **about: str) -> "Edit":
        """The same edit with more in `about`."""
        return replace(self, about={**self.about, **about})

    def scaled(self, factor: float) -> "Edit":
        """The same edit with its delta (and its paper's lambda) times `factor`."""
        about = dict(self.about)
        if "ratio" in about:
            about["ratio"] = repr(float(about["ratio"]) * factor)
        return replace(self, delta=tensors.scaled(self.delta, factor), about=about)


def part_of(name: str) -> str:
    """The part of a model that a part-qualified tensor name belongs to."""
    return name.partition("/")[0]


def within(name: str) -> str:
    """A part-qualified tensor name without its part."""
    return name.partition("/")[2]


def of_part(weights: Weights, part: str) -> Weights:
    """The tensors of one part, under their names within it."""
    return {within(name): tensor for name, tensor in weights.items() if part_of(name) == part}


def qualified(name: str) -> str:
    """The part-qualified name of a tensor of an open_clip CLIP: "visual.proj" -> "vision/proj".

    Names of a second text tower come with their part, "text_2/...", and stay.
    """
    if name.startswith("text_2/"):
        return name
    if name.startswith("visual."):
        return f"vision/{name.removeprefix('visual.')}"
    return f"text/{name}"


def clip_name(name: str) -> str:
    """The name in open_clip's CLIP of a tensor of the parts "vision", "text" and "text_2".

    Raises ValueError for a name of another part.
    """
    part, rest = part_of(name), within(name)
    if part not in ("vision", "text", "text_2"):
        raise ValueError(f"{name!r} belongs to no tower of CLIP")
    return f"visual.{rest}" if part == "vision" else rest


def apply(weights: Weights, edits: Iterable[Edit]) -> Weights:
    """The edited tensors, and only those: w + sum of strength * delta, in the type of `weights`.

    `weights` holds the tensors of some parts under part-qualified names; tensors of other parts
    are passed over, as they change nothing there. The sum is taken in float32, in an order that
    callers cannot change; a strength of 0 adds nothing at all, so it is the identity bit for bit.
    Nothing but the result is allocated for one edit: many visitors' tensors then lie without gaps
    between them. Raises ValueError for a name or a shape that a part does not have.
    """
    parts = {part_of(name) for name in weights}
    moved = [edit for edit in edits if edit.strength and parts.intersection(edit.parts)]
    moved.sort(key=lambda edit: (edit.concept, edit.method, edit.layer, edit.strength))
    names = dict.fromkeys(n for edit in moved for n in edit.delta if part_of(n) in parts)
    return {name: _moved(name, weights, moved) for name in names}


def _moved(name: str, weights: Weights, edits: Sequence[Edit]) -> Tensor:
    first, *more = (edit for edit in edits if name in edit.delta)
    total = first.delta[name].float() * first.strength
    for edit in more:
        total += edit.delta[name].float() * edit.strength
    if name not in weights:
        raise ValueError(f"the edit changes {name!r}, which is not among the weights")
    weight = weights[name].detach()
    if weight.shape != total.shape:
        old, new = tuple(weight.shape), tuple(total.shape)
        raise ValueError(f"the edit of {name!r} has shape {new}, the weights have {old}")
    return total.to(weight.device).add_(weight.float()).to(weight.dtype)


def save(path: Path, edit: Edit, *, dtype: torch.dtype = torch.float16) -> float:
    """Writes the edit as one safetensors file and returns the error of rounding to `dtype`.

    The error is ||rounded - delta|| / ||delta||, also in the file as `rounding_error`; beside it
    stand format, concept, method, strength, unit, rule, params (JSON), lambda and all of `about`.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype} is none of {DTYPES}")
    exact = {name: tensor.detach().float() for name, tensor in edit.delta.items()}
    rounded = {name: tensor.to(dtype) for name, tensor in exact.items()}
    away = {name: rounded[name].float() - exact[name] for name in exact}
    error = tensors.norm(away) / (tensors.norm(exact) or 1.0) if exact else 0.0
    facts = {
        "format": FORMAT,
        "concept": edit.concept,
        "method": edit.method,
        "strength": repr(edit.strength),
        "unit": edit.unit,
        "rule": edit.rule,
        "params": json.dumps(dict(edit.params), sort_keys=True),
        "lambda": repr(edit.lam),
        "rounding_error": repr(error),
    }
    tensors.save(path, rounded, {**edit.about, **facts})
    return error


def load(path: Path, *, weights: str | None, unet: str = "") -> Edit:
    """The edit in a file that `save` wrote, in float32, with every other fact in `about`.

    `weights` is the digest of the CLIP of the model it is meant for, `unet` that of its U-Net if
    it has one; None reads the file for looking only. Files of the first format (one layer, a
    direction and a step) open as well. Raises SlugError when the file is no edit, is damaged, or
    was made for other weights.
    """
    stored, facts = tensors.load(path)
    kind = facts.pop("format", None)
    if kind not in (FORMAT, OLD_FORMAT):
        raise SlugError(f"{path.name} is a safetensors file but not an edit of slugdemo.")
    exact = {name: tensor.float() for name, tensor in stored.items()}
    try:
        edit = _read(exact, facts) if kind == FORMAT else _read_old(exact, facts)
    except (KeyError, ValueError, TypeError) as error:
        raise SlugError(
            f"{path.name} is an edit with a missing or strange entry: {error}."
        ) from error
    if not math.isfinite(edit.strength) or not all(t.isfinite().all() for t in exact.values()):
        raise SlugError(f"{path.name} is an edit with numbers that are not finite.")
    if weights is not None:
        check(edit, weights, unet=unet)
    return edit


def _read(delta: Weights, facts: dict[str, str]) -> Edit:
    text = facts.pop("params")
    if len(text) > LARGEST_PARAMS:
        raise ValueError(f"its params have {len(text)} letters")
    params = json.loads(text)
    if not all(type(value) in (str, int, float) for value in params.values()):
        raise ValueError("its params are not plain numbers and texts")
    named = {key: facts.pop(key) for key in ("concept", "method", "unit", "rule")}
    if bad := [name for name in delta if "/" not in name]:
        raise ValueError(f"the tensor {bad[0]} names no part of a model")
    facts.pop("lambda")
    return Edit(
        delta=delta, strength=float(facts.pop("strength")), params=params, about=facts, **named
    )


def _read_old(direction: Weights, facts: dict[str, str]) -> Edit:
    delta = {qualified(name): tensor for name, tensor in direction.items()}
    facts.pop("lambda")
    concept, method = facts.pop("concept"), facts.pop("method", "slug")
    facts["layer"] = qualified(facts["layer"])
    strength, _ = float(facts.pop("step")), float(facts["ratio"])
    return Edit(concept, method, delta, strength, LAYER_NORM, about=facts)


def same_model(own: str, here: str) -> bool:
    """Whether two digests name one model: its weights' hash, a space, and its architecture.

    Edit files of the first kind hold the hash alone, and then it alone counts.
    """
    return own == here or (len(own) == HASH and own == here[:HASH])


def check(edit: Edit, weights: str, *, unet: str = "") -> None:
    """Raises SlugError unless `edit` was made for the model whose weights have these digests.

    `weights` is the digest of the CLIP, `unet` that of the U-Net, which counts for edits that
    were made with one.
    """
    for part, own, here in (
        ("weights", edit.about.get("weights", ""), weights),
        ("U-Net", edit.about.get("unet", ""), unet),
    ):
        if same_model(own, here) or (part == "U-Net" and not own):
            continue
        if part == "weights" and own[:HASH] == here[:HASH]:
            raise SlugError(
                f"This edit forgets {edit.concept!r} in a model with the same weights but another "
                f"architecture ({own[HASH + 1 :]}); the model here has {here[HASH + 1 :]}. Open the model it was "
                "made for, or make a new edit here."
            )
        raise SlugError(
            f"This edit forgets {edit.concept!r} in {edit.about.get('model', 'an unnamed model')} "
            f"({part} {own[:12] or 'unknown'}), and the model here has "
            f"{'another U-Net' if part == 'U-Net' else 'other weights'} ({here[:12] or 'none'}): "
            "applied to it, the edit would only add noise. Open the model it was made for, or "
            "make a new edit here."
        )
