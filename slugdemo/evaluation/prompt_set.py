"""The prompt set: what is asked in the search split and in the report split.

Knows names, seeds and pictures' labels; knows no model.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar
from zlib import crc32

import numpy as np

from slugdemo.concept import PLAIN, Concept, Example, prompt
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.evaluation import metrics
from slugdemo.search import Evaluate, Evaluator, Score

# of noise; shipped pictures have 1 to 3 million, and settings are chosen with the one in between
SEARCH_SEED, VALIDATION_SEED, TEST_SEED = 7_000_000, 9_000_000, 11_000_000
DENOISING, GUIDANCE = 15, 3.0  # how pictures are drawn to be kept: the shipped ones were made so
JUDGED_DENOISING, JUDGED_GUIDANCE = 6, 2.0  # and to be judged: told as well, for less than half
SEARCHED_DENOISING = 5  # while searching, where each picture is drawn at many steps
OTHER = {"concept": "style", "style": "concept"}


class Measurement(NamedTuple):
    """One rate on the report split, before and after an edit, on n items.

    An `amount` is no rate but a distance, an area or a mean, and has no interval.
    """

    metric: str
    before: float
    after: float
    n: int
    amount: bool = False

    @property
    def interval(self) -> metrics.Interval:
        """The 95 % Wilson interval of `after`; NaN for amounts."""
        return (math.nan, math.nan) if self.amount else metrics.wilson(self.after, self.n)


@dataclass(frozen=True, eq=False)
class Seen:
    """What a model makes of the report split's N items, to be compared with what another makes.

    `names` are its answers in each domain that was asked about, `features` (N, D) those of its
    pictures (for CLIP: its own features of the shown ones).
    """

    names: Mapping[str, np.ndarray]
    features: np.ndarray

    def agreement(self, other: "Seen") -> np.ndarray:
        """Which items both answer alike, in every domain: bools (N,)."""
        return np.all([self.names[domain] == other.names[domain] for domain in self.names], 0)

    def after(self, more: "Seen", order: np.ndarray) -> "Seen":
        """This and what was seen later, brought from `order` (N,) into the order of the split."""
        place = np.argsort(order)
        names = {d: np.concatenate([self.names[d], more.names[d]])[place] for d in self.names}
        return Seen(names, np.concatenate([self.features, more.features])[place])


@dataclass(frozen=True)
class EvalSet:
    """What there is besides the concept: names of things and styles, its kin, held-out pictures.

    `test` are pictures that no search sees, `noise` the seed of those that are drawn for a test.
    """

    concepts: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()
    neighbours: tuple[str, ...] = ()
    test: tuple[Example, ...] = ()
    noise: int = TEST_SEED

    def names(self, concept: Concept) -> dict[str, list[str]]:
        """The names of each domain, the concept's own among them."""
        known = {"concept": list(self.concepts), "style": list(self.styles) or [PLAIN]}
        if concept.name not in known[concept.domain]:
            known[concept.domain].append(concept.name)
        return known


@dataclass(frozen=True)
class EvalSize:
    """How much is asked in a search and in a report: of the concept, and of everything else.

    `top`: while searching, what shall go counts as still there when it is among the `top` best;
    a search that is content with less ends on the very edge of forgetting, and other pictures
    then show what is left. `quick`: pictures of everything else by which the model's own CLIP ranks
    the candidates, at most. Pictures take `searching` denoising steps in a search and `denoising`
    in a report.
    """

    top: int = 1
    own: int = 9
    others: int = 18
    quick: int = 48
    report_own: int = 18
    report_others: int = 40
    strict_top: bool = False
    denoising: int = JUDGED_DENOISING
    searching: int = SEARCHED_DENOISING
    guidance: float = JUDGED_GUIDANCE

    def best(self, classes: int) -> int:
        """`top` among so many classes.

        At most one in nine and one more, unless `strict_top` asks for `top` itself: then it is
        `top` or, where there are no more classes than that, all but one.
        """
        if self.strict_top:
            return max(1, min(self.top, classes - 1))
        return min(self.top, 1 + classes // 9)


class Evaluation(Protocol):
    """What a search and a report need of a model."""

    def editable(self) -> Collection[str]:
        """The names, in open_clip's CLIP, of the tensors that the model reads."""

    def evaluator(self) -> Evaluator:
        """For the search split: an edit -> its score at each strength."""

    def forget_only(self) -> Evaluator:
        """The same for the concept alone, at less cost."""

    @property
    def while_kept(self) -> Callable[[Edit, float], Evaluate] | None:
        """(edit, least) -> its score at each strength, which asks no more once less than `least`
        is sure to be kept; None where nothing is saved by that."""

    def report(self, edits: Sequence[Edit]) -> list[Measurement]:
        """What edits do on the report split; nothing when there is none."""

    def reporting(self, edits: Sequence[Edit]) -> Iterator[list[Measurement]]:
        """The same as it grows, for whoever wants a first answer soon; the last is the report.

        In those before, `before` is NaN where it has not been measured yet.
        """

    def seen(self, edits: Sequence[Edit]) -> Seen:
        """What the edited model makes of each item of the report split."""

    def shown(self) -> Sequence[str]:
        """What each item of the report split is of, in the concept's domain."""


class PromptSpec(NamedTuple):
    """One picture to make: of what, in which style, from which noise."""

    concept: str
    style: str
    seed: int

    @property
    def prompt(self) -> str:
        """Its prompt."""
        return prompt(self.concept, self.style)


def prompt_set(
    concept: Concept, eval_set: EvalSet, *, own: int, others: int, seed: int
) -> list[PromptSpec]:
    """What a diffusion model is asked for: the concept first, its neighbours, then others.

    `own` pictures of a thing in every style in turn, or of a style on things in turn; `others`
    pictures of other things (in other styles, for a style), the same for every concept but for
    the concept and its kin, so that an unedited model draws most of them once. The noise depends
    on the prompt's place in the list of all pairs, never on the concept that is erased.
    """
    styles = list(eval_set.styles) or [PLAIN]
    if concept.domain == "style":
        mine = [(thing, concept.name) for thing in spread(eval_set.concepts, own)]
        looks = [name for name in styles if name != concept.name] or [PLAIN]
        names = spread(eval_set.concepts, others)
    else:
        mine = [(concept.name, styles[at % len(styles)]) for at in range(own)]
        looks, names = styles, _company(concept, eval_set, others)
    rest = [(name, looks[_hashed(name) % len(looks)]) for name in names]
    seen: dict[tuple[str, str], int] = {}
    made = []
    for thing, style in mine + rest:
        seen[thing, style] = seen.get((thing, style), -1) + 1
        number = 16 * _hashed(f"{thing}|{style}") + seen[thing, style]
        made.append(PromptSpec(thing, style, seed + number))
    return made


def _company(concept: Concept, eval_set: EvalSet, count: int) -> list[str]:
    """Other things: up to a quarter are neighbours, the rest is spread over the whole list."""
    near = [name for name in eval_set.neighbours if name != concept.name][: count // 4]
    fixed = spread(eval_set.concepts, min(count - count // 4, len(eval_set.concepts)))
    some = [name for name in fixed if name not in (concept.name, *near)]
    spare = [name for name in eval_set.concepts if name not in (concept.name, *near, *some)]
    missing = count - len(near) - len(some)
    return [*near, *some, *spread(spare or some, missing)]


def _hashed(text: str) -> int:
    """A number below 65,536 that is the same for a text in every run."""
    return crc32(text.encode()) % 65_536


One = TypeVar("One")


def spread(names: Sequence[One], count: int) -> list[One]:
    """`count` of the names, evenly over the list; all, and again, when it is shorter."""
    if not names:
        raise SlugError("There are no other concepts to judge by: the list of concepts is empty.")
    if count >= len(names):
        return [names[at % len(names)] for at in range(count)]
    return [names[at * len(names) // count] for at in range(count)]


def label(example: Example, domain: str) -> str:
    """What a picture shows: its label, or for want of one its caption."""
    return example.labels.get(domain) or example.caption


def apart(
    near: Mapping[str, Collection[str]],
    shown: np.ndarray,
    right: tuple[np.ndarray, np.ndarray],
    target: str,
) -> list[Measurement]:
    """Accuracies on the neighbours of each kind ("near by look") and on the "rest" apart.

    `shown` (N,) says what each item shows, `right` which of them are told right before and after,
    (N,) each; items of the target count nowhere.
    """
    if not near:
        return []
    groups = {f"near by {way}": np.isin(shown, [*names]) for way, names in near.items()}
    groups["rest"] = ~np.any([*groups.values(), shown == target], 0)
    return [
        Measurement(
            name, metrics.share(right[0][some]), metrics.share(right[1][some]), int(some.sum())
        )
        for name, some in groups.items()
        if some.any()
    ]


def evaluator(measure: Callable[[Sequence[Edit], float], Score]) -> Evaluator:
    """The evaluator of a model that measures a set of edits: (edits, strength) -> Score."""

    def evaluate(edit: Edit) -> Evaluate:
        return lambda strength: measure([edit.at(strength)], strength)

    return evaluate
