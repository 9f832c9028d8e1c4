"""Results that come with the app: rows computed beforehand by `benchmark run`.

Knows the assets folder and rows; computes nothing.
"""

from dataclasses import fields
from functools import cache
from pathlib import Path

import pandas as pd

from slugdemo import catalog
from slugdemo.many import Joint
from slugdemo.results import Result

FILE, MANY = "results.parquet", "many.parquet"


def rows(model: str, concept: str) -> list[Result]:
    """The shipped rows of one concept in one model; none where nothing was shipped."""
    frame = _table(catalog.assets() / FILE)
    if frame is None:
        return []
    some = frame[(frame["model"] == model) & (frame["concept"] == concept)]
    names = [field.name for field in fields(Result)]
    return [Result(**{name: row[name] for name in names}) for row in some.to_dict("records")]


def seconds(model: str, method: str, otherwise: float) -> float:
    """How long a method takes in a model: the median over shipped rows, `otherwise` without any."""
    frame = _table(catalog.assets() / FILE)
    if frame is None:
        return otherwise
    some = frame[(frame["model"] == model) & (frame["method"] == method) & (frame["attack"] == "")]
    took = some[some["seconds"] > 0].groupby("concept")["seconds"].first()
    return float(took.median()) if len(took) else otherwise


def made() -> str:
    """The day on which the shipped rows were made, as 2026-01-31; "" where it is not on record."""
    frame = _table(catalog.assets() / FILE)
    return "" if frame is None else str(frame.attrs.get("made", ""))


def joint(model: str) -> list[Joint]:
    """The shipped curves of many concepts in one model; none where nothing was shipped."""
    frame = _table(catalog.assets() / MANY)
    if frame is None:
        return []
    names = [field.name for field in fields(Joint)]
    some = frame[frame["model"] == model]
    return [Joint(**{name: row[name] for name in names}) for row in some.to_dict("records")]


def current(result: Result | Joint, digest: str) -> bool:
    """Whether a row was made with the weights of this digest (`Task.digest`)."""
    return result.digest == digest


@cache
def _table(path: Path) -> pd.DataFrame | None:
    return pd.read_parquet(path) if path.is_file() else None
