"""Sparse autoencoder: the features that answer a concept are turned off in what the U-Net reads.

After SAeUron (Cywiński, Deja, ICML 2025, arXiv 2501.18052) and Concept Steerers (Kim, Ghadiyaram,
2025, arXiv 2501.19066). Changes no weight. Knows a task, a rule's hooks and the autoencoders
that come with the app.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from slugdemo import catalog, sparse
from slugdemo.catalog import Model
from slugdemo.concept import prompt, style_prompt
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.models import checkpoint_files
from slugdemo.models.base import INFERENCE_RULES, Moment, Rule
from slugdemo.sparse import Autoencoder
from slugdemo.task import Task
from slugdemo.text_projections import guide, kept, tokens

RATIO = 4.0  # how much more active on the concept than on what is kept a feature must be
LEAST = 0.05  # its least mean activation on the concept, as a share of the most active one's
FACTOR = 2.0  # how many times a feature's part is taken away: 1 turns it off, 2 negates it


def sae(task: Task) -> Edit:
    """The rule with the features of the concept's tokens and hardly any others.

    Raises SlugError when no autoencoder here reads this model's text tower.
    """
    own = of_tower(task)
    pairs = tokens(task, guide(task))
    rest = [own.activations(states).mean(0) for states in (kept(task), pairs.targets)]
    chosen = features(own.activations(pairs.sources).mean(0), torch.stack(rest).amax(0))
    if not chosen:
        raise SlugError(
            f"No feature of the sparse autoencoder answers {task.concept.name!r} and hardly any "
            "other name: this method has nothing to turn off."
        )
    params: dict[str, str | float] = {
        "autoencoder": own.digest,
        "features": " ".join(map(str, chosen)),
        "factor": FACTOR,
    }
    return task.edit({}, rule="sae", params=params)


def of_tower(task: Task) -> Autoencoder:
    """The autoencoder that reads the text tower of a task's model."""
    tower = sparse.tower_digest(task.model.text)
    for own in shipped():
        if own.tower == tower:
            return own
    raise SlugError(_none(task.opened.model.name))


def shipped() -> list[Autoencoder]:
    """The autoencoders that come with the app."""
    return sparse.all_in(_place())


def _place() -> Path:
    return catalog.assets() / "sae"


def lacks(model: Model) -> str:
    """Why no autoencoder here reads a model's text tower, in a sentence; "" where one does.

    Looks at the model's files and opens nothing.
    """
    if model.folder is None:
        return _none(model.name)
    try:
        tower = checkpoint_files.of_part(model.folder, "text_encoder")
        dated = tuple((file, file.stat().st_mtime_ns) for file in tower)
        return "" if _read(_place(), dated) else _none(model.name)
    except OSError:
        return _none(model.name)
    except SlugError as problem:
        return str(problem)


@lru_cache(maxsize=64)
def _read(place: Path, dated: tuple[tuple[Path, int], ...]) -> bool:
    return sparse.reads(place, [file for file, _ in dated])


def _none(name: str) -> str:
    return (
        f"sae cannot edit {name}: no sparse autoencoder here was trained on the states of its text "
        "tower."
    )


def features(own: Tensor, rest: Tensor) -> list[int]:
    """Which features are active on the concept and hardly on the rest, the most active first.

    Those whose mean activation on the concept (F,) is at least RATIO times that on the rest (F,)
    and LEAST of the most active of them.
    """
    single = torch.where(own > RATIO * rest, own, 0.0)
    strong = single.argsort(descending=True, stable=True)
    return [int(at) for at in strong if single[at] > LEAST * single.max()]


class Meaning(NamedTuple):
    """One feature: the captions that drive it most, and on which share of all captions it is active."""

    feature: int
    share: float
    captions: tuple[str, ...]


def meanings(task: Task, edit: Edit, *, count: int = 3) -> list[Meaning]:
    """What the features that an edit turns off answer, the most active on the concept first.

    Asked of `captions`; a feature is as active on a caption as on that of its tokens, but the
    first, on which it is most.
    """
    texts = captions(task)
    own = of_tower(task)
    turned = numbers(str(edit.params["features"]), own.features)
    active = own.activations(task.model.states(texts)[:, 1:])[..., turned].amax(1)  # (N, chosen)
    return [
        Meaning(
            feature,
            (column > 0).float().mean().item(),
            tuple(texts[at] for at in column.argsort(descending=True)[:count] if column[at] > 0),
        )
        for feature, column in zip(turned, active.T, strict=True)
    ]


def captions(task: Task) -> list[str]:
    """Captions of all names: each thing plain and in one style, a thing to forget in every style, and
    a style to forget on every thing."""
    names = task.eval_set.names(task.concept)
    things, styles = names["concept"], names["style"]
    name = task.concept.name
    if task.concept.domain == "style":
        mine = [prompt(thing, name) for thing in things]
    else:
        mine = [prompt(name, style) for style in styles]
    turns = [prompt(thing, styles[at % len(styles)]) for at, thing in enumerate(things)]
    every = [*mine, *map(prompt, things), *turns, *map(style_prompt, styles)]
    return list(dict.fromkeys(every))


class TurnedOff(Rule):
    """x - strength * factor * sum_f a_f W_f over the concept's features, for every token but the first.

    a_f is how active feature f is on state x and W_f its row of the decoder, so what the
    autoencoder cannot reconstruct stays as it is. Factor 1 turns the features off.

    Deviations: the autoencoder reads the text tower's last states (SAeUron: activations in the
    U-Net; Steerers: layer 9 of the text tower); only what the features add is changed, the prompts'
    own states alone.
    """

    def __init__(self, host: Any, params: Mapping[str, str | float], strength: float) -> None:  # noqa: ANN401, ARG002
        wanted = str(params["autoencoder"])
        found = [own for own in shipped() if own.digest == wanted]
        if not found:
            raise SlugError(
                f"This edit needs the sparse autoencoder {wanted}, which is not here: it was made "
                "with another one."
            )
        self._autoencoder = found[0]
        self._features = numbers(str(params["features"]), found[0].features)
        self._factor = strength * float(params["factor"])

    def conditions(self, states: Tensor, blank: Tensor, at: Moment) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """The prompts' states without what the features add."""
        own = self._autoencoder
        active = own.activations(states[:, 1:])[..., self._features]  # (N, T - 1, chosen)
        added = active @ own.decoder[self._features].to(active)
        changed = states[:, 1:].float() - self._factor * added
        return torch.cat([states[:, :1], changed.to(states.dtype)], dim=1), blank


def numbers(text: str, features: int) -> list[int]:
    """The feature numbers in a text. Raises SlugError for any that there is not."""
    known = {str(number): number for number in range(features)}
    if strange := [word for word in text.split() if word not in known]:
        raise SlugError(f"The sparse autoencoder has no feature {strange[0]!r} among {features}.")
    return [known[word] for word in text.split()]


INFERENCE_RULES["sae"] = TurnedOff
