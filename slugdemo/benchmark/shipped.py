"""Results that come with the app: rows computed beforehand by `benchmark run`.

Knows the assets folder and rows; computes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from slugdemo import catalog
from slugdemo.many import Joint
from slugdemo.results import Result

Kind = TypeVar("Kind", Result, Joint)
FILE, MANY = "results.parquet", "many.parquet"
KEPT = 512  # concepts whose rows stay in memory


def rows(model: str, concept: str) -> tuple[Result, ...]:
    """The shipped rows of one concept in one model; none where nothing was shipped."""
    return _rows(_table(FILE), model, concept)


def seconds(model: str, method: str, otherwise: float) -> float:
    """How long a method takes in a model: the median over shipped rows, `otherwise` without any."""
    return _table(FILE).seconds.get((model, method), otherwise)


def made() -> str:
    """The day on which the shipped rows were made, as 2026-01-31; "" where it is not on record."""
    return str(_table(FILE).frame.attrs.get("made", ""))


def joint(model: str) -> list[Joint]:
    """The shipped curves of many concepts in one model; none where nothing was shipped."""
    frame = _table(MANY).frame
    if frame.empty:
        return []
    return _made(Joint, frame[frame["model"] == model])


def current(result: Result | Joint, digest: str) -> bool:
    """Whether a row was made with the weights of this digest (`Task.digest`)."""
    return result.digest == digest


@dataclass(frozen=True, eq=False)
class _Table:
    """A shipped table, empty where none was shipped, and what is looked up in it often."""

    frame: pd.DataFrame

    @cached_property
    def places(self) -> Mapping[tuple[str, str], np.ndarray]:
        """The numbers of the rows of each concept in each model."""
        return {} if self.frame.empty else self.frame.groupby(["model", "concept"]).indices

    @cached_property
    def seconds(self) -> dict[tuple[str, str], float]:
        """The median time of each method in each model, where it took any."""
        if self.frame.empty:
            return {}
        some = self.frame[(self.frame["attack"] == "") & (self.frame["seconds"] > 0)]
        took = some.groupby(["model", "method", "concept"])["seconds"].first()
        return took.groupby(level=["model", "method"]).median().to_dict()


def _table(name: str) -> _Table:
    path = catalog.assets() / name
    return _read(path, path.stat().st_mtime_ns) if path.is_file() else _Table(pd.DataFrame())


@lru_cache(4)
def _read(path: Path, _changed: int) -> _Table:
    return _Table(pd.read_parquet(path))


@lru_cache(KEPT)
def _rows(table: _Table, model: str, concept: str) -> tuple[Result, ...]:
    return tuple(_made(Result, table.frame.iloc[table.places.get((model, concept), [])]))


def _made(kind: type[Kind], frame: pd.DataFrame) -> list[Kind]:
    names = [field.name for field in fields(kind)]
    return [kind(**{name: row[name] for name in names}) for row in frame.to_dict("records")]
