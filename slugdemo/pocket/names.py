"""The names of a world's concepts and styles, and what is left out of it.

Knows names only; no words for them (words.py) and no pictures.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from slugdemo.concept import PLAIN
from slugdemo.errors import SlugError

UNSEEN = (
    "wizard",
    "robot",
    "cat",
    "penguin",
    "umbrella",
    "pine tree",
    "pixel art",
    "watercolour",
)  # what the reference models have never seen


@dataclass(frozen=True)
class Names:
    """All concepts and all styles of a world, in the order in which models number them."""

    concepts: tuple[str, ...]
    styles: tuple[str, ...]

    def without(self, unwanted: Iterable[str]) -> "Names":
        """These names without the unwanted concepts and styles.

        Raises SlugError for a name that is neither, for the plain style, and when nothing is left.
        """
        unwanted = tuple(unwanted)
        for name in unwanted:
            if name not in self.concepts + self.styles:
                raise SlugError(
                    f"There is no concept or style {name!r} to leave out.{self._hint(name)}"
                )
        if PLAIN in unwanted:
            raise SlugError(f"The style {PLAIN!r} cannot be left out: it is the picture itself.")
        concepts = _without(self.concepts, unwanted)
        if not concepts:
            raise SlugError("Without these names no concept is left; leave out fewer.")
        return Names(concepts, _without(self.styles, unwanted))

    def _hint(self, name: str) -> str:
        near = get_close_matches(name, self.concepts + self.styles, n=1)
        return f" Did you mean {near[0]!r}?" if near else ""


def _without(names: Sequence[str], unwanted: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in unwanted)
