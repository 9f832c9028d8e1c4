"""What lies in the assets folder: model folders, concepts, and example pictures with their records.

Knows files and names; knows no tensors. Whatever is missing is simply not offered.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
from PIL import Image

from slugdemo import catalog
from slugdemo.concept import PLAIN, prompt, style_prompt
from slugdemo.errors import SlugError

SPLITS = ("forget", "retain", "test")
COLUMNS = ["webp", "prompt", "concept", "style", "background", "seed"]
KINDS = {"character": "Characters", "object": "Objects", "style": "Styles"}


@dataclass(frozen=True)
class Offer:
    """One model folder: `kind` is "zero-shot", "diffusion" or "vlm"; `bytes` is its size."""

    name: str
    kind: str
    folder: Path
    bytes: int


@dataclass(frozen=True)
class Entry:
    """One concept as the list knows it; `domain` is the column that its pictures are found by."""

    name: str
    kind: str
    group: str
    forgettable: bool

    @property
    def domain(self) -> str:
        """ "style" for styles, "concept" for things."""
        return "style" if self.kind == "style" else "concept"

    @property
    def words(self) -> str:
        """The concept alone in the words of a caption, as the paper captions what it forgets."""
        return style_prompt(self.name) if self.kind == "style" else prompt(self.name)


@dataclass(frozen=True)
class Shelf:
    """The assets folder; every listing is read once."""

    folder: Path

    @cached_property
    def offers(self) -> tuple[Offer, ...]:
        """The models that are there, zero-shot first."""
        found = [_offer(path) for path in sorted((self.folder / "models").glob("*/"))]
        order = ("zero-shot", "diffusion", "vlm")
        return tuple(sorted((one for one in found if one), key=lambda one: order.index(one.kind)))

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Every concept and style, as concepts.json lists them; empty when there is no list."""
        path = self.folder / "concepts" / "concepts.json"
        if not path.is_file():
            return ()
        return tuple(
            Entry(row["name"], row["kind"], row.get("group", ""), row.get("forgettable", True))
            for row in json.loads(path.read_text())
        )

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The records of the pictures by split; an empty table for a split that is missing."""
        paths = {split: self.folder / "concepts" / f"{split}.parquet" for split in SPLITS}
        return {
            split: pd.read_parquet(path) if path.is_file() else pd.DataFrame(columns=COLUMNS)
            for split, path in paths.items()
        }

    @cached_property
    def offered(self) -> tuple[Entry, ...]:
        """The concepts that can be forgotten: those with pictures to forget, characters first."""
        table = self.tables["forget"]
        there = {"concept": {*table["concept"]}, "style": {*table["style"]} - {PLAIN}}
        fit = [one for one in self.entries if one.forgettable and one.name in there[one.domain]]
        order = list(KINDS)
        return tuple(sorted(fit, key=lambda one: order.index(one.kind)))

    def entry(self, name: str) -> Entry:
        """The concept of this name; raises SlugError when it is not offered."""
        for one in self.offered:
            if one.name == name:
                return one
        raise SlugError(f"There is no concept called “{name[:60]}” with pictures to forget here.")

    def offer(self, name: str) -> Offer:
        """The model of this name; raises SlugError when it is not here."""
        for one in self.offers:
            if one.name == name:
                return one
        raise SlugError(f"There is no model called “{name[:60]}” here.")

    def names(self, domain: str) -> list[str]:
        """All names of a domain: "concept" or "style"."""
        return [one.name for one in self.entries if one.domain == domain]

    def like(self, entry: Entry) -> list[Entry]:
        """The nearest first: others of the same group, then all others of the domain."""
        others = [one for one in self.entries if one.domain == entry.domain and one != entry]
        return sorted(others, key=lambda one: (one.group != entry.group, one.kind != entry.kind))


def _offer(folder: Path) -> Offer | None:
    kind = catalog.kind_of(folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Offer(folder.name, kind, folder, size) if kind else None


def decoded(rows: pd.DataFrame) -> list[Image.Image]:
    """The pictures of some records."""
    return [Image.open(io.BytesIO(webp)).convert("RGB") for webp in rows["webp"]]


def spread(rows: pd.DataFrame, count: int, *, seed: int) -> pd.DataFrame:
    """At most `count` of the rows, drawn by lot with a seed, in their own order."""
    if len(rows) <= count:
        return rows
    return rows.sample(count, random_state=seed).sort_index()


def prompts(names: Sequence[str], domain: str) -> dict[str, list[str]]:
    """One prompt for each class of a domain."""
    if domain == "style":
        return {name: [style_prompt(name)] for name in names}
    return {name: [prompt(name)] for name in names}
