"""The one exception whose message is a sentence for the visitor."""

import difflib
from collections.abc import Iterable


class SlugError(Exception):
    """Something that a visitor can cause or fix; the message is a whole sentence."""


def unknown(kind: str, name: str, names: Iterable[str]) -> SlugError:
    """The error for a name that is none: with the nearest ones, and how many there are."""
    every = list(names)
    near = difflib.get_close_matches(name.strip().casefold(), every, 3, 0.4)
    short = name if len(name) <= 60 else f"{name[:60]}…"
    rest = f"Near it: {', '.join(near)}" if near else f"The first are: {', '.join(every[:5])}"
    return SlugError(f"There is no {kind} {short!r}. {rest} ({len(every)} in all).")
