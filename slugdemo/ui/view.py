"""View: what one visitor looks at, as a value that fits into a link.

Holds names and numbers only, never a model, a tensor or a picture.
"""

from dataclasses import dataclass, replace
from urllib.parse import parse_qs, urlencode

from slugdemo.config import Config
from slugdemo.errors import SlugError
from slugdemo.layer_names import short
from slugdemo.layers import ALIGNMENTS, GRANULARITIES

VERSION = "1"
FARTHEST = 4.0  # the largest strength
KEPT = 8  # edits in a tray at most
LARGEST_SEED = 2**31 - 1
PAST = 20  # views that can be undone
MARK = " #"  # between the name of something a visitor brought and its secret
DIGEST = 16  # letters of an edit's digest that stand for it in a link
# what older links call things
OLD_KEYS = {"step": "strength", "by": "alignment", "unit": "granularity"}


@dataclass(frozen=True)
class Kept:
    """One edit: its concept, how far it goes, and either its layer or the digest of what a method gave.

    In the tray it can be switched off, and `name` is what the visitor calls it. `anchor` is what
    the concept has become, "" where it just went.
    """

    concept: str
    layer: str
    strength: float
    on: bool = True
    name: str = ""
    method: str = Config.method
    digest: str = ""
    anchor: str = ""

    @property
    def place(self) -> tuple[str, str, str, str]:
        """What edit it is, however far it goes."""
        return self.concept, self.layer, self.method, self.digest


@dataclass(frozen=True)
class View:
    """What a visitor has chosen; empty strings and None mean "not yet".

    `method` made the edit that is looked at: that of `layer`, for methods that edit one chosen
    layer, or the one with the `digest`; methods that can replace turn the concept into `anchor`,
    where there is one. `trace` (the strengths that a search has tried), `own` (a
    picture of the visitor's own) and `past` (what can be undone, the last one last) are no part
    of a link.
    """

    model: str = ""
    concept: str = ""
    layer: str = ""
    strength: float | None = None
    seed: int = 0
    words: str = ""
    picture: int = 0
    tray: tuple[Kept, ...] = ()
    alignment: str = ALIGNMENTS[0]
    granularity: str = GRANULARITIES[0]
    method: str = Config.method
    digest: str = ""
    attack: str = ""  # the attack that was last tried
    anchor: str = ""
    pin: str = ""  # the query of the view that is pinned as A
    own: str = ""
    trace: tuple[float, ...] = ()
    past: tuple["View", ...] = ()

    def query(self) -> str:
        """The view as a query string, with a version."""
        pairs: list[tuple[str, str]] = [("v", VERSION)]
        for key in ("model", "concept", "layer", "words", "digest", "attack"):
            if value := getattr(self, key):
                pairs.append((key, value))
        if self.strength is not None:
            pairs.append(("strength", f"{self.strength:g}"))
        pairs += [(key, str(value)) for key in ("seed", "picture") if (value := getattr(self, key))]
        for key in ("alignment", "granularity", "method"):
            if (value := getattr(self, key)) != getattr(View, key):
                pairs.append((key, value))
        pairs += [("replace_by", self.anchor)] if self.anchor else []
        pairs += [("keep", _written(kept)) for kept in self.tray]
        if self.pin:
            pairs.append(("pin", self.pin))
        return urlencode(pairs)

    @classmethod
    def parse(cls, query: dict[str, list[str]]) -> "View":
        """The view in a query string; raises SlugError when it is none of ours."""
        if query.get("v", [VERSION]) != [VERSION]:
            raise SlugError("This link was made by another version of slugdemo.")
        query = {OLD_KEYS.get(key, key): value for key, value in query.items()}
        names = ("model", "concept", "layer", "alignment", "granularity", "method", "digest")
        text = {key: query[key][0][:200] for key in (*names, "attack") if key in query}
        try:
            strength = float(query["strength"][0]) if "strength" in query else None
            numbers = {key: int(query[key][0]) for key in ("seed", "picture") if key in query}
            tray = tuple(_kept(text) for text in query.get("keep", [])[:KEPT])
        except (ValueError, IndexError) as error:
            raise SlugError("This link is damaged: one of its numbers is not a number.") from error
        return replace(
            cls(),
            **text,  # type: ignore[arg-type]
            **numbers,  # type: ignore[arg-type]
            strength=strength,
            tray=tray,
            words=query.get("words", [""])[0][:400],
            anchor=query.get("replace_by", [""])[0][:200],
            pin=query.get("pin", [""])[0][:4000],
        ).checked()

    def checked(self) -> "View":
        """The same view; raises SlugError when a number is out of range."""
        for strength in (self.strength or 0.0, *(kept.strength for kept in self.tray)):
            check(strength)
        if self.alignment not in ALIGNMENTS:
            raise SlugError(f"The alignment is {' or '.join(ALIGNMENTS)}.")
        if self.granularity not in GRANULARITIES:
            raise SlugError(f"The granularity is {' or '.join(GRANULARITIES)}.")
        if not 0 <= self.seed <= LARGEST_SEED or not 0 <= self.picture <= 10_000:
            raise SlugError(f"A seed is a whole number from 0 to {LARGEST_SEED}.")
        return self

    def after(self, before: "View") -> "View":
        """This view with `before` as the one to go back to, when they differ."""
        same = self.query() == replace(before, attack=self.attack).query()
        if self.past is not before.past or same or not before.model:
            return self
        return replace(self, past=(*before.past, replace(before, past=()))[-PAST:])

    @property
    def chosen(self) -> bool:
        """Whether an edit has been chosen."""
        return bool(self.layer or self.digest)

    @property
    def edit(self) -> Kept:
        """The edit that is looked at."""
        far = self.strength or 0.0
        kept = Kept(self.concept, self.layer, far, method=self.method, digest=self.digest)
        return replace(kept, anchor=self.anchor if self.digest else "")

    def applied(self) -> tuple[Kept, ...]:
        """What acts on the model, unnamed: the tray's edits that are on and the one looked at.

        The same one counts once.
        """
        acting = [replace(kept, name="") for kept in self.tray if kept.on]
        if self.chosen and self.strength:
            acting = [kept for kept in acting if kept.place != self.edit.place]
            acting.append(self.edit)
        return tuple(acting)

    def unedited(self) -> "View":
        """The same view of the model as it came."""
        return replace(self, layer="", digest="", strength=None, tray=())

    def of_layer(self, layer: str, method: str, strength: float | None = None) -> "View":
        """The same view with the edit of a layer, by a method that edits one."""
        return replace(self, layer=layer, method=method, digest="", strength=strength, trace=())

    def of_concept(self, **new: str) -> "View":
        """The view of another model or concept: the edit and the words are open again."""
        blank = replace(self, layer="", digest="", strength=None, words="", picture=0, trace=())
        return replace(blank, method=Config.method, anchor="", **new)  # type: ignore[arg-type]

    def pinned(self) -> "View | None":
        """The view that is pinned as A, if any; raises SlugError when it is none of ours."""
        return replace(View.parse(parse_qs(self.pin)), pin="") if self.pin else None


def check(strength: object) -> float:
    """`strength`, rounded; raises SlugError when it is no number from 0 to `FARTHEST`."""
    if not isinstance(strength, int | float) or not 0 <= strength <= FARTHEST:
        raise SlugError(f"A strength lies between 0 and {FARTHEST:g}.")
    return round(float(strength), 4)


def label(concept: str) -> str:
    """What a concept is called on the page: a visitor's own without its secret."""
    return concept.split(MARK)[0]


def place(kept: Kept) -> str:
    """Where an edit acts, in a few words: its layer, or the method that made it."""
    return short(kept.layer) if kept.layer else kept.method


def share(value: float) -> str:
    """A share as whole per cent, as "<1 %" where rounding would hide it."""
    if 0 < value < 0.005:
        return "<1 %"
    return f"{value:.0%}".replace("%", " %")


def _written(kept: Kept) -> str:
    on = "on" if kept.on else "off"
    parts = [kept.concept, kept.layer, f"{kept.strength:g}", on, kept.name]
    if kept.method != Config.method or kept.digest:
        parts += [kept.method, kept.digest, kept.anchor]
    return "~".join(parts).rstrip("~")


def _kept(text: str) -> Kept:
    concept, layer, strength, on, *more = text[:500].split("~")
    name, method, digest, anchor = (*more, "", "", "", "")[:4]
    how = method or Config.method
    return Kept(concept, layer, float(strength), on == "on", name[:60], how, digest, anchor)
