"""Result: one number that was measured, as a row; and found things as plain data.

Numbers that are no numbers become null. Knows values only; prints nothing.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from slugdemo.evaluation import metrics


@dataclass(frozen=True)
class Result:
    """One row: a metric of a method (or control, or reference) for one concept in one model.

    `attack` and `on` ("edited", "original", "reference") say what was attacked; `split` is
    "search" or "report"; `low` and `high` bound the 95 % interval; `digest` is that of the
    weights; `note` says why there is no value.
    """

    model: str
    concept: str
    method: str
    attack: str = ""
    on: str = "edited"
    metric: str = ""
    split: str = "report"
    value: float = math.nan
    n: int = 0
    low: float = math.nan
    high: float = math.nan
    seconds: float = math.nan
    peak_bytes: int = 0
    seed: int = 0
    digest: str = ""
    note: str = ""

    def of(self, metric: str, value: float, n: int, *, split: str = "report") -> "Result":
        """The same row for a rate measured on n items, with its Wilson interval."""
        low, high = metrics.wilson(value, n)
        return replace(self, metric=metric, value=value, n=n, low=low, high=high, split=split)


def rows(results: list[Result]) -> list[dict[str, Any]]:
    """The results in the types that JSON has."""
    return [plain(asdict(result)) for result in results]


def dumps(value: object) -> str:
    """`value` as strict JSON in ASCII: NaN and infinities are null, paths are strings."""
    return json.dumps(plain(value), indent=1, allow_nan=False)


def plain(value: object) -> Any:  # noqa: ANN401
    """`value` in the types that JSON has."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
