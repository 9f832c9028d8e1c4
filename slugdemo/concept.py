"""Concept, Example and Names: what to forget and what to keep, as strings and paths only.

Also the few templates in which a concept is asked for, and which spellings name the same thing.
Knows no tensors and opens no files: pictures are read where they are needed.
"""

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

KINDS = ("object", "character", "style", "custom")
DOMAINS = ("concept", "style")
PLAIN = "plain"  # the style of a picture that has none
WITH_ARTICLE = ("a", "an", "the", "what", "my", "our", "this")
ARTICLES = ("a ", "an ", "the ")
SUBJECT = re.compile(  # "a photo of a cat", "this is a cat", "a cat"
    r"(?:this is |here (?:is|you see) )?"
    r"(?:(?:an? |the )?(?:\w+ )?(?:photo|photograph|picture|image|drawing|painting|sketch) of )?"
    r"(?:an? |the )?(?P<name>.+)"
)
LONGEST_SUBJECT = 3  # words; a caption that says more is no name


@dataclass(frozen=True)
class Example:
    """One picture with its caption; `labels` says what is on it, {"concept": "cat", ...}."""

    image: Path | str
    caption: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Concept:
    """What to forget, with the pictures that show it and the pictures that must survive.

    `notes` are sentences about what was left out when its pictures were read. Raises ValueError
    for a kind that is none of `KINDS`.
    """

    name: str
    kind: str
    forget: tuple[Example, ...] = ()
    retain: tuple[Example, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r} is none of {KINDS}")

    @property
    def domain(self) -> str:
        """The label that tells its pictures from others: "style" for styles, else "concept"."""
        return domain(self.kind)

    @property
    def words(self) -> str:
        """The concept alone in the words of a caption: "a picture of a cat", "a neon picture"."""
        return words(self.name, self.kind)


@dataclass(frozen=True)
class Names:
    """The known names with their kinds, and every other word that stands for one of them.

    `kinds` gives the kind of each name, `synonyms` its other words. Names compare without case,
    outer and repeated spaces, underscores, hyphens, a leading article and a plural ending, and by
    synonyms. Where two names claim a word, a name comes before a synonym, a synonym before a
    plural, and the first before the second.
    """

    kinds: Mapping[str, str] = field(default_factory=dict)
    synonyms: Mapping[str, Iterable[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, listing: Iterable[Mapping]) -> "Names":
        """The names of a list of concepts, as concepts.json has them."""
        kinds, synonyms = {}, {}
        for entry in listing:
            kinds[entry["name"]] = entry["kind"]
            synonyms[entry["name"]] = (*entry.get("synonyms", ()), *entry.get("descriptions", ()))
        return cls(kinds, synonyms)

    def adding(self, name: str) -> "Names":
        """These names and one more; the same when it is known."""
        if self.known(name):
            return self
        return Names({**self.kinds, self.canonical(name): "custom"}, self.synonyms)

    def canonical(self, name: str) -> str:
        """The known name that `name` stands for; itself, tidied up, when it is unknown."""
        return self.known(name) or tidy(name)

    def known(self, name: str) -> str:
        """The known name that `name` stands for; "" when there is none."""
        for spelling in (folded(name), _bare(folded(name))):
            if found := self._spellings.get(spelling):
                return found
        return ""

    def same(self, name: str, other: str) -> bool:
        """Whether two names stand for the same thing."""
        return _bare(folded(self.canonical(name))) == _bare(folded(self.canonical(other)))

    def kind(self, name: str) -> str:
        """The kind of what a name stands for; "custom" when it is unknown."""
        return self.kinds.get(self.known(name), "custom")

    def words(self, name: str) -> str:
        """The caption of a picture that shows just this: "a picture of a cat", "a neon picture"."""
        return words(self.canonical(name), self.kind(name))

    def held(self, caption: str, domain: str = "") -> tuple[str, ...]:
        """The known names that a caption holds, in their order: "a hot dog" holds no dog.

        Whole words count, the longest name first; of one domain ("concept" or "style") if asked.
        """
        found = [
            self._spellings[match.group()] for match in self._pattern.finditer(folded(caption))
        ]
        wanted = (name for name in found if not domain or self._domain(name) == domain)
        return tuple(dict.fromkeys(wanted))

    def near(self, name: str, count: int = 3) -> tuple[str, ...]:
        """The known names whose spelling or synonyms come nearest, best first; perhaps none."""
        close = difflib.get_close_matches(folded(name), self._spellings, n=3 * count)
        return tuple(dict.fromkeys(self._spellings[spelling] for spelling in close))[:count]

    def label(self, example: Example, domain: str = "concept") -> str:
        """What a picture shows, as a name; "" when neither a label nor its caption says it.

        Its label, else the name that its caption holds, else the caption itself when that is as
        short as a name: "a photo of a gizmo" shows a gizmo. A picture that mentions no style is
        plain.
        """
        if given := example.labels.get(domain):
            return self.canonical(given)
        if held := self.held(example.caption, domain):
            return held[0]
        return PLAIN if domain == "style" else subject(example.caption)

    def shows(self, example: Example, name: str) -> bool:
        """Whether a picture shows what `name` stands for, by its label or anywhere in its caption.

        `name` must be among the names (see `adding`).
        """
        own = self.canonical(name)
        given = example.labels.get(self._domain(own))
        if given and self.same(given, own):
            return True
        return own in self.held(example.caption)

    def _domain(self, name: str) -> str:
        return domain(self.kinds.get(name, "custom"))

    @cached_property
    def _spellings(self) -> Mapping[str, str]:
        """Every folded spelling, and the name that it stands for."""
        found: dict[str, str] = {}
        names = [(folded(name), name) for name in self.kinds]
        others = [
            (folded(word), name) for name in self.kinds for word in self.synonyms.get(name, ())
        ]
        plurals = [(_plural(word), name) for word, name in (*names, *others)]
        for word, name in (*names, *others, *plurals):
            found.setdefault(word, name)
        found.pop("", None)
        return MappingProxyType(found)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest = sorted(self._spellings, key=len, reverse=True)
        several = "|".join(map(re.escape, longest)) or r"(?!)"
        return re.compile(rf"(?<!\w)(?:{several})(?!\w)")


def folded(name: str) -> str:
    """A name as it is compared: without case, outer spaces, underscores and hyphens."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    return " ".join(re.split(r"[\s_-]+", plain)).strip()


def tidy(name: str) -> str:
    """A name as it is shown: "my mug" for "my mug ", "Van Gogh" for "Van_Gogh"."""
    return " ".join(name.replace("_", " ").split())


def subject(caption: str) -> str:
    """The thing that a short caption names, "gizmo" for "a photo of a gizmo."; else ""."""
    found = SUBJECT.fullmatch(folded(caption).strip(" .,;:!?\"'"))
    name = found["name"] if found else ""
    return name if 0 < len(name.split()) <= LONGEST_SUBJECT else ""


def domain(kind: str) -> str:
    """The label of a kind: "style" for styles, else "concept"."""
    return "style" if kind == "style" else "concept"


def words(name: str, kind: str) -> str:
    """A concept alone in the words of a caption."""
    return style_prompt(name) if kind == "style" else prompt(name)


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


def _bare(name: str) -> str:
    """A folded name without its article."""
    article = next((word for word in ARTICLES if name.startswith(word)), "")
    return name.removeprefix(article)


def _plural(word: str) -> str:
    return f"{word}es" if word.endswith(("s", "x", "z", "ch", "sh")) else f"{word}s"
