"""Concept and Example: what to forget and what to keep, as strings and paths only.

Also the few templates in which a concept is asked for. Knows no tensors: pictures are read where
they are needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

KINDS = ("object", "character", "style", "custom")
PLAIN = "plain"  # the style of a picture that has none
WITH_ARTICLE = ("a", "an", "the", "what", "my", "our", "this")


@dataclass(frozen=True)
class Example:
    """One picture with its caption; `labels` says what is on it, {"concept": "cat", ...}."""

    image: Path | str
    caption: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Concept:
    """What to forget, with the pictures that show it and the pictures that must survive.

    Raises ValueError for a kind that is none of `KINDS`.
    """

    name: str
    kind: str
    forget: tuple[Example, ...] = ()
    retain: tuple[Example, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r} is none of {KINDS}")

    @property
    def domain(self) -> str:
        """The label that tells its pictures from others: "style" for styles, else "concept"."""
        return "style" if self.kind == "style" else "concept"

    @property
    def words(self) -> str:
        """The concept alone in the words of a caption: "a picture of a cat", "a neon picture"."""
        return style_prompt(self.name) if self.kind == "style" else prompt(self.name)


def named(name: str) -> str:
    """The name with its article, as the captions of the pocket models have it: "a cat"."""
    if name[:1].isupper() or name.split(" ")[0] in WITH_ARTICLE:
        return name
    vowel = name[:1].lower() in tuple("aeio")
    return f"{'an' if vowel else 'a'} {name}"


def prompt(name: str, style: str = PLAIN) -> str:
    """The one template in which models are tested and shown: "a neon picture of a cat"."""
    return (
        f"a picture of {named(name)}" if style == PLAIN else f"a {style} picture of {named(name)}"
    )


def style_prompt(style: str) -> str:
    """The template of a style alone."""
    return f"a {style} picture"
