"""What is asked while searching and while testing: of the concept, of its kin, of the rest.

Knows names, seeds and pictures' labels; knows no model.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from slugdemo import metrics
from slugdemo.concept import PLAIN, Concept, Example, prompt
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.search import Evaluate, Exam, Point

SEARCH_SEED, TEST_SEED = 7_000_000, 9_000_000  # of noise; shipped pictures have 1 to 3 million
OTHER = {"concept": "style", "style": "concept"}


class Row(NamedTuple):
    """One share measured on held-out material, before and after, on n items."""

    measure: str
    before: float
    after: float
    n: int

    @property
    def interval(self) -> metrics.Interval:
        """The 95 % Wilson interval of `after`."""
        return metrics.wilson(self.after, self.n)


@dataclass(frozen=True)
class World:
    """What there is besides the concept: names of things and styles, its kin, held-out pictures."""

    concepts: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()
    neighbours: tuple[str, ...] = ()
    test: tuple[Example, ...] = ()

    def names(self, concept: Concept) -> dict[str, list[str]]:
        """The names of each domain, the concept's own among them."""
        known = {"concept": list(self.concepts), "style": list(self.styles) or [PLAIN]}
        if concept.name not in known[concept.domain]:
            known[concept.domain].append(concept.name)
        return known


@dataclass(frozen=True)
class Size:
    """How much is asked in a search and in a test: of the concept, and of everything else.

    `top`: while searching, what shall go counts as still there when it is among the `top` best.
    """

    top: int = 1
    own: int = 9
    others: int = 18
    test_own: int = 18
    test_others: int = 40


class Board(Protocol):
    """What a search and a test need of a host."""

    def editable(self) -> Collection[str]:
        """The canonical names of the tensors that the host reads."""

    def exam(self) -> Exam:
        """For a search: an edit -> what each step of it does to the concept and to the rest."""

    def glance(self) -> Exam:
        """The same for the concept alone, at less cost."""

    def rows(self, edits: Sequence[Edit]) -> list[Row]:
        """What edits do on held-out material; nothing when there is none."""


class Order(NamedTuple):
    """One picture to make: of what, in which style, from which noise."""

    concept: str
    style: str
    seed: int

    @property
    def prompt(self) -> str:
        """Its prompt."""
        return prompt(self.concept, self.style)


def orders(concept: Concept, world: World, *, own: int, others: int, seed: int) -> list[Order]:
    """What a diffusion model is asked for: the concept first, its neighbours, then others.

    `own` pictures of a thing in every style in turn, or of a style on things in turn; `others`
    pictures of other things (in other styles, for a style), the same for every concept but for
    the concept and its kin, so that an unedited model draws most of them once. The noise depends
    on the prompt's place in the list of all pairs, never on the concept that is erased.
    """
    styles = list(world.styles) or [PLAIN]
    if concept.domain == "style":
        looks = [name for name in styles if name != concept.name] or [PLAIN]
        mine = [(thing, concept.name) for thing in spread(world.concepts, own)]
        names = spread(world.concepts, others)
    else:
        looks = styles
        mine = [(concept.name, styles[at % len(styles)]) for at in range(own)]
        near = [name for name in world.neighbours if name != concept.name][: others // 4]
        far = [name for name in world.concepts if name not in (concept.name, *near)]
        names = [*near, *spread(far, others - len(near))]
    rest = [(name, looks[at % len(looks)]) for at, name in enumerate(names)]
    seen: dict[tuple[str, str], int] = {}
    made = []
    for thing, style in mine + rest:
        seen[thing, style] = seen.get((thing, style), -1) + 1
        made.append(Order(thing, style, seed + _lot(thing, style) + seen[thing, style]))
    return made


def _lot(thing: str, style: str) -> int:
    """A number that is the same for a pair in every run."""
    return sum(ord(letter) * (at + 1) for at, letter in enumerate(f"{thing}|{style}")) * 16


def spread(names: Sequence[str], count: int) -> list[str]:
    """`count` of the names, evenly over the list; all, and again, when it is shorter."""
    if not names:
        raise SlugError("There are no other concepts to judge by: the list of concepts is empty.")
    if count >= len(names):
        return [names[at % len(names)] for at in range(count)]
    return [names[at * len(names) // count] for at in range(count)]


def label(example: Example, domain: str) -> str:
    """What a picture shows: its label, or for want of one its caption."""
    return example.labels.get(domain) or example.caption


def exam(measure: Callable[[Sequence[Edit], float], Point]) -> Exam:
    """The exam of a host that measures a set of edits: (edits, step) -> Point."""

    def examine(edit: Edit) -> Evaluate:
        return lambda step: measure([edit.at(step)], step)

    return examine
