"""View: what one visitor looks at, as a value that fits into a link.

Holds names and numbers only, never a model, a tensor or a picture.
"""

from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs, urlencode

from slugdemo.errors import SlugError
from slugdemo.layers import ALIGNMENTS, UNITS

VERSION = "1"
FARTHEST = 1.0  # the largest step: as far as the layer is long
KEPT = 8  # edits in a tray at most
LARGEST_SEED = 2**31 - 1
PAST = 20  # views that can be undone
MARK = " #"  # between the name of something a visitor brought and its secret


@dataclass(frozen=True)
class Kept:
    """One edit in the tray; `name` is what the visitor calls it."""

    concept: str
    layer: str
    step: float
    on: bool = True
    name: str = ""


@dataclass(frozen=True)
class View:
    """What a visitor has chosen; empty strings and None mean "not yet"."""

    model: str = ""
    concept: str = ""
    layer: str = ""
    step: float | None = None
    seed: int = 0
    words: str = ""
    picture: int = 0
    tray: tuple[Kept, ...] = ()
    by: str = ALIGNMENTS[0]  # how alignment is read
    unit: str = UNITS[0]  # what a layer is
    pin: str = ""  # the query of the view that is pinned as A
    own: str = ""  # a picture of the visitor's own; no part of a link
    trace: tuple[float, ...] = ()  # the steps that a search has tried; no part of a link
    past: tuple["View", ...] = ()  # what can be undone, the last one last; no part of a link

    def query(self) -> str:
        """The view as a query string, with a version."""
        pairs: list[tuple[str, str]] = [("v", VERSION)]
        for key in ("model", "concept", "layer", "words"):
            if value := getattr(self, key):
                pairs.append((key, value))
        if self.step is not None:
            pairs.append(("step", f"{self.step:g}"))
        pairs += [(key, str(value)) for key in ("seed", "picture") if (value := getattr(self, key))]
        if self.by != ALIGNMENTS[0]:
            pairs.append(("by", self.by))
        if self.unit != UNITS[0]:
            pairs.append(("unit", self.unit))
        pairs += [("keep", _written(kept)) for kept in self.tray]
        if self.pin:
            pairs.append(("pin", self.pin))
        return urlencode(pairs)

    @classmethod
    def parse(cls, query: dict[str, list[str]]) -> "View":
        """The view in a query string; raises SlugError when it is none of ours."""
        if query.get("v", [VERSION]) != [VERSION]:
            raise SlugError("This link was made by another version of slugdemo.")
        words = ("model", "concept", "layer", "by", "unit")
        text = {key: query[key][0][:200] for key in words if key in query}
        try:
            step = float(query["step"][0]) if "step" in query else None
            numbers = {key: int(query[key][0]) for key in ("seed", "picture") if key in query}
            tray = tuple(_kept(one) for one in query.get("keep", [])[:KEPT])
        except (ValueError, IndexError) as error:
            raise SlugError("This link is damaged: one of its numbers is no number.") from error
        more = {"words": query.get("words", [""])[0][:400], "pin": query.get("pin", [""])[0][:4000]}
        return cls(**text, step=step, **numbers, tray=tray, **more).checked()

    def checked(self) -> "View":
        """The same view; raises SlugError when a number is out of range."""
        steps = [self.step or 0.0, *(kept.step for kept in self.tray)]
        if not all(0 <= step <= FARTHEST for step in steps):
            raise SlugError(f"A step lies between 0 and {FARTHEST:g} of the layer's norm.")
        if self.by not in ALIGNMENTS:
            raise SlugError(f"Alignment is read as {' or '.join(ALIGNMENTS)}, not otherwise.")
        if self.unit not in UNITS:
            raise SlugError(f"A layer is a {' or a '.join(UNITS)}, nothing else.")
        if not 0 <= self.seed <= LARGEST_SEED or not 0 <= self.picture <= 10_000:
            raise SlugError(f"A seed is a whole number from 0 to {LARGEST_SEED}.")
        return self

    def after(self, before: "View") -> "View":
        """This view with `before` as the one to go back to, when they differ."""
        if self.past is not before.past or self.query() == before.query() or not before.model:
            return self
        return replace(self, past=(*before.past, replace(before, past=()))[-PAST:])

    def applied(self) -> tuple[Kept, ...]:
        """What acts on the model, unnamed: the tray's edits that are on and the one looked at.

        The same one counts once.
        """
        acting = [replace(kept, name="") for kept in self.tray if kept.on]
        if self.layer and self.step:
            own = (self.concept, self.layer)
            acting = [one for one in acting if (one.concept, one.layer) != own]
            acting.append(Kept(self.concept, self.layer, self.step))
        return tuple(acting)

    def unedited(self) -> "View":
        """The same view of the model as it came."""
        return replace(self, layer="", step=None, tray=())

    def pinned(self) -> "View | None":
        """The view that is pinned as A, if any; raises SlugError when it is none of ours."""
        return replace(View.parse(parse_qs(self.pin)), pin="") if self.pin else None


def label(concept: str) -> str:
    """What a concept is called on the page: a visitor's own without its secret."""
    return concept.split(MARK)[0]


def _written(kept: Kept) -> str:
    on = "on" if kept.on else "off"
    parts: list[Any] = [kept.concept, kept.layer, f"{kept.step:g}", on, *filter(None, [kept.name])]
    return "~".join(parts)


def _kept(text: str) -> Kept:
    concept, layer, step, on, *name = text[:500].split("~")
    return Kept(concept, layer, float(step), on == "on", "".join(name)[:60])
