"""What the page offers: models, concepts, and the records of the shipped pictures.

Knows files and names; knows no tensors. Whatever is missing is simply not offered.
"""

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
from PIL import Image

from slugdemo import catalog
from slugdemo import data as examples
from slugdemo.catalog import Model
from slugdemo.concept import DOMAINS, PLAIN, Concept
from slugdemo.errors import SlugError

SPLITS = ("forget", "retain", "test")
COLUMNS = ["webp", "prompt", "concept", "style", "background", "seed"]
KINDS = {"character": "Characters", "object": "Objects", "style": "Styles"}


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
        return Concept("", self.kind).domain


@dataclass(frozen=True)
class Shelf:
    """The assets folder; every listing is read once."""

    folder: Path

    @cached_property
    def offers(self) -> tuple[Model, ...]:
        """The models that are here, zero-shot first: shipped ones, then those of SLUGDEMO_MODELS."""
        found = [_offer(path) for path in sorted((self.folder / "models").glob("*/"))]
        found += [one for one in catalog.local() if one.place == "folder"]
        kinds = catalog.KINDS
        return tuple(sorted((one for one in found if one), key=lambda one: kinds.index(one.kind)))

    @cached_property
    def published(self) -> tuple[Model, ...]:
        """The models of full size that could be here too."""
        return tuple(catalog.find(name) for name in (*catalog.PAPERS, *catalog.KNOWN))

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Every concept and style, as concepts.json lists them; empty when there is no list."""
        folder = self.folder / "concepts"
        if not (folder / "concepts.json").is_file():
            return ()
        return tuple(
            Entry(row["name"], row["kind"], row.get("group", ""), row.get("forgettable", True))
            for row in examples.listing(folder)
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
        there = {
            domain: {name for name, n in table[domain].value_counts().items() if n >= 2} - {PLAIN}
            for domain in DOMAINS
        }
        fit = [one for one in self.entries if one.forgettable and one.name in there[one.domain]]
        order = list(KINDS)
        return tuple(sorted(fit, key=lambda one: order.index(one.kind)))

    def entry(self, name: str) -> Entry:
        """The concept of this name; raises SlugError when it is not offered."""
        for one in self.offered:
            if one.name == name:
                return one
        raise SlugError(f"There is no concept called “{name[:60]}” with pictures to forget here.")

    def offer(self, name: str) -> Model:
        """The model of this name; raises SlugError when nobody knows it."""
        for one in (*self.offers, *self.published):
            if one.name == name:
                return one
        raise SlugError(f"There is no model called “{name[:60]}” here.")

    def names(self, domain: str) -> tuple[str, ...]:
        """All names of a domain: "concept" or "style"."""
        return tuple(one.name for one in self.entries if one.domain == domain)

    def group(self, name: str) -> tuple[str, ...]:
        """The other names of the group that a name stands in."""
        groups = {one.name: one.group for one in self.entries}
        return tuple(
            other for other in groups if other != name and groups[other] == groups.get(name)
        )

    def held_out(self, label: str, domain: str, *, own: int, others: int) -> list[str]:
        """Some test pictures by their places: `own` of a name, `others` of each other name."""
        table = self.tables["test"]
        few = table.groupby(domain, group_keys=False).head(max(others, 0)) if len(table) else table
        rows = [*table.index[table[domain] == label][:own], *few.index[few[domain] != label]]
        path = self.folder / "concepts" / "test.parquet"
        return [f"{path}#{number}" for number in rows]


def _offer(folder: Path) -> Model | None:
    kind = catalog.kind_of(folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Model(folder.name, kind, "embedded", size, folder) if kind else None


def decoded(rows: pd.DataFrame) -> list[Image.Image]:
    """The pictures of some records."""
    return [Image.open(io.BytesIO(webp)).convert("RGB") for webp in rows["webp"]]
